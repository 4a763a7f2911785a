"""Inspection against counts made by hand."""

import threading

import numpy as np
import pytest

from amodal.data.inspection import inspect
from amodal.data.record import BrokenRecordError
from amodal.data.scenes.motion_source import MovingScenesConfig
from amodal.data.scenes.source import ScenesConfig


class Listed:
    """A source of what it is given."""

    name = "listed"
    inputs = frozenset({"image", "text"})

    def __init__(self, *values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, index):
        if isinstance(self.values[index], BrokenRecordError):
            raise self.values[index]
        return self.values[index]


class Streamed:
    name = "streamed"
    inputs = frozenset({"image", "text"})

    def __init__(self, *values):
        self.values = values

    def __iter__(self):
        return iter(self.values)


def item(key, image=None, text=(), label=None):
    record = {"id": key, "origin": f"row {key}"}
    if image is not None:
        record["image"] = image
    if text:
        record["text"] = list(text)
    if label is not None:
        record["label"] = label
    return record


@pytest.fixture
def values(tmp_path, write_image):
    one = write_image(tmp_path / "1.png", seed=1)
    two = write_image(tmp_path / "2.png", seed=2, size=(40, 30))
    copy = tmp_path / "copy.png"
    copy.write_bytes(one.read_bytes())
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    return [
        item("a", one, ["a dog", "a dog runs"], "dog"),
        item("b", two, ["a dog"], "dog"),
        item("c", copy, ["一只猫"], "cat"),
        BrokenRecordError("row d", "no caption: here"),
        item("e", tmp_path / "gone.png", ["x"]),
        item("f", text, ["x"]),
        item("g", tmp_path / "gone too.png", ["x"]),
        item("h", text=["a dog", "a dog"]),
    ]


@pytest.mark.parametrize("kind", [Listed, Streamed])
def test_everything_is_counted(values, kind):
    source = kind(*values)
    source.broken_rows = (BrokenRecordError("row z", "the caption is empty"),)
    seen = []
    found = inspect(source, progress=seen.append)
    assert seen == list(range(1, 9))
    assert found.complete
    assert found.items == 4
    assert found.rows == {"image": 3, "text": 6}
    assert found.captions_per_item == {1: 2, 2: 2}
    assert found.broken == 5
    assert [row.origin for row in found.broken_rows] == [
        "row z",
        "row d",
        "row e",
        "row f",
        "row g",
    ]
    assert found.broken_by_reason == {
        "no such image file": 2,
        "the caption is empty": 1,
        "no caption": 1,
        "not a JPEG, PNG, WEBP, BMP, GIF, TIFF, AVIF or HEIF image": 1,
    }
    assert found.duplicate_images.examples == [("", ["row a", "row c"])]
    assert (found.duplicate_images.values, found.duplicate_images.items) == (1, 2)
    assert found.duplicate_captions.examples == [("a dog", ["row a", "row b", "row h"])]
    assert found.expected_caption_collisions == pytest.approx(3 / 6 * 1024 * 1023 / 2)
    assert found.labels == {"dog": 2, "cat": 1}
    assert found.image_sizes == {"20 x 16": 2, "40 x 30": 1}
    assert (found.image_side.minimum, found.image_side.maximum) == (16, 30)
    words = found.caption_words
    assert (words.count, words.minimum, words.median, words.maximum) == (6, 1, 2, 3)
    assert words.mean == pytest.approx((2 + 3 + 2 + 1 + 2 + 2) / 6)
    assert found.caption_characters.maximum == len("a dog runs")


def test_videos_are_counted_with_their_sizes():
    found = inspect(MovingScenesConfig(size=3, image_size=32).open())
    assert found.rows == {"video": 3, "text": 15}
    assert found.video_formats == {"32 x 32": 3}
    assert found.video_milliseconds is None  # frames of an array have no times
    wrong = {"id": "a", "origin": "row 1", "video": np.zeros((2, 3), np.uint8)}
    assert inspect(Listed(wrong)).broken_by_reason == {"expected frames (T, H, W, 3) of uint8": 1}


def test_histograms_lose_nothing():
    g = np.random.default_rng(0)
    texts = [" ".join("w" * n) for n in g.integers(1, 60, 300)]
    found = inspect(Listed(*(item(str(i), text=[t]) for i, t in enumerate(texts))))
    counts = [len(t.split()) for t in texts]
    for low, high, count in found.caption_words.histogram:
        inside = [n for n in counts if low <= n < high or n == high == max(counts)]
        assert len(inside) == count
    assert sum(count for *_, count in found.caption_words.histogram) == 300
    assert found.caption_words.median == sorted(counts)[149]


@pytest.mark.parametrize("kind", [Listed, Streamed])
def test_a_limit_is_kept_and_said(values, kind):
    found = inspect(kind(*values), limit=2)
    assert found.items == 2
    assert not found.complete


def test_an_empty_source_has_a_description():
    found = inspect(Listed())
    assert found.items == 0
    assert found.caption_words is None
    assert found.expected_caption_collisions == 0


def test_stopping_keeps_what_was_read(values):
    def stop(done):
        if done == 2:
            raise KeyboardInterrupt

    found = inspect(Listed(*values), progress=stop)
    assert found.items == 2
    assert not found.complete


def test_work_is_shared_by_threads():
    class Watching(Listed):
        gate = threading.Barrier(2, timeout=10)

        def __getitem__(self, index):
            if index < 2:
                self.gate.wait()  # passes only if two threads read at once
            return self.values[index]

    source = Watching(*(item(str(i), text=["a"]) for i in range(10)))
    assert inspect(source, workers=2).items == 10


def test_the_built_in_world_is_sound():
    found = inspect(ScenesConfig(size=20).open())
    assert (found.items, found.broken) == (20, 0)
    assert found.duplicate_images.values == 0
    assert found.model_dump_json()
