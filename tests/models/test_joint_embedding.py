"""The joint embedding: unit-norm rows, missing rows, reopened folders, images of any kind."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from amodal.data.record import BrokenRecordError, sample_rng
from amodal.encoders.dual.transformers import TransformersDualConfig
from amodal.encoders.image.small_cnn import SmallCNNConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, JointEmbedding, build_joint_embedding
from amodal.projection import IdentityConfig, MLPConfig

TEXTS = ["a red circle", "a blue square", "two stars", "一个红色的圆"]
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}


def small(**text):
    torch.manual_seed(0)
    return build_joint_embedding(
        Architecture(
            encoders={
                "image": SmallCNNConfig(widths=(8, 16), size=32),
                "text": SmallTransformerConfig(width=16, layers=1, heads=2, max_length=12, **text),
            },
            projection=MLPConfig(dim=8),
        ),
        lambda: iter([{"text": TEXTS}]),
    ).eval()


def dual():
    torch.manual_seed(0)
    architecture = {
        "model_type": "clip",
        "projection_dim": 8,
        "text_config": {**TOWER, "vocab_size": 60, "max_position_embeddings": 16},
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
    }
    return build_joint_embedding(
        Architecture(
            dual_encoder=TransformersDualConfig(architecture=architecture),
            projection=IdentityConfig(),
        ),
        lambda: iter([{"text": TEXTS}]),
    ).eval()


def image(seed=0, shape=(40, 48)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), np.uint8)


@pytest.mark.parametrize("make", [small, dual])
def test_a_saved_model_opens_bit_equal(make, tmp_path):
    model = make()
    model.save_pretrained(tmp_path)
    again = JointEmbedding.from_pretrained(tmp_path)
    assert again.inputs == model.inputs
    assert again.dim == model.dim == 8
    for values in ({"text": TEXTS}, {"image": [image()]}):
        assert np.array_equal(model.encode(**values), again.encode(**values))
    assert again.fingerprint() == model.fingerprint()
    names = {path.name for path in tmp_path.iterdir()}
    assert {"config.json", "model.safetensors", "image", "text"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pkl", ".partial"))]


def test_encoding_does_not_depend_on_the_batch_size():
    model = small()
    images = [image(i) for i in range(5)]
    one, all_ = model.encode(image=images, batch_size=1), model.encode(image=images)
    np.testing.assert_allclose(one, all_, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(all_, axis=1), 1, rtol=1e-5)


def test_a_image_may_be_a_path_bytes_an_array_or_a_pil_image(tmp_path):
    model, array = small(), image(shape=(32, 32))
    path = tmp_path / "a.png"
    Image.fromarray(array).save(path)
    rows = model.encode(
        image=[path, str(path), path.read_bytes(), array, Image.fromarray(array)], output="torch"
    )
    assert rows.shape == (5, 8)
    torch.testing.assert_close(rows, rows[:1].expand(5, -1), atol=1e-5, rtol=0)


def test_nothing_to_encode_gives_no_rows():
    assert small().encode(text=[]).shape == (0, 8)


def test_a_broken_image_is_named(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_text("no image")
    with pytest.raises(BrokenRecordError, match=r"a\.jpg"):
        small().encode(image=[path])


@pytest.mark.parametrize("values", [{}, {"audio": ["a.wav"]}, {"text": ["a"], "image": []}])
def test_encode_takes_exactly_one_known_modality(values):
    with pytest.raises(ValueError, match="exactly one of image=, text="):
        small().encode(**values)


def test_one_text_in_the_place_of_a_list_is_refused():
    with pytest.raises(ValueError, match="takes a list"):
        small().encode(text="a red circle")


def test_missing_rows_are_not_computed_and_deleting_them_is_bit_equal():
    model = small()
    records = [
        {"id": "a", "origin": "a", "image": image(1), "text": [TEXTS[0]]},
        {"id": "b", "origin": "b", "image": None, "text": [TEXTS[1]]},
        {"id": "c", "origin": "c", "image": image(2), "text": []},
    ]
    collate = collator_of(model)
    rngs = [sample_rng(0, 0, i) for i in range(3)]
    out = model(collate(records, rngs))
    assert len(out["image"].z) == len(out["text"].z) == 2
    images = model(collate([records[0], records[2]], rngs[:2]))["image"]
    assert torch.equal(out["image"].z, images.z)
    assert torch.equal(out["image"].item, images.item)


def test_a_batch_without_any_image_has_no_image_rows():
    model = small()
    records = [{"id": "a", "origin": "a", "image": None, "text": [TEXTS[0]]}]
    out = model(collator_of(model)(records, [sample_rng(0, 0, 0)]))
    assert out["image"].z.shape == (0, 8)


def test_a_folder_that_is_no_run_says_what_is_missing(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json is missing"):
        JointEmbedding.from_pretrained(tmp_path)


def test_weights_of_another_architecture_are_refused(tmp_path):
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    dict(config["architecture"]["encoders"])["text"]["layers"] = 2
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="do not fit"):
        JointEmbedding.from_pretrained(tmp_path)


def test_grouping_texts_by_length_changes_no_embedding():
    model = small().double()
    texts = [" ".join(["red"] * (1 + i % 7)) + f" {i}" for i in range(150)]
    tensors = model.preprocess("text", texts)
    torch.testing.assert_close(
        model.embed("text", tensors), model._embed("text", tensors), rtol=1e-10, atol=1e-12
    )
