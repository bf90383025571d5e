"""Hold our detector against the peers on the same events; write results, table and plot.

    benchmarks/detection/setup_peers.sh
    python benchmarks/detection/run.py [--quick]

Two arms. *As shipped*: every detector with its defaults, false pages on streams without a change, and delays. *Equal
false alarms*: each detector's threshold is set on streams without a change so that it alarms once per 50,000 queries,
in each world anew, which no site could do for itself; then delays on other streams. `--quick` takes small samples and
a higher rate, prints, and writes nothing.

The false-alarm rate is (streams that alarm) / (queries until the first alarm or the end), the maximum-likelihood
estimate for a constant hazard; with a alarms its relative standard error is 1 / sqrt(a).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import cost
import detectors
import numpy as np
import report
import series
from ask import ask, missing, write

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from detectors import Path as Track
    from numpy.typing import NDArray
    from series import Sample, World

BUDGET_WEEKS = 26.0
HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
PARTIAL = HERE / ".venvs" / "partial.json"
WINDOWS = (500, 2_000)
HALVINGS = 7


@dataclass(frozen=True, slots=True)
class Plan:
    """Sizes and seeds."""

    seed: int
    rate: int
    """Queries per false alarm in the arm of equal false alarms."""
    null_streams: int
    null_length: int
    streams: int
    slow_null_streams: int
    slow_streams: int
    cost_values: int


FULL = Plan(20260416, 50_000, 200, 50_000, 200, 24, 50, 20_000)
QUICK = Plan(20260416, 10_000, 20, 10_000, 10, 3, 3, 3_000)


@dataclass(frozen=True, slots=True)
class Peer:
    """A detector of another library: its default setting, and where to look for the one of equal false alarms."""

    library: str
    detector: str
    label: str
    default: float | None
    search: tuple[float, float] | None
    """Quiet enough lies between these; None if it is not tuned."""
    grid: bool = False
    """One run serves a whole grid of settings."""
    slow: bool = True


PEERS = (
    Peer("river", "ADWIN", "river ADWIN", None, (0.3, 14.0), slow=False),
    Peer("river", "Page-Hinkley", "river Page-Hinkley", None, (20.0, 600.0), slow=False),
    Peer("river", "KSWIN", "river KSWIN", None, None),
    Peer("frouros", "HDDM-A", "Frouros HDDM-A", None, (0.05, 10.0)),
    Peer("frouros", "CUSUM", "Frouros CUSUM", None, (2.0, 400.0)),
    Peer("evidently", "window 500", "Evidently, window 500", 0.1, (0.01, 1.0), grid=True),
    Peer("evidently", "window 2000", "Evidently, window 2,000", 0.1, (0.01, 1.0), grid=True),
    Peer("nannyml", "drift, chunk 500", "NannyML drift, chunk 500", 3.0, (1.0, 40.0), grid=True),
    Peer("nannyml", "mean, chunk 500", "NannyML mean, chunk 500", 3.0, (1.0, 40.0), grid=True),
)  # fmt: skip


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small samples, nothing is written")
    parser.add_argument("--resume", action="store_true", help="keep the worlds that a stopped run has written")
    parser.add_argument("--again", metavar="LIBRARY", help="with --resume, ask one library anew in the worlds kept")
    parser.add_argument("--report-only", action="store_true", help="write table and plot from results.json again")
    options = parser.parse_args()
    if options.report_only:
        report.write(json.loads(RESULTS.read_text()))
        return
    plan = QUICK if options.quick else FULL
    usable = {library: missing(library) for library in dict.fromkeys(peer.library for peer in PEERS)}
    results: dict[str, Any] = {
        "command": "python benchmarks/detection/run.py" + (" --quick" if options.quick else ""),
        "plan": asdict(plan),
        "machine": machine(),
        "missing": {library: why for library, why in usable.items() if why},
        "peers": {},
        "minutes": 0.0,
        "worlds": {},
    }
    if options.resume and PARTIAL.exists():
        before = json.loads(PARTIAL.read_text())
        results |= before if before["plan"] == asdict(plan) else {}
    peers = [peer for peer in PEERS if usable[peer.library] is None]
    with tempfile.TemporaryDirectory() as folder:
        for number, world in enumerate(series.WORLDS):
            kept = results["worlds"].get(world.name)
            if kept and not options.again:
                continue
            began = time.perf_counter()
            asked = [peer for peer in peers if not kept or peer.library == options.again]
            bench = Bench(plan, world, number, peers=asked, folder=Path(folder), versions=results["peers"])
            results["worlds"][world.name] = bench.again(kept) if kept else bench.run()
            results["minutes"] += round((time.perf_counter() - began) / 60, 1)
            if not options.quick:
                PARTIAL.write_text(json.dumps(results))
        say("cost")
        results["cost"] = cost.measure(peers, Path(folder), plan.cost_values)
    if options.quick:
        print(report.tables(results))
        return
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    report.write(results)
    PARTIAL.unlink()


def machine() -> dict[str, str]:
    """Name what this ran on."""
    return {
        "cores": str(os.cpu_count()),
        "architecture": platform.machine(),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "scipy": version("scipy"),
    }


def say(text: str) -> None:
    """Print a line of progress."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Bench:
    """One world: thresholds and false alarms on streams without a change, delays on streams with one."""

    def __init__(
        self, plan: Plan, world: World, number: int, *, peers: Sequence[Peer], folder: Path, versions: dict[str, str]
    ) -> None:
        # Against the frozen copy nothing moves until something changes: there is no rate to measure or set.
        self.tunes = world.name != "frozen"
        few, some = min(plan.null_streams, 4), min(plan.slow_streams, 20)
        fewer = replace(plan, null_streams=few, slow_null_streams=few, slow_streams=some)
        self.plan = plan if self.tunes else fewer
        self.world, self.peers, self.folder, self.versions = world, peers, folder, versions
        self.seed = plan.seed + 1000 * number
        self.shipped: dict[str, dict[str, Any]] = {}
        self.tuned: dict[str, dict[str, Any]] = {}

    def run(self) -> dict[str, Any]:
        """Give everything measured in this world."""
        say(f"{self.world.name}: no change")
        sample = series.null(self.world, self.plan.null_streams, self.plan.null_length, self.seed)
        if self.world.name == "iid":
            detectors.check(sample)
        self._null_here(sample)
        self._null_peers(sample)
        changes = (*self.world.changes, *self.world.decoys)
        samples = {}
        for change in changes:
            say(f"{self.world.name}: {change}")
            samples[change] = series.changed(self.world, change, self.plan.streams, self.seed + 1)
            self._delays_here(change, samples[change])
        self._delays_peers(samples)
        return {
            "title": self.world.title,
            "null_length": self.plan.null_length,
            "kappa": round(detectors.inflation(sample), 2),
            "changes": {
                change: {
                    "drop": round(series.relative_drop(self.world, change), 4),
                    "decoy": change in self.world.decoys,
                    "limit": series.limit(change),
                }
                for change in changes
            },
            "shipped": self.shipped,
            "tuned": self.tuned,
        }

    def again(self, kept: dict[str, Any]) -> dict[str, Any]:
        """Give a world's results with those of this bench's peers measured anew."""
        self.shipped, self.tuned = kept["shipped"], kept["tuned"]
        self._null_peers(series.null(self.world, self.plan.null_streams, self.plan.null_length, self.seed))
        changes = (*self.world.changes, *self.world.decoys)
        self._delays_peers({one: series.changed(self.world, one, self.plan.streams, self.seed + 1) for one in changes})
        return kept

    def _null_here(self, sample: Sample) -> None:
        def shipped(name: str, track: Track, threshold: float) -> None:
            self.shipped[name] = {"threshold": threshold, **rate_of(track.first(threshold), self.plan.null_length)}

        def tune(name: str, track: Track) -> None:
            if self.tunes:
                threshold = quiet_enough(track, self.plan.null_length, self.plan.rate)
                self.tuned[name] = {"threshold": threshold, **rate_of(track.first(threshold), self.plan.null_length)}

        for name, track in detectors.ours(sample, every=20).items():
            shipped(name, track, math.log(BUDGET_WEEKS))
            tune(name, track)
        below = detectors.fixed(sample)
        shipped(report.FIXED, below, 0.05)
        tune(report.FIXED, below)
        for size in WINDOWS:
            for name, track in detectors.windows_as_used(sample, size).items():
                shipped(name, track, 0.95)
            for name, track in detectors.windows(sample, size, size // 10).items():
                tune(name, track)
        for change in self.world.changes if self.tunes else ():
            after = series.law_of(self.world, change)
            tune(f"{report.ORACLE} {change}", detectors.oracle(sample, sample.before, after))

    def _null_peers(self, sample: Sample) -> None:
        file = self.folder / "null.npz"
        write(file, sample.reference, sample.change, {"null": sample.live})
        for library, peers in by_library(self.peers).items():
            say(f"{self.world.name}: {library}")
            grids = [(peer.default, *grid_of(peer)) for peer in peers]
            for peer, settings, rates in zip(peers, grids, self._rates(file, peers, grids), strict=True):
                self.shipped[peer.label] = {"threshold": peer.default, **rates[0]}
                if peer.search is None or not self.tunes:
                    continue
                if peer.grid:
                    later = range(1, len(rates))
                    place = next((i for i in later if (rates[i]["arl"] or math.inf) >= self.plan.rate), len(rates) - 1)
                    self.tuned[peer.label] = {"threshold": settings[place], **rates[place]}
                else:
                    self.tuned[peer.label] = self._searched(file, peer)

    def _rates(
        self, file: Path, peers: Sequence[Peer], settings: Sequence[Sequence[Any]]
    ) -> list[list[dict[str, Any]]]:
        """Have peers of one library tell their false-alarm rates, one per setting."""
        jobs = [
            {"detector": peer.detector, "settings": list(each), "streams": self._null_streams(peer)}
            for peer, each in zip(peers, settings, strict=True)
        ]
        reply = ask(peers[0].library, file, jobs)
        self.versions[peers[0].library] = reply["version"]
        length = self.plan.null_length
        return [[rate_of(np.array(each["null"]), length) for each in answer["first"]] for answer in reply["answers"]]

    def _searched(self, file: Path, peer: Peer) -> dict[str, Any]:
        """Search the setting whose rate is nearest to the wanted one, by halving on a logarithmic scale."""
        low, high = peer.search or (0.0, 0.0)
        best: tuple[float, dict[str, Any]] = (math.inf, {})
        for _ in range(HALVINGS):
            middle = math.sqrt(low * high)
            rate = self._rates(file, [peer], [[middle]])[0][0]
            arl = rate["arl"] or 10.0 * self.plan.null_length * self._null_streams(peer)
            distance = math.log(arl / self.plan.rate)
            if abs(distance) < best[0]:
                best = abs(distance), {"threshold": middle, **rate}
            low, high = (middle, high) if distance < 0 else (low, middle)
        return best[1]

    def _null_streams(self, peer: Peer) -> int:
        return self.plan.slow_null_streams if peer.slow else self.plan.null_streams

    def _delays_here(self, change: str, sample: Sample) -> None:
        def note(arm: dict[str, dict[str, Any]], name: str, track: Track, key: str | None = None) -> None:
            if key is None:
                key = name
            if key in arm:
                found = delay_of(track.first(arm[key]["threshold"]), sample.change)
                arm.setdefault(name, {}).setdefault("delays", {})[change] = found

        for name, track in detectors.ours(sample).items():
            note(self.shipped, name, track)
            note(self.tuned, name, track)
        below = detectors.fixed(sample)
        note(self.shipped, report.FIXED, below)
        note(self.tuned, report.FIXED, below)
        for size in WINDOWS:
            for name, track in detectors.windows_as_used(sample, size).items():
                note(self.shipped, name, track)
            for name, track in detectors.windows(sample, size, size // 10).items():
                note(self.tuned, name, track)
        if change in self.world.changes:
            track = detectors.oracle(sample, sample.before, sample.after)
            note(self.tuned, report.ORACLE, track, f"{report.ORACLE} {change}")

    def _delays_peers(self, samples: Mapping[str, Sample]) -> None:
        one = next(iter(samples.values()))
        file = self.folder / "changes.npz"
        write(file, one.reference, one.change, {change: sample.live for change, sample in samples.items()})
        for library, peers in by_library(self.peers).items():
            say(f"{self.world.name}: delays of {library}")
            arms = [[arm for arm in (self.shipped, self.tuned) if peer.label in arm] for peer in peers]
            counts = [self.plan.slow_streams if peer.slow else self.plan.streams for peer in peers]
            jobs = [
                {"detector": peer.detector, "settings": [arm[peer.label]["threshold"] for arm in own], "streams": count}
                for peer, own, count in zip(peers, arms, counts, strict=True)
            ]
            for peer, own, count, answer in zip(peers, arms, counts, ask(library, file, jobs)["answers"], strict=True):
                for arm, found in zip(own, answer["first"], strict=True):
                    arm[peer.label]["delays"] = {
                        change: delay_of(np.array(first), one.change[:count]) for change, first in found.items()
                    }


def by_library(peers: Sequence[Peer]) -> dict[str, list[Peer]]:
    """Group peers that share a process: starting one takes seconds."""
    return {
        library: [peer for peer in peers if peer.library == library]
        for library in dict.fromkeys(p.library for p in peers)
    }


def grid_of(peer: Peer) -> tuple[float, ...]:
    """Give the settings of a detector of which one run serves them all; none for the others."""
    return tuple(np.geomspace(*peer.search, 300).tolist()) if peer.grid and peer.search else ()


def quiet_enough(track: Track, length: int, rate: int) -> float:
    """Give the lowest threshold at which the statistic alarms at most once per `rate` queries."""
    highest = np.sort(np.unique(track.values.max(axis=1)))
    low, high = float(track.values.min()), float(highest[-1])
    if not high > low:
        return math.nextafter(high, math.inf)
    for _ in range(50):
        middle = (low + high) / 2
        arl = rate_of(track.first(middle), length)["arl"]
        low, high = (low, middle) if arl is None or arl >= rate else (middle, high)
    return high


def rate_of(first: NDArray[Any], length: int) -> dict[str, Any]:
    """Give streams, alarms, and queries per alarm (None without one)."""
    hit = first >= 0
    alarms = int(hit.sum())
    exposure = int(np.where(hit, first + 1, length).sum())
    return {
        "streams": len(first),
        "alarms": alarms,
        "queries": exposure,
        "arl": round(exposure / alarms) if alarms else None,
    }


def delay_of(first: NDArray[Any], change: NDArray[Any]) -> dict[str, Any]:
    """Give median and 90 % quantile of the delay (None if more were missed), missed and early shares.

    Streams that alarm before the change are left out and counted as early.
    """
    early = (first >= 0) & (first < change)
    delay = np.where(first < 0, np.inf, first - change + 1)[~early]
    if delay.size == 0:
        return {"median": None, "p90": None, "missed": None, "early": 1.0, "streams": len(first)}
    # Order statistics, not interpolated: infinite delays are among them.
    middle, ninety = np.quantile(delay, [0.5, 0.9], method="inverted_cdf")
    return {
        "median": int(middle) if np.isfinite(middle) else None,
        "p90": int(ninety) if np.isfinite(ninety) else None,
        "missed": round(float(np.isinf(delay).mean()), 3),
        "early": round(float(early.mean()), 3),
        "streams": len(first),
    }


if __name__ == "__main__":
    main()
