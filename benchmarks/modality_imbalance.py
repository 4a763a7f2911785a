"""Imbalanced modalities, and missing modalities.

    python benchmarks/modality_imbalance.py            # about 25 minutes on one core
    python benchmarks/modality_imbalance.py --study absent

Four classes, that is two bits. The quick modality is a vector of 200 numbers: the class's own
direction plus noise, so a linear layer learns it at once and 2,000 items by heart. The slow one is
8 columns: bit k is the sign of the product of columns 2k and 2k + 1, plus noise. Their noise is
independent, so that both modalities are complementary. In the third modality, where there is one, a
word determines the class in a third of the items.

2,000 items to train on, 1,000 to choose by, 4,000 to test on, low-rank fusion, 30 epochs of batches
of 128; the weights with the best accuracy on the 1,000 items are used. Every method, plain training
included, is tuned alike: three learning rates times two values of one parameter of its own (of
plain training and blending: weight decay; of modulation: with noise or without), by accuracy on the
1,000 items with two seeds that are not used again; then five seeds on the test items.

Probe: logistic regression on the pooled features of the slow modality's encoder, fitted on the
training items. The upper bound is a model trained on the slow modality only.

The study "absent" removes one modality from all test items, and compares with a model trained
without it, tuned the same way. No dropout, and the slow modality only, are rows of the study "two".
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor
from transformers import get_cosine_schedule_with_warmup, set_seed

from amodal.augment.modality import drop_modalities
from amodal.data.batch import Batch
from amodal.data.corruption import only
from amodal.data.record import Record, sample_rng
from amodal.data.samplers import RunSampler
from amodal.evaluators.prediction import predict_batches, prediction_metrics
from amodal.losses.balance import GradientBlendingConfig
from amodal.models.fusion_model import FusionModel
from amodal.training.recipe import parse_recipe
from amodal.training.tasks.fusion import FusionRun
from amodal.training.tasks.protocol import Step

RESULT = Path(__file__).parent / "results" / "modality_imbalance.json"
SIZES = {"train": 2000, "validation": 1000, "test": 4000}
WORDS = ("north", "east", "south", "west")
QUICK, SLOW, THIRD = "vector", "columns", "text"
RATES = (1e-3, 3e-3, 1e-2)
METHODS: dict[str, list[dict[str, Any]]] = {
    "plain": [{"decay": 0.1}, {"decay": 1.0}],
    "unimodal losses": [{"unimodal_weight": 0.3}, {"unimodal_weight": 1.0}],
    "gradient modulation": [
        {"balance": {"kind": "gradient_modulation", "noise": noise}} for noise in (True, False)
    ],
    "gradient blending": [
        {"balance": {"kind": "gradient_blending"}, "decay": decay} for decay in (0.1, 1.0)
    ],
    "modality dropout": [{"dropout": 0.2}, {"dropout": 0.4}],
}
ABSENT: dict[str, list[dict[str, Any]]] = {
    "dropout 0.3": [{"dropout": 0.3, "decay": decay} for decay in (0.1, 1.0)],
    "dropout 0.5": [{"dropout": 0.5, "decay": decay} for decay in (0.1, 1.0)],
    "dropout 0.3, unimodal losses": [{"dropout": 0.3, "unimodal_weight": u} for u in (0.3, 1.0)],
}


class Rows:
    """A source in memory."""

    modalities = frozenset({"text"})

    def __init__(self, name: str, count: int, prototypes: np.ndarray, noise: float) -> None:
        self.name = name
        rng = np.random.default_rng([len(name), count])
        self.records: list[Record] = []
        for i in range(count):
            bits = rng.integers(2, size=2)
            label = int(bits[0] + 2 * bits[1])
            slow = rng.normal(size=8)
            for k, bit in enumerate(bits):
                sign = 1.0 if bit else -1.0
                slow[2 * k + 1] = sign * np.sign(slow[2 * k]) * abs(slow[2 * k + 1])
            slow += 0.15 * rng.normal(size=8)
            word = WORDS[label] if rng.random() < 1 / 3 else "somewhere"
            self.records.append(
                {
                    "id": f"{name}{i}",
                    "origin": f"{name}, item {i}",
                    "z": prototypes[label] + noise * rng.normal(size=prototypes.shape[1]),
                    **{f"n{k}": float(x) for k, x in enumerate(slow)},
                    "text": [f"seen in the {word}"],
                    "kind": f"class {label}",
                }
            )

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> Record:
        return self.records[index]


def make() -> dict[str, Rows]:
    rng = np.random.default_rng(0)
    prototypes = rng.normal(size=(4, 200))
    prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
    return {name: Rows(name, count, prototypes, 0.5) for name, count in SIZES.items()}


def picked(whole: Batch, rows: Tensor, epoch: int, dropout: float, seed: int) -> Batch:
    """Rows of one large batch; modalities are dropped as a recipe does it."""
    present = {m: mask[rows] for m, mask in whole.present.items()}
    if dropout:
        rngs = [sample_rng(seed, epoch, int(row)) for row in rows]
        present = drop_modalities(present, dropout, rngs)
    return replace(
        whole,
        tensors={m: {n: t[rows] for n, t in named.items()} for m, named in whole.tensors.items()},
        present=present,
        item=whole.item[rows],
        content={},
        target=None if whole.target is None else whole.target[rows],
    )


def recipe_of(
    modalities: tuple[str, ...], options: dict[str, Any], rate: float, seed: int
) -> dict[str, Any]:
    encoders: dict[str, Any] = {
        QUICK: {"kind": "vector", "column": "z", "width": 32},
        SLOW: {
            "kind": "columns", "numerical": [f"n{k}" for k in range(8)], "width": 32, "heads": 4,
        },
        THIRD: {"kind": "small_transformer", "width": 32, "layers": 1, "heads": 4},
    }  # fmt: skip
    objective = {k: options[k] for k in ("unimodal_weight", "balance") if k in options}
    return {
        "data": {"train": "scenes:size=4", "validation": "scenes:size=4"},  # not read
        "model": {
            "kind": "fusion",
            "encoders": {m: encoders[m] for m in modalities},
            "fusion": {"kind": "low_rank", "dim": 32, "rank": 4},
            "target": {"column": "kind"},
        },
        "objectives": [{"kind": "prediction", **objective}],
        "train": {
            "epochs": 30, "batch_size": 128, "learning_rate": rate, "seed": seed,
            "weight_decay": options.get("decay", 0.1), "evaluate_every": 5,
            "precision": "fp32", "warmup": 0.1,
        },
    }  # fmt: skip


BATCHES: dict[tuple[str, tuple[str, ...]], Batch] = {}


def whole_batch(source: Rows, task: FusionRun, modalities: tuple[str, ...]) -> Batch:
    """All rows as one batch; the preprocessors are the same in every run."""
    key = (source.name, modalities)
    if key not in BATCHES:
        rngs = [sample_rng(0, 0, i) for i in range(len(source))]
        BATCHES[key] = task.collator(source.records, rngs)
    return BATCHES[key]


def trained_model(task: FusionRun, train: Batch, validation: Batch, dropout: float) -> FusionModel:
    """The model with its best weights: the trainer's loop over batches that are ready.

    AdamW, warm-up, half a cosine and clipping are those of the package's trainer.
    """
    options, trained = task.recipe.train, task.trained()
    sampler = RunSampler(
        len(train), batch_size=options.batch_size, epochs=options.epochs, seed=options.seed
    )
    steps = len(sampler)
    optimizer = torch.optim.AdamW(
        [
            {
                "params": [p for p in trained.parameters() if (p.ndim > 1) == decayed],
                "weight_decay": options.weight_decay if decayed else 0.0,
            }
            for decayed in (True, False)
        ],
        lr=options.learning_rate,
        betas=options.betas,
        fused=True,
    )
    schedule = get_cosine_schedule_with_warmup(optimizer, round(options.warmup * steps), steps)
    every = round(options.evaluate_every * sampler.steps_per_epoch)
    blends = isinstance(task.objective.config.balance, GradientBlendingConfig)
    best, weights = -1.0, {}
    trained.train()
    for number, draws in enumerate(sampler):
        rows = torch.tensor([draw.row for draw in draws])
        batch = picked(train, rows, draws[0].epoch, dropout, options.seed)
        optimizer.zero_grad()
        task.task.backward(
            batch,
            Step(
                trained, trained, torch.Tensor.backward, nullcontext, nullcontext, number, steps,
                logged=False,
            ),
        )  # fmt: skip
        torch.nn.utils.clip_grad_norm_(trained.parameters(), options.gradient_clip)
        optimizer.step()
        schedule.step()
        task.task.after_step(trained)
        if (number + 1) % every == 0 or number + 1 == steps:
            if blends:
                score = task.task.evaluate(task.model, nullcontext)[task.task.score_name]
            else:
                predicted = predict_batches(task.model, [validation])
                score = prediction_metrics(predicted, task.model.target)["prediction/accuracy"]
            if score > best:
                best = score
                weights = {n: t.clone() for n, t in task.model.state_dict().items()}
    task.model.load_state_dict(weights)
    return task.model.eval()


def run(
    parts: dict[str, Rows],
    modalities: tuple[str, ...],
    options: dict[str, Any],
    rate: float,
    seed: int,
    score: str,
    available: tuple[str, ...] | None = None,
) -> dict[str, float]:
    """Accuracy of all modalities and of each one only, and of the probe.

    Args:
        available: modalities of the training items; the others are missing from every item.
        score: the part that is evaluated.
    """
    recipe = parse_recipe(recipe_of(modalities, options, rate, seed), "benchmark")
    set_seed(seed)
    task = FusionRun(recipe, parts["train"], parts["validation"], resume=False)
    whole = {
        name: whole_batch(parts[name], task, modalities) for name in ("train", "validation", score)
    }
    if available is not None:
        whole["train"] = only(whole["train"], available)
    model = trained_model(task, whole["train"], whole["validation"], options.get("dropout", 0.0))
    test = whole[score].split(1000)

    def accuracy(present: tuple[str, ...]) -> float:
        predicted = predict_batches(model, test, change=lambda batch: only(batch, present))
        return prediction_metrics(predicted, model.target)["prediction/accuracy"]

    found = {"fused": accuracy(modalities if available is None else available)}
    found |= {m: accuracy((m,)) for m in modalities if available is None}
    if available is None or SLOW in available:
        found["probe"] = probe(model, whole["train"], whole[score])
    return found


@torch.inference_mode()
def probe(model: FusionModel, train: Batch, test: Batch) -> float:
    """Accuracy on test items of a logistic regression on the slow modality's features."""
    x, y = (model.encoded(SLOW, only(part, (SLOW,))).pooled.numpy() for part in (train, test))
    classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=300))
    assert train.target is not None
    assert test.target is not None
    classifier.fit(x, train.target.numpy())
    return float(classifier.score(y, test.target.numpy()))


