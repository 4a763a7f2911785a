"""Precomputed features: single vectors, sequences, files, and what is refused."""

import numpy as np
import pytest
import torch

from amodal.encoders.pooling import build_pooling
from amodal.encoders.vector import VectorConfig, VectorPreprocessor

CONFIG = VectorConfig(column="z", width=8)


def records(n=20, d=3, seed=0):
    rng = np.random.default_rng(seed)
    return [{"z": list(map(float, rng.normal(5, 2, d)))} for _ in range(n)]


def test_features_are_standardised_by_training_rows():
    rows = records()
    prepare = CONFIG.preprocessor("z", rows)
    x = prepare([prepare.read(r) for r in rows])["features"][:, 0]
    torch.testing.assert_close(x.mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(3), atol=1e-4, rtol=0)
    plain = VectorConfig(column="z", standardize=False).preprocessor("z", rows)
    assert plain([plain.read(rows[0])])["features"][0, 0].tolist() == pytest.approx(
        rows[0]["z"], rel=1e-6
    )


def test_sequences_are_padded_and_the_padding_is_masked():
    prepare = CONFIG.preprocessor("z", records())
    encoder = CONFIG.for_preprocessor(prepare).build()
    short, long = np.ones((1, 3), np.float32), np.ones((4, 3), np.float32) * 2
    tensors = prepare([short, long])
    assert tensors["features"].shape == (2, 4, 3)
    assert tensors["keep"].sum(1).tolist() == [1, 4]
    tokens, keep = encoder(**tensors)
    pool = build_pooling(encoder.pooling, encoder.width)
    alone, alone_keep = encoder(**prepare([short]))
    torch.testing.assert_close(pool(tokens, keep)[0], pool(alone, alone_keep)[0])


def test_files_are_read_without_pickle(tmp_path):
    prepare = CONFIG.preprocessor("z", records())
    np.save(tmp_path / "a.npy", np.arange(3.0))
    assert prepare.read({"z": str(tmp_path / "a.npy")}).tolist() == [[0, 1, 2]]
    np.save(tmp_path / "bad.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"no \.npy file"):
        prepare.read({"z": str(tmp_path / "bad.npy")})
    with pytest.raises(ValueError, match=r"no \.npy file"):
        prepare.read({"z": str(tmp_path / "none.npy")})
    (tmp_path / "empty.npy").write_bytes(b"")
    (tmp_path / "zip.npy").write_bytes(b"PK\x03\x04 and no more")
    for name in ("empty.npy", "zip.npy"):
        with pytest.raises(ValueError, match=r"no \.npy file"):
            prepare.read({"z": str(tmp_path / name)})


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1.0, 2.0], "expected 3 numbers"),
        ([1.0, 2.0, float("nan")], "not finite"),
        (["a", "b", "c"], "expected a list of numbers"),
        ([], "expected 3 numbers"),
        (7.0, "expected 3 numbers"),
    ],
)
def test_what_is_no_vector_is_named(value, message):
    prepare = CONFIG.preprocessor("z", records())
    with pytest.raises(ValueError, match=f"column 'z'.*{message}"):
        prepare.read({"z": value})


def test_nothing_is_nothing():
    prepare = CONFIG.preprocessor("z", records())
    assert prepare.read({}) is None
    assert prepare.read({"z": None}) is None
    assert prepare([])["features"].shape[0] == 0
    with pytest.raises(ValueError, match="no record has a vector in column 'y'"):
        VectorConfig(column="y").preprocessor("z", records())


def test_a_reopened_preprocessor_gives_the_same_tensors(tmp_path):
    prepare = CONFIG.preprocessor("z", records())
    prepare.save(tmp_path)
    again = VectorPreprocessor.load(tmp_path)
    rows = [prepare.read(r) for r in records(5, seed=1)]
    assert torch.equal(again(rows)["features"], prepare(rows)["features"])
