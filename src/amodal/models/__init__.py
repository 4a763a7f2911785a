"""Models: encoders with a projection, a fusion or a decoder, saved as Hugging Face folders."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "diffusion": "DiffusionGenerator",
        "fusion_model": "FusionModel FusionModelConfig build_fusion_model",
        "image_tokenizer": "ImageTokenizer ImageTokenizerConfig",
        "joint_embedding": "JointEmbedding JointEmbeddingConfig build_joint_embedding",
        "multimodal_transformer.architecture": "MultimodalTransformerConfig",
        "multimodal_transformer.build": "build_multimodal_transformer",
        "multimodal_transformer.model": "MultimodalTransformer",
        "inputs": "collator_of",
    },
)
