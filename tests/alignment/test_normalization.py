"""Closed-form normalizations: definitions, and independence of test rows."""

import math

import pytest
import torch
import torch.nn.functional as F

from amodal.alignment.cca import fit_cca
from amodal.alignment.normalization import (
    Normalization,
    csls,
    dual_softmax,
    querybank_softmax,
)


def rows(n, d=4, *, seed, shift=0.0):
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=g, dtype=torch.float64)
    return torch.randn(n, d, generator=g, dtype=torch.float64) @ mix + shift


def unit(n, d=4, *, seed):
    return F.normalize(rows(n, d, seed=seed), dim=1)


def test_every_step_equals_its_definition():
    x = rows(200, seed=0, shift=3)
    one = {
        s: Normalization([s], ridge=1e-9).fit({"a": x}).transform("a", x)
        for s in ("l2", "center", "standardize", "whiten")
    }
    assert torch.allclose(one["l2"].norm(dim=1), torch.ones(200, dtype=torch.float64))
    assert one["center"].mean(0).abs().max() < 1e-12
    assert torch.allclose(one["center"] + x.mean(0), x)
    assert torch.allclose(one["standardize"].std(0), torch.ones(4, dtype=torch.float64))
    assert torch.allclose(torch.cov(one["whiten"].T), torch.eye(4, dtype=torch.float64), atol=1e-6)
    # ZCA: the cross-covariance with the original rows is symmetric and positive definite.
    cross = (x - x.mean(0)).T @ one["whiten"] / 199
    assert torch.allclose(cross, cross.T, atol=1e-9)
    assert torch.linalg.eigvalsh(cross).min() > 0


def test_modalities_are_normalized_apart_and_steps_follow_each_other():
    train = {"image": rows(50, seed=0, shift=2), "text": rows(70, seed=1, shift=-2)}
    chain = Normalization(["center", "l2"]).fit(train)
    for modality, x in train.items():
        want = F.normalize(x - x.mean(0), dim=1)
        assert torch.allclose(chain.transform(modality, x), want)
    twice = Normalization(["l2", "center"]).fit(train)
    inside = F.normalize(train["image"], dim=1)
    assert torch.allclose(twice.transform("image", train["image"]), inside - inside.mean(0))


def test_a_row_is_normalized_the_same_alone_and_among_others():
    chain = Normalization(["center", "whiten", "l2"]).fit({"a": rows(50, seed=0)})
    test = rows(9, seed=1, shift=7)
    together = chain.transform("a", test)
    alone = torch.cat([chain.transform("a", test[i : i + 1]) for i in range(9)])
    assert torch.allclose(together, alone, atol=1e-12)


def test_a_saved_chain_is_bit_equal(tmp_path):
    x = {"image": rows(30, seed=0).float(), "text": rows(20, seed=1).float()}
    chain = Normalization(["center", "whiten", "standardize", "l2"], ridge=0.01).fit(x)
    chain.save(tmp_path)
    again = Normalization.load(tmp_path)
    assert again.steps == chain.steps
    for modality, z in x.items():
        assert torch.equal(again.transform(modality, z), chain.transform(modality, z))
    assert {p.suffix for p in tmp_path.iterdir()} == {".json", ".safetensors"}


def test_degenerate_training_rows_stay_finite():
    for x in (torch.zeros(5, 4), torch.ones(1, 4).expand(6, 4), rows(3, 8, seed=0)):
        for steps in (["center", "l2"], ["standardize"], ["whiten", "l2"]):
            out = Normalization(steps).fit({"a": x}).transform("a", x.to(torch.bfloat16))
            assert out.dtype == torch.float32
            assert out.isfinite().all()


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="unknown step 'centre'"):
        Normalization(["centre"])
    with pytest.raises(ValueError, match="ridge must be above 0"):
        Normalization(["whiten"], ridge=0)
    with pytest.raises(ValueError, match="a: whiten needs 2 training rows, got 1"):
        Normalization(["whiten"]).fit({"a": rows(1, seed=0)})
    with pytest.raises(KeyError, match="'b' was not fitted"):
        Normalization(["l2"]).fit({"a": rows(2, seed=0)}).transform("b", rows(2, seed=0))
    with pytest.raises(ValueError, match="transductive=True"):
        dual_softmax(torch.eye(3))


def cosines(a, b):
    return [[sum(p * q for p, q in zip(x, y, strict=True)) for y in b] for x in a]


