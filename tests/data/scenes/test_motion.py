"""Clips with motion: geometry, splits, determinism, and captions that say what is true."""

import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from amodal.data import MovingScenesConfig
from amodal.data.decode_video import video_facts
from amodal.data.scenes.motion import DIRECTIONS, DISTANCE, sample_clip
from amodal.data.scenes.motion_captions import motion_captions
from amodal.data.scenes.world import COLOURS, SHAPES

CLAUSE = re.compile(
    r"an? (?P<colour>\w+) (?P<shape>half circle|\w+) (?:moves|goes|slides) "
    r"(?:to the )?(?P<way>left|right|up|down)(?:wards)?"
)


def understood(text):
    """(colour, shape, direction) of the clauses of a caption in the order of time."""
    text = text.lower()
    found = [
        (m["colour"], m["shape"].replace("half circle", "semicircle"), m["way"])
        for m in CLAUSE.finditer(text)
    ]
    assert found, text
    later_first = re.search(r"^before|\w after a", text)
    return found[::-1] if later_first else found


def truth(clip):
    objects = clip.scene.objects
    return [(objects[m.item].colour, objects[m.item].shape, m.direction) for m in clip.motions]


def clips(split="train", count=60, **options):
    return [sample_clip(0, split, i, **options) for i in range(count)]


def test_captions_name_objects_directions_and_their_order():
    wordings = Counter()
    for number, clip in enumerate(clips(min_objects=1, max_objects=3)):
        for text, language in motion_captions(clip, str(number), count=6):
            assert language == "en"
            assert understood(text) == truth(clip), text
            wordings[re.sub(CLAUSE, "X", text.lower())] += 1
    assert len(wordings) == 6 + 2  # two motions in six ways, one and three in one


def test_chinese_captions_name_the_directions_in_the_order_that_they_say():
    ways = {"left": "左", "right": "右", "up": "上", "down": "下"}
    for number, clip in enumerate(clips(count=20)):
        ((text, _),) = motion_captions(clip, str(number), count=1, languages=("zh",))
        said = re.findall("向([左右上下])", text)
        expected = [ways[m.direction] for m in clip.motions]
        assert said == (expected[::-1] if text.startswith("在") and "之前" in text else expected)


def test_objects_stay_in_the_image_and_move_one_after_the_other():
    for clip in clips(min_objects=1, max_objects=3):
        states = [clip.at(time).objects for time in np.linspace(0, 1, 13)]
        for objects in states:
            for item in objects:
                assert item.radius <= min(item.x, item.y)
                assert max(item.x, item.y) <= 1 - item.radius
        for before, after in pairwise(states):
            moved = [a != b for a, b in zip(before, after, strict=True)]
            assert sum(moved) == 1
        for motion in clip.motions:
            start, end = states[0][motion.item], states[-1][motion.item]
            wanted = np.array(DIRECTIONS[motion.direction]) * DISTANCE
            np.testing.assert_allclose((end.x - start.x, end.y - start.y), wanted, atol=1e-12)


def test_a_reversed_clip_has_the_frames_in_reverse():
    for clip in clips(count=10):
        backwards = clip.reversed()
        for time in (0.0, 0.3, 0.5, 1.0):
            for a, b in zip(clip.at(time).objects, backwards.at(1 - time).objects, strict=True):
                np.testing.assert_allclose((a.x, a.y), (b.x, b.y), atol=1e-12)


def test_no_sequence_occurs_in_two_splits():
    found = {
        split: {s for c in clips(split, 300) for s in (c.signature(), c.reversed().signature())}
        for split in ("train", "validation", "test")
    }
    assert not found["train"] & found["test"]
    assert not found["train"] & found["validation"]
    assert not found["test"] & found["validation"]


def test_clips_of_one_appearance_differ_in_their_motions_alone():
    found = clips("test", 40, clips_per_appearance=8)
    for start in range(0, 40, 8):
        group = found[start : start + 8]
        assert len({clip.appearance() for clip in group}) == 1
        assert len({clip.signature() for clip in group}) == 8
        for clip, backwards in zip(group[::2], group[1::2], strict=True):
            assert clip.reversed().signature() == backwards.signature()
    assert len({clip.appearance() for clip in found}) == 5


def test_the_first_object_in_the_scene_is_not_the_first_to_move():
    first = [clip.motions[0].item for clip in clips(count=200)]
    assert 70 < sum(first) < 130  # 6 standard deviations are 42


def test_attributes_and_directions_are_uniform():
    many = clips(count=1000)
    for values, seen in (
        (DIRECTIONS, [m.direction for c in many for m in c.motions]),
        (COLOURS, [o.colour for c in many for o in c.scene.objects]),
        (SHAPES, [o.shape for c in many for o in c.scene.objects]),
    ):
        expected = len(seen) / len(values)
        assert set(seen) == set(values)
        assert max(abs(n - expected) for n in Counter(seen).values()) < 6 * expected**0.5


def test_records_are_the_same_every_time():
    config = MovingScenesConfig(size=5, frames=6, image_size=24, captions_per_clip=2)
    first, again = config.open(), config.open()
    assert first.inputs == {"video", "text"}
    for i in range(5):
        a, b = first[i], again[i]
        np.testing.assert_array_equal(a["video"], b["video"])
        assert a["video"].shape == (6, 24, 24, 3)
        assert {k: v for k, v in a.items() if k != "video"} == {
            k: v for k, v in b.items() if k != "video"
        }
        assert (a["video"][0] != a["video"][-1]).any()
    with pytest.raises(IndexError, match="has 5 clips, asked for 5"):
        first[5]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_objects": 3}, "min_objects is 3, more than max_objects, 2"),
        ({"max_objects": 4}, "less than or equal to 3"),
        ({"clips_per_appearance": 9}, "at most 8 for min_objects 2, got 9"),
        ({"shapes": ("cube",)}, "shapes of circle, .*, got cube"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        MovingScenesConfig(**options)


def test_too_few_kinds_of_objects_are_refused():
    source = MovingScenesConfig(colours=("red",), shapes=("circle",)).open()
    with pytest.raises(ValueError, match="1 kinds of objects have no 2 with 1 sequences"):
        source[0]


def test_clips_are_written_as_files_that_a_folder_reads(tmp_path):
    pytest.importorskip("av")
    from amodal.data import parse_source

    source = MovingScenesConfig(size=3, image_size=32, captions_per_clip=2).open()
    source.write(tmp_path)
    read = parse_source(str(tmp_path / "clips")).open()
    assert len(read) == 3
    assert read[1]["text"] == source[1]["text"]
    facts = video_facts(read[1]["video"], "row")
    assert (facts.width, facts.seconds) == (32, 2.0)
    lines = (tmp_path / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[2])["motions"] == source[2]["motions"]
