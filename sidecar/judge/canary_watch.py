"""The canary sets in the judge: what they are found to say, when they page, and when they are back.

As with the frozen probes, one run is decided by exact paired tests, two in a row must agree, and runs are never added
up. A set pages by the mean nDCG@10 of all its queries against the accepted stack. Its domains hold too few queries for
a page of their own; what happened to each has a name (`drift.signature`), and a name that changes goes into the audit
trail. Pure and restart-safe, as everything that the judge remembers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.drift.paired import PairedResult
from sidecar.drift.paired_watch import PairedRule, PairedWatch
from sidecar.model import CanaryFinding

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sidecar.drift.canary_run import Against, CanaryRun, RetrievalRun, SetName
    from sidecar.drift.labelled import MeasureChange
    from sidecar.drift.signature import Signature

CANARIES = "canaries"
"""The signal's name in alarms and metrics."""

QUIET = frozenset({"", "unchanged"})


class CanaryWatch:
    """What the runs since the last acceptance amount to. `drifted` names the sets whose fall is latched."""

    def __init__(self, min_effect: float) -> None:
        self._rule = PairedRule(min_effect=min_effect)
        self._names: dict[str, str] = {}
        self.forget()

    def forget(self) -> None:
        """Begin anew: another baseline is being measured."""
        self._names = {key: name for key, name in self._names.items() if not key.startswith("accepted/")}
        self.accepted_at: float | None = None
        self.reset()

    def reset(self) -> None:
        """Forget what led to an alarm that is over."""
        self._watches: dict[str, PairedWatch] = {}
        self._good: dict[str, int] = {}
        self.first_bad: dict[str, float] = {}
        """By set: time of the first run of the present row that counts towards a page."""
        self.last_good: dict[str, float] = {}
        """By set: time of the last run that did not."""
        self.drifted: set[str] = set()
        self._seen: dict[str, float] = {}

    def findings(self, identity: str, run: CanaryRun, *, accepted_at: float | None) -> list[CanaryFinding]:
        """Give what has another name now than at the run before; a first one that is unchanged says nothing."""
        found = []
        for number, (name, against, signature) in enumerate(run.findings):
            if against == "accepted" and run.accepted_at != accepted_at:
                continue
            key = f"{against}/{name.name}/{name.checksum}/{signature.domain}"
            known = self._names.get(key, "")
            # A set that hovers between these two on an index that changes every hour would fill the audit trail.
            hovers = {signature.name, known} == {"changed_not_worse", "changed_unclear"}
            if signature.name != known and not hovers and {signature.name, known} - QUIET:
                found.append(_finding(f"{identity}/{number}", run, name, against, signature))
            self._names[key] = signature.name
        present = {f"{name.name}/{name.checksum}" for name, _, _ in run.findings}
        self._names = {key: one for key, one in self._names.items() if "/".join(key.split("/")[1:3]) in present}
        return found

    def take(self, run: CanaryRun) -> list[tuple[RetrievalRun, MeasureChange]]:
        """Take one run in; give the sets that page now, with their fall. Runs of another acceptance begin anew."""
        if run.accepted_at != self.accepted_at:
            self.reset()
            self.accepted_at = run.accepted_at
        self._drop_other_versions(run)
        return [
            (one, changes[0].leading)
            for one in run.retrieval
            if (changes := one.changes.get("accepted")) and self._pages(one, changes[0].leading, run.at)
        ]

    def _drop_other_versions(self, run: CanaryRun) -> None:
        """Forget what older contents of the run's sets amounted to, unless the alarm is about one."""
        now = {one.set.name: f"{one.set.name}/{one.set.checksum}" for one in run.retrieval}
        for key in [key for key in self._seen if now.get(key.split("/")[0], key) != key]:
            if key not in self.drifted:
                for memory in (self._watches, self._good, self.first_bad, self.last_good, self._seen):
                    memory.pop(key, None)

    @property
    def recovered(self) -> bool:
        """Whether every set that drifted is back: as many runs in a row as a page takes show no material fall."""
        return bool(self.drifted) and not self._fallen

    @property
    def last_at(self) -> float | None:
        """Time of the last run that said something about a set that drifted and is not back; None where all are.

        Such a set may be in no run any more: it was taken away, or has another content now.
        """
        return max((self._seen[name] for name in self._fallen), default=None)

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON."""
        return {
            "names": self._names,
            "accepted_at": self.accepted_at,
            "watches": {name: watch.to_state() for name, watch in self._watches.items()},
            "good": self._good,
            "first_bad": self.first_bad,
            "last_good": self.last_good,
            "drifted": sorted(self.drifted),
            "seen": self._seen,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `to_state` gave.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        self._names = dict(state["names"])
        self.accepted_at = state["accepted_at"]
        self._watches = {name: PairedWatch.from_state(one) for name, one in state["watches"].items()}
        self._good = {name: int(count) for name, count in state["good"].items()}
        self.first_bad = dict(state["first_bad"])
        self.last_good = dict(state["last_good"])
        self.drifted = set(state["drifted"])
        self._seen = dict(state["seen"])

    @property
    def _fallen(self) -> set[str]:
        return {name for name in self.drifted if self._good.get(name, 0) < self._rule.replays}

    def _pages(self, one: RetrievalRun, change: MeasureChange, at: float) -> bool:
        name = f"{one.set.name}/{one.set.checksum}"
        result = PairedResult(
            n=change.n,
            missing=0,
            moved=change.moved,
            before=change.before,
            effect=change.effect,
            sign_flip=change.fall,
            jitter=None,
        )
        watch = self._watches.get(name, PairedWatch())
        if len(watch.hashes) != len(one.hashes):  # another version of this program reads the set otherwise
            watch = PairedWatch()
        watch = self._watches[name] = watch.look(self._rule, one.hashes, result, at)
        self._seen[name] = at
        if watch.paging:
            self.first_bad.setdefault(name, at)
            self._good[name] = 0
        else:
            self.last_good[name] = at
            self.first_bad.pop(name, None)
            back = change.relative > -self._rule.min_effect
            self._good[name] = self._good.get(name, 0) + 1 if back else 0
        if watch.level(self._rule) != "page":
            return False
        self.drifted.add(name)
        return True


def _finding(identity: str, run: CanaryRun, name: SetName, against: Against, signature: Signature) -> CanaryFinding:
    one = signature.sensitivity
    return CanaryFinding(
        id=identity,
        at=run.at,
        probe_set=name.name,
        version=name.version,
        checksum=name.checksum,
        domain=signature.domain,
        against=against,
        signature=signature.name,
        sensitivity_only=signature.sensitivity_only,
        ndcg_before=signature.retrieval.before,
        ndcg_now=signature.retrieval.now,
        p=signature.retrieval.p,
        phenomenon=None if one is None else one.phenomenon,
        near_miss_before=None if one is None else one.before.near_miss,
        near_miss_now=None if one is None else one.now.near_miss,
        paraphrase_before=None if one is None else one.before.paraphrase,
        paraphrase_now=None if one is None else one.now.paraphrase,
        auc_before=None if one is None else one.before.auc,
        auc_now=None if one is None else one.now.auc,
        summary=signature.describe(standing=against == "reference"),
        stack=run.stack,
    )
