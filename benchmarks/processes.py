"""Losses of the same training on one, two and three processes, side by side.

    python benchmarks/processes.py                     # about five minutes on two cores
    python benchmarks/processes.py --only batch_norm   # one case
    python benchmarks/processes.py --rounding          # differences by step, in 32 and 64 bits

Small runs of every kind of model, chosen for what can differ between processes: batches that do
not divide, modalities that a process lacks, unreadable files, micro-batches, batch normalization, a
queue of negatives, a momentum encoder, averaged weights. Each run is trained on one process and on
groups of two and three that meet as `torchrun` lets them; the largest difference of a loss at any
step is printed as a Markdown table and written to benchmarks/results/processes.json.

`--rounding` trains a run that amplifies rounding, batch normalization with a high learning rate,
in float32 and in float64, and prints the difference of the loss at each step. What an error in
the gradient or the statistics would leave in both vanishes in float64.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import socket
import tempfile
import time
import wave
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image

RESULT = Path(__file__).parent / "results" / "processes.json"
GROUPS = (2, 3)
ROWS, HELD_OUT = 70, 14
DTYPES = {"float32": torch.float32, "float64": torch.float64}  # runs of `--rounding`
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (20, 160, 40)}

Case = dict[str, Any]  # a recipe


def make_data(folder: Path) -> None:
    """Small images, captions, sounds and columns as tables: whole, with gaps, with broken files."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(ROWS + HELD_OUT):
        names = rng.choice(list(COLOURS), 2)
        pixels = rng.integers(0, 60, (24, 24, 3)) + 120
        pixels[:12] += np.array(COLOURS[names[0]]) // 2
        pixels[12:] += np.array(COLOURS[names[1]]) // 2
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{i}.png")
        with wave.open(str(folder / f"{i}.wav"), "wb") as sound:
            sound.setparams((1, 2, 4000, 0, "NONE", ""))
            samples = int(rng.integers(1200, 2400))
            tone = 8000 * np.sin(np.arange(samples) * (0.1 + 0.05 * (i % 7)))
            sound.writeframes((tone + rng.normal(0, 500, samples)).astype("<i2").tobytes())
        caption = f"{names[0]} above {names[1]} number {i % 9}"
        label = str(names[0]) if i % 3 else ""
        rows.append([f"{i}.png", f"{i}.wav", caption, i % 13, label, str(names[0] == names[1])])
        (folder / f"broken-{i}.png").write_bytes(b"no image")
    gaps = [["" if c < 3 and rng.random() < 0.45 else v for c, v in enumerate(row)] for row in rows]
    broken = [[f"broken-{i}.png" if i % 3 == 0 else row[0], *row[1:]] for i, row in enumerate(rows)]
    worse = [[f"broken-{i}.png" if i % 2 else row[0], *row[1:]] for i, row in enumerate(rows)]
    header = ["image", "audio", "caption", "year", "label", "answer"]
    tables = {"whole": rows, "gaps": gaps, "broken": broken, "worse": worse}
    for name, table in tables.items():
        for part, chosen in (("train", table[:ROWS]), ("held_out", table[ROWS:])):
            with (folder / f"{name}-{part}.csv").open("w", newline="") as file:
                csv.writer(file).writerows([header, *chosen])


