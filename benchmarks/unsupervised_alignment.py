"""Phase diagram of unsupervised alignment over noise and shape of the distribution.

`python benchmarks/unsupervised_alignment.py` prints the metrics and writes
`benchmarks/results/unsupervised_alignment.json` and a heat map beside it. About 10 minutes on one
core; `--quick` is a small version of every part in less than a minute, written nowhere.

The left set has 50 coordinates, exponential (skewed, heavy tailed), Gaussian, or in 20 Gaussian
clusters each stretched its own way, times deviations that fall from 1 to e^(-anisotropy). The right
set is the left one under a random rotation, plus Gaussian noise with a deviation of `noise` times
the root mean square of the coordinates, with its rows shuffled. P@1 is the share of left rows
whose nearest right row by CSLS is their own. "with pairs" is the P@1 of Procrustes given all
pairs, the upper bound.

Both sets contain the same sample, so that its fluctuations identify even a Gaussian with equal
variances while noise is low; a smaller `overlap` reduces this effect by items without a partner on
both sides.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from torch import Tensor

from amodal.alignment.procrustes import Procrustes
from amodal.alignment.unsupervised import (
    AdversarialInit,
    Initialization,
    OptimalTransportInit,
    PCAInit,
    RandomInit,
    SimilarityProfileInit,
    UnsupervisedAlignment,
    csls_neighbours,
    standardized,
    unsupervised_alignment,
)

mpl.use("Agg")
import matplotlib.pyplot as plt

WIDTH = 50
CLUSTERS = 20
RESULT = Path(__file__).parent / "results" / "unsupervised_alignment.json"
NOISE = (0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
SHAPES = (
    ("gaussian", 0.0),
    ("gaussian", 1.0),
    ("clusters", 1.0),
    ("exponential", 0.0),
    ("exponential", 0.5),
    ("exponential", 1.0),
    ("exponential", 2.0),
)
INITIALIZATIONS: dict[str, Initialization] = {
    "SimilarityProfileInit": SimilarityProfileInit(),
    "PCAInit": PCAInit(),
    "OptimalTransportInit": OptimalTransportInit(),
    "RandomInit": RandomInit(),
}


def samples(
    shape: str, anisotropy: float, noise: float, rows: int, seed: int, overlap: float = 1.0
) -> tuple[Tensor, Tensor, Tensor]:
    """Left (N, 50), right (N, 50), and the right row of each of the first overlap * N left rows."""
    g = torch.Generator().manual_seed(seed)
    shared = round(overlap * rows)
    total = 2 * rows - shared  # items of both, then of the left alone, then of the right alone
    if shape == "gaussian":
        items = torch.randn(total, WIDTH, generator=g)
    elif shape == "clusters":
        centre = torch.randn(CLUSTERS, WIDTH, generator=g)
        spread = (torch.randn(CLUSTERS, WIDTH, generator=g) / 2).exp()
        of = torch.randint(CLUSTERS, (total,), generator=g)
        items = centre[of] + spread[of] * torch.randn(total, WIDTH, generator=g)
    else:
        items = -(1 - torch.rand(total, WIDTH, generator=g)).log()
    items = standardized(items * (-anisotropy * torch.linspace(0, 1, WIDTH)).exp())
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=g))[0]
    right = torch.cat([items[:shared], items[rows:]]) @ turn
    right = right + noise * torch.randn(rows, WIDTH, generator=g)
    order = torch.randperm(rows, generator=g)
    return items[:rows], right[order], torch.argsort(order)[:shared]


def precision(match: Tensor, truth: Tensor) -> float:
    """P@1 of the left rows that have a partner."""
    return round(float((match[: len(truth)] == truth).float().mean()), 4)


def with_pairs(left: Tensor, right: Tensor, truth: Tensor) -> float:
    """P@1 of supervised Procrustes."""
    fit = Procrustes().fit(left[: len(truth)], right[truth])
    mean = fit.right_mean.to(right)
    return precision(csls_neighbours(fit.transform(left) - mean, right - mean).of_left, truth)


def scored(
    result: UnsupervisedAlignment, left: Tensor, right: Tensor, truth: Tensor
) -> dict[str, Any]:
    """P@1 of every restart and of the one selected by the criterion."""
    x, y = standardized(left), standardized(right)
    runs = [
        {
            "start": restart.start,
            "p_at_1": precision(csls_neighbours(x @ restart.weight, y).of_left, truth),
            "criterion": round(restart.criterion, 4),
            "mutual": round(restart.mutual, 4),
            "iterations": restart.iterations,
        }
        for restart in result.restarts
    ]
    chosen = precision(result.match, truth)
    return {
        "p_at_1": chosen,
        "chosen": result.restarts[result.selected].start,
        "lost_by_choice": round(max(run["p_at_1"] for run in runs) - chosen, 4),
        "cycle_error": [round(e, 4) for e in result.cycle_error],
        "restarts": runs,
    }


def case(
    initializations: list[Initialization], restarts: int, seed: int, **settings: Any
) -> dict[str, Any]:
    """One pair of sets, aligned without pairs and evaluated with them."""
    left, right, truth = samples(seed=seed, **settings)
    begin = time.perf_counter()
    result = unsupervised_alignment(
        left,
        right,
        generator=torch.Generator().manual_seed(seed),
        initializations=initializations,
        restarts=restarts,
    )
    seconds = round(time.perf_counter() - begin, 1)
    record = {**settings, "seed": seed, "seconds": seconds}
    record["with_pairs"] = with_pairs(left, right, truth)
    return {**record, **scored(result, left, right, truth)}


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Number of seeds that reach 95 %, and quality of the selection."""
    precisions = [run["p_at_1"] for run in runs]
    return {
        "seeds": len(runs),
        "reached_95": sum(p >= 0.95 for p in precisions),
        "p_at_1": precisions,
        "with_pairs": round(statistics.mean(run["with_pairs"] for run in runs), 4),
        "seconds": round(statistics.mean(run["seconds"] for run in runs), 1),
        "best_restart_chosen": sum(run["lost_by_choice"] <= 0.001 for run in runs),
    }


