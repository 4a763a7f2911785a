"""A small multimodal Transformer and records for it."""

import numpy as np
import torch

from amodal.data.conversation import conversations
from amodal.data.record import sample_rng
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import build_multimodal_transformer

RNG = np.random.default_rng(0)
WORDS = ["red", "blue", "green", "star", "circle", "square", "left", "right"]
RECORDS = [
    {
        "id": str(i),
        "origin": f"record {i}",
        "image": RNG.integers(0, 255, (16, 16, 3)).astype(np.uint8),
        "question": [f"what is {WORDS[i % 8]} ?", f"is it {WORDS[(i + 3) % 8]} there ?"],
        "answer": [WORDS[(5 * i) % 8], f"{WORDS[(3 * i + 1) % 8]} and {WORDS[i % 8]}"],
        "text": [f"a {WORDS[(7 * i) % 8]} {WORDS[(i + 2) % 8]}"],
        "dialog": [
            {"question": f"is there a {WORDS[i % 8]} ?", "answer": "yes"},
            {"question": "what is it ?", "answer": WORDS[(i * i) % 8]},
        ],
    }
    for i in range(32)
]


FUSIONS = ("projection", "concat", "co_attention")


def made(records=RECORDS, **options):
    torch.manual_seed(0)
    architecture = TransformerArchitecture(
        encoders={"image": SmallCNNConfig(size=16, widths=(8, 16), min_grid_size=4)},
        **{
            "width": 32,
            "heads": 2,
            "encoder_layers": 1,
            "decoder_layers": 2,
            "max_length": 32,
            "tokenizer": TrainedTokenizerConfig(model="word"),
            **options,
        },
    )
    texts = [
        turn.text
        for r in records
        for task in ("vqa", "caption", "dialogue")
        for turns in conversations(r, task)
        for turn in turns
    ]
    return build_multimodal_transformer(architecture, texts).eval()


def batch_of(model, records=RECORDS, **tasks):
    collate = collator_of(model, tasks=tasks or {"vqa": None})
    return collate(records, [sample_rng(0, 0, i) for i in range(len(records))])
