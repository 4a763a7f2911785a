"""Heads on frozen pretrained encoders for Flickr8k, beside peers on the same features.

    python benchmarks/frozen_flickr8k.py            # about half an hour on two cores
    python benchmarks/frozen_flickr8k.py --peers    # the peers alone, beside results that exist

Trains recipes/flickr8k-frozen.yaml twice in processes of their own with an empty cache folder: the
first run computes the features, the second finds them. Then two peers train on these features:

- open_clip: its loss (`ClipLoss`) and its MLP head for each side, every caption a pair of its own.
- sentence-transformers: `MultipleNegativesRankingLoss` in both directions with its scale of 20,
  and `Dense` heads, every caption a pair of its own.

Each peer has a grid of learning rates and numbers of epochs, and its best result on the dev split
counts. Reported is the mean of recall@1, 5 and 10 in both directions on the dev split, 1,000 photos
with 5 captions each. Data are in $AMODAL_DATA/flickr8k. Writes
benchmarks/results/frozen_flickr8k.json.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

import torch
from open_clip.loss import ClipLoss
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Dense
from torch import Tensor, nn

from amodal.data.feature_store import cache_folder
from amodal.data.features import FeatureSource
from amodal.evaluators.retrieval import mean_recall, retrieval_metrics
from amodal.models.joint_embedding import Architecture, Embeddings, build_joint_embedding
from amodal.projection import l2_normalize
from amodal.training.features import compute_features
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe, load_recipe
from amodal.training.sources import open_sources

HERE = Path(__file__).parent
RESULT = HERE / "results" / "frozen_flickr8k.json"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
PHOTOS = [
    f"data.{part}.{key}={DATA / value}"
    for part, split in (("train", "train"), ("validation", "dev"))
    for key, value in (("images", "images"), ("annotations", f"captions_{split}.json"))
]
DIM = 512
BATCH = 512
CAPTIONS = 5
GRID = list(product((5e-4, 1e-3), (5, 10)))  # learning rate, epochs of 5 pairs per photo

Loss = Callable[[Tensor, Tensor], Tensor]


def ours(folder: Path) -> dict[str, float]:
    """One run of the command in a process of its own: its seconds and its mean recall."""
    settings = [argument for value in PHOTOS for argument in ("--set", value)]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "amodal", "train", "flickr8k-frozen", *settings, "--out", folder],
        check=True,
    )
    seconds = time.perf_counter() - began
    metrics = json.loads((folder / "metrics.json").read_text())
    found = {n: v for n, v in metrics.items() if n.startswith("retrieval/") and "/low" not in n}
    return {
        "mean_recall": mean_recall({n: v for n, v in found.items() if "/high" not in n}),
        "seconds": round(seconds, 1),
        "training_seconds": metrics["train/seconds"],
    }


def features(recipe: Recipe) -> list[dict[str, Tensor]]:
    """The features of the training and the dev split, as the runs before have left them."""
    train, validation = (FeatureSource(s) for s in open_sources(recipe) if s is not None)
    encoders = recipe.model.encoders
    model = build_joint_embedding(
        Architecture(encoders=encoders, projection=recipe.model.projection)
    )
    compute_features(model, list(encoders), train, validation, ProgressCallbacks())
    return [
        {
            name: one.table.gather(one.rows[:, 0])["cached_tokens"][:, 0]
            for name, one in source.features.items()
        }
        for source in (train, validation)
    ]


def pairs(photos: int, epochs: int, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """(photo, caption) rows of each batch: every caption once an epoch, no photo twice at once."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        order = torch.stack([torch.randperm(CAPTIONS, generator=generator) for _ in range(photos)])
        for turn in range(CAPTIONS):
            for photo in torch.randperm(photos, generator=generator).split(BATCH):
                yield photo, photo * CAPTIONS + order[photo, turn]


