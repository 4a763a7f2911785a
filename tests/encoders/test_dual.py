"""Whole dual encoders give what their library gives, from random weights and offline."""

import json

import pytest
import torch
from pydantic import TypeAdapter

from amodal.encoders.dual import OpenClipDualConfig, TransformersDualConfig
from amodal.encoders.specification import DualEncoderConfig

UNION = TypeAdapter(DualEncoderConfig)
TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
TEXT = {**TOWER, "vocab_size": 60, "max_position_embeddings": 16}
ARCHITECTURES = {
    "clip": {
        "model_type": "clip",
        "projection_dim": 12,
        "text_config": {**TEXT, "eos_token_id": 59, "bos_token_id": 1, "pad_token_id": 0},
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
    },
    "siglip": {
        "model_type": "siglip",
        "text_config": TEXT,
        "vision_config": {**TOWER, "image_size": 32, "patch_size": 16},
    },
    "siglip2": {
        "model_type": "siglip2",
        "text_config": TEXT,
        "vision_config": {**TOWER, "num_patches": 4, "patch_size": 16},
    },
}
OPEN_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 64, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 60, "width": 16, "heads": 2, "layers": 2},
}
WORDS = ["a red circle", "two blue squares", "nothing at all"]


def text_tensors():
    ids = torch.tensor([[1, 7, 8, 59] + [0] * 12, [1, 9, 59, 0] + [0] * 12])
    return {"input_ids": ids, "attention_mask": (ids > 0).long()}


@pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES.keys())
def test_features_are_those_of_transformers(architecture):
    torch.manual_seed(0)
    dual = TransformersDualConfig(architecture=architecture).build().eval()
    pixels, text = torch.randn(2, 3, 32, 32), text_tensors()
    image_tokens, _ = dual("image", pixel_values=pixels)
    text_tokens, _ = dual("text", **text)
    assert image_tokens.shape == (2, 1, dual.width("image"))
    assert text_tokens.shape == (2, 1, dual.width("text"))
    if architecture["model_type"] != "siglip2":
        plain = dual.model(
            pixel_values=pixels,
            input_ids=text["input_ids"],
            **(
                {"attention_mask": text["attention_mask"]}
                if dual.model.config.model_type == "clip"
                else {}
            ),
        )
        unit = torch.nn.functional.normalize
        torch.testing.assert_close(unit(image_tokens[:, 0], dim=-1), plain.image_embeds)
        torch.testing.assert_close(unit(text_tokens[:, 0], dim=-1), plain.text_embeds)


def test_patches_of_siglip_2_are_those_of_its_image_processor():
    from transformers import Siglip2ImageProcessor

    from amodal.encoders.dual import _patches

    dual = TransformersDualConfig(architecture=ARCHITECTURES["siglip2"]).build()
    processor = Siglip2ImageProcessor(
        patch_size=16, max_num_patches=4, do_resize=False, do_rescale=False, do_normalize=False
    )
    pixels = torch.rand(1, 3, 32, 32)
    want = processor(images=pixels[0], return_tensors="pt")
    got = _patches(dual.model, pixels)
    torch.testing.assert_close(got["pixel_values"], want["pixel_values"].float())


def test_features_are_those_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    dual = OpenClipDualConfig(architecture=OPEN_CLIP).build().eval()
    assert isinstance(dual.model, open_clip.CLIP)
    pixels, text = torch.randn(2, 3, 32, 32), text_tensors()
    torch.testing.assert_close(
        dual("image", pixel_values=pixels)[0][:, 0], dual.model.encode_image(pixels)
    )
    torch.testing.assert_close(
        dual("text", **text)[0][:, 0], dual.model.encode_text(text["input_ids"])
    )


@pytest.mark.parametrize(
    "config",
    [
        *[TransformersDualConfig(architecture=a) for a in ARCHITECTURES.values()],
        OpenClipDualConfig(architecture=OPEN_CLIP),
    ],
    ids=[*ARCHITECTURES, "open_clip"],
)
def test_a_rebuild_from_its_own_config_is_bit_equal(config):
    if config.kind == "open_clip":
        pytest.importorskip("open_clip")
    dual = config.build().eval()
    saved = UNION.validate_python(json.loads(UNION.dump_json(dual.config)))
    again = saved.build(pretrained=False).eval()
    again.load_state_dict(dual.state_dict())
    for modality, tensors in (
        ("image", {"pixel_values": torch.randn(2, 3, 32, 32)}),
        ("text", text_tensors()),
    ):
        assert torch.equal(dual(modality, **tensors)[0], again(modality, **tensors)[0])


def test_a_tokenizer_is_trained_where_only_an_architecture_is_given():
    inputs = TransformersDualConfig(architecture=ARCHITECTURES["siglip"]).preprocessors(WORDS * 5)
    tokens = inputs["text"](WORDS)
    assert tokens["input_ids"].shape == (3, 16)  # SigLIP pads to full length
    assert int(tokens["input_ids"].max()) < 60
    assert inputs["image"].size == 32


def test_the_temperature_belongs_to_the_loss():
    dual = TransformersDualConfig(architecture=ARCHITECTURES["clip"]).build()
    assert dual.initial_log_scale == pytest.approx(2.6592)
    assert not dual.model.logit_scale.requires_grad


def test_a_name_that_cannot_be_loaded_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="local folder"):
        TransformersDualConfig(name=str(tmp_path)).build()


def test_a_folder_written_by_transformers_is_loaded(tmp_path):
    torch.manual_seed(0)
    first = TransformersDualConfig(architecture=ARCHITECTURES["clip"]).build().eval()
    first.model.save_pretrained(tmp_path)
    second = TransformersDualConfig(name=str(tmp_path)).build().eval()
    x = torch.randn(1, 3, 32, 32)
    assert torch.equal(first("image", pixel_values=x)[0], second("image", pixel_values=x)[0])
