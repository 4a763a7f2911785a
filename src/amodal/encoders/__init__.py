"""Encoders: preprocessed values of one modality in, tokens (B, N, D) out, and their pooling."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "audio.feature_extraction": "FeatureExtraction",
        "audio.huggingface": "HuggingFaceAudioConfig HuggingFaceAudioEncoder",
        "audio.preprocessing": "AudioPreprocessor",
        "audio.small_cnn": "SmallAudioCNN SmallAudioCNNConfig",
        "config": "EncoderConfig LoRAConfig",
        "dual.base": "DualConfig DualEncoder",
        "dual.open_clip": "OpenClipDualConfig",
        "dual.sentence_transformers": "SentenceTransformersDualConfig",
        "dual.transformers": "TransformersDualConfig",
        "huggingface": "HuggingFaceEncoder HuggingFaceImageConfig HuggingFaceTextConfig",
        "image.preprocessing": "ImagePreprocessor",
        "image.small_cnn": "SmallCNN SmallCNNConfig",
        "image.timm": "TimmConfig TimmEncoder",
        "image.torchvision": "TorchvisionConfig TorchvisionEncoder",
        "packaged": "PackagedImageConfig PackagedTextConfig",
        "pooling": "AttentionPooling FirstPooling LastPooling MaxPooling MeanPooling build_pooling",
        "tabular": "TabularEncoder TabularConfig TabularPreprocessor",
        "text.chat_template": "ChatTemplate",
        "text.preprocessing": "TextPreprocessor",
        "text.small_transformer": "SmallTransformer SmallTransformerConfig",
        "text.tokenizer": "PretrainedTokenizerConfig TrainedTokenizerConfig build_tokenizer"
        " train_tokenizer",
        "text.word_vectors": "cooccurrence_vectors",
        "vector": "VectorEncoder VectorConfig VectorPreprocessor",
        "video.frames": "FrameEncoder FrameEncoderConfig",
        "video.huggingface": "HuggingFaceVideoConfig HuggingFaceVideoEncoder",
        "video.preprocessing": "VideoPreprocessor",
        "video.torchvision": "TorchvisionVideoConfig TorchvisionVideoEncoder",
    },
)