def train(
    heads: nn.ModuleList, loss: Loss, data: dict[str, Tensor], rate: float, epochs: int
) -> None:
    """Train the heads of a peer with its loss: AdamW, cosine schedule with warm-up."""
    parameters = [*heads.parameters(), *getattr(loss, "parameters", list)()]
    optimizer = torch.optim.AdamW(parameters, lr=rate, weight_decay=0.1)
    batches = list(pairs(len(data["image"]), epochs))
    warmup = len(batches) // 20
    schedule = torch.optim.lr_scheduler.SequentialLR(
        optimizer,
        [
            torch.optim.lr_scheduler.LinearLR(optimizer, 1e-3, 1.0, warmup),
            torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches) - warmup),
        ],
        [warmup],
    )
    heads.train()
    for photo, caption in batches:
        value = loss(heads[0](data["image"][photo]), heads[1](data["text"][caption]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def recall(heads: nn.ModuleList, data: dict[str, Tensor]) -> float:
    """Mean recall of the dev split."""
    heads.eval()
    photos = torch.arange(len(data["image"]))
    rows = {
        "image": Embeddings(l2_normalize(heads[0](data["image"])), photos),
        "text": Embeddings(
            l2_normalize(heads[1](data["text"])), photos.repeat_interleave(CAPTIONS)
        ),
    }
    return mean_recall(retrieval_metrics(rows))


class OpenClipLoss(nn.Module):
    """`ClipLoss` with the learned scale of open_clip."""

    def __init__(self) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.loss = ClipLoss()

    def forward(self, image: Tensor, text: Tensor) -> Tensor:
        found: Tensor = self.loss(l2_normalize(image), l2_normalize(text), self.log_scale.exp())
        return found


def open_clip_heads(widths: dict[str, int]) -> nn.ModuleList:
    """The MLP heads of its `TimmModel` and its `HFTextEncoder`."""
    hidden = (widths["text"] + DIM) // 2
    return nn.ModuleList(
        [
            nn.Sequential(nn.Linear(widths["image"], 2 * DIM), nn.GELU(), nn.Linear(2 * DIM, DIM)),
            nn.Sequential(
                nn.Linear(widths["text"], hidden, bias=False),
                nn.GELU(),
                nn.Linear(hidden, DIM, bias=False),
            ),
        ]
    )


class DenseHead(nn.Module):
    """Two `Dense` modules of sentence-transformers, the first with its Tanh."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = Dense(width, 2 * DIM)
        self.second = Dense(2 * DIM, DIM, activation_function=nn.Identity())

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(self.first({"sentence_embedding": x}))["sentence_embedding"]
        return found


def sentence_transformers_loss() -> Loss:
    """Its ranking loss in both directions, on embeddings."""
    of_library = MultipleNegativesRankingLoss(
        nn.Identity(),  # type: ignore[arg-type]
        directions=("query_to_doc", "doc_to_query"),
        partition_mode="per_direction",
    )

    def loss(image: Tensor, text: Tensor) -> Tensor:
        found: Tensor = of_library.compute_loss_from_embeddings([image, text], None)
        return found

    return loss


PEERS: dict[str, tuple[Callable[[dict[str, int]], nn.ModuleList], Callable[[], Loss]]] = {
    "open_clip": (open_clip_heads, OpenClipLoss),
    "sentence_transformers": (
        lambda widths: nn.ModuleList([DenseHead(widths["image"]), DenseHead(widths["text"])]),
        sentence_transformers_loss,
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--peers", action="store_true", help="keep the results of our own runs")
    only_peers = parser.parse_args().peers
    results: dict[str, Any] = {"threads": torch.get_num_threads()}
    with tempfile.TemporaryDirectory() as folder:
        if only_peers:
            results |= json.loads(RESULT.read_text())
        else:
            os.environ["AMODAL_CACHE"] = str(Path(folder) / "cache")
            results["ours"] = ours(Path(folder) / "first")
            results["ours, features cached"] = ours(Path(folder) / "second")
            print(json.dumps(results, indent=1), flush=True)
            RESULT.write_text(json.dumps(results, indent=1))
        train_features, dev_features = features(load_recipe("flickr8k-frozen", PHOTOS))
        size = sum(f.stat().st_size for f in cache_folder().rglob("*.safetensors"))
        results["features_mb"] = round(size / 1e6)
    widths = {name: rows.shape[1] for name, rows in train_features.items()}
    for peer, (make_heads, make_loss) in PEERS.items():
        results[peer] = []
        for rate, epochs in GRID:
            torch.manual_seed(0)
            heads, began = make_heads(widths), time.perf_counter()
            train(heads, make_loss(), train_features, rate, epochs)
            found = {
                "mean_recall": recall(heads, dev_features),
                "learning_rate": rate,
                "epochs": epochs,
                "seconds": round(time.perf_counter() - began, 1),
            }
            results[peer].append(found)
            print(peer, json.dumps(found), flush=True)
            RESULT.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