def test_csls_equals_its_definition_and_lowers_a_hub():
    query, gallery, bank = unit(5, seed=0), unit(6, seed=1), unit(7, seed=2)
    s, t = cosines(query.tolist(), gallery.tolist()), cosines(gallery.tolist(), bank.tolist())
    near_q = [sum(sorted(row)[-3:]) / 3 for row in s]
    near_g = [sum(sorted(row)[-3:]) / 3 for row in t]
    want = [[2 * s[i][j] - near_q[i] - near_g[j] for j in range(6)] for i in range(5)]
    got = csls(query, gallery, query_bank=bank, k=3)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    hub = F.normalize(bank.mean(0), dim=0)
    crowd = torch.cat([gallery, hub[None]])
    plain = (query @ crowd.T).argsort(1, descending=True).argsort(1)[:, -1]
    better = csls(query, crowd, query_bank=bank, k=3).argsort(1, descending=True).argsort(1)[:, -1]
    assert better.sum() >= plain.sum()


def test_softmaxes_equal_their_definitions():
    query, gallery, bank = unit(4, seed=0), unit(5, seed=1), unit(6, seed=2)
    s, b = cosines(query.tolist(), gallery.tolist()), cosines(bank.tolist(), gallery.tolist())
    want = [
        [s[i][j] / 0.1 - math.log(sum(math.exp(row[j] / 0.1) for row in b)) for j in range(5)]
        for i in range(4)
    ]
    got = querybank_softmax(query, gallery, query_bank=bank, temperature=0.1)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))
    e = [[math.exp(x / 0.1) for x in row] for row in s]
    want = [
        [
            math.log(e[i][j] / sum(e[i])) + math.log(e[i][j] / sum(row[j] for row in e))
            for j in range(5)
        ]
        for i in range(4)
    ]
    got = dual_softmax(query @ gallery.T, temperature=0.1, transductive=True)
    torch.testing.assert_close(got, torch.tensor(want, dtype=torch.float64))


def two_views(n, *, seed, noise=0.05):
    """Two modalities of the same items, one turned against the other, several rows per text."""
    g = torch.Generator().manual_seed(seed)
    latent = torch.randn(n, 4, generator=g, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=g, dtype=torch.float64))[0]
    item = torch.arange(n) * 7
    text_item = torch.cat([item[: n // 2], item[: n // 2], item[n // 4 :] + 0])
    place = text_item // 7
    text = latent[place] @ turn + noise * torch.randn(
        len(place), 4, generator=g, dtype=torch.float64
    )
    return {"image": latent, "text": text}, {"image": item, "text": text_item}, turn


def test_procrustes_rotates_the_other_modalities_onto_the_first():
    rows, items, turn = two_views(200, seed=0, noise=0.0)
    chain = Normalization(["procrustes"]).fit(rows, items)
    assert torch.equal(chain.transform("image", rows["image"]), rows["image"])
    place = items["text"] // 7
    got = chain.transform("text", rows["text"])
    assert torch.allclose(got, rows["image"][place], atol=1e-10)
    assert torch.allclose(chain.fitted["text"][0][1], turn.T, atol=1e-10)


def test_cca_scores_have_the_correlations_of_the_fit_as_their_spread():
    rows, items, _ = two_views(400, seed=1, noise=0.5)
    chain = Normalization(["cca"], ridge=1e-6).fit(rows, items)
    place = items["text"] // 7
    count = torch.bincount(place, minlength=400)[:, None]
    means = torch.zeros(400, 4, dtype=torch.float64).index_add_(0, place, rows["text"]) / count
    image, text = chain.transform("image", rows["image"]), chain.transform("text", means)
    expected = fit_cca([rows["image"], means], 4, ridge=1e-6).correlations
    assert torch.allclose(image.std(0), expected, rtol=1e-3)
    for k in range(4):
        found = torch.corrcoef(torch.stack([image[:, k], text[:, k]]))[0, 1]
        assert found.item() == pytest.approx(expected[k].item(), abs=1e-4)


def test_paired_steps_follow_others_and_survive_saving(tmp_path):
    rows, items, _ = two_views(100, seed=2)
    chain = Normalization(["center", "procrustes", "cca", "l2"]).fit(rows, items)
    chain.save(tmp_path / "n")
    again = Normalization.load(tmp_path / "n")
    for modality, x in rows.items():
        z = chain.transform(modality, x)
        assert torch.equal(again.transform(modality, x), z)
        assert torch.allclose(z.norm(dim=1), torch.ones(len(x), dtype=torch.float64))
    place = items["text"] // 7
    image, text = (chain.transform(m, x) for m, x in rows.items())
    assert (image[place] * text).sum(1).mean() > 0.98


def test_paired_steps_need_enough_common_items():
    rows, items, _ = two_views(20, seed=3)
    with pytest.raises(ValueError, match="procrustes needs the items"):
        Normalization(["procrustes"]).fit(rows)
    apart = {**items, "text": items["text"] + 1}
    with pytest.raises(ValueError, match="items with image and text, got 0"):
        Normalization(["cca"]).fit(rows, apart)
