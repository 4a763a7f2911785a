"""Small untrained models, an image, and a source to index."""

import io

import numpy as np
import torch
from PIL import Image

from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)
from amodal.models.joint_embedding import Architecture, build_joint_embedding
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import build_multimodal_transformer
from amodal.projection import MLPConfig

TEXT = "is there a red blue green star circle square left right what colour yes no ?"
WORDS = TEXT.split()


def photo(seed=0, shape=(20, 24)):
    return np.random.default_rng(seed).integers(0, 255, (*shape, 3)).astype(np.uint8)


def png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def captioner():
    """Answers, captions and converses, untrained."""
    torch.manual_seed(0)
    architecture = TransformerArchitecture(
        encoders={"image": SmallCNNConfig(size=16, widths=(8, 16), min_grid_size=4)},
        width=32,
        heads=2,
        encoder_layers=1,
        decoder_layers=2,
        max_length=32,
        tokenizer=TrainedTokenizerConfig(model="word"),
    )
    return build_multimodal_transformer(architecture, [TEXT]).eval()


def embedder():
    torch.manual_seed(0)
    return build_joint_embedding(
        Architecture(
            encoders={
                "image": SmallCNNConfig(widths=(8, 16), size=32),
                "text": SmallTransformerConfig(width=16, layers=1, heads=2, max_length=12),
            },
            projection=MLPConfig(dim=8),
        ),
        lambda: iter([{"text": WORDS}]),
    ).eval()


def image_generator():
    """Generates images, untrained."""
    torch.manual_seed(0)
    sizes = {
        "size": 16,
        "patch_size": 4,
        "widths": (8,),
        "codebook_size": 12,
        "codebook_dim": 4,
        "num_res_blocks": 0,
    }
    tokenizer = ImageTokenizer(ImageTokenizerConfig(TokenizerArchitecture(**sizes).model_dump()))
    architecture = TransformerArchitecture(
        width=32,
        heads=2,
        encoder_layers=0,
        decoder_layers=2,
        max_length=24,
        tokenizer=TrainedTokenizerConfig(model="word"),
    )
    return build_multimodal_transformer(architecture, [TEXT], image_tokenizer=tokenizer).eval()


class Records:
    name = "records"
    inputs = frozenset({"image", "text"})

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return {
            "id": f"item-{index}",
            "origin": f"records row {index}",
            "image": photo(index),
            "text": [f"a {WORDS[3 + index]} thing"],
            "size": index,
            "ratio": float("nan") if index == 0 else index / 2,
        }
