"""Count agent sessions in which at least one retrieval was disrupted.

An agent retrieves several times for one task, and one bad step can spoil the rest: the share of sessions hit is what
a user feels, and it cannot be read off the share of retrievals. If steps failed independently, a session of n of
them would be hit with probability 1 - (1 - p)^n; when fewer are hit, the same sessions are hit again and again (a
topic is lost), when more are hit, the damage is spread out. Sessions are the independent units here, so the error of p
is taken from sessions as well.

What counts as disrupted, and which signal watches the closed sessions, is the judge's business. There is no clock:
a session is over when the observations themselves have moved on.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import astuple, dataclass
from math import inf, isfinite, sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Self

from sidecar.drift.confidence import Interval

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

LONGEST = 100
"""A session is cut after this many steps: one that never rests must be judged too, and counters stay bounded."""

SHOWN = 10
"""Numbers of steps that have a row of their own; longer sessions share one."""

ENOUGH = 100
"""Sessions hit, and sessions not hit, from which the normal interval of the excess is given. Simulated with half of the
sessions hit in every step or in none, a 95 % interval missed the truth 16 % of the times with 20 sessions hit, 7 %
with 80, 4 to 5 % with 400."""


@dataclass(frozen=True, slots=True)
class ClosedSession:
    """A session that is over. `at` is the unix time of its last step."""

    at: float
    steps: int
    disrupted: int

    @property
    def value(self) -> float:
        """1.0 if no retrieval was disrupted, else 0.0: a score that falls when agents are hit."""
        return 0.0 if self.disrupted else 1.0


@dataclass(frozen=True, slots=True)
class Counts:
    """Closed sessions of one number of steps; `squares` sums the squared numbers of disrupted steps of each."""

    sessions: int = 0
    hit: int = 0
    disrupted: int = 0
    squares: int = 0

    def __add__(self, other: Counts) -> Counts:
        """Give the counts of both."""
        return Counts(*(ours + theirs for ours, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with its interval."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True, slots=True)
class SessionRow:
    """Closed sessions of `least` to `most` observed steps (`most` is None for "and more").

    `share` of them have at least one disrupted retrieval, with its interval; `expected` is the share if retrievals were
    disrupted independently, each with the overall probability. All are None without sessions.
    """

    least: int
    most: int | None
    sessions: int
    hit: int
    steps: int
    disrupted: int
    share: float | None
    lower: float | None
    upper: float | None
    expected: float | None
    expected_lower: float | None
    expected_upper: float | None


@dataclass(frozen=True, slots=True)
class SessionSummary(SessionRow):
    """What the closed sessions say: the row over all numbers of steps, and more.

    `threshold` is the overlap at or below which a retrieval counts as disrupted. `retrieval` is the share of disrupted
    retrievals; its interval allows for steps of one session being alike. `excess` is `share` less `expected`. Below 0
    the same sessions are hit again and again; above 0 the damage is spread over more sessions than chance would. It
    is None with fewer than 100 sessions hit, or not hit. `open` sessions are not counted; `cut` ones were closed before
    they rested: too long, or too many open at once.
    """

    threshold: float
    confidence: float
    retrieval: Estimate | None
    excess: Estimate | None
    rows: tuple[SessionRow, ...]
    open: int
    cut: int


class SessionTracker:
    """Put retrievals into sessions and count those that are over.

    Args:
        threshold: overlap at or below which a retrieval counts as disrupted, in [0, 1]; kept for the summary.
        idle_seconds: a session rests for longer than this, by the observations' times: it is over.
        most_open: sessions held open; beyond it the one that was longest silent is closed.

    The same observations in the same order give the same, wherever `to_state` and `from_state` fall between them. Who
    was silent longest is told by the order of arrival; observations that arrive late can make a session close later
    than its rest is over, never earlier. A session that speaks again after it was closed counts as another one.
    """

    __slots__ = ("_counts", "_cut", "_idle", "_latest", "_most", "_open", "threshold")

    def __init__(self, threshold: float = 0.2, *, idle_seconds: float = 900.0, most_open: int = 1_000) -> None:
        if not 0.0 <= threshold <= 1.0:
            raise ValueError(f"the threshold of a disrupted retrieval must be in [0, 1], not {threshold!r}")
        if not idle_seconds > 0.0:
            raise ValueError(f"idle_seconds must be positive, not {idle_seconds!r}")
        if most_open < 1:
            raise ValueError(f"most_open must be at least 1, not {most_open!r}")
        self.threshold = threshold
        self._idle = idle_seconds
        self._most = most_open
        self._open: OrderedDict[str, ClosedSession] = OrderedDict()
        self._counts: dict[int, Counts] = {}
        self._latest = -inf
        self._cut = 0

    def add(self, session: str, at: float, disrupted: bool) -> list[ClosedSession]:
        """Count one retrieval, seen at `at` (unix seconds); give the sessions that are over by then, usually none.

        Raises:
            ValueError: the time is not finite.
        """
        if not isfinite(at):
            raise ValueError(f"time {at!r} is not a finite number of seconds")
        self._latest = max(self._latest, at)
        closed = []
        while self._open and self._rested(next(iter(self._open.values())), self._latest):
            closed.append(self._close(next(iter(self._open))))
        if session in self._open and self._rested(self._open[session], at):
            closed.append(self._close(session))
        before = self._open.pop(session, ClosedSession(at, 0, 0))
        self._open[session] = now = ClosedSession(
            max(before.at, at), before.steps + 1, before.disrupted + bool(disrupted)
        )
        if now.steps >= LONGEST:
            self._cut += 1
            closed.append(self._close(session))
        elif len(self._open) > self._most:
            self._cut += 1
            closed.append(self._close(next(iter(self._open))))
        return closed

    @property
    def counts(self) -> Mapping[int, Counts]:
        """Closed sessions by number of steps, 1..100, ascending; they only grow."""
        return dict(sorted(self._counts.items()))

    def summary(self, confidence: float = 0.95) -> SessionSummary:
        """Give the shares of sessions hit, with intervals, against the prediction under independence.

        Shares of sessions have Clopper & Pearson's interval (1934), which covers at least as often as it says. The
        interval of the share p of retrievals is the same at the effective number of retrievals, p (1 - p) over the
        variance of p between sessions (Korn & Graubard 1998), and at most their number. The prediction is increasing
        in p, so its interval is that of p, carried over. The interval of the excess is the normal one, by
        linearisation: each session contributes what it adds to the share hit less what it adds to the prediction
        through p.

        Raises:
            ValueError: the confidence is outside (0, 1).
        """
        if not 0.0 < confidence < 1.0:
            raise ValueError(f"the confidence must be in (0, 1), not {confidence!r}")
        counts = sorted(self._counts.items())
        retrieval = _retrieval_share(counts, confidence)
        rows = [
            SessionRow(
                **_row(least, most, [(n, one) for n, one in counts if least <= n <= (most or n)], retrieval, confidence)
            )
            for least, most in [*((n, n) for n in range(1, SHOWN + 1)), (SHOWN + 1, None)]
        ]
        return SessionSummary(
            **_row(1, None, counts, retrieval, confidence),
            threshold=self.threshold,
            confidence=confidence,
            retrieval=retrieval,
            excess=_excess(counts, retrieval, confidence),
            rows=tuple(rows),
            open=len(self._open),
            cut=self._cut,
        )

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain JSON values; Python writes floats so that they read back exactly."""
        return {
            "threshold": self.threshold,
            "idle_seconds": self._idle,
            "most_open": self._most,
            "latest": self._latest if isfinite(self._latest) else None,
            "cut": self._cut,
            "open": [[name, *astuple(one)] for name, one in self._open.items()],
            "counts": [[steps, *astuple(one)] for steps, one in sorted(self._counts.items())],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Rebuild what `to_state` gave, exactly.

        Raises:
            ValueError, KeyError, TypeError: the mapping is not such a state.
        """
        made = cls(
            float(state["threshold"]), idle_seconds=float(state["idle_seconds"]), most_open=int(state["most_open"])
        )
        made._latest = -inf if state["latest"] is None else float(state["latest"])
        made._cut = int(state["cut"])
        for name, at, steps, disrupted in state["open"]:
            made._open[str(name)] = ClosedSession(float(at), int(steps), int(disrupted))
        for steps, *numbers in state["counts"]:
            if not 1 <= int(steps) <= LONGEST:
                raise ValueError(f"sessions of {steps} steps: must be in 1..{LONGEST}")
            made._counts[int(steps)] = Counts(*map(int, numbers))
        return made

    def _rested(self, one: ClosedSession, now: float) -> bool:
        return now - one.at > self._idle

    def _close(self, session: str) -> ClosedSession:
        over = self._open.pop(session)
        self._counts[over.steps] = self._counts.get(over.steps, Counts()) + Counts(
            1, int(over.disrupted > 0), over.disrupted, over.disrupted**2
        )
        return over


def clopper_pearson(hits: float, n: float, confidence: float = 0.95) -> Interval:
    """Bound a binomial share so that it is covered with at least the probability asked for; [0, 1] for n = 0.

    Real numbers are taken as well: an effective sample size is one.
    """
    from scipy.special import betaincinv  # noqa: PLC0415  (half a second and 20 MB where no session is watched)

    side = (1.0 - confidence) / 2.0
    lower = float(betaincinv(hits, n - hits + 1.0, side)) if hits > 0 else 0.0
    upper = float(betaincinv(hits + 1.0, n - hits, 1.0 - side)) if hits < n else 1.0
    return Interval(lower, upper)


def expected_share(p: float, sessions_by_steps: Sequence[tuple[int, int]]) -> float:
    """Give the share of sessions hit when each retrieval is disrupted with probability p, independently.

    `sessions_by_steps` holds (number of steps, sessions of that many); the share is the mean of 1 - (1 - p)^n.
    """
    total = sum(sessions for _, sessions in sessions_by_steps)
    return sum(sessions * (1.0 - (1.0 - p) ** n) for n, sessions in sessions_by_steps) / total


def _retrieval_share(counts: Sequence[tuple[int, Counts]], confidence: float) -> Estimate | None:
    steps = sum(n * one.sessions for n, one in counts)
    if not steps:
        return None
    p = sum(one.disrupted for _, one in counts) / steps
    effective = float(steps)
    # The mean of a ratio, by sessions: Var p = sum (d - p n)^2 / steps^2.
    spread = sum(one.squares - 2.0 * p * n * one.disrupted + p * p * n * n * one.sessions for n, one in counts)
    if spread > 0.0:
        effective = min(effective, p * (1.0 - p) * steps**2 / spread)
    bounds = clopper_pearson(p * effective, effective, confidence)
    return Estimate(p, bounds.lower, bounds.upper)


def _row(
    least: int, most: int | None, counts: Sequence[tuple[int, Counts]], retrieval: Estimate | None, confidence: float
) -> dict[str, Any]:
    """Give the fields of a row."""
    total = sum((one for _, one in counts), start=Counts())
    row: dict[str, Any] = dict.fromkeys(("share", "lower", "upper", "expected", "expected_lower", "expected_upper"))
    if total.sessions and retrieval is not None:
        bounds = clopper_pearson(total.hit, total.sessions, confidence)
        row |= {"share": total.hit / total.sessions, "lower": bounds.lower, "upper": bounds.upper}
        each = [(n, one.sessions) for n, one in counts]
        for name, p in (("", retrieval.value), ("_lower", retrieval.lower), ("_upper", retrieval.upper)):
            row[f"expected{name}"] = expected_share(p, each)
    return row | {
        "least": least,
        "most": most,
        "sessions": total.sessions,
        "hit": total.hit,
        "steps": sum(n * one.sessions for n, one in counts),
        "disrupted": total.disrupted,
    }


def _excess(counts: Sequence[tuple[int, Counts]], retrieval: Estimate | None, confidence: float) -> Estimate | None:
    """Give hit share - expected share, u = h - f(n) - b (d - p n) by session, with b how the prediction follows p."""
    total = sum((one for _, one in counts), start=Counts())
    if retrieval is None or min(total.hit, total.sessions - total.hit) < ENOUGH:
        return None
    p = retrieval.value
    steps = sum(n * one.sessions for n, one in counts)
    b = sum(one.sessions * n * (1.0 - p) ** (n - 1) for n, one in counts) / steps
    value = total.hit / total.sessions - expected_share(p, [(n, one.sessions) for n, one in counts])
    squares = 0.0
    for n, one in counts:
        # With c = b p n - f the square of h - b d + c over the sessions of n steps; h d = d because d > 0 only if hit.
        c = b * p * n - (1.0 - (1.0 - p) ** n)
        squares += (1.0 + 2.0 * c) * one.hit - 2.0 * b * (1.0 + c) * one.disrupted
        squares += b * b * one.squares + c * c * one.sessions
    half = NormalDist().inv_cdf((1.0 + confidence) / 2.0) * sqrt(max(0.0, squares)) / total.sessions
    return Estimate(value, value - half, value + half)
