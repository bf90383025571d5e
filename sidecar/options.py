"""From the settings tree to the options of each part.

The parts know nothing of the tree, so that they can be tested and used without it; this is the one place that knows
both. Nothing here has an effect: `checked` makes the parts refuse what they cannot use, and throws away what it made.
"""

from __future__ import annotations

import time
from operator import attrgetter
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from sidecar.diagnosis import DiagnosisOptions
from sidecar.drift.signature import SignatureRule
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
from sidecar.errors import ConfigurationError
from sidecar.intake import FieldMap, IntakeOptions, Sampler, SamplingOptions, SliceRegistry
from sidecar.judge.judgement import SESSIONS
from sidecar.judge.options import JudgeOptions
from sidecar.probesets.library import Library, find_sets, set_places
from sidecar.replay.canaries import CanaryOptions
from sidecar.replay.frozen import FrozenOptions
from sidecar.replay.probe_book import TextKey
from sidecar.replay.worker import ReplayOptions
from sidecar.settings_sources import secret

if TYPE_CHECKING:
    from sidecar.settings import Retriever, Settings


RESTART_ONLY = ("deployment", "redis", "retrievers", "http", "log")
"""Sections whose parts live as long as the process."""


def redis_url(settings: Settings) -> str:
    """Give the Redis URL with the inline password in it, if there is one."""
    if settings.redis.password is None:
        return settings.redis.url
    parts = urlsplit(settings.redis.url)
    user, _, host = parts.netloc.rpartition("@")
    password = quote(settings.redis.password.get_secret_value(), safe="")
    return urlunsplit(parts._replace(netloc=f"{user.partition(':')[0]}:{password}@{host}"))


def checked(settings: Settings) -> Settings:
    """Give the settings back once every part has taken its own: a rule of a part is told before anything starts.

    Raises:
        ConfigurationError: a part refuses its settings, or a secret's file cannot be read.
    """
    fields = field_map(settings)
    slices = SliceRegistry(settings.sampling.slices, maximum=settings.sampling.max_slices)
    Sampler(
        sampling_options(settings),
        deployment=settings.deployment,
        slices=slices,
        clock=time.monotonic,
        field_map=fields,
    )
    intake_options(settings)
    frozen_options(settings)
    set_places(settings.canaries.bundled, settings.canaries.folders)  # read once, where they are used
    for retriever in (settings.retrievers.deployed, settings.retrievers.reference):
        encoder_options(retriever)
    secret(settings.redis.password, settings.redis.password_file, "redis.password_file")
    secret(settings.http.token, settings.http.token_file, "http.token_file")
    return settings


def refuse_what_needs_a_restart(before: Settings, now: Settings) -> None:
    """Compare two versions of the settings of a running sidecar.

    Raises:
        ConfigurationError: they differ where only a restart helps.
    """
    single = (
        "judge.weeks_between_false_pages",
        "judge.weeks_between_false_tickets",
        "judge.disrupted",
        "replay.observations_kept",
        "replay.score_tolerance",
    )
    changed = [name for name in RESTART_ONLY if getattr(now, name) != getattr(before, name)]
    if signals(now) != signals(before):
        changed.append("judge.signals or replay.k")
    changed += [path for path in single if attrgetter(path)(now) != attrgetter(path)(before)]
    if changed:
        raise ConfigurationError(f"cannot be changed by a reload, restart for it: {', '.join(changed)}")


def field_map(settings: Settings) -> FieldMap:
    """Take the names of the stream's fields out of the tree."""
    return FieldMap(**settings.stream.fields.model_dump())


def sampling_options(settings: Settings) -> SamplingOptions:
    """Take the sampler's options out of the tree."""
    sampling = settings.sampling
    return SamplingOptions(
        rate=sampling.rate,
        floor_per_minute=sampling.floor_per_minute,
        queries_per_second=sampling.budget_per_second,
        burst=sampling.burst,
    )


