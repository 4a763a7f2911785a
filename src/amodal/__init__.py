"""amodal: one representation for data that comes in several modalities."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amodal.models.fusion_model import FusionModel
    from amodal.models.joint_embedding import JointEmbedding

__version__ = "0.1.0.dev0"
__all__ = ["__version__", "load"]


def load(run: str | Path, device: str | None = None) -> JointEmbedding | FusionModel:
    """Open the model of a run folder: a joint embedding encodes, a fusion predicts.

    Args:
        run: a folder written by `amodal train`, or a model of the hub.
        device: where it runs; a GPU where there is one by default.

    Raises:
        ValueError: the folder is not a run.
    """
    # Imported late, so that `import amodal` costs nothing.
    import torch

    from amodal.models.opening import open_run

    model = open_run(run)
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(torch.device(place))  # type: ignore[arg-type]
    return model
