"""Corruptions harm the modality that is named, at the rate that is named, and nothing else."""

import pytest
import torch

from amodal.data.batch import Batch
from amodal.data.corruption import CORRUPTIONS, corrupted, only

N = 4000


def batch(n=N):
    g = torch.Generator().manual_seed(0)
    return Batch(
        tensors={
            "image": {"pixel_values": 3 + 2 * torch.randn(n, 2, 3, generator=g)},
            "text": {
                "input_ids": torch.randint(5, 50, (n, 6), generator=g),
                "attention_mask": torch.ones(n, 6, dtype=torch.int64).tril(3),
            },
            "columns": {
                "numbers": torch.full((n, 1), float("nan")),
                "categories": torch.stack(
                    [
                        torch.randint(0, 3, (n,), generator=g),
                        torch.randint(9, 12, (n,), generator=g),
                    ],
                    1,
                ),
            },
        },
        present={m: torch.ones(n, 1, dtype=torch.bool) for m in ("image", "text", "columns")},
        item=torch.arange(n),
    )


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_other_modalities_and_rate_zero_are_untouched(kind):
    whole = batch(64)
    assert corrupted(whole, "image", kind, 0.0, generator()) is whole
    harmed = corrupted(whole, "image", kind, 0.7, generator())
    for m in ("text", "columns"):
        assert torch.equal(harmed.present[m], whole.present[m])
        for name, tensor in whole.tensors[m].items():
            assert torch.equal(harmed.tensors[m][name].nan_to_num(), tensor.nan_to_num())


def test_missing_takes_the_share_that_was_asked():
    harmed = corrupted(batch(), "text", "missing", 0.3, generator())
    assert harmed.present["text"].float().mean().item() == pytest.approx(0.7, abs=0.03)
    assert not corrupted(batch(), "text", "missing", 1.0, generator()).present["text"].any()


def test_higher_rates_hit_the_same_items_and_more():
    low = corrupted(batch(), "text", "missing", 0.3, generator()).present["text"]
    high = corrupted(batch(), "text", "missing", 0.6, generator()).present["text"]
    assert bool((low | ~high).all())


def test_noise_keeps_mean_and_deviation_and_loses_the_signal():
    whole = batch()
    x = whole.tensors["image"]["pixel_values"]
    for rate, left in ((0.5, 0.5**0.5), (1.0, 0.0)):
        y = corrupted(whole, "image", "noise", rate, generator()).tensors["image"]["pixel_values"]
        assert y.mean().item() == pytest.approx(3, abs=0.05)
        assert y.std().item() == pytest.approx(2, abs=0.05)
        found = torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1]
        assert float(found) == pytest.approx(left, abs=0.03)


def test_noise_draws_tokens_anew_and_leaves_the_padding():
    whole = batch()
    named = corrupted(whole, "text", "noise", 0.5, generator()).tensors["text"]
    kept = whole.tensors["text"]["attention_mask"].bool()
    changed = named["input_ids"] != whole.tensors["text"]["input_ids"]
    assert not bool(changed[~kept].any())
    assert changed[kept].float().mean().item() == pytest.approx(0.5 * 44 / 45, abs=0.02)
    assert torch.equal(named["attention_mask"], whole.tensors["text"]["attention_mask"])


def test_noise_keeps_each_category_column_to_its_own_values():
    named = corrupted(batch(), "columns", "noise", 1.0, generator()).tensors["columns"]
    assert set(named["categories"][:, 0].tolist()) <= {0, 1, 2}
    assert set(named["categories"][:, 1].tolist()) <= {9, 10, 11}
    assert named["numbers"].isnan().all()


def test_swap_gives_everyone_hit_the_row_of_another():
    whole = batch()
    x = whole.tensors["image"]["pixel_values"]
    y = corrupted(whole, "image", "swap", 0.4, generator()).tensors["image"]["pixel_values"]
    moved = (x != y).flatten(1).any(1)
    assert moved.float().mean().item() == pytest.approx(0.4, abs=0.03)
    assert torch.equal(x.flatten(1).sum(1).sort().values, y.flatten(1).sum(1).sort().values)
    assert bool((corrupted(whole, "image", "swap", 1.0, generator()).tensors["image"][
        "pixel_values"] != x).flatten(1).any(1).all())  # fmt: skip


def test_only_leaves_what_is_named():
    kept = only(batch(8), ["text"])
    assert kept.present["text"].all()
    assert not kept.present["image"].any()
    assert not kept.present["columns"].any()


def test_a_rate_outside_of_0_to_1_is_refused():
    with pytest.raises(ValueError, match=r"0 to 1, got 1\.5"):
        corrupted(batch(2), "image", "missing", 1.5, generator())
