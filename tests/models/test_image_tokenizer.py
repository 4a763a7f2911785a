"""The image tokenizer and its book of codes: nearest codes, moving averages, dead codes."""

import pytest
import torch

from amodal.data.batch import Batch
from amodal.encoders.quantizer import VectorQuantizer
from amodal.models.image_tokenizer import (
    ImageTokenizer,
    ImageTokenizerConfig,
    TokenizerArchitecture,
)


def made(**options):
    torch.manual_seed(0)
    sizes = {"size": 16, "widths": (8, 16), "codes": 12, "code_width": 4, "blocks": 1}
    architecture = TokenizerArchitecture(**{**sizes, **options})
    return ImageTokenizer(ImageTokenizerConfig(architecture.model_dump()))


def batch(count=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, 16, 16, generator=g) * 2 - 1
    present = torch.ones(count, 1, dtype=torch.bool)
    return Batch({"image": {"pixel_values": pixels}}, {"image": present}, torch.arange(count))


def test_the_chosen_code_is_the_nearest():
    quantizer = VectorQuantizer(7, 3).eval()
    x = torch.randn(40, 3)
    book = quantizer.book.tolist()

    def distance(row, code):
        return sum((a - b) ** 2 for a, b in zip(row, code, strict=True))

    want = [min(range(7), key=lambda k, row=row: distance(row, book[k])) for row in x.tolist()]
    assert quantizer.nearest(x).tolist() == want


def test_codes_follow_the_moving_average_of_their_vectors():
    quantizer = VectorQuantizer(2, 1, decay=0.9, restart=0.0).train()
    quantizer.book.copy_(torch.tensor([[0.0], [10.0]]))
    quantizer.sums.copy_(quantizer.book)
    quantizer.counts.fill_(1.0)
    quantizer.steps.fill_(1)
    quantizer(torch.tensor([[1.0], [2.0], [8.0]]))
    counts = [0.9 + 0.1 * 2, 0.9 + 0.1 * 1]
    sums = [0.9 * 0 + 0.1 * 3, 0.9 * 10 + 0.1 * 8]
    want = [s / n for s, n in zip(sums, counts, strict=True)]
    assert quantizer.book[:, 0].tolist() == pytest.approx(want, rel=1e-5)
    assert quantizer.counts.tolist() == pytest.approx(counts)


def test_the_gradient_passes_straight_through_and_the_commitment_pulls():
    quantizer = VectorQuantizer(5, 3).eval()
    x = torch.randn(8, 3, requires_grad=True)
    found = quantizer(x)
    torch.testing.assert_close(found.values.detach(), quantizer.book[found.codes])
    weights = torch.randn(8, 3)
    (found.values * weights).sum().backward()
    torch.testing.assert_close(x.grad, weights)
    x.grad = None
    quantizer(x).commitment.backward()
    want = 2 * (x.detach() - quantizer.book[found.codes]) / x.numel()
    torch.testing.assert_close(x.grad, want)


def test_dead_codes_are_drawn_anew_the_same_way_each_time():
    books = []
    for _ in range(2):
        torch.manual_seed(3)
        quantizer = VectorQuantizer(16, 2, decay=0.5, restart=0.1).train()
        for step in range(30):
            g = torch.Generator().manual_seed(step)
            quantizer(torch.randn(64, 2, generator=g) + 5)
        books.append(quantizer.book.clone())
        used = quantizer.nearest(torch.randn(4000, 2) + 5).unique()
        assert len(used) >= 14
    assert torch.equal(*books)


def test_without_restarts_codes_die():
    torch.manual_seed(3)
    quantizer = VectorQuantizer(16, 2, decay=0.5, restart=0.0).train()
    quantizer.book.normal_()
    quantizer.book[:12] += 100
    quantizer.sums.copy_(quantizer.book)
    quantizer.counts.fill_(1.0)
    quantizer.steps.fill_(1)
    for _ in range(30):
        quantizer(torch.randn(64, 2))
    assert len(quantizer.nearest(torch.randn(4000, 2)).unique()) <= 4


def test_in_evaluation_the_book_stays_as_it_is():
    model = made().eval()
    before = model.quantizer.book.clone()
    model(batch())
    assert torch.equal(model.quantizer.book, before)
    assert int(model.quantizer.steps) == 0


def test_codes_give_the_picture_that_went_through():
    model = made().eval()
    found = model(batch())
    codes = model.encode(batch().tensors["image"]["pixel_values"])
    assert torch.equal(codes, found.codes)
    assert codes.shape == (6, 64)
    pictures = model.decode(codes)
    assert pictures.shape == (6, 3, 16, 16)
    want = ((found.pixels + 1) * 127.5).round().clamp(0, 255)
    assert (pictures.float() - want).abs().max() <= 1


def test_it_learns_and_every_parameter_gets_a_gradient():
    model = made(codes=64).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(60):
        found = model(batch())
        error = found.pixels - batch().tensors["image"]["pixel_values"]
        loss = error.square().mean() + 0.25 * found.commitment
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.any() for p in model.parameters())
        optimizer.step()
        losses.append(float(error.detach().square().mean()))
    assert losses[-1] < 0.6 * losses[0]
    assert float(found.perplexity) > 8


def test_a_reopened_tokenizer_gives_the_same_codes(tmp_path):
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
