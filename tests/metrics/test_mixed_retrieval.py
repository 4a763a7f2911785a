"""Retrieval in one gallery of all modalities against sorting by hand, under ties and gaps."""

import pytest
import torch
import torch.nn.functional as F

from amodal.metrics.mixed_retrieval import (
    MixedGalleryRows,
    centred,
    mixed_gallery_retrieval,
)


def unit(count, seed, dim=6):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=1)


def three():
    """Several captions per item, and audio of some items alone."""
    return {
        "image": MixedGalleryRows(unit(9, 0), torch.arange(9)),
        "text": MixedGalleryRows(unit(18, 1), torch.arange(9).repeat_interleave(2)),
        "audio": MixedGalleryRows(unit(5, 2), torch.tensor([8, 1, 3, 0, 4])),
    }


def by_hand(rows, query, other, k):
    entries = [
        (name, int(item), z)
        for name, own in rows.items()
        for z, item in zip(own.z, own.item, strict=True)
    ]
    hits, shares = [], []
    for name, item, z in entries:
        if name != query or item not in rows[other].item.tolist():
            continue
        rest = [entry for entry in entries if entry[2] is not z]
        ranked = sorted(rest, key=lambda entry: -float(entry[2] @ z))
        hits.append(any(n == other and i == item for n, i, _ in ranked[:k]))
        shares.append(sum(n == other for n, _, _ in ranked[:10]) / 10)
    return sum(hits) / len(hits), sum(shares) / len(shares)


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_recall_and_shares_are_those_of_sorting_by_hand(chunk):
    rows = three()
    found = mixed_gallery_retrieval(rows, bootstrap=0, chunk=chunk)
    for query in rows:
        for other in rows:
            if query == other:
                assert f"{query}_to_{other}/recall@1" not in found
                continue
            for k in (1, 5, 10):
                recall, share = by_hand(rows, query, other, k)
                assert found[f"{query}_to_{other}/recall@{k}"] == pytest.approx(recall)
                assert found[f"{query}_to_{other}/share@10"] == pytest.approx(share)
            size = len(rows[other].z)
            assert found[f"{query}_to_{other}/gallery_share"] == pytest.approx(size / 31)


def test_a_constant_embedding_scores_chance():
    z = unit(1, 0).expand(8, 6)
    rows = {name: MixedGalleryRows(z, torch.arange(8)) for name in ("image", "text")}
    found = mixed_gallery_retrieval(rows, bootstrap=0)
    assert found["image_to_text/recall@1"] == pytest.approx(1 / 15)
    assert found["image_to_text/share@10"] == pytest.approx(8 / 15)


def test_separated_modalities_hide_each_other_until_they_are_centred():
    z, shift = unit(20, 0, 16), torch.zeros(16, dtype=torch.float64)
    shift[0] = 6.0
    item = torch.arange(20)
    near = z + 0.05 * unit(20, 1, 16)
    rows = {
        "image": MixedGalleryRows(F.normalize(z + shift, dim=1), item),
        "text": MixedGalleryRows(F.normalize(near - shift, dim=1), item),
    }
    apart = mixed_gallery_retrieval(rows, bootstrap=0)
    assert apart["text_to_image/recall@10"] == 0
    assert apart["text_to_image/share@10"] == 0
    together = mixed_gallery_retrieval(centred(rows), bootstrap=0)
    assert together["text_to_image/recall@1"] == 1
    assert together["text_to_image/share@10"] > 0.3


def test_intervals_contain_the_value_and_come_from_the_seed():
    found = mixed_gallery_retrieval(three(), bootstrap=200, seed=3)
    name = "image_to_text/recall@5"
    assert found[f"{name}/low"] <= found[name] <= found[f"{name}/high"]
    assert found == mixed_gallery_retrieval(three(), bootstrap=200, seed=3)


def test_embeddings_that_are_not_finite_are_refused():
    rows = three()
    rows["audio"].z[2, 1] = torch.nan
    with pytest.raises(ValueError, match="audio: 1 of 5 embeddings are not finite"):
        mixed_gallery_retrieval(rows)
