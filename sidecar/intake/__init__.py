"""Intake: from the service's Redis stream to validated, sampled query events.

`events` holds the contract, `sampler` decides what is replayed, `consumer` runs the group, `trimming` counts what Redis
threw away unread. What happens to an event afterwards, and its acknowledgement, belongs to `replay` and `store`.
"""

from sidecar.intake.consumer import Consumer
from sidecar.intake.events import REASONS, EventLimits, FieldMap, SliceRegistry, parse
from sidecar.intake.options import IntakeCounts, IntakeOptions
from sidecar.intake.sampler import OUTCOMES, Decision, Sampler, SamplingOptions
from sidecar.intake.trimming import StreamState

__all__ = [
    "OUTCOMES",
    "REASONS",
    "Consumer",
    "Decision",
    "EventLimits",
    "FieldMap",
    "IntakeCounts",
    "IntakeOptions",
    "Sampler",
    "SamplingOptions",
    "SliceRegistry",
    "StreamState",
    "parse",
]
