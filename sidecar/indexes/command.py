"""`rag-drift index build`: load the encoder, embed the corpus, show how far it is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from sidecar.encoders import threads
from sidecar.encoders.fingerprint import measure
from sidecar.encoders.sentence_transformer import SentenceTransformerOptions, load
from sidecar.indexes.build import build_index

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def build(corpus: Path, target: Path, encoder: Mapping[str, Any]) -> None:
    """Build the index folder `target`; `encoder` holds the fields of `SentenceTransformerOptions`."""
    console = Console(stderr=True)
    with console.status("loading the encoder"):
        options = SentenceTransformerOptions(**encoder)
        model = load(options)
        with threads.single():
            fingerprint = measure(model)
    threads.use(threads.available())
    columns = (
        TextColumn("embedding"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("documents"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=None)
        manifest = build_index(
            corpus,
            model,
            target,
            fingerprint=fingerprint,
            now=time.time(),
            batch_size=options.batch_size,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
    console.print(
        f"{target}: {manifest.documents} documents, {manifest.dimension} dimensions, "
        f"encoder {fingerprint.digest}, generation {manifest.generation}",
        highlight=False,
        soft_wrap=True,
    )
