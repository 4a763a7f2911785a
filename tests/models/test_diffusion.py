"""The diffusers adapter: seeds, batches, options, and the refusal of pickles."""

import json
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from amodal.cli.commands import app
from amodal.models.diffusion import DiffusionGenerator
from amodal.models.run_location import is_pipeline

diffusers = pytest.importorskip("diffusers", reason="the extra `diffusion` is not installed")
WORDS = ["a</w>", "red</w>", "star</w>", "blue</w>", "<|startoftext|>", "<|endoftext|>"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny Stable Diffusion pipeline with random weights."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    path = tmp_path_factory.mktemp("pipeline")
    letters = sorted({c for word in WORDS for c in word.removesuffix("</w>")})
    vocabulary = [*WORDS, *letters, *(f"{c}</w>" for c in letters)]
    names = {"vocab.json": json.dumps({w: i for i, w in enumerate(dict.fromkeys(vocabulary))})}
    names["merges.txt"] = "#version: 0.2\n"
    for name, text in names.items():
        (path / name).write_text(text)
    tokenizer = CLIPTokenizer(str(path / "vocab.json"), str(path / "merges.txt"))
    tokenizer.model_max_length = 16
    torch.manual_seed(0)
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
            num_attention_heads=2, max_position_embeddings=16,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), norm_num_groups=4,
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), attention_head_dim=4,
    )  # fmt: skip
    vae = diffusers.AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, latent_channels=4)
    pipeline = diffusers.StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet,
        scheduler=diffusers.DDIMScheduler(num_train_timesteps=100),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(path / "whole")
    return path / "whole"


@pytest.fixture(scope="module")
def image_generator(folder):
    return DiffusionGenerator.from_pretrained(folder, device="cpu")


def test_a_seed_gives_the_same_image_whatever_the_other_texts(image_generator):
    (alone,) = image_generator.generate_images(["a red star"], seed=1, steps=2, size=16)
    assert alone.dtype == np.uint8
    assert alone.shape[2] == 3
    others = ["a blue star", "a red star", "a red star"]
    among = image_generator.generate_images(others, seed=1, steps=2, size=16, batch_size=2)
    # Another batch size rounds differently, by at most a grey level.
    assert np.abs(alone.astype(int) - among[1]).max() <= 1
    assert np.abs(alone.astype(int) - among[2]).max() > 1
    (other,) = image_generator.generate_images(["a red star"], seed=2, steps=2, size=16)
    assert np.abs(alone.astype(int) - other).max() > 1


def test_guidance_and_the_negative_prompt_change_the_image(image_generator):
    plain, guided, without = (
        image_generator.generate_images(["a red star"], seed=1, steps=2, size=16, **options)[0]
        for options in (
            {"guidance": 1.0},
            {"guidance": 30.0},
            {"guidance": 30.0, "negative": "blue"},
        )
    )
    assert not np.array_equal(plain, guided)
    assert not np.array_equal(guided, without)


def test_pickled_weights_are_refused_by_name(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    for weights in (copy / "unet").glob("*.safetensors"):
        weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"unet: .*\.bin is a pickle"):
        DiffusionGenerator.from_pretrained(copy)


def test_a_folder_that_is_no_pipeline_is_refused(folder, tmp_path):
    assert is_pipeline(folder)
    assert not is_pipeline(tmp_path)
    with pytest.raises(ValueError, match=r"model_index\.json is missing"):
        DiffusionGenerator.from_pretrained(tmp_path)
    (tmp_path / "model_index.json").write_text("[]")
    with pytest.raises(ValueError, match="mapping of parts"):
        DiffusionGenerator.from_pretrained(tmp_path)

    class WithoutPrompt:
        def __call__(self, image):
            raise AssertionError

    with pytest.raises(ValueError, match="takes no prompt"):
        DiffusionGenerator(WithoutPrompt())


def test_unsupported_arguments_are_named():
    class Plain:
        def __call__(self, prompt, generator, output_type):
            raise AssertionError

    with pytest.raises(ValueError, match="Plain does not take num_inference_steps"):
        DiffusionGenerator(Plain()).generate_images(["a star"], steps=3)
    with pytest.raises(ValueError, match="list of texts"):
        DiffusionGenerator(Plain()).generate_images("a star")


def test_a_missing_extra_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ImportError, match=r"amodal\[diffusion\]"):
        DiffusionGenerator.from_pretrained(folder)


def test_the_command_generates_with_a_pipeline(folder, tmp_path, monkeypatch):
    opened = DiffusionGenerator.from_pretrained

    def with_two_steps(name, **options):
        image_generator = opened(name, **options)
        draw = image_generator.generate_images
        image_generator.generate_images = lambda texts, **given: draw(texts, steps=2, **given)
        return image_generator

    monkeypatch.setattr(DiffusionGenerator, "from_pretrained", with_two_steps)
    out = tmp_path / "drawn.png"
    result = CliRunner().invoke(app, ["draw", str(folder), "a red star", "--out", str(out)])
    assert result.exit_code == 0, result.output
    with Image.open(out) as image:
        assert min(image.size) >= 128
    result = CliRunner().invoke(app, ["draw", str(folder), "a star", "--top-k", "3"])
    assert result.exit_code == 2
