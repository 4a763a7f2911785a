"""All pairs of three inputs, some of them missing, and one gallery of all of them."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from amodal.data.cache import CachedSource
from amodal.data.record import DataError
from amodal.evaluators.mixed_gallery import evaluate_mixed_gallery
from amodal.evaluators.retrieval import evaluate_retrieval
from amodal.modalities.audio import AudioModality
from amodal.models.inputs import collator_of
from amodal.models.joint_embedding import Architecture, build_joint_embedding
from amodal.reports.tables import present_retrieval

RATE = 8000
ENCODERS = {
    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
    "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
    "audio": {
        **{"kind": "small_audio_cnn", "sample_rate": RATE, "n_mels": 16},
        **{"widths": [8, 16], "width": 16},
    },
}


class Items:
    """Eight images, half of them with a caption and the other half with audio."""

    name, inputs = "items", frozenset(ENCODERS)

    def __len__(self):
        return 8

    def __getitem__(self, i):
        rng = np.random.default_rng(i)
        image = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
        other = (
            {"text": [f"thing {i}"]}
            if i < 4
            else {"audio": (rng.normal(0, 0.1, 3000).astype(np.float32), RATE)}
        )
        return {"id": str(i), "origin": f"row {i}", "image": image, **other}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    architecture = Architecture(encoders=ENCODERS, projection={"kind": "linear", "dim": 8})
    return build_joint_embedding(architecture, lambda: iter([Items()[0]])).eval()


def test_pairs_that_no_item_has_are_left_out_of_the_matrix(model):
    result = evaluate_retrieval(model, Items(), bootstrap=0)
    directions = {name.split("/")[1] for name in result.metrics}
    expected = {f"{a}_to_{b}" for a, b in [("image", "text"), ("image", "audio")]}
    assert directions == expected | {"text_to_image", "audio_to_image"}
    console = Console(width=200, record=True, file=io.StringIO())
    for table in present_retrieval(result, result.metrics, "title", None):
        console.print(table)
    printed = console.export_text()
    assert "recall@1, queries down, gallery across" in printed
    value = f"{result.metrics['retrieval/image_to_audio/recall@10']:.4f}"
    assert value in printed


def test_one_gallery_of_all_inputs(model):
    metrics = evaluate_mixed_gallery(model, Items(), bootstrap=50).metrics
    assert metrics["mixed_gallery/audio_to_image/gallery_share"] == pytest.approx(8 / 15)
    assert 0 <= metrics["mixed_gallery/centred/audio_to_image/recall@10"] <= 1
    assert metrics["mixed_gallery/audio_to_image/recall@1/high"] <= 1
    assert not any("audio_to_text" in name for name in metrics)  # no item has both


def test_items_of_one_input_have_nothing_to_find(model):
    class Alone(Items):
        def __getitem__(self, i):
            return {"id": str(i), "origin": f"row {i}", "text": [f"thing {i}"]}

    for evaluate in (evaluate_mixed_gallery, evaluate_retrieval):
        with pytest.raises(DataError, match="nothing to retrieve"):
            evaluate(model, Alone(), bootstrap=0)


def test_audio_that_is_kept_in_memory_gives_the_same_batch(model):
    source = Items()
    decode = AudioModality().cache_decoder(model.architecture.encoders["audio"])
    rngs = [np.random.default_rng(0)]
    collate = collator_of(model)
    record = source[5]
    kept = {**record, "audio": decode(record["audio"], "row 5")}
    assert kept["audio"].dtype == np.float32
    one, two = (collate([r], rngs).tensors["audio"]["features"] for r in (record, kept))
    assert torch.equal(one, two)
    assert CachedSource(source, {"audio": decode})[5]["id"] == "5"
