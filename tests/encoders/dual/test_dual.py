"""Whole dual encoders give what their library gives, from random weights and offline."""

import json

import pytest
import torch
from pydantic import TypeAdapter

from amodal.encoders.dual.open_clip import OpenClipDualConfig
from amodal.encoders.dual.transformers import TransformersDualConfig
from amodal.modalities.specification import DualEncoderConfig

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

    from amodal.encoders.dual.transformers import _patches

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
    kept = second.state_dict()
    assert all(tensor.equal(kept[name]) for name, tensor in first.state_dict().items())
    # Where weights lie in memory decides in which order some processors add: outputs are close.
    x = torch.randn(1, 3, 32, 32)
    torch.testing.assert_close(
        first("image", pixel_values=x)[0], second("image", pixel_values=x)[0], atol=1e-6, rtol=1e-6
    )


SENTENCES = ["a red circle above a blue square", "two small green stars", "一个红色的圆形"]


def corpus_architecture(kind):
    """Room for a vocabulary and texts of some length."""
    if kind == "open_clip":
        text = {**OPEN_CLIP["text_cfg"], "vocab_size": 300, "context_length": 32}
        return OpenClipDualConfig(architecture={**OPEN_CLIP, "text_cfg": text})
    text = {**TOWER, "vocab_size": 300, "max_position_embeddings": 32}
    return TransformersDualConfig(architecture={**ARCHITECTURES[kind], "text_config": text})


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "open_clip"])
def test_with_a_tokenizer_of_its_own_every_text_is_read_to_its_end(kind):
    if kind == "open_clip":
        pytest.importorskip("open_clip")
    torch.manual_seed(0)
    config = corpus_architecture(kind)
    dual, prepare = config.build().eval(), config.preprocessors(SENTENCES * 5)["text"]
    texts = ["a red circle", "a red square", "a red", "circle a red"]
    z = dual("text", **prepare(texts))[0][:, 0]
    distances = torch.cdist(z, z) + torch.eye(len(texts))
    assert distances.min() > 1e-4
    # What stands beside a text in the batch does not matter.
    alone = dual("text", **prepare(texts[:1]))[0][:, 0]
    torch.testing.assert_close(alone, z[:1], rtol=1e-5, atol=1e-6)


def test_clip_pools_at_the_end_token():
    config = corpus_architecture("clip")
    dual, prepare = config.build().eval(), config.preprocessors(SENTENCES * 5)["text"]
    tensors = prepare(["a red circle", "two small green stars"])
    hidden = dual.model.text_model(**tensors).last_hidden_state
    last = tensors["attention_mask"].sum(1) - 1
    want = dual.model.text_projection(hidden[torch.arange(2), last])
    torch.testing.assert_close(dual("text", **tensors)[0][:, 0], want)


def test_the_vocabulary_of_clip_is_that_of_open_clip():
    open_clip = pytest.importorskip("open_clip")
    from amodal.encoders.dual.open_clip import clip_tokenizer
    from amodal.encoders.text.preprocessing import TextPreprocessor

    texts = [
        "A photo of a cat, it's 3.5 m!",
        "  Red   CIRCLE",
        "一个红色的圆形",
        "é 🐔",
        "dog " * 90,
    ]
    tensors = TextPreprocessor(clip_tokenizer(), 77, padding="max_length")(texts)
    want = open_clip.get_tokenizer("ViT-B-32")(texts)
    assert torch.equal(tensors["input_ids"] * tensors["attention_mask"], want)


