"""One declarative tree of settings: file in YAML, environment twins, a few flags; nothing is read anywhere else.

The tree below is the only list of settings. The command line, `docs/settings.md` (held to it by a test), the checks and
`config show` all read it. Precedence: flags, then environment, then file, then the defaults here.

An environment twin is `RAG_DRIFT__` and the path in upper case joined with two underscores: `RAG_DRIFT__REDIS__URL`.
Two underscores also in front, because Kubernetes injects `RAG_DRIFT_SERVICE_HOST` and the like for a Service named
`rag-drift`.

What this module leaves to others: reading file and environment (`settings_sources`), turning settings into options of
the parts (`options`) and those into clients, models and tasks (`app`).
"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  (pydantic reads the annotations at run time)
from typing import TYPE_CHECKING, Annotated, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic.fields import FieldInfo

ENVIRONMENT_PREFIX = "RAG_DRIFT__"
Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """A part of the tree: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Redis(Section):
    """Where the query stream is and where the sidecar keeps its own small state."""

    url: str = Field(
        "redis://127.0.0.1:6379/0",
        repr=False,  # it may hold a password
        description="`redis://`, `rediss://` (TLS) or `unix://`, with an ACL user where there is one",
    )
    password: SecretStr | None = Field(None, description="Password; `password_file` is safer")
    password_file: Path | None = Field(None, description="File that holds the password; read at every start")

    @field_validator("url")
    @classmethod
    def _known_scheme(cls, value: str) -> str:
        if not value.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("must start with redis://, rediss:// or unix://")
        return value


class Fields(Section):
    """How the service names the fields of its stream entries, where it does not use ours."""

    query: str = Field("query", description="Field with the query's text")
    documents: str = Field("documents", description="Field with the served documents")
    slice: str = Field("slice", description="Field with the group name")
    trace_id: str = Field("trace_id", description="Field with the request's trace id")
    session_id: str = Field("session_id", description="Field with the agent session's id")
    step: str = Field("step", description="Field with the number of the retrieval in its session")
    top_k: str = Field("top_k", description="Field with the number of documents asked for")
    filter: str = Field("filter", description="Field with the metadata filter that the service applied")
    encoder: str = Field("encoder", description="Field with the service's own label of its encoder")
    v: str = Field("v", description="Field with the contract version")


class Stream(Section):
    """The query stream and how it is read."""

    key: str = Field("rag:queries", min_length=1, description="Key of the stream that the service writes to")
    group: str = Field("rag-drift", min_length=1, description="Consumer group; one per deployment of the sidecar")
    start: Literal["new", "oldest"] = Field(
        "new", description="Where a group that does not exist yet begins: `new` entries only, or the `oldest` kept"
    )
    fields: Fields = Field(default=Fields(), description="Field names of the service's entries")
    read_count: int = Field(500, ge=1, le=10_000, description="Entries per read")
    block_seconds: float = Field(2.0, gt=0, lt=10, description="How long one read waits for new entries")
    claim_idle_seconds: float = Field(
        60.0, ge=1, description="An entry held this long by a silent consumer is taken over"
    )
    max_query_bytes: int = Field(8192, ge=1, le=1_048_576, description="Longest query text accepted, in bytes of UTF-8")
    max_documents: int = Field(1000, ge=1, le=100_000, description="Most served documents accepted in one entry")
    dead_letter_length: int = Field(1000, ge=0, description="Malformed entries kept for inspection; 0 keeps none")


class Sampling(Section):
    """Which live queries are replayed."""

    rate: Share = Field(
        0.1, description="Share of sessions (else traces, else entries) that are replayed, chosen by hash"
    )
    budget_per_second: float = Field(
        20.0, gt=0, description="Most queries replayed per second by one replica; the rest is shed"
    )
    burst: int = Field(200, ge=1, description="Queries that may be replayed at once after a quiet time")
    floor_per_minute: int = Field(
        0, ge=0, description="Queries per minute and slice that are replayed even if the rate takes fewer"
    )
    slices: tuple[str, ...] = Field((), description="Slices that are always told apart")
    max_slices: int = Field(20, ge=1, le=200, description="Most slices told apart; further ones become `other`")


class Replay(Section):
    """How queries are replayed."""

    k: int = Field(10, ge=1, le=1000, description="Depth at which rankings are compared")
    rbo_p: float = Field(0.9, gt=0, lt=1, description="Persistence of rank-biased overlap")
    score_tolerance: float = Field(
        0.02,
        ge=0,
        le=1,
        description="`tolerant@k`: how far below the reference's k-th score a document may lie to count as good; "
        "encoders that crowd their cosines want less",
    )
    batch_size: int = Field(128, ge=1, le=1024, description="Most queries gathered into one batch")
    batch_wait_seconds: float = Field(0.05, ge=0, description="Longest time a query waits for others to fill its batch")
    queue_size: int = Field(1024, ge=1, description="Queries waiting to be replayed; the bound on memory")
    shed_after_seconds: float | None = Field(
        300.0,
        description="With a full queue, queries older than this are shed; younger ones wait. `null` always waits",
    )
    observations_kept: int = Field(
        100_000,
        ge=1000,
        description="Observations kept in Redis for a judge that is away or behind (about 250 bytes each)",
    )


