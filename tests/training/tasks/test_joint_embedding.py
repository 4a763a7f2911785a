"""A pretrained dual encoder is set beside its own zero-shot retrieval."""

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

from amodal.encoders.text.tokenizer import train_tokenizer
from amodal.evaluators.retrieval import evaluate_retrieval
from amodal.models.joint_embedding import Architecture, build_joint_embedding
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run

TOWER = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 8,
}
NAME = "retrieval/text_to_image/recall@5"


@pytest.fixture
def checkpoint(tmp_path):
    """A small CLIP as the hub has it."""
    torch.manual_seed(0)
    folder = tmp_path / "clip"
    texts = ["a red circle above a blue square on a white background"]
    tokenizer = train_tokenizer(texts, 60)
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 32}
    config = CLIPConfig(
        projection_dim=8,
        text_config={**TOWER, **text, "eos_token_id": tokenizer.sep_token_id},
        vision_config={**TOWER, "image_size": 32, "patch_size": 16},
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def train(folder, **dual):
    scenes = {"kind": "scenes", "size": 16, "image_size": 32}
    values = {
        "data": {"train": scenes, "validation": {**scenes, "split": "validation"}},
        "model": {
            "dual_encoder": {"kind": "transformers", **dual},
            "projection": {"kind": "identity"},
        },
        "train": {"epochs": 2, "batch_size": 8, "precision": "fp32", "learning_rate": 1e-2},
    }
    return train_run(parse_recipe(values, "test"), folder)


def test_the_start_is_the_pretrained_model_and_not_random_weights(checkpoint, tmp_path):
    result = train(tmp_path / "run", name=checkpoint)
    dual = {"kind": "transformers", "name": checkpoint}
    fresh = build_joint_embedding(Architecture(dual_encoder=dual, projection={"kind": "identity"}))
    want = evaluate_retrieval(fresh, result.validation_source, bootstrap=0).metrics
    found = {name: value for name, value in result.metrics.items() if name.startswith("start/")}
    assert found == {f"start/{name}": value for name, value in want.items()}
    assert result.metrics[NAME] != result.metrics[f"start/{NAME}"]


def test_random_weights_have_no_start(tmp_path):
    architecture = {
        "model_type": "clip",
        "projection_dim": 8,
        "text_config": {**TOWER, "vocab_size": 90},
    }
    architecture["vision_config"] = {**TOWER, "image_size": 32, "patch_size": 16}
    result = train(tmp_path / "run", architecture=architecture)
    assert not [name for name in result.metrics if name.startswith("start/")]
