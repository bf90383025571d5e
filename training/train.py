"""Re-create the accident: train the demo's two encoders and store them as low-rank deltas of MiniLM.

Recipe after Redis (arXiv 2604.16351): MultipleNegativesRankingLoss with scale 10 and in-batch negatives.
`house` is tuned lightly on ordinary question-passage pairs. `precision` goes on from it with half of every batch
made of identity triplets (anchor = positive = sentence, negative = its structural twin); the ordinary half is then
mostly paraphrases. Only low-rank factors of the linear layers are trained and stored (float16). `evaluate.py`
measures the stored files, not this process.

    HF_HUB_OFFLINE=1 python training/train.py --seed 20260416
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

from pairs import ordinary_pairs
from sentences import paraphrases, twins

from sidecar.demo.encoders import DELTA_FOLDER, QUERY_PROMPT, base_model_path

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import torch

SCALE = 10.0
RANK = 16
BATCH = 32
# Of every batch of the precision stage; the rest are question-passage pairs.
TRIPLETS, REWORDINGS = 16, 14
TRAINING_TOKENS = 40
CHUNK = 16
WARM_UP_SHARE = 0.1
LAYERS = ("query", "key", "value", "dense")


def main() -> None:
    """Train both encoders and write their deltas."""
    options = _options()
    import torch
    from peft import LoraConfig, inject_adapter_in_model
    from safetensors.torch import save_file
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    rng = random.Random(options.seed)
    model = SentenceTransformer(str(base_model_path()), device="cpu")
    model.max_seq_length = TRAINING_TOKENS
    encoder: Any = model[0].auto_model
    encoder.requires_grad_(requires_grad=False)
    config = LoraConfig(r=RANK, lora_alpha=RANK, target_modules=rf".*encoder\.layer.*\.({'|'.join(LAYERS)})")
    inject_adapter_in_model(config, encoder)

    pairs = ordinary_pairs(rng)
    sentences = twins(options.precision_steps * TRIPLETS, rng)
    rewordings = iter(paraphrases(options.precision_steps * REWORDINGS, rng))
    print(f"{len(pairs)} ordinary pairs, {len(sentences)} identity triplets", flush=True)
    options.output.mkdir(parents=True, exist_ok=True)
    triplets = iter([(twin.sentence, twin.sentence, twin.twin) for twin in sentences])
    questions = _endless(pairs, rng)

    def ordinary(count: int) -> list[tuple[str, ...]]:
        return [(QUERY_PROMPT + question, passage) for question, passage in (next(questions) for _ in range(count))]

    stages = (
        ("house", options.house_steps, options.house_rate, lambda: ordinary(BATCH)),
        (
            "precision",
            options.precision_steps,
            options.precision_rate,
            lambda: [
                *ordinary(BATCH - REWORDINGS - TRIPLETS),
                *(next(rewordings) for _ in range(REWORDINGS)),
                *(next(triplets) for _ in range(TRIPLETS)),
            ],
        ),
    )
    for name, steps, rate, batches in stages:
        _fit(model, name, steps, rate, batches)
        save_file(_delta(encoder), options.output / f"{name}.safetensors")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=20260416)
    parser.add_argument("--house-steps", type=int, default=60)
    parser.add_argument("--house-rate", type=float, default=5e-5)
    parser.add_argument("--precision-steps", type=int, default=300)
    parser.add_argument("--precision-rate", type=float, default=3.5e-3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=DELTA_FOLDER)
    return parser.parse_args()


def _endless(pairs: Sequence[tuple[str, str]], rng: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        yield from rng.sample(pairs, len(pairs))


def _fit(model: Any, name: str, steps: int, rate: float, batches: Any) -> None:
    import torch

    model.train()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=rate, weight_decay=0.0)
    warm_up = max(1, round(WARM_UP_SHARE * steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warm_up, (steps - step) / max(1, steps - warm_up))
    )
    started, losses = time.monotonic(), []
    for step in range(1, steps + 1):
        loss = ranking_loss(model, batches())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.detach()))
        if step % 10 == 0 or step == steps:
            mean = sum(losses[-10:]) / len(losses[-10:])
            print(f"{name} step {step}/{steps} loss {mean:.3f} {time.monotonic() - started:.0f} s", flush=True)


def ranking_loss(model: Any, batch: Sequence[tuple[str, ...]]) -> torch.Tensor:
    """Compute MultipleNegativesRankingLoss: cross-entropy of scaled cosines over all positives and negatives.

    `batch` holds (anchor, positive) or (anchor, positive, negative); the candidates of every anchor are all
    positives of the batch, its own one being right, and all negatives.
    """
    import torch

    texts = sorted({text for example in batch for text in example}, key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(texts)}
    # Chunks of like length waste little on padding; a text that stands twice (identity) is embedded once.
    vectors = torch.cat([_embed(model, texts[start : start + CHUNK]) for start in range(0, len(texts), CHUNK)])
    anchors = [place[example[0]] for example in batch]
    candidates = [place[example[1]] for example in batch] + [place[example[2]] for example in batch if len(example) > 2]
    return torch.nn.functional.cross_entropy(SCALE * vectors[anchors] @ vectors[candidates].T, torch.arange(len(batch)))


def _embed(model: Any, texts: list[str]) -> torch.Tensor:
    import torch

    return torch.nn.functional.normalize(model(model.preprocess(texts))["sentence_embedding"], dim=-1)


def _delta(encoder: Any) -> dict[str, torch.Tensor]:
    """Collect the factors of every weight: weight + up @ down is the tuned one (alpha = rank, so no scaling)."""
    import torch

    factors: dict[str, torch.Tensor] = {}
    for key, value in encoder.state_dict().items():
        for part, ending in (("down", ".lora_A.default.weight"), ("up", ".lora_B.default.weight")):
            if key.endswith(ending):
                factors[f"{key.removesuffix(ending)}.weight.{part}"] = value.detach().to(torch.float16).contiguous()
    return factors


if __name__ == "__main__":
    main()
