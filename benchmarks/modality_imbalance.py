"""One modality is learned at once, the other slowly: what brings the slow one forward?

    python benchmarks/modality_imbalance.py            # about 10 minutes on one core

Four classes, two bits. The quick modality, a vector of 16 numbers, is the class's own vector plus
noise. The slow one, 8 columns of numbers, holds each bit in the sign of a product of two columns,
with noise; in a second setting captions hold a word for the class in a third of the items. 3,000
items to train on, 1,000 to choose by, 2,000 to test on; low-rank fusion, 12 epochs of batches of 64.

Every method, plain training included, is tuned alike: three learning rates and, where it has one,
two values of its own parameter, chosen by accuracy on the 1,000 items with seed 0; then three seeds.
The probe of the slow modality is the head on it alone, trained on its features in every method.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from amodal.models.fusion_model import FusionModel
from amodal.training.predicting import predict_items, prediction_metrics
from amodal.training.recipe import parse_recipe
from amodal.training.run import open_sources, train_run

RESULT = Path(__file__).parent / "results" / "modality_imbalance.json"
SIZES = {"train": 3000, "validation": 1000, "test": 2000}
RATES = (1e-3, 3e-3, 1e-2)
METHODS: dict[str, list[dict[str, Any]]] = {
    "plain": [{}],
    "unimodal losses": [{"unimodal": 0.3}, {"unimodal": 1.0}],
    "gradient modulation": [
        {"balance": {"kind": "gradient_modulation", "alpha": alpha}} for alpha in (0.3, 1.0)
    ],
    "gradient blending": [{"balance": {"kind": "gradient_blending"}}],
    "modality dropout": [{"dropout": 0.2}, {"dropout": 0.4}],
}
WORDS = ("north", "east", "south", "west")


def make(folder: Path) -> None:
    """train.jsonl, validation.jsonl and test.jsonl."""
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(4, 16))
    for part, count in SIZES.items():
        lines = []
        for i in range(count):
            bits = rng.integers(2, size=2)
            label = int(bits[0] + 2 * bits[1])
            slow = rng.normal(size=8)
            for k, bit in enumerate(bits):
                sign = 1.0 if bit else -1.0
                slow[2 * k + 1] = sign * np.sign(slow[2 * k]) * abs(slow[2 * k + 1])
            slow += 0.15 * rng.normal(size=8)
            word = WORDS[label] if rng.random() < 1 / 3 else "somewhere"
            row = {
                "key": f"{part}{i}",
                "z": (prototypes[label] + 2.6 * rng.normal(size=16)).round(3).tolist(),
                **{f"n{k}": round(float(x), 3) for k, x in enumerate(slow)},
                "note": f"seen in the {word}",
                "kind": f"class {label}",
            }
            lines.append(json.dumps(row))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")


def run(
    folder: Path, options: dict[str, Any], rate: float, seed: int, part: str, *, three: bool
) -> dict[str, float]:
    """Accuracy of the fused prediction and of each modality alone."""
    columns = {"image": None, "text": "note" if three else None, "id": "key"}
    source = {"kind": "table", "columns": columns}
    objective = {k: v for k, v in options.items() if k != "dropout"}
    encoders: dict[str, Any] = {
        "vector": {"kind": "vector", "column": "z", "width": 32},
        "columns": {
            "kind": "columns", "numbers": [f"n{k}" for k in range(8)], "width": 32, "heads": 4,
            "layers": 2,
        },
    }  # fmt: skip
    if three:
        encoders["text"] = {"kind": "small_transformer", "width": 32, "layers": 1, "heads": 4}
    recipe = {
        "data": {
            "train": {**source, "path": str(folder / "train.jsonl")},
            "validation": {**source, "path": str(folder / "validation.jsonl")},
            "cache": True,
        },
        "model": {
            "kind": "fusion",
            "encoders": encoders,
            "fusion": {"kind": "low_rank", "dim": 32, "rank": 4},
            "target": {"column": "kind"},
        },
        "objectives": [{"kind": "prediction", **objective}],
        "augment": {"modality_dropout": options.get("dropout", 0.0)},
        "train": {
            "epochs": 12, "batch_size": 64, "learning_rate": rate, "seed": seed, "keep": "last",
            "evaluate_every": 2, "save_every": 12, "precision": "fp32", "warmup": 0.1,
        },
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as out:
        model = train_run(parse_recipe(recipe, "benchmark"), Path(out) / "run").model
    assert isinstance(model, FusionModel)
    recipe["data"]["validation"]["path"] = str(folder / f"{part}.jsonl")
    held_out = open_sources(parse_recipe(recipe, "benchmark"))[1]
    assert held_out is not None
    metrics = prediction_metrics(predict_items(model, held_out), model.target)
    return {
        "fused": metrics["prediction/accuracy"],
        **{m: metrics[f"prediction/{m}_alone/accuracy"] for m in model.modalities},
    }


def study(folder: Path, seeds: int, *, three: bool) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for name, options in METHODS.items():
        tuned = [
            (run(folder, option, rate, 0, "validation", three=three)["fused"], rate, option)
            for option in options
            for rate in RATES
        ]
        _, rate, option = max(tuned, key=lambda one: one[0])
        found = [run(folder, option, rate, seed, "test", three=three) for seed in range(seeds)]
        mean = {m: round(statistics.mean(one[m] for one in found), 4) for m in found[0]}
        spread = {m: round(statistics.stdev(one[m] for one in found), 4) for m in found[0]}
        results[name] = {"mean": mean, "deviation": spread, "rate": rate, "option": option}
        print(f"{'three' if three else 'two'} {name:22} {json.dumps(results[name])}", flush=True)
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        document = {
            "setting": {"seeds": given.seeds, "rates": RATES},
            "two modalities": study(Path(folder), given.seeds, three=False),
            "three modalities": study(Path(folder), given.seeds, three=True),
        }
    given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