def target(rows: int, seeds: int, noises: tuple[float, ...]) -> dict[str, Any]:
    """Exponential distribution of anisotropy 1, default initializations, one restart of each."""
    found: dict[str, Any] = {"rows": rows, "shape": "exponential", "anisotropy": 1.0}
    for noise in noises:
        runs = [
            case(
                [PCAInit(), OptimalTransportInit(), SimilarityProfileInit()],
                3,
                seed,
                shape="exponential",
                anisotropy=1.0,
                noise=noise,
                rows=rows,
            )
            for seed in range(seeds)
        ]
        found[f"noise {noise}"] = {**summary(runs), "runs": runs}
        print("target", noise, summary(runs), flush=True)
    return found


def phase(rows: int, seeds: int, noises: tuple[float, ...]) -> dict[str, Any]:
    """Every start at every noise level and shape; the selection is among all of them."""
    cells = []
    for shape, anisotropy in SHAPES:
        for noise in noises:
            runs = [
                case(
                    list(INITIALIZATIONS.values()),
                    len(INITIALIZATIONS),
                    seed,
                    shape=shape,
                    anisotropy=anisotropy,
                    noise=noise,
                    rows=rows,
                )
                for seed in range(seeds)
            ]
            cell: dict[str, Any] = {"shape": shape, "anisotropy": anisotropy, "noise": noise}
            for i, name in enumerate(INITIALIZATIONS):
                cell[name] = round(statistics.mean(r["restarts"][i]["p_at_1"] for r in runs), 4)
            for name in ("with_pairs", "p_at_1"):
                cell[name] = round(statistics.mean(run[name] for run in runs), 4)
            cell["lost_by_choice"] = max(run["lost_by_choice"] for run in runs)
            cells.append({**cell, "runs": runs})
            print("phase", cell, flush=True)
    runs = [run for cell in cells for run in cell["runs"]]
    solvable = [r for r in runs if max(x["p_at_1"] for x in r["restarts"]) >= 0.95]
    unsolved = [r for r in runs if max(x["p_at_1"] for x in r["restarts"]) < 0.5]
    wrong = [x["criterion"] for r in solvable for x in r["restarts"] if x["p_at_1"] < 0.05]
    choice = {
        "runs": len(runs),
        "some_restart_reached_95": len(solvable),
        "of_these_chosen_one_reached_95": sum(r["p_at_1"] >= 0.95 for r in solvable),
        "no_restart_reached_50": len(unsolved),
        "most_lost_by_choice": max(r["lost_by_choice"] for r in runs),
        "highest_criterion_of_a_wrong_restart": max(wrong, default=None),
        "lowest_criterion_of_a_chosen_correct_one": min(
            (max(x["criterion"] for x in r["restarts"]) for r in solvable), default=None
        ),
        "mean_mutual_share_of_unsolved": round(
            statistics.mean(1 - r["cycle_error"][0] for r in unsolved), 4
        )
        if unsolved
        else None,
    }
    print("choice", choice, flush=True)
    return {"rows": rows, "seeds": seeds, "choice": choice, "cells": cells}


