# Written by docs/public_names.py from __init__.py.
from amodal.models.diffusion import DiffusionGenerator as DiffusionGenerator
from amodal.models.fusion_model import FusionModel as FusionModel
from amodal.models.fusion_model import FusionModelConfig as FusionModelConfig
from amodal.models.fusion_model import build_fusion_model as build_fusion_model
from amodal.models.image_tokenizer import ImageTokenizer as ImageTokenizer
from amodal.models.image_tokenizer import ImageTokenizerConfig as ImageTokenizerConfig
from amodal.models.inputs import collator_of as collator_of
from amodal.models.joint_embedding import JointEmbedding as JointEmbedding
from amodal.models.joint_embedding import JointEmbeddingConfig as JointEmbeddingConfig
from amodal.models.joint_embedding import build_joint_embedding as build_joint_embedding
from amodal.models.multimodal_transformer.architecture import (
    MultimodalTransformerConfig as MultimodalTransformerConfig,
)
from amodal.models.multimodal_transformer.build import (
    build_multimodal_transformer as build_multimodal_transformer,
)
from amodal.models.multimodal_transformer.model import (
    MultimodalTransformer as MultimodalTransformer,
)

__all__ = [
    "DiffusionGenerator",
    "FusionModel",
    "FusionModelConfig",
    "ImageTokenizer",
    "ImageTokenizerConfig",
    "JointEmbedding",
    "JointEmbeddingConfig",
    "MultimodalTransformer",
    "MultimodalTransformerConfig",
    "build_fusion_model",
    "build_joint_embedding",
    "build_multimodal_transformer",
    "collator_of",
]
