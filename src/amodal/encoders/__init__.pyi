# Written by docs/public_names.py from __init__.py.
from amodal.encoders.audio.feature_extraction import FeatureExtraction as FeatureExtraction
from amodal.encoders.audio.huggingface import HuggingFaceAudioConfig as HuggingFaceAudioConfig
from amodal.encoders.audio.huggingface import HuggingFaceAudioEncoder as HuggingFaceAudioEncoder
from amodal.encoders.audio.preprocessing import AudioPreprocessor as AudioPreprocessor
from amodal.encoders.audio.small_cnn import SmallAudioCNN as SmallAudioCNN
from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig as SmallAudioCNNConfig
from amodal.encoders.config import EncoderConfig as EncoderConfig
from amodal.encoders.config import LoRAConfig as LoRAConfig
from amodal.encoders.dual.base import DualConfig as DualConfig
from amodal.encoders.dual.base import DualEncoder as DualEncoder
from amodal.encoders.dual.open_clip import OpenClipDualConfig as OpenClipDualConfig
from amodal.encoders.dual.sentence_transformers import (
    SentenceTransformersDualConfig as SentenceTransformersDualConfig,
)
from amodal.encoders.dual.transformers import TransformersDualConfig as TransformersDualConfig
from amodal.encoders.huggingface import HuggingFaceEncoder as HuggingFaceEncoder
from amodal.encoders.huggingface import HuggingFaceImageConfig as HuggingFaceImageConfig
from amodal.encoders.huggingface import HuggingFaceTextConfig as HuggingFaceTextConfig
from amodal.encoders.image.preprocessing import ImagePreprocessor as ImagePreprocessor
from amodal.encoders.image.small_cnn import SmallCNN as SmallCNN
from amodal.encoders.image.small_cnn import SmallCNNConfig as SmallCNNConfig
from amodal.encoders.image.timm import TimmConfig as TimmConfig
from amodal.encoders.image.timm import TimmEncoder as TimmEncoder
from amodal.encoders.image.torchvision import TorchvisionConfig as TorchvisionConfig
from amodal.encoders.image.torchvision import TorchvisionEncoder as TorchvisionEncoder
from amodal.encoders.packaged import PackagedImageConfig as PackagedImageConfig
from amodal.encoders.packaged import PackagedTextConfig as PackagedTextConfig
from amodal.encoders.pooling import AttentionPooling as AttentionPooling
from amodal.encoders.pooling import FirstPooling as FirstPooling
from amodal.encoders.pooling import LastPooling as LastPooling
from amodal.encoders.pooling import MaxPooling as MaxPooling
from amodal.encoders.pooling import MeanPooling as MeanPooling
from amodal.encoders.pooling import build_pooling as build_pooling
from amodal.encoders.tabular import TabularConfig as TabularConfig
from amodal.encoders.tabular import TabularEncoder as TabularEncoder
from amodal.encoders.tabular import TabularPreprocessor as TabularPreprocessor
from amodal.encoders.text.chat_template import ChatTemplate as ChatTemplate
from amodal.encoders.text.preprocessing import TextPreprocessor as TextPreprocessor
from amodal.encoders.text.small_transformer import SmallTransformer as SmallTransformer
from amodal.encoders.text.small_transformer import SmallTransformerConfig as SmallTransformerConfig
from amodal.encoders.text.tokenizer import PretrainedTokenizerConfig as PretrainedTokenizerConfig
from amodal.encoders.text.tokenizer import TrainedTokenizerConfig as TrainedTokenizerConfig
from amodal.encoders.text.tokenizer import build_tokenizer as build_tokenizer
from amodal.encoders.text.tokenizer import train_tokenizer as train_tokenizer
from amodal.encoders.text.word_vectors import cooccurrence_vectors as cooccurrence_vectors
from amodal.encoders.vector import VectorConfig as VectorConfig
from amodal.encoders.vector import VectorEncoder as VectorEncoder
from amodal.encoders.vector import VectorPreprocessor as VectorPreprocessor
from amodal.encoders.video.frames import FrameEncoder as FrameEncoder
from amodal.encoders.video.frames import FrameEncoderConfig as FrameEncoderConfig
from amodal.encoders.video.huggingface import HuggingFaceVideoConfig as HuggingFaceVideoConfig
from amodal.encoders.video.huggingface import HuggingFaceVideoEncoder as HuggingFaceVideoEncoder
from amodal.encoders.video.preprocessing import VideoPreprocessor as VideoPreprocessor
from amodal.encoders.video.torchvision import TorchvisionVideoConfig as TorchvisionVideoConfig
from amodal.encoders.video.torchvision import TorchvisionVideoEncoder as TorchvisionVideoEncoder

__all__ = [
    "AttentionPooling",
    "AudioPreprocessor",
    "ChatTemplate",
    "DualConfig",
    "DualEncoder",
    "EncoderConfig",
    "FeatureExtraction",
    "FirstPooling",
    "FrameEncoder",
    "FrameEncoderConfig",
    "HuggingFaceAudioConfig",
    "HuggingFaceAudioEncoder",
    "HuggingFaceEncoder",
    "HuggingFaceImageConfig",
    "HuggingFaceTextConfig",
    "HuggingFaceVideoConfig",
    "HuggingFaceVideoEncoder",
    "ImagePreprocessor",
    "LastPooling",
    "LoRAConfig",
    "MaxPooling",
    "MeanPooling",
    "OpenClipDualConfig",
    "PackagedImageConfig",
    "PackagedTextConfig",
    "PretrainedTokenizerConfig",
    "SentenceTransformersDualConfig",
    "SmallAudioCNN",
    "SmallAudioCNNConfig",
    "SmallCNN",
    "SmallCNNConfig",
    "SmallTransformer",
    "SmallTransformerConfig",
    "TabularConfig",
    "TabularEncoder",
    "TabularPreprocessor",
    "TextPreprocessor",
    "TimmConfig",
    "TimmEncoder",
    "TorchvisionConfig",
    "TorchvisionEncoder",
    "TorchvisionVideoConfig",
    "TorchvisionVideoEncoder",
    "TrainedTokenizerConfig",
    "TransformersDualConfig",
    "VectorConfig",
    "VectorEncoder",
    "VectorPreprocessor",
    "VideoPreprocessor",
    "build_pooling",
    "build_tokenizer",
    "cooccurrence_vectors",
    "train_tokenizer",
]