def adversarial(rows: int, steps: int, cells: int) -> list[dict[str, Any]]:
    """Adversarial training from a random rotation and from the principal axes; one seed."""
    found = []
    grid = [("exponential", 1.0, 0.1), ("exponential", 2.0, 0.1), ("exponential", 1.0, 0.8)]
    for shape, anisotropy, noise in grid[:cells]:
        settings = {"shape": shape, "anisotropy": anisotropy, "noise": noise, "rows": rows}
        for name, start, restarts in (
            ("random rotation", AdversarialInit(steps=steps), 2),
            (
                "axes",
                AdversarialInit(first=PCAInit(), steps=steps // 3, learning_rate=2e-3),
                1,
            ),
        ):
            run = {"first": name, **case([start], restarts, 0, **settings)}
            found.append(run)
            shown = {k: run[k] for k in ("first", "noise", "anisotropy", "p_at_1", "seconds")}
            print("adversarial", shown, flush=True)
    return found


def shared_part(rows: int, seeds: int) -> list[dict[str, Any]]:
    """Sets with partial overlap; P@1 over the common items."""
    found = []
    for shape, anisotropy in (("gaussian", 0.0), ("exponential", 1.0)):
        for overlap in (1.0, 0.75, 0.5, 0.25):
            runs = [
                case(
                    [PCAInit(), OptimalTransportInit()],
                    2,
                    seed,
                    shape=shape,
                    anisotropy=anisotropy,
                    noise=0.1,
                    rows=rows,
                    overlap=overlap,
                )
                for seed in range(seeds)
            ]
            record = {"shape": shape, "anisotropy": anisotropy, "overlap": overlap}
            found.append({**record, **summary(runs)})
            print("overlap", found[-1], flush=True)
    return found


def plot(cells: list[dict[str, Any]], path: Path) -> None:
    """P@1 over noise and shape, one panel per start."""
    noises = sorted({cell["noise"] for cell in cells})
    panels = [*INITIALIZATIONS, "p_at_1", "with_pairs"]
    titles = {"p_at_1": "chosen without labels", "with_pairs": "Procrustes with pairs"}
    figure, axes = plt.subplots(2, 3, figsize=(11, 6), layout="constrained", sharey=True)
    for axis, name in zip(axes.flat, panels, strict=True):
        grid = [
            [
                next(c[name] for c in cells if (c["shape"], c["anisotropy"], c["noise"]) == (*s, n))
                for n in noises
            ]
            for s in SHAPES
        ]
        image = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for i, row in enumerate(grid):
            for j, value in enumerate(row):
                colour = "black" if value > 0.6 else "white"
                axis.text(j, i, f"{value:.2f}", ha="center", va="center", color=colour, fontsize=8)
        axis.set_title(titles.get(name, name), fontsize=10)
        axis.set_xticks(range(len(noises)), [str(n) for n in noises])
        axis.set_yticks(range(len(SHAPES)), [f"{s} {a:g}" for s, a in SHAPES])
        axis.set_xlabel("noise")
    figure.colorbar(image, ax=axes, label="P@1")
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small, and nothing is written")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    begin = time.perf_counter()
    result: dict[str, Any] = {}
    commit = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    result["commit"] = subprocess.run(commit, capture_output=True, text=True).stdout.strip()
    if arguments.quick:
        target(600, 2, (0.1,))
        phase(300, 1, (0.1, 0.8))
        adversarial(300, 150, 1)
        shared_part(300, 1)
        return
    result["target"] = target(5000, 10, (0.1, 0.2, 0.4))
    result["phase"] = phase(1000, 3, NOISE)
    result["overlap"] = shared_part(1000, 3)
    result["adversarial"] = adversarial(1000, 1500, 3)
    result["minutes"] = round((time.perf_counter() - begin) / 60, 1)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["peak_memory_mb"] = round(peak / 1024)  # with torch itself
    result["torch"] = torch.__version__
    result["hardware"] = f"1 core, {platform.machine()}"
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=1) + "\n")
    plot(result["phase"]["cells"], arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