class Encoder(Section):
    """A sentence-transformers model."""

    model: str = Field(min_length=1, description="Folder of a sentence-transformers model, or a name on a model hub")
    revision: str | None = Field(None, description="Revision on the hub; set it, or the model may change under you")
    query_prompt: str | None = Field(
        None, description="Text put before each query; `null` leaves it to the model's own file"
    )
    document_prompt: str | None = Field(
        None, description="Text put before each document; `null` leaves it to the model's file"
    )
    normalize: bool = Field(True, description="Scale vectors to length 1, so that the product is the cosine")
    max_length: int | None = Field(None, ge=1, description="Longest input in tokens; `null` is the model's own limit")
    batch_size: int = Field(
        16, ge=1, le=4096, description="Texts per forward pass: few waste least on padding; raise it on a GPU"
    )
    device: str = Field("cpu", description="Torch device")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="Precision of the weights")
    cache_entries: int = Field(
        20_000, ge=0, description="Query vectors kept, by digest of the text (1.5 kB each at 384 dimensions)"
    )


class Retriever(Section):
    """An encoder with its index."""

    encoder: Encoder = Field(description="The model")
    index: Path = Field(description="Folder of an index made by `rag-drift index build`")
    corpus: Path | None = Field(
        None, description="The documents that the index was built from, as JSON lines: to check its vectors against"
    )


class Retrievers(Section):
    """The two retrievers that every sampled query is put to."""

    deployed: Retriever = Field(description="What the service uses now")
    reference: Retriever = Field(description="What it is held against")
    frozen: Path | None = Field(
        None,
        description="Folder of a copy of the accepted deployed retriever, made by `rag-drift freeze`; held against too",
    )
    threads: int | None = Field(
        None, ge=1, description="Threads for encoding; `null` takes the processors that this container may use"
    )
    watch_seconds: Seconds = Field(30.0, description="How often the folders of both are checked for a new version")


class Frozen(Section):
    """Frozen probes: live queries with the accepted stack's answers, asked again; and the inspections beside them."""

    probes: int = Field(1000, ge=50, description="Live queries that are frozen when a baseline is accepted")
    every_seconds: Seconds = Field(300.0, description="How often they are asked again, and a cause is looked for")
    share: float = Field(
        0.2,
        gt=0,
        le=1,
        description="Share of the replay thread's time that they, and an inspection, may take from live queries",
    )
    text: Literal["encrypted", "omitted"] | None = Field(
        None,
        description="Whether their texts are kept in Redis `encrypted`, or not at all (`omitted`: a probe sleeps after "
        "a restart until its query comes by again); `null` is encrypted where there is a key file",
    )
    key_file: Path | None = Field(None, description="File with 32 random bytes in URL-safe base64 (a Fernet key)")


class Canaries(Section):
    """Canary sets: labelled queries and minimal pairs that never change, put to both encoders."""

    bundled: tuple[str, ...] = Field(
        ("composition", "generalization"), description="Sets that come with the sidecar; `[]` for none"
    )
    folders: tuple[Path, ...] = Field(
        (), description="Folders of your own sets: a set each, or a folder of sets (docs/probe-sets.md)"
    )
    every_seconds: Seconds = Field(
        3600.0, description="How often they are run; they also are at the start and when an encoder or index changes"
    )
    share: float = Field(
        0.2, gt=0, le=1, description="Share of the replay thread's time that they may take from live queries"
    )
    thresholds: tuple[float, ...] = Field(
        (0.85, 0.9, 0.95),
        max_length=6,
        description="Cosines from which your semantic caches take two queries for the same",
    )
    max_documents: int = Field(
        20_000, ge=1, description="A set with a larger corpus of its own is set aside: it is embedded at every run"
    )
    min_effect: Share = Field(
        0.02, description="Smallest change of a domain's mean nDCG@10 that is called a loss or a gain, relative to it"
    )

    @field_validator("thresholds")
    @classmethod
    def _ascending_cosines(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)) or not all(-1 <= one <= 1 for one in value):
            raise ValueError("must be cosines from -1 to 1, ascending, each once")
        return value


class Calibration(Section):
    """How the accepted baseline comes about."""

    min_queries: int = Field(5000, ge=100, description="Sampled queries of the whole stream before a baseline is taken")
    min_slice_queries: int = Field(2000, ge=100, description="The same for one slice")
    min_days: float = Field(7.0, ge=0, description="Days that the calibration must span; 7 covers a whole week")
    error: float = Field(
        0.01, gt=0, lt=0.5, description="Probability that a baseline's lower bound lies above the truth"
    )
    tolerance: float = Field(0.02, ge=0, le=1, description="Harmless change, in standard deviations of a channel")