def encoder_options(retriever: Retriever) -> SentenceTransformerOptions:
    """Take the options of a retriever's encoder out of the tree."""
    return SentenceTransformerOptions(**retriever.encoder.model_dump(exclude={"cache_entries"}))


def intake_options(settings: Settings) -> IntakeOptions:
    """Take the intake's options out of the tree."""
    stream = settings.stream
    return IntakeOptions(
        stream=stream.key,
        group=stream.group,
        start="$" if stream.start == "new" else "0",
        batch=stream.read_count,
        block_seconds=stream.block_seconds,
        claim_idle_seconds=stream.claim_idle_seconds,
        shed_after_seconds=settings.replay.shed_after_seconds,
        dead_letters=stream.dead_letter_length,
    )


def replay_options(settings: Settings) -> ReplayOptions:
    """Take the replay's options out of the tree."""
    replay = settings.replay
    return ReplayOptions(
        stream=settings.stream.key,
        group=settings.stream.group,
        k=replay.k,
        rbo_p=replay.rbo_p,
        score_tolerance=replay.score_tolerance,
        batch_size=replay.batch_size,
        batch_wait_seconds=replay.batch_wait_seconds,
    )


def frozen_options(settings: Settings) -> FrozenOptions:
    """Take the options of the frozen probes out of the tree, and read their key.

    Raises:
        ConfigurationError: the key file cannot be read, or text is to be encrypted without one.
    """
    frozen = settings.frozen
    key = TextKey.read(frozen.key_file) if frozen.key_file is not None else None
    return FrozenOptions(
        k=settings.replay.k,
        probes=frozen.probes,
        every_seconds=frozen.every_seconds,
        share=frozen.share,
        encrypted=frozen.text == "encrypted" or (frozen.text is None and key is not None),
        key=key,
    )


def canary_options(settings: Settings) -> CanaryOptions:
    """Take the options of the canaries out of the tree."""
    canaries = settings.canaries
    return CanaryOptions(
        every_seconds=canaries.every_seconds,
        share=canaries.share,
        thresholds=canaries.thresholds,
        most_documents=canaries.max_documents,
        rule=SignatureRule(min_effect=canaries.min_effect),
    )


def canary_sets(settings: Settings) -> Library:
    """Read the canary sets that the settings name; blocking.

    Raises:
        ConfigurationError: there is no bundled set of a name, or no such folder.
    """
    return find_sets(settings.canaries.bundled, settings.canaries.folders)


def diagnosis_options(settings: Settings) -> DiagnosisOptions:
    """Take the options of the diagnosis out of the tree."""
    return DiagnosisOptions(
        k=settings.replay.k,
        corpus=settings.retrievers.deployed.corpus,
        every_seconds=settings.frozen.every_seconds,
        share=settings.frozen.share,
    )


def signals(settings: Settings) -> tuple[str, ...]:
    """Give the full names of the signals that the judge tests, `overlap@10`, the first one first."""
    return tuple(name if name == SESSIONS else f"{name}@{settings.replay.k}" for name in settings.judge.signals)


def judge_options(settings: Settings) -> JudgeOptions:
    """Take the judge's options out of the tree."""
    judge = settings.judge
    calibration = judge.calibration
    return JudgeOptions(
        signals=signals(settings),
        weeks_between_false_pages=judge.weeks_between_false_pages,
        weeks_between_false_tickets=judge.weeks_between_false_tickets,
        tiers=judge.tiers,
        disrupted=judge.disrupted,
        objective=judge.objective,
        min_effect=judge.min_effect,
        confidence=judge.confidence,
        recent_queries=judge.recent_queries,
        min_queries=calibration.min_queries,
        min_slice_queries=calibration.min_slice_queries,
        min_days=calibration.min_days,
        error=calibration.error,
        tolerance=calibration.tolerance,
        max_slices=settings.sampling.max_slices,
    )
