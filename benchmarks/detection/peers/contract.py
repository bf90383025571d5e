"""What a peer script reads and writes; the only module that the peers' environments share (numpy and the library).

    python peers/NAME.py STREAMS.npz JOBS.json ANSWERS.json

STREAMS holds `reference` (S, N0) with accepted values 0..10, `change` (S,), and one `live|NAME` (S, T) per change, all
the same before the change. JOBS is a list of {detector, settings, streams}. ANSWERS has `version`, and per job the
place of the first alarm in `live`, -1 without one, as [setting][change][stream], with the processor seconds that it
took and the values taken in.
"""

from __future__ import annotations

import copy
import json
import pickle
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

SCORES = [value / 10 for value in range(11)]


class Streams:
    """The streams of one file."""

    def __init__(self, file):
        with np.load(file) as found:
            self.reference = found["reference"]
            self.change = found["change"]
            self.live = {name.partition("|")[2]: found[name] for name in found.files if name.startswith("live|")}


def serve(library, runners, makers=None, feed=None):
    """Answer the jobs of the command line.

    `runners` maps a detector to a function (streams, settings, count). A job with `cost` asks for microseconds per
    value and bytes of state instead, which `makers` and `feed` answer for detectors that take one score at a time.
    """
    file, jobs, target = sys.argv[1:]
    streams = Streams(file)
    answers = []
    asked = json.loads(Path(jobs).read_text())
    for job in asked:
        if job.get("cost"):
            answers.append(cost(makers[job["detector"]](None), feed, job["cost"]))
            continue
        start = time.process_time()
        firsts, taken = runners[job["detector"]](streams, job["settings"], job["streams"])
        answers.append({"first": firsts, "seconds": time.process_time() - start, "values": taken})
    Path(target).write_text(json.dumps({"version": version(library), "answers": answers}))


def one_by_one(make, feed, remembers=None):
    """Give the runner of a detector that takes one score at a time.

    `make(setting)` gives a new detector, `feed(detector, score)` takes a score in and says whether it alarms. It takes
    the accepted values in first, the last of them where it `remembers` no more; alarms there count for nothing. The
    state at the change is copied for every change.
    """

    def run(streams, settings, count):
        taken = 0
        firsts = []
        for setting in settings:
            found = {name: [] for name in streams.live}
            for row in range(count):
                detector = make(setting)
                accepted = streams.reference[row].tolist()
                accepted = accepted if remembers is None else accepted[-remembers:]
                for value in accepted:
                    feed(detector, SCORES[value])
                change = int(streams.change[row])
                healthy = next(iter(streams.live.values()))[row, :change].tolist()
                early = _first(detector, feed, healthy)
                taken += len(accepted) + (change if early < 0 else early + 1)
                for name, live in streams.live.items():
                    if early >= 0 or change == live.shape[1]:
                        found[name].append(early)
                        continue
                    after = live[row, change:].tolist()
                    place = _first(copy.deepcopy(detector), feed, after)
                    taken += len(after) if place < 0 else place + 1
                    found[name].append(place if place < 0 else change + place)
            firsts.append(found)
        return firsts, taken

    return run


def _first(detector, feed, values):
    for place, value in enumerate(values):
        if feed(detector, SCORES[value]):
            return place
    return -1


def by_windows(size, statistics):
    """Give the runner of a detector that judges windows of `size` values, one after the other.

    `statistics(reference, live)` gives one number per window of `live`, which is whole windows, larger for more drift;
    both are scores. An alarm is a number that reaches the setting, at the window's last value. The windows of all
    changes go in as one series, so that what is learned from the reference is learned once.
    """

    def run(streams, settings, count):
        taken = 0
        firsts = [{name: [] for name in streams.live} for _ in settings]
        for row in range(count):
            lives = {name: live[row, : live.shape[1] // size * size] for name, live in streams.live.items()}
            joined = np.concatenate(list(lives.values()))
            taken += len(joined)
            found = np.asarray(statistics(np.array(SCORES)[streams.reference[row]], np.array(SCORES)[joined]))
            for name, live in lives.items():
                own, found = found[: len(live) // size], found[len(live) // size :]
                for first, setting in zip(firsts, settings, strict=True):
                    hit = own >= setting
                    first[name].append(int(hit.argmax() + 1) * size - 1 if hit.any() else -1)
        return firsts, taken

    return run


def cost(detector, feed, values):
    """Measure microseconds per value and the pickled bytes of a detector after so many values."""
    scores = (np.random.default_rng(1).binomial(10, 0.8, size=values) / 10).tolist()
    start = time.process_time()
    for score in scores:
        feed(detector, score)
    return {"microseconds": (time.process_time() - start) / values * 1e6, "bytes": len(pickle.dumps(detector))}
