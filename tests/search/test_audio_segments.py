"""Long recordings are embedded in parts, and a search says which moment matched."""

import tracemalloc
from itertools import pairwise

import numpy as np
import pytest
import soundfile
import torch
from pydantic import ValidationError

from amodal.data.decode_audio import audio_segments, decode_audio
from amodal.data.record import BrokenRecordError
from amodal.data.segment import Segment
from amodal.data.sources.specification import parse_source
from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, JointEmbedding, build_joint_embedding
from amodal.search.embed import embed_source
from amodal.search.indexing import add_to_index
from amodal.search.store import VectorStore

RATE = 8000
SMALL = {"sample_rate": RATE, "n_mels": 16, "widths": (8, 16), "width": 16, "max_seconds": 5}


def model_of(**options):
    torch.manual_seed(0)
    architecture = Architecture(
        encoders={"audio": SmallAudioCNNConfig(**SMALL | options)},
        projection={"kind": "linear", "dim": 8},
    )
    return build_joint_embedding(architecture).eval()


def noises(seconds, seed=0):
    return np.random.default_rng(seed).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def table(folder, *files):
    lines = "\n".join(str(file) for file in files)
    (folder / "audio.csv").write_text(f"audio\n{lines}\n")
    return parse_source(
        f"table:path={folder}/audio.csv,columns.audio=audio,columns.image=null,columns.text=null"
    ).open()


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_the_parts_of_a_file_are_the_whole_file(tmp_path, suffix):
    file = tmp_path / f"a.{suffix}"
    soundfile.write(file, noises(7.3), RATE)
    whole = decode_audio(str(file), "row", RATE)
    parts = audio_segments(str(file), "row", 2.0)
    assert [type(part) for part in parts] == [Segment] * 4
    assert (parts[0].start, parts[-1].end) == (0.0, pytest.approx(len(whole) / RATE, abs=1e-3))
    assert all(one.end == next_.start for one, next_ in pairwise(parts))
    joined = np.concatenate([decode_audio(part, "row", RATE) for part in parts])
    exact = suffix in ("wav", "flac")
    np.testing.assert_allclose(joined, whole, atol=0 if exact else 2e-3)


def test_waveforms_and_file_contents_have_parts_and_short_files_have_none(tmp_path):
    soundfile.write(tmp_path / "a.wav", noises(3), RATE)
    content = (tmp_path / "a.wav").read_bytes()
    for value in (content, (noises(3), RATE), {"bytes": content}):
        parts = audio_segments(value, "row", 1.5)
        assert [round(part.end - part.start, 2) for part in parts] == [1.5, 1.5]
        np.testing.assert_allclose(
            np.concatenate([decode_audio(part, "row", RATE) for part in parts]),
            noises(3),
            atol=1e-4,  # 16 bits
        )
    assert audio_segments(str(tmp_path / "a.wav"), "row", 3.0) == [str(tmp_path / "a.wav")]


def test_a_search_names_the_moment_that_matched(tmp_path):
    soundfile.write(tmp_path / "long.wav", noises(20), RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", noises(2, seed=1), RATE, subtype="FLOAT")
    model = model_of(segment_seconds=5)
    source = table(tmp_path, tmp_path / "long.wav", tmp_path / "short.wav")
    store = VectorStore.create(tmp_path / "index", model.dim, fingerprint=model.fingerprint())
    summary = add_to_index(store, embed_source(model, source, thumbnails=True))
    assert (summary.new, summary.broken) == (5, [])
    (query,) = model.encode(audio=[(noises(20)[10 * RATE : 15 * RATE], RATE)])
    hit, *_ = store.search(query, k=3, where="start_seconds > 0")
    assert hit.score == pytest.approx(1, abs=1e-5)
    assert (hit.span, hit.path) == ((10.0, 15.0), str(tmp_path / "long.wav"))
    (query,) = model.encode(audio=[str(tmp_path / "short.wav")])
    assert store.search(query, k=1)[0].span is None


@pytest.mark.slow
def test_a_file_of_two_hours_is_embedded_in_little_memory(tmp_path):
    file, hours = tmp_path / "long.flac", 2
    with soundfile.SoundFile(file, "w", RATE, 1, "PCM_16") as stream:
        for minute in range(60 * hours):
            stream.write(np.sin(np.arange(60 * RATE) * (minute + 1) / 700) / 3)
    model = model_of(segment_seconds=5)
    source = table(tmp_path, file)
    with pytest.raises(BrokenRecordError, match="longer than 1800 s"):
        model_of().encode(audio=[str(file)])
    tracemalloc.start()
    rows = list(embed_source(model, source, batch_size=16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(rows) == hours * 3600 / 5
    assert rows[-1].metadata["end_seconds"] == hours * 3600
    whole = hours * 3600 * RATE * 4  # bytes of the decoded file
    assert peak < whole / 4


def test_training_takes_the_first_part(tmp_path):
    soundfile.write(tmp_path / "a.wav", noises(9), RATE, subtype="FLOAT")
    record = {"id": "a", "origin": "row 1", "audio": str(tmp_path / "a.wav")}
    batch = collator_of(model_of(segment_seconds=3))([record], [np.random.default_rng(0)])
    assert batch.tensors["audio"]["keep"].sum() == 301
    assert batch.truncated == {"audio": 0}


def test_broken_recordings_are_listed_and_the_rest_is_embedded(tmp_path):
    good, cut = tmp_path / "good.wav", tmp_path / "cut.wav"
    soundfile.write(good, np.stack([noises(1, seed=s) for s in range(8)], axis=1), RATE)
    cut.write_bytes(good.read_bytes()[:5000])
    (tmp_path / "empty.wav").touch()
    soundfile.write(tmp_path / "silent.wav", np.zeros(0), RATE)
    (tmp_path / "text.wav").write_text("this is no audio, whatever its name says")
    files = [good, cut, *(tmp_path / f"{name}.wav" for name in ("empty", "silent", "text"))]
    for options in ({}, {"segment_seconds": 2}):
        row, *broken = embed_source(model_of(**options), table(tmp_path, *files))
        if isinstance(row, BrokenRecordError):  # errors of lengths come before the first batch
            broken = [row, *broken]
            row = broken.pop()
        assert row.path == str(good)
        reasons = "; ".join(error.reason for error in broken)
        assert len(broken) == 4
        for reason in ("cut short", "0 bytes", "no samples", "not a readable audio file"):
            assert reason in reasons


def test_a_run_remembers_the_length_of_its_parts(tmp_path):
    model_of(segment_seconds=4).save_pretrained(tmp_path)
    assert JointEmbedding.from_pretrained(tmp_path).preprocessors["audio"].segment_seconds == 4


def test_parts_longer_than_what_is_read_are_refused():
    with pytest.raises(ValidationError, match=r"segment_seconds: 9 is longer than max_seconds: 5"):
        SmallAudioCNNConfig(**SMALL, segment_seconds=9)
