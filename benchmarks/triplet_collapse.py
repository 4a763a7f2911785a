"""How often hard negatives from the first step collapse, and whether a schedule prevents it.

    python benchmarks/triplet_collapse.py              # some minutes

The left and the right halves of scikit-learn's 1,797 digits are two modalities, 1,200 pairs to
train on and 597 held out. Two networks of two layers learn with the triplet loss, batches of 256,
Adam, for each of 20 seeds and four ways of mining, at the same learning rate and number of steps.
A run counts as collapsed by `Triplet.collapsed`: all rows at one point for 50 consecutive training
steps at any time (it may recover later). R@1 is that of the held-out halves among 597; chance is
0.0017.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.triplet import TripletConfig
from amodal.metrics.retrieval import retrieval_metrics

RESULT = Path(__file__).parent / "results" / "triplet_collapse.json"
TRAIN, BATCH, WIDTH, DIM = 1200, 256, 256, 64
LOSSES = {
    "hardest from the first step": TripletConfig(mining="hardest"),
    "semi-hard": TripletConfig(mining="semi_hard"),
    "scheduled (semi-hard, then hardest)": TripletConfig(mining="scheduled", semi_hard_steps=300),
    "all negatives": TripletConfig(mining="all"),
    "InfoNCE, to compare": InfoNCEConfig(),
}


def halves() -> tuple[Tensor, Tensor]:
    """(1797, 32) each, pixels from 0 to 1, in one fixed order."""
    pixels = torch.from_numpy(load_digits().images).float() / 16
    pixels = pixels[torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))]
    return pixels[:, :, :4].flatten(1), pixels[:, :, 4:].flatten(1)


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(32, WIDTH), nn.ReLU(), nn.Linear(WIDTH, DIM))


def embed(networks: nn.ModuleList, views: list[Tensor]) -> list[Tensor]:
    return [F.normalize(net(x), dim=1) for net, x in zip(networks, views, strict=True)]


def train(name: str, seed: int, steps: int, rate: float) -> dict[str, float]:
    torch.manual_seed(seed)
    left, right = halves()
    networks = nn.ModuleList([network(), network()])
    loss = LOSSES[name].build(DIM).train()
    optimizer = torch.optim.Adam([*networks.parameters(), *loss.parameters()], lr=rate)
    collapsed = False
    for _ in range(steps):
        rows = torch.randperm(TRAIN)[:BATCH]
        value = loss(*embed(networks, [left[rows], right[rows]]))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        collapsed |= getattr(loss, "collapsed", False)
    with torch.no_grad():
        z = embed(networks, [left[TRAIN:], right[TRAIN:]])
    keys = torch.arange(len(z[0]))
    found = retrieval_metrics(*z, keys, keys)
    return {"collapsed": float(collapsed), "recall@1": found["recall@1"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    warnings.filterwarnings("ignore", "triplet")  # counted below
    setting = {"seeds": given.seeds, "steps": given.steps, "learning_rate": given.learning_rate}
    results = {}
    for name in LOSSES:
        started = time.perf_counter()
        runs = [train(name, seed, given.steps, given.learning_rate) for seed in range(given.seeds)]
        recalls = [run["recall@1"] for run in runs]
        results[name] = {
            "collapsed": int(sum(run["collapsed"] for run in runs)),
            "recall@1": round(statistics.mean(recalls), 4),
            "recall@1 worst": round(min(recalls), 4),
            "seconds": round(time.perf_counter() - started, 1),
        }
        print(f"{name:38s} {json.dumps(results[name])}", flush=True)
    given.out.write_text(json.dumps({"setting": setting, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
