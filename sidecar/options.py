"""From the settings tree to the options of each part.

The parts know nothing of the tree, so that they can be tested and used without it; this is the one place that knows
both. Nothing here has an effect: `checked` makes the parts refuse what they cannot use, and throws away what it made.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from sidecar.encoders.sentence_transformer import SentenceTransformerOptions
from sidecar.intake import FieldMap, IntakeOptions, Sampler, SamplingOptions, SliceRegistry
from sidecar.judge.judgement import JudgeOptions
from sidecar.overlap import signal_name
from sidecar.replay.worker import ReplayOptions
from sidecar.settings_sources import secret

if TYPE_CHECKING:
    from sidecar.settings import Retriever, Settings


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
    for retriever in (settings.retrievers.deployed, settings.retrievers.reference):
        encoder_options(retriever)
    secret(settings.redis.password, settings.redis.password_file, "redis.password_file")
    secret(settings.http.token, settings.http.token_file, "http.token_file")
    return settings


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
        batch_size=replay.batch_size,
        batch_wait_seconds=replay.batch_wait_seconds,
    )


def judge_options(settings: Settings) -> JudgeOptions:
    """Take the judge's options out of the tree."""
    judge = settings.judge
    calibration = judge.calibration
    return JudgeOptions(
        signal=signal_name(judge.signal, settings.replay.k),
        weeks_between_false_pages=judge.weeks_between_false_pages,
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