class Judge(Section):
    """When a verdict becomes an alarm."""

    signals: tuple[
        Literal["overlap", "jaccard", "rbo", "tolerant", "frozen_overlap", "frozen_tolerant", "sessions"], ...
    ] = Field(
        ("overlap",),
        min_length=1,
        description="Measures that are tested, sharing one budget; the first is what mixes and sessions follow. "
        "`frozen_...` need `retrievers.frozen`; `sessions` needs session ids",
    )
    weeks_between_false_pages: float = Field(
        26.0,
        gt=0,
        description="The promise: expected weeks of steady operation per false page, over all signals and slices "
        "together",
    )
    weeks_between_false_tickets: float = Field(4.0, gt=0, description="The same for tickets (falls, and rises)")
    tiers: tuple[float, float] = Field(
        (0.05, 0.15),
        description="Falls, relative to the baseline, that make an alarm `major` and `critical` once they are proved",
    )
    disrupted: Share = Field(0.2, description="A retrieval counts as disrupted when the first signal is at most this")
    objective: float = Field(
        0.95,
        ge=0.94,
        lt=1,
        description="Share of the queries that should reach the accepted floor of their slice: the error budget behind "
        "`rag_drift_slo_budget_ratio`",
    )
    min_effect: Share = Field(0.02, description="Smallest fall, relative to the baseline, that may page")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="Level of the intervals")
    recent_queries: int = Field(1000, ge=50, description="Queries behind the current level while steady")
    lease_seconds: Seconds = Field(
        15.0, description="A judge that is silent for this long is replaced by another replica"
    )
    calibration: Calibration = Field(default=Calibration(), description="The baseline")


class Http(Section):
    """The port for Prometheus, Kubernetes and people."""

    host: str = Field("0.0.0.0", description="Address to listen on")  # noqa: S104  (a pod is scraped from outside)
    port: int = Field(9464, ge=0, le=65535, description="Port; 0 takes a free one")
    token: SecretStr | None = Field(None, description="Bearer token for changes through the API; `token_file` is safer")
    token_file: Path | None = Field(None, description="File that holds the token; without a token the API is read-only")


class Log(Section):
    """Log lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe level written")
    format: Literal["json", "console"] = Field("json", description="`json` for machines, `console` for people")


class Settings(Section):
    """The whole tree."""

    deployment: str = Field(
        "default",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$",
        description="Name of the monitored RAG deployment; part of every Redis key",
    )
    redis: Redis = Field(default=Redis(), description="Redis")
    stream: Stream = Field(default=Stream(), description="Query stream")
    sampling: Sampling = Field(default=Sampling(), description="Sampling")
    replay: Replay = Field(default=Replay(), description="Replay")
    retrievers: Retrievers = Field(description="Encoders and indexes")
    frozen: Frozen = Field(default=Frozen(), description="Frozen probes")
    canaries: Canaries = Field(default=Canaries(), description="Canary sets")
    judge: Judge = Field(default=Judge(), description="Judge")
    http: Http = Field(default=Http(), description="HTTP")
    log: Log = Field(default=Log(), description="Log")

    @model_validator(mode="after")
    def _live_consumers_do_not_look_dead(self) -> Settings:
        stream = self.stream
        if stream.claim_idle_seconds < 2 * stream.block_seconds:
            raise ValueError("stream.claim_idle_seconds must be at least twice stream.block_seconds")
        return self

    @model_validator(mode="after")
    def _signals_can_be_measured(self) -> Settings:
        frozen = [name for name in self.judge.signals if name.startswith("frozen_")]
        if frozen and self.retrievers.frozen is None:
            raise ValueError(f"judge.signals: {frozen[0]} needs retrievers.frozen")
        if self.judge.signals[0] == "sessions":
            raise ValueError("judge.signals: sessions cannot be the first signal: it counts by the first one")
        if len(set(self.judge.signals)) != len(self.judge.signals):
            raise ValueError("judge.signals: each signal once")
        return self

    @model_validator(mode="after")
    def _tiers_ascend(self) -> Settings:
        if not self.judge.min_effect <= self.judge.tiers[0] < self.judge.tiers[1] < 1:
            raise ValueError("judge.tiers must ascend, from at least judge.min_effect to below 1")
        return self

    @model_validator(mode="after")
    def _one_source_per_secret(self) -> Settings:
        for section, inline, file in (
            ("redis", self.redis.password, self.redis.password_file),
            ("http", self.http.token, self.http.token_file),
        ):
            if inline is not None and file is not None:
                raise ValueError(f"{section}: give the secret inline or as a file, not both")
        return self


def leaves(section: type[Section] = Settings, prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting as its dotted path and pydantic field, in the order of the tree."""
    for name, field in section.model_fields.items():
        path = f"{prefix}{name}"
        if (below := _section(field.annotation)) is not None:
            yield from leaves(below, path + ".")
        else:
            yield path, field


def _section(annotation: object) -> type[Section] | None:
    """Give the section that an annotation names, also where it may be left out."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def environment_name(path: str) -> str:
    """Give the environment twin of a dotted path."""
    return ENVIRONMENT_PREFIX + path.upper().replace(".", "__")
