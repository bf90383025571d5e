"""What the intake can be told, and what it tells: the consumer's options and its counts.

Plain values, so that the settings can be mapped onto the one and the exporter can read the other without knowing Redis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from sidecar.errors import ConfigurationError
from sidecar.intake.events import REASONS
from sidecar.intake.sampler import OUTCOMES
from sidecar.redis_edge import SOCKET_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sidecar.intake.trimming import StreamState


@dataclass(frozen=True, slots=True)
class IntakeOptions:
    """How the stream is read. Times in seconds."""

    stream: str = "rag:queries"
    group: str = "rag-drift"
    start: Literal["$", "0"] = "$"
    """Where a new group begins: at new entries, or at the oldest. A group that was lost begins at the oldest."""
    batch: int = 500
    """Entries per read, at most."""
    batch_bytes: int = 8 * 2**20
    """What one read should weigh: large entries make the batches smaller."""
    block_seconds: float = 2.0
    """How long one read waits for entries; below the socket timeout."""
    claim_idle_seconds: float = 60.0
    """Silence after which another consumer counts as dead and its entries are taken over."""
    stuck_seconds: float = 900.0
    """Age after which an entry that a live consumer never acknowledged is handed out again."""
    max_deliveries: int = 5
    """Hand-outs after which an entry is taken for the cause of the crashes and put aside."""
    claim_every_seconds: float = 15.0
    keep_every_seconds: float = 10.0
    """How often we show that we live and look at the stream; at least four times within `claim_idle_seconds`."""
    consumer_expiry_seconds: float = 86_400.0
    shed_after_seconds: float | None = 60.0
    """Age at which an entry is dropped rather than waited with while the queue is full; None waits for ever."""
    dead_letters: int = 1_000
    """About how many refused entries are kept; 0 keeps none."""
    dead_letter_bytes: int = 2_048
    """What is kept of each of their fields."""

    def __post_init__(self) -> None:
        """Refuse what cannot work."""
        if self.start not in ("$", "0"):
            msg = f"intake start {self.start!r}: '$' (new entries) or '0' (the oldest)"
            raise ConfigurationError(msg)
        if not 0 < self.block_seconds < SOCKET_TIMEOUT:
            msg = f"intake block of {self.block_seconds} s: above 0 and below the socket timeout of {SOCKET_TIMEOUT} s"
            raise ConfigurationError(msg)
        if self.claim_idle_seconds < 2 * self.block_seconds:
            msg = "intake claim_idle_seconds is at least twice block_seconds: else live consumers look dead"
            raise ConfigurationError(msg)
        if min(self.batch, self.max_deliveries, self.batch_bytes, self.dead_letter_bytes) < 1:
            msg = "intake batch, batch_bytes, max_deliveries and dead_letter_bytes are 1 or more"
            raise ConfigurationError(msg)
        if self.dead_letters < 0:
            msg = "intake dead_letters is 0 or more"
            raise ConfigurationError(msg)


def _zeros(names: Iterable[str]) -> Callable[[], dict[str, int]]:
    return lambda: dict.fromkeys(names, 0)


@dataclass(slots=True)
class IntakeCounts:
    """What the exporter reads: totals of this process, and the last look at the stream.

    Every entry that was read ends in exactly one of `outcomes`: `queued` (handed to replay), `unsampled`,
    `shed_budget`, `shed_queue`, `malformed`; `floor` and `sampled` count the sampler's decisions among those it took.
    """

    read: int = 0
    claimed: int = 0
    decisions: dict[str, int] = field(default_factory=_zeros(OUTCOMES))
    outcomes: dict[str, int] = field(
        default_factory=_zeros(("queued", "unsampled", "shed_budget", "shed_queue", "malformed"))
    )
    malformed: dict[str, int] = field(default_factory=_zeros(REASONS))
    clock_skewed: int = 0
    acknowledged: int = 0
    groups_remade: int = 0
    store_errors: int = 0
    last_read_at: float = 0.0
    state: StreamState | None = None
