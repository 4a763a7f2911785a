"""Augmentation steps of a recipe, applied by the inputs of a model."""

from types import SimpleNamespace

import numpy as np
import torch

from amodal.augment.config import AugmentConfig
from amodal.data.inputs import BatchContext
from amodal.data.record import sample_rng
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.modalities.modality import InputOptions
from amodal.modalities.registry import modality
from amodal.models.inputs import collator_of


class Words:
    """Whole words as tokens: 0 pads, 1 begins, 2 masks, then one id per word as it comes."""

    mask_id = 2
    special_ids = frozenset([0, 1, 2])

    def __init__(self):
        self.ids = {}

    def __call__(self, texts):
        rows = [[1, *(self.ids.setdefault(w, len(self.ids) + 3) for w in t.split())] for t in texts]
        longest = max(map(len, rows))
        ids = torch.tensor([r + [0] * (longest - len(r)) for r in rows])
        return {"input_ids": ids, "attention_mask": (ids != 0).long()}

    def count_truncated(self, texts):
        return 0


def rngs(n):
    return [sample_rng(0, 0, i) for i in range(n)]


def steps_of(**steps):
    return AugmentConfig.model_validate(steps).steps


def model_of(**preprocessors):
    kinds = {name: name.split("_")[0] for name in preprocessors}
    return SimpleNamespace(types=kinds, preprocessors=preprocessors)


def context(n):
    return BatchContext(rngs(n), [{} for _ in range(n)])


def test_without_image_steps_training_sees_what_evaluation_sees():
    image = ImagePreprocessor(size=16, resize="crop")
    images = [np.random.default_rng(0).integers(0, 256, (20, 40, 3), np.uint8)]
    for steps in ([], [{"kind": "color_jitter", "brightness": 0, "contrast": 0, "saturation": 0}]):
        options = InputOptions(steps=steps_of(image=steps)["image"])
        about = context(1)
        rows = modality("image").input("image", image, options).batch(images, about)
        assert torch.equal(rows.tensors["pixel_values"], image(images)["pixel_values"])
        assert about.effects == [{"horizontal_flip": False}]


def test_the_caption_of_a_mirrored_image_names_the_other_side():
    words, image = Words(), ImagePreprocessor(size=8)
    photo = np.zeros((8, 8, 3), np.uint8)
    photo[:, :4] = 255  # light on the left
    records = [
        {"id": str(i), "origin": str(i), "image": photo, "text": ["light to the left"]}
        for i in range(40)
    ]
    steps = steps_of(image=["horizontal_flip"])
    collate = collator_of(model_of(image=image, text=words), captions=1, steps=steps)
    batch = collate(records, rngs(40))
    pixels = batch.tensors["image"]["pixel_values"]
    light_on_the_left = pixels[:, 0, 0, 0] > pixels[:, 0, 0, -1]
    says_left = (batch.tensors["text"]["input_ids"] == words.ids["left"]).any(dim=1)
    assert torch.equal(light_on_the_left, says_left)
    assert 8 < says_left.sum() < 32


def test_images_of_one_item_are_mirrored_together():
    image = ImagePreprocessor(size=8)
    photo = np.zeros((8, 8, 3), np.uint8)
    photo[:, :4] = 255  # light on the left
    records = [
        {"id": str(i), "origin": str(i), "image_a": photo, "image_b": photo} for i in range(40)
    ]
    collate = collator_of(
        model_of(image_a=image, image_b=image), steps=steps_of(image_a=["horizontal_flip"])
    )
    batch = collate(records, rngs(40))
    left = {
        name: tensors["pixel_values"][:, 0, 0, 0] > tensors["pixel_values"][:, 0, 0, -1]
        for name, tensors in batch.tensors.items()
    }
    assert torch.equal(left["image_a"], left["image_b"])
    assert 8 < left["image_a"].sum() < 32


def test_text_steps_are_done_in_their_order():
    words = Words()
    texts = ["a b c d e f g h", "a b"]
    tokens = words(texts)
    steps = [{"kind": "token_mask", "rate": 0.5}, {"kind": "token_dropout", "rate": 0.5}]
    options = InputOptions(captions=1, steps=steps_of(text=steps)["text"])
    found = modality("text").input("text", words, options).batch([[t] for t in texts], context(2))
    out = found.tensors
    assert out["input_ids"].shape == out["attention_mask"].shape
    assert (out["attention_mask"].sum(1) < tokens["attention_mask"].sum(1)).any()
    assert (out["input_ids"] == words.mask_id).any()
    assert (out["input_ids"][:, 0] == 1).all()
