"""Measure what the card of a probe set says: how hard it is for an encoder, and how small a change it can detect.

How small a change can be found hangs on how differently it treats the queries: a change that moves all alike shows on a
handful. What is asked for is the change that has no direction, the hardest one. So the encoder's vectors are disturbed
by Gaussian noise, sized until the first ten have an overlap of 0.85 with the undisturbed ones, and the spread of the
paired differences is what one query adds to the error. Of pairs, the same: there the anchors rank all other sentences.

Everything is measured on the way that the canary runner takes; the noise has fixed seeds.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from math import sqrt
from typing import TYPE_CHECKING

import numpy as np

from sidecar import overlap
from sidecar.drift.composition import ALL, summarise
from sidecar.drift.labelled import LEADING, MEASURES, SHOWN, means, scale, smallest_change
from sidecar.drift.paired import DUST
from sidecar.drift.paired_watch import PairedRule
from sidecar.errors import ConfigurationError, DataError
from sidecar.probesets.measure import ask, finish, measure_pairs, score_rankings
from sidecar.probesets.read import PAIR_KEYS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sidecar.drift.composition import PairSummary
    from sidecar.drift.labelled import Scale
    from sidecar.encoders.protocol import Encoder, Vectors
    from sidecar.probesets.read import ProbeSet

    Floats = NDArray[np.float64]

OVERLAP = 0.85
DRAWS, SIZING_DRAWS = 6, 2
"""Draws of the noise that measure the spread, and those that size it."""

LARGEST_NOISE, HALVINGS = 1.0, 8
"""Relative to the length of a vector. Eight halvings meet the overlap to about 0.002."""

LEVELS = (PairedRule().page_p, PairedRule().ticket_p)
BEGIN, END = "<!-- figures: made by rag-drift probes card -->", "<!-- end of figures -->"


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one domain or phenomenon, or of `all`.

    `values` are the means of the measures, with the shares of queries that score 1 and 0; for pairs, accuracy, margin,
    AUC and both cosines. `spread` is the standard deviation of the differences under the noise: of nDCG@10, or of the
    sensitivity.
    """

    name: str
    n: int
    values: Mapping[str, float]
    spread: float

    @property
    def smallest(self) -> tuple[float, ...]:
        """Give the smallest change that is found with 80 % power at the levels of a page and a ticket."""
        return tuple(smallest_change(self.spread, self.n, p) for p in LEVELS)


@dataclass(frozen=True, slots=True)
class Card:
    """The figures of a set with one encoder; `overlap` is what the noise left of the rankings."""

    set: str
    version: int
    checksum: str
    encoder: str
    overlap: float
    rows: tuple[Row, ...]
    scale: Scale | None = None


