"""The value objects that travel between the rooms: events in, observations between, verdicts out.

They are frozen, compare by value and know nothing of Redis, encoders or metrics. The text of a query is kept out of
every `repr`, because a `repr` ends up in logs. How they are written to Redis is `store`'s business.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

WHOLE_STREAM = "all"
"""The slice name of the whole stream; a service cannot use it for a slice of its own."""

OTHER_SLICE = "other"
"""Where slices beyond the configured number end up."""

DEFAULT_SLICE = "default"
"""The slice of an event that names none."""

Role = Literal["deployed", "reference", "frozen"]
VerdictState = Literal["calibrating", "steady", "drifted"]

Severity = Literal["none", "ticket", "minor", "major", "critical"]
"""How much has fallen, as far as it is proved: `ticket` some evidence, `minor` a page, `major` and `critical` a page
about a fall of more than the judge's first and second tier (5 and 15 %)."""
SEVERITIES: tuple[Severity, ...] = ("none", "ticket", "minor", "major", "critical")


@dataclass(frozen=True, slots=True)
class Ranking:
    """Document ids, best first. `scores` is None or has one number per id."""

    ids: tuple[str, ...]
    scores: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse a score list that does not belong to the ids."""
        if self.scores is not None and len(self.scores) != len(self.ids):
            msg = f"a ranking has one score per id: {len(self.ids)} ids, {len(self.scores)} scores"
            raise ValueError(msg)


@dataclass(frozen=True, slots=True)
class QueryEvent:
    """One live query, validated against the event contract (docs/events.md).

    `at` is unix seconds, taken from the entry id. `weight` is the inverse of the probability with which the sampler
    took it, and 0 for an entry that only a slice's floor let in (the whole-stream estimates must not see those).
    """

    entry_id: str
    query: str = field(repr=False)
    at: float
    slice: str = DEFAULT_SLICE
    weight: float = 1.0
    served: Ranking | None = None
    trace_id: str | None = None
    session_id: str | None = None
    step: int | None = None
    top_k: int | None = None
    filtered: bool = False
    encoder: str | None = None


@dataclass(frozen=True, slots=True)
class Stack:
    """Which encoders and indexes gave an observation: digests, short and safe to show.

    The frozen ones are "" where no frozen copy of the accepted stack was replayed.
    """

    deployed_encoder: str
    deployed_index: str
    reference_encoder: str
    reference_index: str
    frozen_encoder: str = ""
    frozen_index: str = ""

    def changes_since(self, other: Stack) -> tuple[str, ...]:
        """Name the parts that differ from `other`, in a fixed order; a part that one of them lacks has not changed."""
        parts = ((name, getattr(self, name), getattr(other, name)) for name in STACK_PARTS)
        return tuple(name for name, ours, theirs in parts if ours != theirs and ours and theirs)


STACK_PARTS = (
    "deployed_encoder", "deployed_index", "reference_encoder", "reference_index", "frozen_encoder", "frozen_index",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Observation:
    """One replayed query with its numbers: signal name to a value in [0, 1].

    A signal that is not defined for this query (no served documents, say) is absent, not 0. `session` is a digest of
    the session's name. `cluster` numbers the query's neighbourhood among the reference's documents; numbers of one
    reference encoder and index mean the same everywhere, those of different ones have nothing to do with each other.
    """

    entry_id: str
    at: float
    slice: str
    weight: float
    values: Mapping[str, float]
    stack: Stack
    session: str | None = None
    step: int | None = None
    cluster: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the judge holds about one signal in one slice.

    `evidence` is this slice's share of the pager's evidence, in weeks of false-page budget; at `threshold` it pages by
    itself. `severity` is what the evidence of this slice says by itself. `rise` is its share of the evidence that the
    level has risen. `level`, `lower` and `upper` describe the current mean: since the alarm if drifted, else over the
    recent window. `start` (estimated start of the drift) and `since` (when it was told) are unix seconds. `progress`
    is the share of the calibration that is done.
    """

    signal: str
    slice: str
    state: VerdictState
    queries: int
    progress: float
    evidence: float = 0.0
    threshold: float = 0.0
    severity: Severity = "none"
    rise: float = 0.0
    baseline: float | None = None
    level: float | None = None
    lower: float | None = None
    upper: float | None = None
    start: float | None = None
    since: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One page: a drift event, raised once and kept in the audit trail.

    `signal` and `slice` carry most of the evidence. `drop` is the fall relative to the baseline mean as estimated at
    the alarm: biased high, because the same data raised it; `drop_lower` and `drop_upper` hold for every possible start
    at once. The start lies between `start_earliest` and `start_latest` in about 95 % of alarms; both are None when the
    observations before the alarm are not kept. `changed` names the parts of the stack that differ from the accepted
    one. `mix_shift` is the share of the traffic that moved to other slices (total variation distance) over
    `mix_queries` recent queries. An alarm of the frozen probes or of the canaries (whose `slice` is
    the set's name) has no evidence in weeks and an exact drop; `p` is that of its paired test, and else None.
    """

    id: str
    at: float
    signal: str
    slice: str
    severity: Severity
    evidence: float
    threshold: float
    baseline: float
    level: float
    drop: float
    drop_lower: float
    drop_upper: float
    start: float
    queries_since_start: int
    changed: tuple[str, ...]
    accepted_stack: Stack
    stack: Stack
    mix_shift: float
    mix_queries: int
    start_earliest: float | None = None
    start_latest: float | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class AlarmEscalated:
    """The open alarm `alarm` is about a larger fall than was proved when it was raised."""

    id: str
    at: float
    alarm: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class AlarmEnded:
    """The alarm `alarm` is over.

    The level is back (`recovered`), what drifted gave no values for days (`silent`), or a person repaired the cause
    (`fixed`) or accepted the present behaviour (`recalibrated`).
    """

    id: str
    at: float
    alarm: str
    how: Literal["recovered", "silent", "fixed", "recalibrated"]
    by: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Ticket:
    """Something for the working day: a fall with less evidence or too small for a page, or a rise.

    `level` is the mean since the estimated start of a fall (biased low), or of the recent window for a rise.
    """

    id: str
    at: float
    signal: str
    slice: str
    direction: Literal["fall", "rise"]
    evidence: float
    threshold: float
    baseline: float
    level: float


@dataclass(frozen=True, slots=True)
class BaselineAccepted:
    """A baseline came into force; `lower` is the mean that the detector tests against."""

    id: str
    at: float
    signal: str
    slice: str
    mean: float
    lower: float
    queries: int
    stack: Stack


@dataclass(frozen=True, slots=True)
class CalibrationStarted:
    """The baselines were given up, and new ones are being measured; `by` and `why` as the person said."""

    id: str
    at: float
    by: str
    why: str


@dataclass(frozen=True, slots=True)
class CanaryFinding:
    """What a canary set says of one domain has another name than at the run before (`drift.signature` has the names).

    Both numbers side by side: nDCG@10 before and now, and the phenomenon of the composition sets that changed most,
    None without such a set. `against` is the reference or the accepted stack.
    """

    id: str
    at: float
    probe_set: str
    version: int
    checksum: str
    domain: str
    against: Literal["reference", "accepted"]
    signature: str
    sensitivity_only: bool
    ndcg_before: float
    ndcg_now: float
    p: float
    phenomenon: str | None
    near_miss_before: float | None
    near_miss_now: float | None
    paraphrase_before: float | None
    paraphrase_now: float | None
    auc_before: float | None
    auc_now: float | None
    summary: str
    stack: Stack


AuditEvent = Alarm | AlarmEscalated | AlarmEnded | Ticket | BaselineAccepted | CalibrationStarted | CanaryFinding
