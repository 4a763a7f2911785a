"""Defaults of `amodal init` for each task; measured on Flickr8k, see docs/benchmarks.md."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from amodal.data.yaml_document import read_yaml
from amodal.encoders.packaged import IMAGE_PACKAGES, TEXT_PACKAGES
from amodal.setup.roles import Task
from amodal.training.recipes.packaged import packaged_recipes

# Modality type -> encoder with pretrained weights, which stays frozen. A type that is not here has
# no packaged encoder, and takes the one of `FROM_SCRATCH`.
PRETRAINED: Mapping[str, dict[str, Any]] = {
    "image": {
        "kind": "packaged",
        "name": ["efficientnet-lite2", "efficientnet-lite1", "efficientnet-lite0"],
        "size": 240,
        "last_stages": 3,
        "freeze": "all",
    },
    "text": {"kind": "packaged", "name": "all-minilm-l6-v2", "last_layers": 7, "freeze": "all"},
    # Without layers over time all of it is frozen, and its features are computed once.
    "video": {
        "kind": "frames",
        "frame": {"kind": "packaged", "name": "efficientnet-lite2", "last_stages": 2},
        "layers": 0,
        "freeze": "all",
    },
}
FROM_SCRATCH: Mapping[str, dict[str, Any]] = {
    "image": {"kind": "small_cnn", "size": 64},
    "text": {"kind": "small_transformer", "width": 128, "layers": 2, "heads": 4, "dropout": 0.1},
    "audio": {"kind": "small_audio_cnn"},
    "video": {"kind": "frames", "frame": {"kind": "small_cnn", "size": 64}},
}
PACKAGES = (
    *(IMAGE_PACKAGES[name] for name in PRETRAINED["image"]["name"]),
    TEXT_PACKAGES[PRETRAINED["text"]["name"]],
)


@dataclass(frozen=True)
class Default:
    """The recipe of a task.

    Args:
        title: what the model does, the first line of the recipe.
        model: but for the encoders.
        train: but for the batch size.
        batch_size: items; less where there are few.
        captions_per_item: at most; less where most items have fewer.
        objectives: empty: the default of the model.
        augment: steps by input.
        from_scratch: recipe of the package whose settings count where no pretrained encoder is
            installed.
        commands: to try after training, with {run}, {source}, {example} and {question}.
    """

    title: str
    model: dict[str, Any]
    train: dict[str, Any]
    batch_size: int
    from_scratch: str
    commands: tuple[str, ...]
    captions_per_item: int = 1
    objectives: tuple[dict[str, Any], ...] = ()
    augment: Mapping[str, Any] = field(default_factory=dict)


TRANSFORMER = {
    "kind": "multimodal_transformer",
    "width": 256,
    "heads": 4,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "dropout": 0.2,
    "max_length": 40,
    "tokenizer": {"kind": "trained", "model": "word", "vocab_size": 3000},
}
DEFAULTS: Mapping[Task, Default] = {
    "search": Default(
        title="Search by text, image or both: a joint embedding",
        model={
            "kind": "joint_embedding",
            "projection": {
                "kind": "mlp",
                "hidden": 1024,
                "dim": 512,
                "dropout": 0.4,
                "input_norm": "batch",
                "input_noise": 1.2,
            },
        },
        objectives=({"kind": "info_nce", "temperature": 0.07, "label_smoothing": 0.1},),
        captions_per_item=3,
        batch_size=512,
        train={"epochs": 40, "learning_rate": 1e-3, "evaluate_every": 4, "save_every": 4},
        from_scratch="own-data",
        commands=(
            "amodal index {run} {source} --out {run}/index",
            "amodal serve {run}/index",
        ),
    ),
    "prediction": Default(
        title="Prediction of a column: a fusion of its inputs",
        model={"kind": "fusion", "fusion": {"kind": "gated", "dim": 128}},
        objectives=({"kind": "prediction", "unimodal_weight": 0.3},),
        augment={"modality_dropout": 0.2},
        batch_size=32,
        train={"epochs": 20, "learning_rate": 1e-3, "weight_decay": 0.1, "warmup": 0.1},
        from_scratch="own-table-fusion",
        commands=(
            "amodal predict {run} {source} --out {run}/predictions.csv --explain",
            "amodal evaluate {run} --task robustness",
        ),
    ),
    "questions": Default(
        title="Answers to questions about images: a multimodal Transformer",
        model={**TRANSFORMER, "tasks": ["vqa"]},
        batch_size=32,
        train={"epochs": 20, "learning_rate": 1e-3, "evaluate_every": 4, "save_every": 4},
        from_scratch="easy-vqa",
        commands=("amodal ask {run} {example} {question}", "amodal serve {run}"),
    ),
    "captions": Default(
        title="Captions of images: a multimodal Transformer",
        model={**TRANSFORMER, "tasks": ["caption"]},
        captions_per_item=5,
        batch_size=64,
        train={"epochs": 8, "learning_rate": 1e-3, "ema": 0.98, "evaluate_every": 2},
        from_scratch="flickr8k-captions",
        commands=("amodal caption {run} {example}", "amodal serve {run}"),
    ),
}


def has_pretrained() -> bool:
    """Whether the packages of `PRETRAINED` are installed."""
    return all(package.is_installed for package in PACKAGES)


def encoder_of(kind: str, pretrained: bool) -> dict[str, Any] | None:
    """The encoder of a modality type; None where there is none to choose."""
    found = (PRETRAINED.get(kind) if pretrained else None) or FROM_SCRATCH.get(kind)
    return deepcopy(found) if found is not None else None


def recipe_from_scratch(task: Task) -> dict[str, Any]:
    """The values of the packaged recipe that trains from random weights."""
    values: dict[str, Any] = read_yaml(packaged_recipes()[DEFAULTS[task].from_scratch])
    return values
