"""The image tokenizer: encoding, decoding, gradients, saving, refusals."""

import pytest
import torch

from amodal.data.batch import Batch
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)


def made(**options):
    torch.manual_seed(0)
    sizes = {
        "size": 16,
        "widths": (8, 16),
        "codebook_size": 12,
        "codebook_dim": 4,
        "num_res_blocks": 1,
    }
    architecture = TokenizerArchitecture(**{**sizes, **options})
    return ImageTokenizer(ImageTokenizerConfig(architecture.model_dump()))


def batch(count=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 16, 16, generator=g) * 2 - 1
    present = torch.ones(count, 1, dtype=torch.bool)
    return Batch({"image": {"pixel_values": pixels}}, {"image": present}, torch.arange(count))


def test_evaluation_leaves_the_codebook_unchanged():
    model = made().eval()
    before = model.quantizer.codebook.clone()
    model(batch())
    assert torch.equal(model.quantizer.codebook, before)
    assert int(model.quantizer.steps) == 0


def test_decoded_codes_equal_the_reconstruction():
    model = made().eval()
    found = model(batch())
    codes = model.encode(batch().tensors["image"]["pixel_values"])
    assert torch.equal(codes, found.codes)
    assert codes.shape == (6, 64)
    images = model.decode(codes)
    assert images.shape == (6, 3, 16, 16)
    want = ((found.pixels + 1) * 127.5).round().clamp(0, 255)
    assert (images.float() - want).abs().max() <= 1


def test_it_learns_and_every_parameter_gets_a_gradient():
    model = made(codebook_size=64).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for step in range(60):
        found = model(batch())
        error = found.pixels - batch().tensors["image"]["pixel_values"]
        loss = error.square().mean() + 0.25 * found.commitment
        optimizer.zero_grad()
        loss.backward()
        # Blocks end in a layer initialized to 0, so that those before it have no gradient at first.
        assert all(p.grad is not None and (step == 0 or p.grad.any()) for p in model.parameters())
        optimizer.step()
        losses.append(float(error.detach().square().mean()))
    assert losses[-1] < 0.6 * losses[0]
    assert float(found.perplexity) > 8


def test_a_reloaded_tokenizer_gives_the_same_codes(tmp_path):
    model = made().train()
    for seed in range(3):
        model(batch(seed=seed))
    model.eval().save_pretrained(tmp_path / "run")
    again = ImageTokenizer.from_pretrained(tmp_path / "run")
    pixels = batch().tensors["image"]["pixel_values"]
    assert torch.equal(again.encode(pixels), model.encode(pixels))
    assert again.preprocessors["image"].size == 16


def test_sizes_that_do_not_halve_are_refused():
    with pytest.raises(ValueError, match="does not halve 3 times"):
        TokenizerArchitecture(size=60, widths=(8, 8, 8, 8))


def test_patches_and_halvings_determine_the_grid():
    model = made(patch_size=4, widths=(8, 16)).eval()
    assert (model.size, model.grid, model.tokens, model.vocabulary) == (16, 2, 4, 12)
    codes = model.encode(batch().tensors["image"]["pixel_values"])
    assert codes.shape == (6, 4)
    assert codes.dtype == torch.int64
    assert model.decode(codes).shape == (6, 3, 16, 16)
    with pytest.raises(ValueError, match="must be divisible by 32"):
        TokenizerArchitecture(size=16, patch_size=4, widths=(8, 8, 8, 8))


def test_tokens_are_in_row_major_order():
    model = made(widths=(8,), num_res_blocks=0).eval()
    pixels = batch(1).tensors["image"]["pixel_values"]
    other = pixels.clone()
    other[..., 0, 15] += 1  # the upper right corner
    with torch.no_grad():
        moved = (model._vectors(other) - model._vectors(pixels)).abs().sum(2)[0] > 0
    assert moved[15]
    assert not moved.view(16, 16)[4:].any()
    assert not moved.view(16, 16)[:, :12].any()
    codes = torch.zeros(1, 256, dtype=torch.int64)
    changed = codes.clone()
    changed[0, 15] = 5
    difference = model.decode(changed).int() - model.decode(codes).int()
    assert difference[..., 0, 15].any()
    assert not difference[..., 5:, :].any()
    assert not difference[..., :11].any()


def test_invalid_codes_are_refused():
    model = made().eval()
    with pytest.raises(ValueError, match=r"expected codes of shape \(B, 64\), got \(1, 63\)"):
        model.decode(torch.zeros(1, 63, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected codes from 0 to 11, got 0 to 12"):
        model.decode(torch.arange(64)[None] % 13)


def test_missing_images_are_left_out():
    model = made().eval()
    whole = batch()
    present = whole.present["image"].clone()
    present[2] = False
    found = model(Batch(whole.tensors, {"image": present}, whole.item))
    rest = torch.tensor([0, 1, 3, 4, 5])
    pixels = whole.tensors["image"]["pixel_values"][rest]
    want = model(Batch({"image": {"pixel_values": pixels}}, {"image": present[rest]}, rest))
    assert torch.equal(found.pixels, want.pixels)
    assert torch.equal(found.codes, want.codes)


def test_half_precision_stays_finite_and_learns():
    model = made(codebook_size=32).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(batch())
    loss = (found.pixels.float() - batch().tensors["image"]["pixel_values"]).abs().mean()
    (loss + 0.25 * found.commitment).backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.quantizer.codebook.isfinite().all()
    assert found.commitment.dtype == torch.float32


def test_vectors_have_a_fixed_norm():
    vectors = made()._vectors(batch().tensors["image"]["pixel_values"])
    torch.testing.assert_close(vectors.square().mean(2), torch.ones(6, 64))


def test_the_warm_up_decodes_unquantized_vectors():
    model = made(warmup=2).train()
    pixels = batch().tensors["image"]["pixel_values"]
    with torch.no_grad():
        for step in range(4):
            found = model(batch())
            plain = torch.equal(found.pixels, model._pixels(model._vectors(pixels)))
            assert plain == (step < 2)
            assert bool(found.commitment == 0) == (step < 2)
