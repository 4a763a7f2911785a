"""Deep and linear CCA of the left and right halves of real digits: held-out total correlation.

`python benchmarks/split_digits.py` prints the metrics and writes
`benchmarks/results/split_digits.json`. About 10 minutes on one core; `--only kernel linear` runs
these parts again.

The 1,797 digits of scikit-learn, 8 x 8 pixels in [0, 1], one fixed permutation: 1,200 rows to
train, 597 held out. Every choice (ridge of linear CCA, number of epochs) is made per seed on the
last 200 of the 1,200, after a fit to the other 1,000; the fit that is scored uses all 1,200. What
is scored is the sum of the 10 correlations of a linear CCA refitted on the training embeddings.
The noise on the pixels, width and learning rates were set before, by seed 0 on the same 200 rows.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from amodal.alignment.cca import CCA, fit_cca, null_correlations, refit_last_layer
from amodal.alignment.correlation import adjusted_captured, corrected_correlations
from amodal.alignment.kernel_cca import (
    Features,
    FourierFeatures,
    NystroemFeatures,
    fit_kernel_cca,
    median_distance,
)
from amodal.losses.deep_cca import DeepCCA, deep_cca_loss

COMPONENTS = 10
RESULT = Path(__file__).parent / "results" / "split_digits.json"


@dataclass(frozen=True)
class Settings:
    """One way to train the two networks."""

    batch_size: int  # 0: all rows at once
    momentum: float
    epochs: tuple[int, ...]  # lengths to choose from
    learning_rate: float  # at the start; it falls to 0 along a half cosine
    noise: float = 0.15  # standard deviation of what is added to the pixels in training
    width: int = 256
    ridge: float = 1e-3


FULL_BATCH = Settings(0, 0.0, (200, 400, 800), 2e-3)
DEEP = {
    "full_batch": FULL_BATCH,
    "batch_32": Settings(32, 0.8, (40, 80, 160), 1e-3),
    "batch_32_no_memory": Settings(32, 0.0, (40, 80, 160), 1e-3),
    "full_batch_no_noise": Settings(0, 0.0, (50, 100, 200, 400), 2e-3, noise=0.0),
}


def halves() -> tuple[Tensor, Tensor]:
    """(1797, 32) left and right half of each digit, in the order of the benchmark."""
    pixels = torch.tensor(load_digits().images, dtype=torch.float32) / 16
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(0))
    pixels = pixels[order]
    return pixels[:, :, :4].flatten(1), pixels[:, :, 4:].flatten(1)


def network(width: int) -> nn.Sequential:
    """Three linear layers."""
    return nn.Sequential(
        nn.Linear(32, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, COMPONENTS),
    )


def train(views: list[Tensor], settings: Settings, epochs: int, seed: int) -> list[nn.Sequential]:
    """Two networks trained on matched rows by the deep CCA loss."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # of the initial weights, and of nothing outside this block
        networks = [network(settings.width) for _ in views]
    generator = torch.Generator().manual_seed(seed)
    loss = DeepCCA(COMPONENTS, ridge=settings.ridge, momentum=settings.momentum)
    optimizer = torch.optim.Adam([p for net in networks for p in net.parameters()])
    n = len(views[0])
    size = settings.batch_size or n
    steps = epochs * (n // size)
    for step in range(steps):
        if step % (n // size) == 0:
            batches = torch.randperm(n, generator=generator).split(size)
        rows = batches[step % (n // size)]  # the last, incomplete batch is left out
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 + math.cos(math.pi * step / steps)) / 2
        embedded = []
        for net, view in zip(networks, views, strict=True):
            noise = torch.randn(size, view.shape[1], generator=generator)
            embedded.append(net(view[rows] + settings.noise * noise))
        optimizer.zero_grad()
        loss(embedded).backward()
        optimizer.step()
    return networks


@torch.no_grad()
def total(networks: list[nn.Sequential], fit: list[Tensor], held_out: list[Tensor]) -> float:
    """Held-out total correlation of linear CCA refitted on the embeddings of `fit`."""
    refit = refit_last_layer([net(x) for net, x in zip(networks, fit, strict=True)], COMPONENTS)
    return refit.score([net(x) for net, x in zip(networks, held_out, strict=True)]).total


def deep(
    views: list[Tensor], test: list[Tensor], settings: Settings, seed: int
) -> dict[str, float]:
    """Epochs chosen on 200 rows, then the held-out total of a fit to all 1,200."""
    start = time.perf_counter()
    fit, validation = [v[:1000] for v in views], [v[1000:] for v in views]
    reached = {
        epochs: total(train(fit, settings, epochs, seed), fit, validation)
        for epochs in settings.epochs
    }
    epochs = max(reached, key=reached.__getitem__)
    networks = train(views, settings, epochs, seed)
    return {
        "epochs": epochs,
        "validation": round(reached[epochs], 4),
        "held_out": round(total(networks, views, test), 4),
        "seconds": round(time.perf_counter() - start, 1),
    }


def linear(views: list[Tensor], test: list[Tensor]) -> dict[str, object]:
    """Linear CCA with the ridge chosen on 200 rows, and its corrected in-sample total."""

    def fitted(rows: list[Tensor], ridge: float) -> CCA:
        return fit_cca(rows, COMPONENTS, ridge=ridge)

    fit, validation = [v[:1000] for v in views], [v[1000:] for v in views]
    reached = {
        r: fitted(fit, r).score(validation).total for r in (0.0, 1e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1)
    }
    ridge = max(reached, key=reached.__getitem__)
    cca = fitted(views, ridge)
    generator = torch.Generator().manual_seed(0)
    score = cca.score(test, permutations=999, generator=generator)
    null = null_correlations(views, COMPONENTS, ridge=ridge, generator=generator)
    return {
        "ridge": ridge,
        "held_out": round(score.total, 4),
        "p_total": score.p_total,
        "in_sample": round(float(cca.correlations.sum()), 4),
        "in_sample_corrected": round(
            float(corrected_correlations(cca.correlations, null).sum()), 4
        ),
        "held_out_without_ridge": round(fitted(views, 0.0).score(test).total, 4),
    }


def kernel(views: list[Tensor], test: list[Tensor]) -> dict[str, dict[str, float]]:
    """Kernel CCA with a Gaussian kernel, exact and by fewer features; σ and ridge as `linear`."""
    fit, validation = [v[:1000] for v in views], [v[1000:] for v in views]
    generator = torch.Generator().manual_seed(0)
    medians = [median_distance(v, generator) for v in fit]

    def landmarks(rows: list[Tensor], sigma: float, count: int) -> list[Features]:
        index = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(0))[:count]
        return [
            NystroemFeatures.of(v[index], sigma=sigma * m)
            for v, m in zip(rows, medians, strict=True)
        ]

    def fourier(rows: list[Tensor], sigma: float, count: int) -> list[Features]:
        generator = torch.Generator().manual_seed(0)
        return [FourierFeatures.draw(32, count, sigma * m, generator) for m in medians]

    result = {}
    for name, make, count in (
        ("exact", landmarks, len(views[0])),
        ("nystroem_500", landmarks, 500),
        ("fourier_1000", fourier, 1000),
    ):
        reached = {}
        for sigma in (0.35, 0.5, 0.7, 1.0):
            features = make(fit, sigma, count)
            for ridge in (0.01, 0.03, 0.1, 0.3):
                cca = fit_kernel_cca(fit, COMPONENTS, features, ridge=ridge)
                reached[sigma, ridge] = cca.score(validation).total
        sigma, ridge = max(reached, key=reached.__getitem__)
        start = time.perf_counter()
        cca = fit_kernel_cca(views, COMPONENTS, make(views, sigma, count), ridge=ridge)
        seconds = time.perf_counter() - start
        result[name] = {
            "sigma_over_median": sigma,
            "ridge": ridge,
            "validation": round(reached[sigma, ridge], 4),
            "held_out": round(cca.score(test).total, 4),
            "fit_seconds": round(seconds, 2),
        }
        print("kernel", name, result[name], flush=True)
    return result


def chance(width: int = 50) -> list[dict[str, float]]:
    """What the loss captures in batches of independent views, where the truth is 0."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for n in (2000, 500, 200, 100, 52):
        views = [torch.randn(n, width, generator=generator) for _ in range(2)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that n is small is the point
            in_sample = fit_cca(views, width)
        fresh = [torch.randn(n, width, generator=generator) for _ in range(2)]
        rows.append(
            {
                "n": n,
                "captured": round(-float(deep_cca_loss(views, ridge=1e-6)), 3),
                "adjusted": round(adjusted_captured(in_sample.correlations, n, (width, width)), 3),
                "held_out_total": round(in_sample.score(fresh).total, 3),
            }
        )
    return rows


def repeated(
    views: list[Tensor], test: list[Tensor], name: str, settings: Settings, seeds: int
) -> dict[str, object]:
    """`deep` with several seeds."""
    runs = []
    for seed in range(seeds):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # batch 32 without memory is meant
            runs.append(deep(views, test, settings, seed))
        print(name, seed, runs[-1], flush=True)
    totals = [run["held_out"] for run in runs]
    mean = statistics.mean(totals)
    spread = statistics.stdev(totals) if len(totals) > 1 else 0.0
    print(f"{name:20s} held out {mean:.3f} +- {spread:.3f} ({len(totals)} seeds)")
    return {
        "mean": round(mean, 4),
        "standard_deviation": round(spread, 4),
        "settings": asdict(settings),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--only", nargs="*", help="parts to run; the others are kept as they are")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    left, right = halves()
    views, test = [left[:1200], right[:1200]], [left[1200:], right[1200:]]
    parts: dict[str, Callable[[], object]] = {
        "linear": lambda: linear(views, test),
        "chance_width_50": chance,
        "kernel": lambda: kernel(views, test),
    }
    for name, settings in DEEP.items():
        parts[name] = partial(repeated, views, test, name, settings, arguments.seeds)

    result = json.loads(arguments.out.read_text()) if arguments.only else {}
    for name in arguments.only or parts:
        result[name] = parts[name]()
        if name not in DEEP:
            print(name, json.dumps(result[name], indent=1))
    if {"full_batch", "batch_32"} <= set(result):
        ratio = result["batch_32"]["mean"] / result["full_batch"]["mean"]
        result["batch_32_over_full_batch"] = round(ratio, 4)
        print("batch 32 / full batch", result["batch_32_over_full_batch"])
    result["torch"] = torch.__version__
    result["hardware"] = f"1 core, {platform.machine()}"
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result["commit"] = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
