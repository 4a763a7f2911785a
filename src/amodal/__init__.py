"""amodal: one representation for data that comes in several modalities."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel

__version__ = "0.1.0.dev0"
__all__ = ["__version__", "load"]


def load(run: str | Path, device: str | None = None) -> PreTrainedModel:
    """Open the model of a run folder.

    A `JointEmbedding` encodes, a `FusionModel` predicts, a `MultimodalTransformer` generates.

    Args:
        run: folder written by `amodal train`, or `hub:OWNER/NAME`, a model of the Hugging Face hub.
        device: of the model; None: a GPU where there is one.

    Raises:
        ValueError: the folder is not a run.

    Examples:
        >>> import tempfile
        >>> import amodal
        >>> from amodal.encoders import SmallCNNConfig
        >>> from amodal.models.joint_embedding import Architecture, build_joint_embedding
        >>> from amodal.projection import LinearConfig
        >>> encoders = {"image": SmallCNNConfig(size=32, widths=(8, 16))}
        >>> architecture = Architecture(encoders=encoders, projection=LinearConfig(dim=8))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     build_joint_embedding(architecture).save_pretrained(folder)
        ...     model = amodal.load(folder, device="cpu")
        >>> type(model).__name__, model.inputs
        ('JointEmbedding', ('image',))
    """
    # Imported here, so that `import amodal` is fast.
    import torch

    from amodal.training.kinds import open_run

    model = open_run(run)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model.to(torch.device(chosen))  # type: ignore[arg-type]
    return model