def cases(folder: Path) -> dict[str, Case]:
    """Name -> recipe."""
    image = {
        "kind": "small_cnn",
        "size": 24,
        "widths": [8, 16],
        "norm": "group",
        "min_grid_size": 4,
    }
    batch_norm = {**image, "norm": "batch"}
    text = {
        "kind": "small_transformer",
        "width": 16,
        "layers": 1,
        "heads": 2,
        "max_length": 12,
        "dropout": 0.0,
        "tokenizer": {"kind": "trained", "model": "word", "vocab_size": 40},
    }
    audio = {
        "kind": "small_audio_cnn",
        "sample_rate": 4000,
        "n_mels": 8,
        "max_seconds": 1.0,
        "widths": [8, 8],
        "width": 16,
    }
    table = {"kind": "columns", "numerical": ["year"], "width": 16, "heads": 2}
    info_nce = {"kind": "info_nce"}
    mlp = {"kind": "mlp", "dim": 16, "norm": "batch"}

    def recipe(
        model: dict[str, Any],
        objectives: Sequence[dict[str, Any]] = (),
        data: str = "whole",
        **options: Any,
    ) -> Case:
        columns = {"label": "label", **({"empty_cells": "missing"} if data == "gaps" else {})}
        source = {"kind": "table", "columns": columns}
        train = {
            "epochs": 1,
            "batch_size": 10,
            "learning_rate": 1e-3,
            "precision": "fp32",
            "log_every": 1,
            "save_every": 9,
            "evaluate_every": 9,
            **options,
        }
        return {
            "data": {
                "train": {**source, "path": str(folder / f"{data}-train.csv")},
                "validation": {**source, "path": str(folder / "whole-held_out.csv")},
            },
            "model": model,
            **({"objectives": list(objectives)} if objectives else {}),
            "train": train,
        }

    def joint(encoders: dict[str, Any], projection: dict[str, Any] | None = None) -> dict[str, Any]:
        return {
            "kind": "joint_embedding",
            "encoders": encoders,
            "projection": projection or {"kind": "linear", "dim": 16},
        }

    def fusion(encoders: dict[str, Any], kind: str = "gated") -> dict[str, Any]:
        return {
            "kind": "fusion",
            "encoders": encoders,
            "fusion": {"kind": kind, "dim": 16},
            "target": {"task": "classification", "column": "answer"},
        }

    def captioner(encoder: dict[str, Any]) -> dict[str, Any]:
        return {
            "kind": "multimodal_transformer",
            "tasks": ["caption"],
            "encoders": {"image": encoder},
            "tokenizer": text["tokenizer"],
            "width": 16,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 1,
            "max_length": 24,
            "dropout": 0.0,
        }

    pair = {"image": image, "text": text}
    normed = {"image": batch_norm, "text": text}
    return {
        "uneven_batches": recipe(joint(pair), [info_nce]),
        "batch_norm": recipe(joint(normed, mlp), [info_nce]),
        "batch_norm_gaps": recipe(
            joint({**normed, "audio": audio}, mlp), [info_nce], "gaps", batch_size=8
        ),
        "micro_batches_broken": recipe(joint(pair), [info_nce], "broken", micro_batch_size=3),
        "micro_batches_gaps": recipe(joint(pair), [info_nce], "gaps", micro_batch_size=2),
        "frozen_features": recipe(
            joint({name: {**config, "freeze": "all"} for name, config in pair.items()}),
            [info_nce],
            "broken",
        ),
        "queue": recipe(
            joint(pair), [{**info_nce, "queue_size": 30, "queue_start_step": 2}], "gaps"
        ),
        "momentum_queue_ema": recipe(
            joint(normed), [{**info_nce, "queue_size": 30, "momentum": 0.9}], ema=0.9
        ),
        "labels": recipe(joint(pair), [{**info_nce, "positives": "label"}], batch_size=4),
        "two_objectives": recipe(
            joint(pair),
            [info_nce, {"kind": "mmd", "weight": 0.3}, {"kind": "sigmoid", "weight": 0.2}],
        ),
        "adversarial_muon": recipe(
            joint(pair),
            [info_nce, {"kind": "adversarial", "updates": "alternating", "hidden": 8}],
            optimizer="muon",
            learning_rate=3e-4,  # its iteration in bfloat16 makes much of small differences
        ),
        "whole_batches_unreadable": recipe(joint(normed), [info_nce], "worse", batch_size=2),
        "fusion_gaps": recipe(
            fusion({**pair, "columns": table}),
            [{"kind": "prediction", "unimodal_weight": 0.5}],
            "gaps",
            batch_size=4,
        ),
        "fusion_micro_batches": recipe(
            fusion({**pair, "columns": table}),
            [{"kind": "prediction", "unimodal_weight": 0.5}],
            "gaps",
            micro_batch_size=2,
        ),
        "fusion_batch_norm_modulation": recipe(
            fusion({**normed, "columns": table}, "concat"),
            [
                {
                    "kind": "prediction",
                    "unimodal_weight": 0.5,
                    "balance": {"kind": "gradient_modulation"},
                }
            ],
            "gaps",
            ema=0.9,
        ),
        "captions_gaps": recipe(captioner(batch_norm), data="gaps", batch_size=4),
        "captions_micro_batches": recipe(captioner(image), data="broken", micro_batch_size=2),
        "image_tokenizer": recipe(
            {
                "kind": "image_tokenizer",
                "size": 24,
                "patch_size": 2,
                "widths": [8, 16],
                "num_res_blocks": 1,
                "codebook_size": 16,
                "codebook_dim": 4,
            },
            data="gaps",
        ),
    }


def amplifying(folder: Path) -> Case:
    """A run whose steps amplify rounding: batch normalization and a high learning rate."""
    found = cases(folder)["uneven_batches"]
    found["model"]["encoders"]["image"] = {
        "kind": "small_cnn",
        "size": 32,
        "widths": [8, 16],
        "norm": "batch",
    }
    found["model"]["encoders"]["text"] |= {"width": 32, "max_length": 48}
    found["model"]["projection"]["dim"] = 32
    found["train"] |= {"learning_rate": 1e-2, "batch_size": 16, "epochs": 2}
    return found


