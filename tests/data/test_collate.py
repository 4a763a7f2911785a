"""Batches: what is present, what is broken, and that nothing depends on the number of workers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from amodal.data.batch import key64
from amodal.data.cache import CachedSource
from amodal.data.decode import decode_image
from amodal.data.reader import BatchReader
from amodal.data.record import BrokenRecordError, sample_rng
from amodal.data.samplers import SampleIndex
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import train_tokenizer
from amodal.models.inputs import collator_of

DECODERS = {"image": lambda value, origin: decode_image(value, origin, min_size=8)}
TEXTS = ["a red circle", "two blue squares on the left", "nothing"]


class Listed:
    name = "listed"
    inputs = frozenset({"image", "text"})

    def __init__(self, records):
        self.records = records
        self.reads = 0

    def __len__(self):
        return len(self.records)

    def __getitem__(self, index):
        self.reads += 1
        found = self.records[index]
        if isinstance(found, BrokenRecordError):
            raise found
        return found


@pytest.fixture
def inputs():
    image = ImagePreprocessor(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    text = TextPreprocessor(train_tokenizer(TEXTS, vocab_size=60), 16)
    return SimpleNamespace(
        types={"image": "image", "text": "text"}, preprocessors={"image": image, "text": text}
    )


def image(value):
    return np.full((8, 8, 3), value, np.uint8)


def record(i, **kwargs):
    return {
        "id": f"item{i}",
        "origin": f"row {i}",
        "image": image(10 * i),
        "text": TEXTS,
        **kwargs,
    }


def rngs(n):
    return [sample_rng(0, 0, i) for i in range(n)]


def test_rows_lie_item_major_and_masks_say_which_are_there(inputs):
    batch = collator_of(inputs, captions=3)([record(0), record(1, text=["nothing"])], rngs(2))
    assert batch.present["text"].tolist() == [[True, True, True], [True, False, False]]
    assert batch.content["text"][0, 2] == batch.content["text"][1, 0] == key64("nothing")
    assert batch.item.tolist() == [key64("item0"), key64("item1")]
    assert batch.tensors["text"]["input_ids"].shape[0] == 6
    want = (10 / 255 - 0.5) / 0.5
    torch.testing.assert_close(
        batch.tensors["image"]["pixel_values"][1], torch.full((3, 8, 8), want)
    )


def test_a_missing_input_is_masked_not_refused(inputs):
    batch = collator_of(inputs, captions=1)([record(0, image=None), record(1, text=[])], rngs(2))
    assert batch.present["image"].tolist() == [[False], [True]]
    assert batch.present["text"].tolist() == [[True], [False]]
    assert not batch.broken


def test_broken_records_leave_the_batch_and_are_listed(inputs, tmp_path):
    absent = record(1, image=str(tmp_path / "absent.jpg"))
    known = BrokenRecordError("row 2", "empty caption")
    batch = collator_of(inputs, captions=1)([record(0), absent, known], rngs(3))
    assert len(batch) == 1
    assert [e.origin for e in batch.broken] == ["row 1", "row 2"]
    assert "absent.jpg" in batch.broken[0].reason


def test_a_split_batch_is_the_batch_in_parts(inputs):
    batch = collator_of(inputs, captions=2)([record(i) for i in range(5)], rngs(5))
    parts = batch.split(2)
    assert [len(p) for p in parts] == [2, 2, 1]
    for modality, named in batch.tensors.items():
        for name, tensor in named.items():
            joined = torch.cat([p.tensors[modality][name] for p in parts])
            torch.testing.assert_close(joined, tensor, rtol=0, atol=0)


def test_reading_is_the_same_in_any_worker(inputs):
    reader = BatchReader(
        Listed([record(i) for i in range(4)]), collator_of(inputs, captions=1), seed=5
    )
    draws = [SampleIndex(2, 3), SampleIndex(2, 0)]
    one, two = reader.__getitems__(draws), reader.__getitems__(draws)
    assert torch.equal(one.tensors["text"]["input_ids"], two.tensors["text"]["input_ids"])


def test_the_cache_reads_each_row_once_and_remembers_what_is_broken():
    source = Listed([record(0), BrokenRecordError("row 1", "no")])
    cached = CachedSource(source, DECODERS)
    cached.fill()
    for _ in range(3):
        assert cached[0]["id"] == "item0"
        with pytest.raises(BrokenRecordError, match="row 1"):
            cached[1]
    assert source.reads == 2


def test_several_processes_fill_the_cache_with_the_same_records():
    rows = [{**record(i % 7), "id": f"item{i}"} for i in range(2100)]
    rows[1234] = BrokenRecordError("row 1234", "no")
    told = []
    cached = CachedSource(Listed(rows), DECODERS)
    cached.fill(told.append, processes=2)
    assert told[-1] == 2100
    assert cached.bytes == sum(r["image"].nbytes for r in rows if isinstance(r, dict))
    for i in (0, 63, 64, 2099):
        assert cached[i]["id"] == rows[i]["id"]
        assert np.array_equal(cached[i]["image"], rows[i]["image"])
    with pytest.raises(BrokenRecordError, match="row 1234"):
        cached[1234]


def test_the_cache_keeps_no_image_beyond_its_limit(tmp_path):
    from PIL import Image

    path = tmp_path / "a.png"
    Image.fromarray(image(9)).save(path)
    cached = CachedSource(Listed([record(0, image=str(path))]), DECODERS, limit_bytes=10)
    assert cached[0]["image"] == str(path)
    assert cached.bytes == 0
