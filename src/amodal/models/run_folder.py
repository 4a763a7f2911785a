"""Common part of all model folders: config.json, weights, preprocessors; nothing pickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from pydantic import ValidationError
from transformers import PretrainedConfig, PreTrainedModel

from amodal.data.atomic import staged_files
from amodal.modalities.registry import modality
from amodal.models.run_location import CONFIG, WEIGHTS

Model = TypeVar("Model", bound=PreTrainedModel)
Preprocessors = Mapping[str, Any]


def write_model(model: PreTrainedModel, preprocessors: Preprocessors, folder: Path) -> None:
    """Write config.json, model.safetensors and one preprocessor folder per input.

    The weights come last: where they are new, everything else is.
    """
    with staged_files(folder, last=WEIGHTS) as staged:
        _write_definition(model, preprocessors, staged)
        safetensors.torch.save_model(model, str(staged / WEIGHTS))


def write_definition(model: PreTrainedModel, preprocessors: Preprocessors, folder: Path) -> None:
    """The same without the weights: all that is fitted before training."""
    with staged_files(folder, last=CONFIG) as staged:
        _write_definition(model, preprocessors, staged)


def _write_definition(model: PreTrainedModel, preprocessors: Preprocessors, folder: Path) -> None:
    types: Any = model.types
    # How the preprocessors are to be read; pairs, since config.json is written with sorted keys.
    model.config.inputs = [list(pair) for pair in types.items()]
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    for name, prepare in preprocessors.items():
        prepare.save(folder / name)


def read_definition(kind: type[Model], folder: Path) -> Model:
    """The model of `write_definition` with random weights, for a state dict that follows.

    Raises:
        ValueError: a file is missing or damaged.
    """
    config_class: Any = kind.config_class
    try:
        config: PretrainedConfig = config_class.from_dict(
            json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        )
        types: dict[str, str] = dict(getattr(config, "inputs", ()))
        preprocessors = {name: modality(kind).load(folder / name) for name, kind in types.items()}
        return kind(config, preprocessors)
    except (ValidationError, OSError, ValueError, safetensors.SafetensorError) as error:
        raise ValueError(f"{folder}: cannot be opened as a model: {error}") from None


def read_model(kind: type[Model], folder: Path) -> Model:
    """The model that `write_model` wrote, in evaluation mode, on the CPU.

    Raises:
        ValueError: the files do not fit together.
    """
    model = read_definition(kind, folder)
    try:
        missing, unexpected = safetensors.torch.load_model(
            model, str(folder / WEIGHTS), strict=False
        )
    except safetensors.SafetensorError as error:
        raise ValueError(f"{folder}: cannot be opened as a model: {error}") from None
    if missing or unexpected:
        raise ValueError(
            f"{folder}: weights do not fit config.json; missing {sorted(missing)[:3]}, "
            f"unexpected {sorted(unexpected)[:3]}"
        )
    return model.eval()
