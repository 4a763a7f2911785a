"""Videos as an input: values and segments, batches, augmentation and what captions follow."""

import numpy as np
import pytest
from video_files import frame, number_of, write

from amodal.augment import HorizontalFlip, RandomResizedCrop, RandomStart, TimeReversal
from amodal.augment.config import ColorJitter
from amodal.augment.video import VideoAugmentation
from amodal.data.inputs import BatchContext
from amodal.data.record import sample_rng
from amodal.encoders import ImagePreprocessor, VideoPreprocessor
from amodal.modalities.modality import InputOptions
from amodal.modalities.text import followed
from amodal.modalities.video import VideoInput, VideoModality, frame_strip

PREPARE = VideoPreprocessor(ImagePreprocessor(16), frames=4)
CLIP = np.stack([frame(number) for number in range(8)])


def record(video):
    return {"id": "a", "origin": "row 1", "video": video}


def batch(input, values, seed=0):
    rngs = [sample_rng(seed, 0, i) for i in range(len(values))]
    context = BatchContext(rngs, [{} for _ in values])
    return input.batch(values, context), context


def test_a_missing_video_is_a_row_of_zeros_that_is_not_present():
    rows, _ = batch(VideoInput("video", PREPARE), [CLIP[:4], None])
    assert rows.present.tolist() == [[True], [False]]
    assert rows.tensors["pixel_values"].shape == (2, 4, 3, 16, 16)


def test_the_input_reads_the_first_of_several_videos():
    input = VideoInput("video", PREPARE)
    assert input.read(record(None)) is None
    assert input.read(record([])) is None
    got = input.read(record([CLIP, CLIP[::-1]]))
    assert got.shape == (4, 16, 16, 3)
    assert [number_of(pixels) for pixels in got] == [1, 3, 5, 7]


def test_crop_and_colour_are_the_same_over_all_frames():
    still = np.random.default_rng(0).integers(0, 256, (1, 40, 50, 3), np.uint8).repeat(4, axis=0)
    augmentation = VideoAugmentation(
        [RandomResizedCrop(), ColorJitter(), HorizontalFlip()], frames=4, size=16
    )
    drawn = [augmentation(still, np.random.default_rng(seed)).pixels for seed in range(4)]
    for pixels in drawn:
        assert (pixels == pixels[:1]).all()
    assert (drawn[0] != drawn[1]).any()


def test_a_random_start_takes_every_nth_frame():
    augmentation = VideoAugmentation([RandomStart(choices=2)], 4, 16, PREPARE.image.resize)
    assert augmentation.decoded_frames == 8
    starts = set()
    for seed in range(20):
        found = augmentation(CLIP, np.random.default_rng(seed))
        numbers = [number_of(f.permute(1, 2, 0).numpy()) for f in found.pixels]
        assert np.diff(numbers).tolist() == [2, 2, 2]
        starts.add(numbers[0])
    assert starts == {0, 1}


def test_a_reversed_clip_swaps_before_and_after_in_captions():
    steps = [TimeReversal(probability=1.0)]
    input = VideoModality().input("video", PREPARE, InputOptions(steps=steps))
    rows, context = batch(input, [CLIP[:4]])
    plain, _ = batch(VideoInput("video", PREPARE), [CLIP[:4]])
    flipped = plain.tensors["pixel_values"].flip(1)
    np.testing.assert_array_equal(rows.tensors["pixel_values"], flipped)
    assert followed("A jumps before B falls.", context.effects[0]) == "A jumps after B falls."
    assert followed("猫在狗之前跳", context.effects[0]) == "猫在狗之后跳"
    assert followed("A jumps before B falls.", {}) == "A jumps before B falls."


def test_a_flip_that_another_input_has_drawn_is_followed():
    input = VideoModality().input("video", PREPARE, InputOptions(steps=[HorizontalFlip()]))
    plain, _ = batch(VideoInput("video", PREPARE), [CLIP[:4]])
    for flip in (True, False):
        context = BatchContext([sample_rng(0, 0, 0)], [{"horizontal_flip": flip}])
        pixels = input.batch([CLIP[:4]], context).tensors["pixel_values"]
        wanted = plain.tensors["pixel_values"]
        np.testing.assert_array_equal(pixels, wanted.flip(-1) if flip else wanted)


def test_augmentation_draws_from_the_generator_of_the_item_alone():
    steps = [RandomResizedCrop(), RandomStart(), TimeReversal()]
    input = VideoModality().input("video", PREPARE, InputOptions(steps=steps, views=2))
    alone, _ = batch(input, [CLIP])
    both, _ = batch(input, [CLIP, CLIP[::-1]])
    assert alone.present.shape == (1, 2)
    np.testing.assert_array_equal(both.tensors["pixel_values"][:2], alone.tensors["pixel_values"])


def test_a_strip_has_the_first_and_the_last_frame():
    strip = frame_strip(CLIP)
    assert strip.shape == (48, 4 * 64, 3)
    np.testing.assert_array_equal(strip[:, :64], CLIP[0])
    np.testing.assert_array_equal(strip[:, -64:], CLIP[-1])


def test_equal_files_share_a_fingerprint_and_different_ones_do_not(tmp_path):
    pytest.importorskip("av")
    first = write(tmp_path / "a.mp4", np.arange(4) / 10)
    copy = tmp_path / "b.mp4"
    copy.write_bytes(first.read_bytes())
    other = write(tmp_path / "c.mp4", np.arange(5) / 10)
    kind = VideoModality()
    prints = [kind.fingerprints("video", record(str(p)))[0] for p in (first, copy, other)]
    assert prints[0] == prints[1] != prints[2]


def test_long_files_are_embedded_in_segments_with_their_moment(tmp_path):
    pytest.importorskip("av")
    path = str(write(tmp_path / "a.mp4", np.arange(24) / 10))
    prepare = VideoPreprocessor(ImagePreprocessor(16), frames=2, segment_seconds=1.0)
    kind = VideoModality()
    values = kind.values("video", prepare, record(path))
    shown = [kind.preview(value, kind.decode(value, "row 1", prepare)) for value in values]
    assert [one.span for one in shown] == [(0.0, 0.8), (0.8, 1.6), (1.6, 2.4)]
    assert {one.path for one in shown} == {path}
    assert shown[0].image is not None
    assert len({kind.content_key(value) for value in values}) == 3
    assert kind.values("video", PREPARE, record(path)) == [path]
