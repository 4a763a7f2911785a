"""Abilities come from the folder; a folder that is not served names the command to use."""

import shutil

import numpy as np
import pytest
import yaml
from pydantic import TypeAdapter
from small_models import captioner, embedder, image_generator, photo

from amodal.data.record import DataError
from amodal.models.fusion_model import FusionArchitecture, build_fusion_model
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)
from amodal.search.description import StoreError
from amodal.search.store import VectorStore
from amodal.serving.served import open_served


def test_an_index_is_searched(index):
    served = open_served(index)
    assert (served.name, served.kind, served.capabilities) == (
        "things",
        "search index",
        ("search",),
    )
    assert served.parameters == sum(p.numel() for p in embedder().parameters())


def test_a_joint_embedding_compares(embedding_run):
    served = open_served(embedding_run)
    assert served.capabilities == ("zero-shot",)
    want = embedder().encode(image=[photo()])
    np.testing.assert_allclose(served.embedding_model.encode(image=[photo()]), want, atol=1e-6)


def test_a_transformer_does_what_its_recipe_trained(generation_run):
    served = open_served(generation_run)
    assert served.capabilities == ("ask", "caption", "chat")
    assert served.metrics == {"vqa/exact_match": 0.5}


@pytest.mark.parametrize(
    ("tasks", "capabilities"),
    [
        (["caption"], ("caption",)),
        (["dialogue", "vqa"], ("ask", "chat")),
        (["single_turn", "vqa"], ("ask",)),
        (None, ("ask", "caption", "chat")),
    ],
)
def test_tasks_become_capabilities(tasks, capabilities, tmp_path):
    captioner().save_pretrained(tmp_path)
    if tasks is not None:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"model": {"tasks": tasks}}))
    assert open_served(tmp_path).capabilities == capabilities


def test_a_text_to_image_run_generates_images_only(text_to_image_run):
    served = open_served(text_to_image_run)
    assert served.capabilities == ("draw",)
    (drawn,) = served.image_generator.generate_images(["a red star"], seed=1)
    np.testing.assert_array_equal(
        drawn, image_generator().generate_images(["a red star"], seed=1)[0]
    )


def test_an_image_generator_stands_beside_an_index_and_beside_a_text_generator(
    index, generation_run, text_to_image_run
):
    assert open_served(index, image_generator=text_to_image_run).capabilities == ("search", "draw")
    both = open_served(generation_run, image_generator=text_to_image_run)
    assert both.capabilities == ("ask", "caption", "chat", "draw")
    assert both.parameters == sum(
        p.numel() for model in (captioner(), image_generator()) for p in model.parameters()
    )
    with pytest.raises(DataError, match="--generator needs"):
        open_served(index, image_generator=generation_run)


def test_a_reranker_stands_beside_an_image_generator(
    text_to_image_run, embedding_run, generation_run, tmp_path
):
    served = open_served(text_to_image_run, reranker=embedding_run)
    assert served.reranker is not None
    assert served.example_prompts == ()  # it has no recipe
    for folder, reranker in ((text_to_image_run, generation_run), (generation_run, embedding_run)):
        with pytest.raises(DataError, match="--reranker is a run of a joint embedding"):
            open_served(folder, reranker=reranker)
    shutil.copytree(text_to_image_run, tmp_path / "run")
    scenes = "kind: scenes, textures: [solid], sizes: [large], max_objects: 1"
    (tmp_path / "run" / "recipe.yaml").write_text(
        f"data: {{train: {{{scenes}}}}}\nmodel: {{tasks: [text_to_image]}}\n"
    )
    texts = open_served(tmp_path / "run").example_prompts
    assert len(texts) == 3
    assert not any(word in text for text in texts for word in ("dotted", "striped", "small"))


def test_an_index_of_other_weights_or_without_its_run_is_refused(index, generation_run, tmp_path):
    with pytest.raises(DataError, match="this needs a joint embedding"):
        open_served(index, run=generation_run)
    VectorStore.create(tmp_path / "orphan", 8, fingerprint="x")
    with pytest.raises(StoreError, match="--run"):
        open_served(tmp_path / "orphan")
    model = embedder()
    next(model.parameters()).data.add_(1)
    model.save_pretrained(tmp_path / "other")
    with pytest.raises(StoreError, match="other weights"):
        open_served(index, run=tmp_path / "other")


def test_what_is_no_run_says_how_to_make_one(tmp_path):
    with pytest.raises(ValueError, match="amodal train"):
        open_served(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("model: [", "model.tasks"), ("model: {}", "model.tasks")]
)
def test_a_damaged_recipe_is_named(text, message, tmp_path):
    captioner().save_pretrained(tmp_path)
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(DataError, match=message):
        open_served(tmp_path)


def test_damaged_metrics_are_named(tmp_path):
    captioner().save_pretrained(tmp_path)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(DataError, match=r"metrics\.json"):
        open_served(tmp_path)


def test_a_fusion_is_not_served_and_says_what_is_there_instead(tmp_path):
    parts = {
        "encoders": {
            "image": {"type": "image", "kind": "small_cnn", "size": 16, "widths": [8, 16]},
            "vector": {"type": "vector", "kind": "vector", "column": "z", "width": 8},
        },
        "fusion": {"kind": "concat", "dim": 8, "hidden": 8},
    }
    rows = [
        {"id": str(i), "origin": "", "image": photo(i), "z": [i, 1.0], "label": "ab"[i % 2]}
        for i in range(4)
    ]
    architecture = TypeAdapter(FusionArchitecture).validate_python(parts)
    build_fusion_model(architecture, lambda: iter(rows)).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="amodal predict"):
        open_served(tmp_path)


def test_an_image_tokenizer_is_not_served(tmp_path):
    sizes = {
        "size": 16,
        "widths": (8, 16),
        "codebook_size": 12,
        "codebook_dim": 4,
        "num_res_blocks": 1,
    }
    config = ImageTokenizerConfig(TokenizerArchitecture(**sizes).model_dump())
    ImageTokenizer(config).save_pretrained(tmp_path)
    with pytest.raises(DataError, match="text_to_image"):
        open_served(tmp_path)