def test_an_open_clip_folder_is_loaded_with_its_images_and_texts(tmp_path):
    open_clip = pytest.importorskip("open_clip")
    import safetensors.torch
    from PIL import Image

    torch.manual_seed(0)
    text = {**OPEN_CLIP["text_cfg"], "vocab_size": 49408, "context_length": 77}
    seen = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.3], "interpolation": "bicubic"}
    values = {"model_cfg": {**OPEN_CLIP, "text_cfg": text}, "preprocess_cfg": seen}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(values))
    source = f"local-dir:{tmp_path}"
    plain, _, photo = open_clip.create_model_and_transforms(source, load_weights=False)
    safetensors.torch.save_file(plain.state_dict(), tmp_path / "open_clip_model.safetensors")
    plain.eval()

    config = OpenClipDualConfig(name=source)
    dual, prepare = config.build().eval(), config.preprocessors(None)
    image = Image.effect_mandelbrot((64, 48), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    import numpy as np

    pixels = prepare["image"]([np.array(image)])["pixel_values"]
    # Pillow and torch may round the same bicubic filter differently: by one step of 255, over
    # the smallest deviation.
    assert (pixels[0] - photo(image)).abs().max() < 1.01 / 255 / 0.2
    texts = ["a red circle", "two stars"]
    z = dual("text", **prepare["text"](texts))[0][:, 0]
    torch.testing.assert_close(z, plain.encode_text(open_clip.get_tokenizer(source)(texts)))
    torch.testing.assert_close(
        dual("image", pixel_values=pixels)[0][:, 0], plain.encode_image(pixels)
    )
    saved = UNION.validate_python(json.loads(UNION.dump_json(dual.config)))
    again = saved.build(pretrained=False).eval()
    again.load_state_dict(dual.state_dict())
    assert torch.equal(again("text", **prepare["text"](texts))[0][:, 0], z)


def test_an_open_clip_model_without_weights_is_refused():
    with pytest.raises(ValueError, match=r"give `weights`.*architecture: ViT-B-32"):
        OpenClipDualConfig(name="ViT-B-32")


def test_a_sentence_transformers_folder_gives_its_embeddings(tmp_path):
    library = pytest.importorskip("sentence_transformers")
    import numpy as np
    from PIL import Image
    from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor

    from amodal.encoders.dual.open_clip import clip_tokenizer
    from amodal.encoders.dual.sentence_transformers import SentenceTransformersDualConfig
    from amodal.encoders.huggingface import architecture_of

    pytest.importorskip("open_clip")  # its vocabulary makes a CLIP tokenizer without network
    torch.manual_seed(0)
    text = {**TOWER, "vocab_size": 49408, "max_position_embeddings": 77}
    clip = CLIPModel(architecture_of(None, {**ARCHITECTURES["clip"], "text_config": text}))
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    clip.save_pretrained(tmp_path / "clip")
    CLIPProcessor(images, clip_tokenizer()).save_pretrained(tmp_path / "clip")
    plain = library.SentenceTransformer(str(tmp_path / "clip"), device="cpu")
    plain.save(str(tmp_path / "st"))

    config = SentenceTransformersDualConfig(name=str(tmp_path / "st"))
    dual, prepare = config.build().eval(), config.preprocessors(None)
    texts = ["a red circle", "two stars and a square"]
    z = dual("text", **prepare["text"](texts))[0][:, 0]
    torch.testing.assert_close(z, torch.tensor(plain.encode(texts)), rtol=1e-4, atol=1e-5)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    z = dual("image", **prepare["image"]([np.array(image)]))[0][:, 0]
    torch.testing.assert_close(z, torch.tensor(plain.encode([image])), rtol=1e-3, atol=1e-4)


def test_half_precision_checkpoints_are_trained_in_full(tmp_path):
    first = TransformersDualConfig(architecture=ARCHITECTURES["clip"]).build()
    first.model.to(torch.bfloat16).save_pretrained(tmp_path)
    second = TransformersDualConfig(name=str(tmp_path)).build()
    assert {p.dtype for p in second.parameters()} == {torch.float32}
    assert {p.dtype for p in second.config.build(False).parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2", "open_clip"])
@pytest.mark.parametrize("options", [{}, {"freeze": 1}, {"lora": {"rank": 2}}], ids=str)
def test_all_that_learns_gets_a_gradient_and_a_rebuild_is_bit_equal(kind, options):
    if kind == "open_clip":
        pytest.importorskip("open_clip")
    torch.manual_seed(0)
    plain = corpus_architecture(kind)
    config = type(plain)(**{**plain.model_dump(), **options})
    dual = config.build().train()
    tensors = {
        "image": {"pixel_values": torch.randn(2, 3, 32, 32)},
        "text": config.preprocessors(SENTENCES * 5)["text"](SENTENCES[:2]),
    }
    sum(dual(m, **t)[0].square().sum() for m, t in tensors.items()).backward()
    learning = {n for n, p in dual.named_parameters() if p.requires_grad}
    assert learning
    assert {n for n, p in dual.named_parameters() if p.grad is not None} == learning
    if "lora" in options:
        assert all("lora_" in n for n in learning)
    if "freeze" in options:
        frozen = {n for n, p in dual.named_parameters() if not p.requires_grad}
        assert any(".layers.0." in n or ".resblocks.0." in n for n in frozen)
        assert not any(".layers.1." in n or ".resblocks.1." in n for n in frozen)
        assert any("position" in n for n in frozen)
    saved = UNION.validate_python(json.loads(UNION.dump_json(dual.config)))
    again = saved.build(pretrained=False).eval()
    again.load_state_dict(dual.state_dict())
    dual.eval()
    for modality, named in tensors.items():
        assert torch.equal(dual(modality, **named)[0], again(modality, **named)[0])
