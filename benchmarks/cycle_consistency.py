"""Benefit of cycle consistency with few known pairs: cycle error and matching accuracy.

    python benchmarks/cycle_consistency.py

prints the metrics and writes `benchmarks/results/cycle_consistency.json`; a few minutes on one
core. 20 independent skewed latents are observed in two views of 64 coordinates, each its own map
plus noise: "linear", or "bent" (a random layer of 128 tanh, then a random linear map). There are
2,000 training rows per view, 0, 10, 50 or 200 of them with a known partner; batches of the others
are sampled from each view independently, so that no batch reveals pairs. Evaluated are 500 held-out
rows: the share whose nearest row of the other view, among these 500, is their partner (mean of both
directions; chance 0.2 %), and the cycle error.

"translate" learns a map in each direction: from the known pairs only ("supervised"), with the cycle
loss, and with the cycle loss and a moment loss that matches the translated distribution to the true
one (MMD without known pairs, else CORAL). "soft" learns a linear map of each view to 20 unit
coordinates: from the known pairs only, and with the cycle of soft nearest neighbours. "same items"
is an exception to the batches above: both sides of a batch contain the same items in unknown order,
as the batches of a recipe do, which is weak supervision. "ridge" is the linear map in closed form,
with the ridge chosen by leave-one-out on the known pairs.

Everything but the seeds (steps, rates, weights, weight decay) was set on seed 0, which is not
among the seeds that are reported (1 and up).
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from amodal.losses.cycle import (
    Translator,
    cycle_loss,
    cycle_miss_rate,
    matching_accuracy,
    soft_nearest_neighbour_cycle,
    soft_nearest_neighbour_supervised_loss,
    translation_loss,
)
from amodal.losses.moments import coral, median_distance, mmd

RESULT = Path(__file__).parent / "results" / "cycle_consistency.json"
TRAIN, HELD_OUT, LATENTS, WIDTH = 2000, 500, 20, 64
NOISE = {"linear": 0.3, "bent": 0.1}  # in standard deviations of a coordinate
HIDDEN = {"linear": 0, "bent": 128}  # of the translators
PAIRS = (0, 10, 50, 200)
STEPS, BATCH, RATE, DECAY = 300, 256, 3e-3, 1.0
MMD_BATCH = 128
RAMP = 100  # steps until all but the supervised term have their full weight
CORAL_WEIGHT = 10.0
TEMPERATURE = 0.05
RIDGES = (0.01, 0.1, 1.0, 10.0, 100.0)


def make_data(kind: str, seed: int) -> list[Tensor]:
    """Two views (2500, 64) of the same latents, standardised before the noise is added."""
    generator = torch.Generator().manual_seed(seed)
    rows = TRAIN + HELD_OUT
    # Sums of 1, 2, .. 20 squared normals: latents differ in skewness, so that in principle the
    # distributions alone determine the matching.
    latents = torch.stack(
        [torch.randn(rows, k, generator=generator).square().sum(1) for k in range(1, LATENTS + 1)],
        1,
    )
    latents = (latents - latents.mean(0)) / latents.std(0)
    views = []
    for _ in range(2):
        if kind == "linear":
            x = latents @ torch.randn(LATENTS, WIDTH, generator=generator)
        else:
            layer = torch.randn(LATENTS, 2 * WIDTH, generator=generator) / LATENTS**0.5
            x = (latents @ layer).tanh() @ torch.randn(2 * WIDTH, WIDTH, generator=generator)
        x = (x - x.mean(0)) / x.std(0)
        views.append(x + NOISE[kind] * torch.randn(x.shape, generator=generator))
    return views


def known_pairs(pairs: int, seed: int) -> Tensor:
    """(pairs,) rows whose partner is known: the first of a permutation per seed."""
    return torch.randperm(TRAIN, generator=torch.Generator().manual_seed(seed))[:pairs]


def scored(forth: Tensor, right: Tensor, back: Tensor, left: Tensor) -> float:
    """Mean matching accuracy of both directions."""
    partners = torch.eye(len(left), dtype=torch.bool)
    return (
        matching_accuracy(forth, right, partners)[0] + matching_accuracy(back, left, partners)[0]
    ) / 2


def optimized(modules: list[nn.Module], seed: int, loss: Any, decay: float) -> None:
    """AdamW with a linearly falling rate; `loss` gets the sampling generator and a ramp."""
    generator = torch.Generator().manual_seed(seed)
    parameters = [p for module in modules for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=RATE, weight_decay=decay)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        value = loss(generator, min(1.0, step / RAMP))
        optimizer.zero_grad()
        value.backward()
        optimizer.step()


def sampled(
    views: list[Tensor], generator: torch.Generator, same_items: bool = False
) -> list[Tensor]:
    """A batch of each view, sampled independently, or of the same items."""
    rows = [torch.randint(TRAIN, (BATCH,), generator=generator) for _ in views]
    return [v[rows[0] if same_items else r] for v, r in zip(views, rows, strict=True)]


def translate(kind: str, seed: int, pairs: int, cycle: bool, moments: str) -> dict[str, float]:
    """Two translators; see the module docstring."""
    views = make_data(kind, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        forth, back = (Translator(WIDTH, HIDDEN[kind]) for _ in range(2))
    left, right = (v[known_pairs(pairs, seed)] for v in views)
    eye = torch.eye(pairs, dtype=torch.bool)
    width = float(median_distance(*[v[:BATCH] for v in views]))

    def loss(generator: torch.Generator, ramp: float) -> Tensor:
        a, b = sampled(views, generator)
        total = translation_loss(left, right, forth, back, eye)
        share = ramp if pairs else 1.0
        if cycle:
            total = total + share * cycle_loss(a, b, forth, back)
        if moments == "mmd":
            a, b = a[:MMD_BATCH], b[:MMD_BATCH]
            total = total + share * (mmd(forth(a), b, width) + mmd(back(b), a, width))
        if moments == "coral":
            fit = coral(forth(a), b) + coral(back(b), a)
            total = total + share * CORAL_WEIGHT * fit
        return total

    optimized([forth, back], seed, loss, DECAY)
    with torch.no_grad():
        a, b = (v[TRAIN:] for v in views)
        return {
            "matching": scored(forth(a), b, back(b), a),
            "cycle_error": float(cycle_loss(a, b, forth, back)),
        }


def soft(
    kind: str, seed: int, pairs: int, cycle: bool, same_items: bool = False
) -> dict[str, float]:
    """Two linear maps to unit rows; see the module docstring."""
    views = make_data(kind, seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        maps = [nn.Linear(WIDTH, LATENTS) for _ in views]
    known = [v[known_pairs(pairs, seed)] for v in views]
    eye = torch.eye(pairs, dtype=torch.bool)

    def embedded(rows: list[Tensor]) -> list[Tensor]:
        return [F.normalize(f(x), dim=1) for f, x in zip(maps, rows, strict=True)]

    def loss(generator: torch.Generator, ramp: float) -> Tensor:
        a, b = embedded(sampled(views, generator, same_items))
        total = soft_nearest_neighbour_supervised_loss(
            *embedded(known), eye, temperature=TEMPERATURE
        )
        if cycle:
            there = soft_nearest_neighbour_cycle(a, b, temperature=TEMPERATURE)
            home = soft_nearest_neighbour_cycle(b, a, temperature=TEMPERATURE)
            total = total + (ramp if pairs else 1.0) * (there + home) / 2
        return total

    optimized(list(maps), seed, loss, 0.0)
    with torch.no_grad():
        a, b = embedded([v[TRAIN:] for v in views])
        there, home = (
            cycle_miss_rate(a, b, temperature=TEMPERATURE),
            cycle_miss_rate(b, a, temperature=TEMPERATURE),
        )
        return {"matching": scored(a, b, b, a), "cycle_error": (there + home) / 2}


def ridge(kind: str, seed: int, pairs: int) -> dict[str, float]:
    """Linear maps in both directions in closed form."""
    views = [v.double() for v in make_data(kind, seed)]
    left, right = (v[known_pairs(pairs, seed)] for v in views)

    def fitted(x: Tensor, y: Tensor) -> Tensor:
        errors = {}
        for strength in RIDGES:
            # Leave-one-out residuals of kernel ridge regression: alpha / diag of the inverse.
            inverse = (x @ x.T + strength * torch.eye(len(x), dtype=x.dtype)).inverse()
            residual = inverse @ y / inverse.diagonal()[:, None]
            errors[strength] = float(residual.square().mean())
        best = min(errors, key=errors.__getitem__)
        gram = x @ x.T + best * torch.eye(len(x), dtype=x.dtype)
        return x.T @ torch.linalg.solve(gram, y)

    forth, back = fitted(left, right), fitted(right, left)
    a, b = (v[TRAIN:] for v in views)
    return {
        "matching": scored(a @ forth, b, b @ back, a),
        "cycle_error": float(cycle_loss(a, b, lambda x: x @ forth, lambda x: x @ back)),
    }


def ways(kind: str, pairs: int, seed: int) -> dict[str, Any]:
    """Name -> function that runs the method."""
    both = {
        "translate: cycle": lambda: translate(kind, seed, pairs, True, ""),
        "soft: cycle": lambda: soft(kind, seed, pairs, True),
        "soft: cycle, same items": lambda: soft(kind, seed, pairs, True, same_items=True),
    }
    if not pairs:
        return {"translate: cycle + mmd": lambda: translate(kind, seed, 0, True, "mmd"), **both}
    return {
        "ridge": lambda: ridge(kind, seed, pairs),
        "translate: supervised": lambda: translate(kind, seed, pairs, False, ""),
        "translate: cycle + coral": lambda: translate(kind, seed, pairs, True, "coral"),
        "soft: supervised": lambda: soft(kind, seed, pairs, False),
        **both,
    }


def repeated(kind: str, pairs: int, seeds: list[int]) -> dict[str, Any]:
    """Every method with several seeds: per metric the mean, the standard deviation and the runs."""
    runs: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        for name, way in ways(kind, pairs, seed).items():
            runs.setdefault(name, []).append(way())
    result: dict[str, Any] = {}
    for name, found in sorted(runs.items()):
        result[name] = {}
        for metric in ("matching", "cycle_error"):
            values = [run[metric] for run in found]
            result[name][metric] = {
                "mean": round(statistics.mean(values), 4),
                "standard_deviation": round(
                    statistics.stdev(values) if len(values) > 1 else 0.0, 4
                ),
                "runs": [round(v, 4) for v in values],
            }
        m, c = result[name]["matching"], result[name]["cycle_error"]
        print(
            f"{kind:7s} {pairs:4d} pairs  {name:26s} matching {m['mean']:6.1%} "
            f"+- {m['standard_deviation']:5.1%}   cycle error {c['mean']:.4f}",
            flush=True,
        )
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 4, 5])
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start = time.process_time()
    result: dict[str, Any] = {
        kind: {str(pairs): repeated(kind, pairs, arguments.seeds) for pairs in PAIRS}
        for kind in NOISE
    }
    result["seeds"] = arguments.seeds
    result["chance"] = 1 / HELD_OUT
    result["cpu_seconds"] = round(time.process_time() - start)
    result["torch"] = torch.__version__
    result["hardware"] = f"1 core, {platform.machine()}"
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result["commit"] = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
