"""Images and texts become tensors, exactly as saved, and nothing is cut in silence."""

import numpy as np
import pytest
import torch

from amodal.encoders.image import preprocessing
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.encoders.text.preprocessing import TextPreprocessor
from amodal.encoders.text.tokenizer import train_tokenizer

ENGLISH = ["a red circle above a blue square", "two small green stars, near a triangle"]
CHINESE = ["一个红色的圆形在蓝色方形的上面", "两个绿色的小星星"]


def photo(height=40, width=60, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_normalised_pixels_have_the_stated_mean_and_deviation():
    prepare = ImagePreprocessor(8, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.4))
    flat = np.full((8, 8, 3), 255, dtype=np.uint8)
    pixels = prepare([flat])["pixel_values"]
    assert pixels.shape == (1, 3, 8, 8)
    want = [(1 - 0.5) / 0.1, (1 - 0.4) / 0.2, (1 - 0.3) / 0.4]
    torch.testing.assert_close(pixels[0, :, 0, 0], torch.tensor(want))


def test_a_image_of_the_right_size_keeps_every_pixel():
    image = photo(16, 16)
    for how in ("squash", "crop"):
        found = ImagePreprocessor(16, resize=how).resize([image])[0]
        assert torch.equal(found, torch.from_numpy(image).permute(2, 0, 1))


def test_squash_shows_the_border_and_crop_keeps_proportions():
    image = np.zeros((20, 60, 3), dtype=np.uint8)
    image[:, :20] = 255  # the left third
    squashed = ImagePreprocessor(20).resize([image])
    cropped = ImagePreprocessor(20, resize="crop").resize([image])
    assert squashed[0, 0, :, 0].min() == 255
    assert cropped.max() == 0


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (33, 32), (7, 7)])
def test_any_proportion_becomes_the_square(shape):
    for how in ("squash", "crop"):
        assert ImagePreprocessor(32, resize=how).resize([photo(*shape)]).shape == (1, 3, 32, 32)


def test_a_saved_image_preprocessor_is_the_same(tmp_path):
    prepare = ImagePreprocessor(24, resize="crop", interpolation="bicubic")
    prepare.save(tmp_path)
    again = ImagePreprocessor.load(tmp_path)
    images = [photo(seed=1), photo(30, 90, seed=2)]
    assert torch.equal(again(images)["pixel_values"], prepare(images)["pixel_values"])


@pytest.mark.parametrize("model", ["bpe", "word"])
def test_a_saved_text_preprocessor_is_the_same(tmp_path, model):
    tokenizer = train_tokenizer(ENGLISH + CHINESE, 200, model=model)
    prepare = TextPreprocessor(tokenizer, 16)
    prepare.save(tmp_path)
    again = TextPreprocessor.load(tmp_path)
    for name, tensor in prepare(ENGLISH + CHINESE).items():
        assert torch.equal(again(ENGLISH + CHINESE)[name], tensor)
    assert (again.mask_id, again.special_ids) == (prepare.mask_id, prepare.special_ids)


def test_texts_are_padded_to_the_longest_and_masked():
    prepare = TextPreprocessor(train_tokenizer(ENGLISH, 200), 32)
    tensors = prepare(["a red circle", "a"])
    assert tensors["input_ids"].shape == (2, 5)
    assert tensors["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert (tensors["input_ids"][1, 3:] == prepare.tokenizer.pad_token_id).all()
    assert prepare([])["input_ids"].shape[0] == 0


def test_padding_is_on_the_right_whatever_the_tokenizer_prefers():
    tokenizer = train_tokenizer(ENGLISH, 200)
    tokenizer.padding_side = "left"
    mask = TextPreprocessor(tokenizer, 32)(["a red circle", "a"])["attention_mask"]
    assert mask[1].tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("texts", [ENGLISH, CHINESE, ["鸡鸭鹅狗猫鼠牛虎"], ["a,b,c,d,e,f"], ["ﷺ"]])
def test_the_count_of_cut_texts_is_that_of_the_tokens(texts):
    tokenizer = train_tokenizer(ENGLISH + CHINESE, 60)
    for length in range(4, 48):
        prepare = TextPreprocessor(tokenizer, length)
        want = sum(len(tokenizer(t)["input_ids"]) > length for t in texts)
        assert prepare.count_truncated(texts) == want
        assert prepare(texts)["input_ids"].shape[1] <= length


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (33, 100), (40, 40), (200, 31)])
def test_the_crop_is_that_of_torchvision(shape, interpolation):
    import torchvision.transforms.v2 as reference

    pipeline = reference.Compose(
        [
            reference.Resize(32, interpolation=reference.InterpolationMode(interpolation)),
            reference.CenterCrop(32),
        ]
    )
    image = photo(*shape)
    want = pipeline(torch.from_numpy(image).permute(2, 0, 1))
    prepare = ImagePreprocessor(32, resize="crop", interpolation=interpolation)
    assert torch.equal(prepare.resize([image])[0], want)


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(1, 40), (20, 333), (333, 20), (64, 1100)])
@pytest.mark.parametrize("size", [32, 64])
def test_a_thin_image_is_cropped_before_it_is_resized(shape, interpolation, size, monkeypatch):
    image = photo(*shape)
    prepare = ImagePreprocessor(size, resize="crop", interpolation=interpolation)
    got = prepare.resize([image]).int()
    monkeypatch.setattr(preprocessing, "EXTREME_RATIO", 10**9)
    difference = (got - prepare.resize([image]).int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.2


@pytest.mark.parametrize("shape", [(1, 40_000), (65_535, 1)])
@pytest.mark.parametrize("resize", ["crop", "squash"])
def test_a_divider_takes_no_memory(shape, resize):
    import resource

    prepare = ImagePreprocessor(224, resize=resize, interpolation="bicubic")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = prepare.resize([np.full((*shape, 3), 7, np.uint8)])
    assert (found == 7).all()
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < 200e6
