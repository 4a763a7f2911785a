"""Recipes and runs of real photos that take seconds."""

import pytest
import torch
from photo_tables import PHOTOS, TRAIN, VALIDATION, Photos, changed

from amodal.data.decode import decode_image
from amodal.encoders.packaged import PackagedImageConfig, PackagedTextConfig
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run


@pytest.fixture
def photos(tmp_path):
    if not PHOTOS.is_dir():
        pytest.skip(f"no photos in {PHOTOS}; set AMODAL_DATA")
    return Photos(tmp_path)


@pytest.fixture(scope="session")
def features(tmp_path_factory):
    """Features of 450 photos and their first captions, of frozen packaged encoders."""
    if not PHOTOS.is_dir():
        pytest.skip(f"no photos in {PHOTOS}; set AMODAL_DATA")
    image, text = PackagedImageConfig(name="efficientnet-lite0", size=112), PackagedTextConfig()
    try:
        of_image, of_text = image.build().eval(), text.build().eval()
    except ValueError as error:
        pytest.skip(str(error))
    read_image, read_text = image.preprocessor(), text.preprocessor()
    found = {"photo": [], "words": []}
    rows = Photos(tmp_path_factory.mktemp("photos")).rows[:450]
    with torch.inference_mode():
        for start in range(0, len(rows), 50):
            part = rows[start : start + 50]
            pixels = read_image([decode_image(row["image"], row["id"]) for row in part])
            found["photo"] += of_image(**pixels)[0].mean(1).double().numpy().round(4).tolist()
            tokens, keep = of_text(**read_text([row["caption"][0] for row in part]))
            mean = (tokens * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
            found["words"] += mean.double().numpy().round(4).tolist()
    return found


@pytest.fixture
def vectors(photos, features):
    photos.features = features
    return photos


@pytest.fixture
def recipe(photos):
    """Makes the values of a recipe of tiny encoders on 256 photos."""

    def make(**changes):
        values = {
            "data": {
                "train": photos.table("train", photos.rows[TRAIN]),
                "validation": photos.table("validation", photos.rows[VALIDATION]),
            },
            "model": {
                "encoders": {
                    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16, 32]},
                    "text": {"kind": "small_transformer", "width": 32, "layers": 1, "heads": 2},
                },
                "projection": {"kind": "linear", "dim": 32},
            },
            "objectives": [{"kind": "info_nce"}],
            "train": {
                "epochs": 8,
                "batch_size": 32,
                "learning_rate": 1e-3,
                "precision": "fp32",
                "evaluate_every": 2,
                "save_every": 100,
                "log_every": 4,
            },
        }
        return changed(values, changes)

    return make


@pytest.fixture
def vector_recipe(recipe, vectors):
    """Makes the values of a recipe of the features of photos and captions."""

    def make(**changes):
        vector = {"type": "vector", "kind": "vector", "width": 128}
        values = recipe(
            data__train=vectors.vectors("train", range(300)),
            data__validation=vectors.vectors("validation", range(300, 450)),
            model__encoders={"photo": vector, "words": vector},
            model__projection={"kind": "mlp", "dim": 64, "hidden": 256},
        )
        return changed(values, changes)

    return make


@pytest.fixture
def run(tmp_path):
    """Trains a recipe; returns the run folder."""

    def train(values, name="run"):
        train_run(parse_recipe(values, "test"), tmp_path / name)
        return tmp_path / name

    return train
