"""What every model folder has in common: config.json, weights, preprocessors; nothing pickled."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from pydantic import ValidationError
from transformers import PretrainedConfig, PreTrainedModel

from amodal.data.atomic import staged_files
from amodal.data.near_folders import RUNS, did_you_mean
from amodal.modalities.registry import modality

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # OWNER/NAME
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


def found_folder(name: str | Path) -> Path:
    """The folder of a model, fetched from the Hugging Face hub where OWNER/NAME can only mean that.

    Raises:
        ValueError: it is not a run; names the nearest ones.
    """
    folder = Path(name)
    if not folder.exists():
        owner = Path(folder.parts[0]) if folder.parts else folder
        if not HUB_ID.fullmatch(str(name)) or owner.exists() or owner == RUNS:
            raise ValueError(f"{folder}: no such folder{did_you_mean(folder, CONFIG)}")
        folder = _from_hub(str(name))
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            hint = did_you_mean(folder, CONFIG) or "; `amodal train RECIPE --out RUN` makes one"
            raise ValueError(f"{folder}: not a run folder, {file} is missing{hint}")
    return folder


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        return Path(snapshot_download(name))
    except RepositoryNotFoundError:
        reason = "the Hugging Face hub has no public model of this name"
    except Exception as error:  # of the HTTP library, which is not ours to know
        reason = f"the Hugging Face hub cannot be reached ({type(error).__name__})"
    hint = did_you_mean(Path(name), CONFIG)
    raise ValueError(f"{name}: no such folder here, and {reason}{hint}")


def model_type(folder: Path) -> str:
    """`model_type` of config.json, which says what kind of model the folder holds.

    Raises:
        ValueError: config.json cannot be read.
    """
    try:
        return str(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("model_type"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"{folder}: cannot be opened as a model: {error}") from None


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