def tuned(
    parts: dict[str, Rows],
    modalities: tuple[str, ...],
    options: list[dict[str, Any]],
    seeds: int,
    available: tuple[str, ...] | None = None,
) -> dict[str, Any]:
    """The option and rate that are best on validation, and what they give on test."""
    grid = []
    for option, rate in itertools.product(options, RATES):
        scores = [
            run(parts, modalities, option, rate, seed, "validation", available)["fused"]
            for seed in (100, 101)
        ]
        grid.append((statistics.mean(scores), rate, option))
    _, rate, option = max(grid, key=lambda one: one[0])
    found = [run(parts, modalities, option, rate, seed, "test", available) for seed in range(seeds)]
    return {
        "mean": {m: round(statistics.mean(one[m] for one in found), 4) for m in found[0]},
        "deviation": {m: round(statistics.stdev(one[m] for one in found), 4) for m in found[0]},
        "rate": rate,
        "option": option,
        "validation": [[round(score, 4), r, o] for score, r, o in grid],
    }


PLAIN: list[dict[str, Any]] = [{"decay": 0.1}, {"decay": 1.0}]


def balance(
    parts: dict[str, Rows], modalities: tuple[str, ...], seeds: int, show: Any
) -> dict[str, Any]:
    results = {}
    for name, options in METHODS.items():
        results[name] = tuned(parts, modalities, options, seeds)
        show(f"{len(modalities)} modalities, {name}", results[name])
    if len(modalities) == 2:
        single = tuned(parts, modalities, PLAIN, seeds, available=(SLOW,))
        results["slow modality only"] = single
        show("slow modality only", single)
    return results


def absent(parts: dict[str, Rows], seeds: int, show: Any) -> dict[str, Any]:
    results = {}
    for name, options in ABSENT.items():
        results[name] = tuned(parts, (QUICK, SLOW), options, seeds)
        show(f"absent, {name}", results[name])
    results["quick modality only"] = tuned(parts, (QUICK, SLOW), PLAIN, seeds, available=(QUICK,))
    show("quick modality only", results["quick modality only"])
    return results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--study", choices=("two", "three", "absent"), nargs="*")
    parser.add_argument("--out", type=Path, default=RESULT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    parts = make()
    document = json.loads(given.out.read_text()) if given.study and given.out.exists() else {}
    document["setting"] = {"seeds": given.seeds, "rates": RATES, "items": SIZES}

    def show(name: str, row: dict[str, Any]) -> None:
        brief = {key: value for key, value in row.items() if key != "validation"}
        print(f"{name:44} {json.dumps(brief)}", flush=True)

    for study in given.study or ("two", "three", "absent"):
        if study == "absent":
            document[study] = absent(parts, given.seeds, show)
        else:
            names = (QUICK, SLOW) if study == "two" else (THIRD, QUICK, SLOW)
            document[study] = balance(parts, names, given.seeds, show)
        given.out.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
