"""Runs of untrained models and an index to serve."""

import pytest
import yaml
from small_models import Records, captioner, embedder, image_generator

from amodal.search.embed import embed_source
from amodal.search.store import VectorStore
from amodal.serving.served import ServedModels


@pytest.fixture(scope="session")
def generation_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generation") / "captioner"
    captioner().save_pretrained(folder)
    recipe = {"model": {"kind": "multimodal_transformer", "tasks": ["vqa", "caption", "dialogue"]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "metrics.json").write_text('{"vqa/exact_match": 0.5, "vqa/nothing": NaN}')
    return folder


@pytest.fixture(scope="session")
def text_to_image_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text_to_image") / "generator"
    image_generator().save_pretrained(folder)
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"model": {"tasks": ["text_to_image"]}}))
    return folder


@pytest.fixture(scope="session")
def embedding_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("embedding") / "embedder"
    embedder().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def index(embedding_run, tmp_path_factory):
    model = embedder()
    folder = tmp_path_factory.mktemp("index") / "things"
    store = VectorStore.create(
        folder, model.dim, fingerprint=model.fingerprint(), model_path=embedding_run
    )
    store.add(embed_source(model, Records(), thumbnails=True))
    return folder


@pytest.fixture(scope="session")
def everything(index):
    """All capabilities at once."""
    model = captioner()
    return ServedModels(
        name="everything",
        kind="several models",
        embedding_model=embedder(),
        store=VectorStore.open(index),
        text_generator=model,
        text_tasks=("ask", "caption", "chat"),
        image_generator=image_generator(),
        parameters=sum(p.numel() for p in model.parameters()),
    )