@dataclass(slots=True)
class Disturbed:
    """An encoder whose vectors are disturbed by noise of `size`, always the same for the same text and draw."""

    encoder: Encoder
    size: float = 0.0
    draw: int = 0
    _known: dict[tuple[str, str], Vectors] = field(default_factory=dict, repr=False)

    @property
    def name(self) -> str:
        """Give the encoder's name."""
        return self.encoder.name

    @property
    def dimension(self) -> int:
        """Give the encoder's dimension."""
        return self.encoder.dimension

    def encode_queries(self, texts: Sequence[str]) -> Vectors:
        """Encode as the encoder does, and disturb."""
        return self._encode("query", self.encoder.encode_queries, texts)

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Encode as the encoder does, and disturb."""
        return self._encode("document", self.encoder.encode_documents, texts)

    def close(self) -> None:
        """Leave the encoder open: it is somebody else's."""

    def _encode(self, mode: str, encode: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
        # What is new is encoded together: the first time, these are the batches of the set.
        new = [text for text in texts if (mode, text) not in self._known]
        if new:
            self._known.update(zip(((mode, text) for text in new), encode(new), strict=True))
        vectors = np.array([self._known[mode, text] for text in texts])
        if self.size > 0.0:
            noise = np.array([self._noise(mode, text, vectors.shape[1]) for text in texts])
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors + self.size * lengths * noise
            vectors *= lengths / np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors.astype(np.float32)

    def _noise(self, mode: str, text: str, dimension: int) -> Floats:
        seed = hashlib.blake2b(f"{mode}\0{text}".encode(), digest_size=8).digest()
        drawn = np.random.default_rng([self.draw, int.from_bytes(seed, "big")]).standard_normal(dimension)
        return np.asarray(drawn / sqrt(dimension), dtype=np.float64)


def measure_card(one: ProbeSet, encoder: Encoder, *, name: str | None = None) -> Card:
    """Measure the figures of a labelled set with a corpus of its own, or of pairs; `name` is how the card calls it.

    Raises:
        ConfigurationError: the set is of texts for the fingerprint, or asks the production index.
        EncoderError: the encoder fails.
    """
    if one.kind == "sentinel":
        raise ConfigurationError(f"{one.name}: texts for the fingerprint have no scores and no figures")
    if one.kind == "retrieval" and one.corpus is None:
        raise ConfigurationError(f"{one.name}: has no corpus; rule: a card is of an encoder alone")
    disturbed = Disturbed(encoder)
    rows, left, quantiles = _labelled(one, disturbed) if one.kind == "retrieval" else _pairs(one, disturbed)
    return Card(one.name, one.manifest.version, one.checksum, name or encoder.name, left, rows, quantiles)


def _labelled(one: ProbeSet, disturbed: Disturbed) -> tuple[tuple[Row, ...], float, Scale | None]:
    scores = score_rankings(one, finish(ask(one, disturbed)))
    before = np.array(scores.values[LEADING])

    def look() -> tuple[float, Floats]:
        rankings = [ranking.ids for ranking in finish(ask(one, disturbed, depth=SHOWN))]
        asked = zip(rankings, one.queries, strict=True)
        now = np.array([MEASURES[LEADING](ids, one.judgements[query.id]) for ids, query in asked])
        return float(overlap.compare(scores.rankings, rankings, k=SHOWN).overlap.mean()), now - before

    left, differences = _disturb(disturbed, look)
    domains = np.array(scores.domains)
    rows = []
    for name, values in means(scores).items():
        its = np.ones(len(domains), dtype=np.bool_) if name == ALL else domains == name
        shares = {"perfect": float((before[its] >= 1.0 - DUST).mean()), "zero": float((before[its] <= DUST).mean())}
        rows.append(Row(name, int(its.sum()), {**values, **shares}, _spread(differences[:, its])))
    return tuple(rows), left, scale(scores)


def _pairs(one: ProbeSet, disturbed: Disturbed) -> tuple[tuple[Row, ...], float, None]:
    scores = finish(measure_pairs(one, disturbed))
    texts = [getattr(triple, part) for part in PAIR_KEYS for triple in one.triples]

    def seen() -> tuple[list[list[str]], Floats]:
        anchor, *others = np.split(disturbed.encode_queries(texts), len(PAIR_KEYS))
        away = -(anchor @ np.concatenate(others).T)
        nearest = np.argpartition(away, min(SHOWN, away.shape[1] - 1), axis=1)[:, :SHOWN]
        return nearest.astype(str).tolist(), np.einsum("ij,ij->i", anchor, others[0] - others[1]).astype(np.float64)

    neighbours, margins = seen()

    def look() -> tuple[float, Floats]:
        nearest, now = seen()
        return float(overlap.compare(neighbours, nearest, k=SHOWN).overlap.mean()), now - margins

    left, differences = _disturb(disturbed, look)
    phenomena = np.array(scores.phenomena)
    rows = []
    for name, summary in summarise(scores).items():
        its = np.ones(len(phenomena), dtype=np.bool_) if name == ALL else phenomena == name
        rows.append(Row(name, summary.n, _values(summary), _spread(differences[:, its])))
    return tuple(rows), left, None


def _disturb(disturbed: Disturbed, look: Callable[[], tuple[float, Floats]]) -> tuple[float, Floats]:
    """Size the noise; give the overlap that it leaves and the differences (draws, n) that it makes."""

    def at(size: float, draws: int) -> tuple[float, Floats]:
        disturbed.size = size
        seen = []
        for disturbed.draw in range(draws):
            seen.append(look())
        return float(np.mean([left for left, _ in seen])), np.array([differences for _, differences in seen])

    low, high = 0.0, LARGEST_NOISE
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if at(middle, SIZING_DRAWS)[0] > OVERLAP else (low, middle)
    return at(high, DRAWS)


def _spread(differences: Floats) -> float:
    """Pool the standard deviations of the draws; 0 for a single query."""
    return float(np.sqrt(differences.var(axis=1, ddof=1).mean())) if differences.shape[1] > 1 else 0.0


def _values(summary: PairSummary) -> dict[str, float]:
    names = ("accuracy", "margin", "auc", "paraphrase", "near_miss")
    return {name: getattr(summary, name) for name in names}


TITLES = {
    "ndcg@10": "nDCG@10", "mrr@10": "MRR@10", "acc@1": "Acc@1", "recall@10": "Recall@10", "recall@100": "Recall@100",
    "perfect": "score 1", "zero": "score 0", "accuracy": "accuracy", "margin": "margin", "auc": "AUC",
    "paraphrase": "paraphrase cosine", "near_miss": "near-miss cosine",
}  # fmt: skip


def markdown(card: Card) -> str:
    """Give the figures as a table in Markdown, with what they are."""
    labelled = card.scale is not None
    page, ticket = (f"{p:g}" for p in LEVELS)
    head = [
        "domain" if labelled else "phenomenon", "queries" if labelled else "triples",
        *(TITLES[name] for name in card.rows[0].values), f"finds, p {page}", f"finds, p {ticket}",
    ]  # fmt: skip
    lines = [
        f"{card.encoder}, version {card.version}, checksum `{card.checksum}`.",
        "",
        f"| {' | '.join(head)} |",
        f"| --- |{' ---: |' * (len(head) - 1)}",
    ]
    for row in card.rows:
        found = [_change(one, row.values.get(LEADING)) for one in row.smallest]
        cells = [row.name, str(row.n), *(f"{value:.3f}" for value in row.values.values()), *found]
        lines.append(f"| {' | '.join(cells)} |")
    what = "fall of mean nDCG@10 (and relative to it)" if labelled else "change of mean sensitivity"
    explained = (
        f"*finds*: the smallest {what} that one run finds with 80 % power at the level of a page and of a ticket, if "
        f"the encoder changes without direction: noise that leaves an overlap@10 of {card.overlap:.3f}."
    )
    lines += ["", explained]
    if card.scale is not None and card.scale.top and card.scale.gap:
        top, gap = (" / ".join(f"{one:.3f}" for one in quantiles) for quantiles in (card.scale.top, card.scale.gap))
        lines += ["", f"Score scale (10 % / 50 % / 90 %): best document {top}, distance to the tenth {gap}."]
    return "\n".join(lines)


def _change(value: float, mean: float | None) -> str:
    return f"{value:.3f}" + (f" ({100 * value / mean:.1f} %)" if mean else "")


def rewrite(file: Path, figures: str) -> None:
    """Put the figures between the markers of a README.

    Raises:
        DataError: the file cannot be read or written, or has no markers.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); rule: a UTF-8 file") from None
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise DataError(f"{file}: no place for the figures; rule: a line {BEGIN} and after it a line {END}")
    try:
        file.write_text(f"{head}{BEGIN}\n{figures}\n{END}{tail}", encoding="utf-8")
    except OSError as error:
        raise DataError(f"{file}: cannot be written ({error.strerror})") from None