def run_cases(names: Iterable[str], folder: Path, group: str) -> None:
    """Train the cases in this process, which may be one of several."""
    from amodal.training.recipe import parse_recipe
    from amodal.training.run import train_run

    os.environ["AMODAL_CACHE"] = str(folder / group / "cache")  # no group finds another's features
    recipes = cases(folder) | dict.fromkeys(DTYPES, amplifying(folder))
    for name in names:
        # Weights and statistics of a new model have the default type, and so has all that follows.
        torch.set_default_dtype(DTYPES.get(name, torch.float32))
        train_run(parse_recipe(recipes[name], name), folder / group / name)


def _member(rank: int, size: int, port: int, names: Sequence[str], folder: str) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }
    torch.set_num_threads(1)
    run_cases(names, Path(folder), str(size))


def train_on(size: int, names: Sequence[str], folder: Path) -> None:
    """Train the cases on `size` processes; one after the other in the same group."""
    if size == 1:
        run_cases(names, folder, "1")
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_member, args=(size, port, list(names), str(folder)), nprocs=size)


def losses(folder: Path) -> list[dict[str, float]]:
    """The losses of every step of a run, by name."""
    lines = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    return [
        {name: value for name, value in line.items() if name.startswith("loss")}
        for line in lines
        if "loss" in line
    ]


def difference(one: Path, several: Path) -> tuple[float, int]:
    """The largest difference of a loss at any step, and the number of steps compared.

    Raises:
        ValueError: other steps, or other losses, were logged.
    """
    found, other = losses(one), losses(several)
    if [sorted(step) for step in found] != [sorted(step) for step in other]:
        raise ValueError(f"{one} and {several} have logged other losses")
    gaps = [abs(a[n] - b[n]) for a, b in zip(found, other, strict=True) for n in a]
    return max(gaps), len(found)


def measure(names: Sequence[str], folder: Path) -> dict[str, dict[str, float]]:
    """Case -> first and last loss on one process, and the difference for each size of group."""
    make_data(folder)
    for size in (1, *GROUPS):
        train_on(size, names, folder)
    found: dict[str, dict[str, float]] = {}
    for name in names:
        alone = losses(folder / "1" / name)
        found[name] = {
            "steps": len(alone),
            "first loss": alone[0]["loss"],
            "last loss": alone[-1]["loss"],
        }
        for size in GROUPS:
            gap, _ = difference(folder / "1" / name, folder / str(size) / name)
            found[name][f"{size} processes"] = gap
    return found


def rounding(folder: Path) -> list[dict[str, float]]:
    """Step -> difference of the loss from one process, by type and size of the group."""
    make_data(folder)
    for size in (1, *GROUPS):
        train_on(size, list(DTYPES), folder)
    found: list[dict[str, float]] = []
    for name in DTYPES:
        alone = losses(folder / "1" / name)
        for size in GROUPS:
            several = losses(folder / str(size) / name)
            for step, (one, other) in enumerate(zip(alone, several, strict=True)):
                if step == len(found):
                    found.append({})
                found[step][f"{name}, {size} processes"] = abs(one["loss"] - other["loss"])
    return found


def rounding_table(found: list[dict[str, float]]) -> str:
    """The differences as a Markdown table."""
    lines = [f"| step | {' | '.join(found[0])} |", f"|---|{'---|' * len(found[0])}"]
    for step, row in enumerate(found, start=1):
        lines.append(f"| {step} | {' | '.join(f'{gap:.0e}' for gap in row.values())} |")
    return "\n".join(lines)


def table(found: dict[str, dict[str, float]]) -> str:
    """The result as a Markdown table."""
    lines = [
        "| run | steps | first loss | last loss | 2 processes | 3 processes |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        gaps = " | ".join(f"{row[f'{size} processes']:.0e}" for size in GROUPS)
        first, last = row["first loss"], row["last loss"]
        shown = name.replace("_", " ")
        lines.append(f"| {shown} | {row['steps']} | {first:.4f} | {last:.4f} | {gaps} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--only", nargs="*", help="names of cases")
    parser.add_argument("--rounding", action="store_true", help="differences in 32 and 64 bits")
    parser.add_argument("--keep", type=Path, help="a folder for the runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only or list(cases(Path()))
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        if options.rounding:
            print(rounding_table(rounding(folder)))
            return
        found = measure(names, folder)
    print(table(found))
    print(f"{time.perf_counter() - begin:.0f} s on {platform.processor() or platform.machine()}")
    if not options.only:
        RESULT.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
