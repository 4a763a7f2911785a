"""Open whatever model a run folder holds."""

from __future__ import annotations

from pathlib import Path

from amodal.models.fusion_model import FusionModel, FusionModelConfig
from amodal.models.image_tokenizer import ImageTokenizer, ImageTokenizerConfig
from amodal.models.joint_embedding import JointEmbedding, JointEmbeddingConfig
from amodal.models.multimodal_transformer.architecture import MultimodalTransformerConfig
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.run_folder import found_folder, model_type

RunModel = (
    JointEmbedding | FusionModel | MultimodalTransformer | ImageTokenizer
)  # what a run folder can hold
KINDS: dict[str, type[RunModel]] = {
    JointEmbeddingConfig.model_type: JointEmbedding,
    FusionModelConfig.model_type: FusionModel,
    MultimodalTransformerConfig.model_type: MultimodalTransformer,
    ImageTokenizerConfig.model_type: ImageTokenizer,
}


def open_run(run: str | Path) -> RunModel:
    """The model of a run folder or of the hub, in evaluation mode, on the CPU.

    Raises:
        ValueError: it is not a run, or of a kind that is not known.
    """
    folder = found_folder(run)
    kind = model_type(folder)
    if kind not in KINDS:
        raise ValueError(
            f"{folder}: config.json says model_type {kind!r}, expected {' or '.join(KINDS)}"
        )
    return KINDS[kind].from_pretrained(folder)
