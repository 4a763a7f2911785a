"""Where a run is: a folder, or a model of the Hugging Face hub. Reads nothing but config.json.

Importing this module is cheap, so that a mistyped run is answered at once.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from amodal.data.near_folders import RUNS, did_you_mean

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
HUB = "hub:"  # prefix of OWNER/NAME; without it a name is a folder and never leaves the machine
PIPELINE = "diffusers:"  # prefix of a pipeline of diffusers on the hub
PIPELINE_INDEX = "model_index.json"
SHOWN_RUNS = 5


def found_folder(run: str | Path) -> Path:
    """The folder of a run, fetched from the Hugging Face hub where it is `hub:OWNER/NAME`.

    Raises:
        ValueError: it is not a run; names the nearest ones.
    """
    if str(run).startswith(HUB):
        folder = _from_hub(str(run).removeprefix(HUB))
    else:
        folder = Path(run)
        if not folder.exists():
            raise ValueError(f"{folder}: no such run folder{_runs_near(folder)}")
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            hint = did_you_mean(folder, CONFIG) or "; `amodal train RECIPE --out RUN` makes one"
            raise ValueError(f"{folder}: not a run folder, {file} is missing{hint}")
    return folder


def results_folder(run: str | Path) -> Path:
    """Where the results of a run are written: its folder, or ./OWNER/NAME for one of the hub."""
    return Path(str(run).removeprefix(HUB))


def is_pipeline(name: str | Path) -> bool:
    """Whether a name is that of a pipeline of `diffusers`, on the hub or in a folder."""
    return str(name).startswith(PIPELINE) or (Path(name) / PIPELINE_INDEX).is_file()


def model_type(folder: Path) -> str:
    """`model_type` of config.json, which says what kind of model the folder holds.

    Raises:
        ValueError: config.json cannot be read.
    """
    return str(read_config(folder).get("model_type"))


def read_config(folder: Path) -> dict[str, Any]:
    """The values of config.json.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return dict(json.loads((folder / CONFIG).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise ValueError(f"{folder}: cannot be opened as a model: {error}") from None


def _runs_near(folder: Path) -> str:
    """The runs that may have been meant, else those that there are, and how to name the hub's."""
    near = did_you_mean(folder, CONFIG)
    if not near:
        place = folder.parent if folder.parent.is_dir() and folder.parent != Path() else RUNS
        runs = sorted(path.parent for path in place.glob(f"*/{CONFIG}"))
        more = ", …" if len(runs) > SHOWN_RUNS else ""
        near = f"; runs there: {', '.join(map(str, runs[:SHOWN_RUNS]))}{more}" if runs else ""
    if len(folder.parts) == 2 and folder.parent != RUNS and not folder.is_absolute():
        near += f"; a model of the Hugging Face hub is named {HUB}{folder.as_posix()}"
    return near or "; `amodal train RECIPE --out RUN` makes one"


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        return Path(snapshot_download(name))
    except RepositoryNotFoundError:
        reason = "the Hugging Face hub has no public model of this name"
    except HFValidationError:
        reason = "not a name of the Hugging Face hub, expected hub:OWNER/NAME"
    except Exception as error:  # of the HTTP library, which is not ours to know
        reason = f"the Hugging Face hub cannot be reached ({type(error).__name__})"
    raise ValueError(f"{HUB}{name}: {reason}")
