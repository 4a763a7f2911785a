"""VisDial v1.0: rounds come out in words, and what points nowhere is named."""

import copy
import json

import pytest

from amodal.data.decode import decode_image
from amodal.data.record import DataError, Source
from amodal.data.scenes.source import ScenesConfig, write_dataset
from amodal.data.sources.specification import parse_source
from amodal.data.sources.visdial import VisDialConfig

QUESTIONS = ["is it sunny", "what colour is it", "how many"]
ANSWERS = ["yes", "no", "red", "2"]


def turn(question=0, answer=1, options=(0, 1, 2), true=1):
    return {
        "question": question,
        "answer": answer,
        "answer_options": list(options),
        "gt_index": true,
    }


def dialog(image_id=7, rounds=None, caption="a dog"):
    rounds = [turn(), turn(1, 2, (3, 2), 1)] if rounds is None else rounds
    return {"image_id": image_id, "caption": caption, "dialog": rounds}


def write(folder, dialogs, split="val2018", dense=None):
    data = {"questions": QUESTIONS, "answers": ANSWERS, "dialogs": dialogs}
    file = folder / "dialogs.json"
    file.write_text(json.dumps({"version": "1.0", "split": split, "data": data}))
    if dense is not None:
        (folder / "dense.json").write_text(json.dumps(dense))
    return VisDialConfig(
        dialogs=str(file), dense_annotations=None if dense is None else str(folder / "dense.json")
    )


@pytest.fixture
def folder(tmp_path, write_image):
    for number in (7, 8):
        write_image(tmp_path / "images" / f"VisualDialog_val2018_{number:012d}.jpg")
    return tmp_path


def reasons(source):
    return [str(e) for e in source.broken_rows]


def test_every_dialogue_is_one_record_in_words(folder):
    source = write(folder, [dialog(8), dialog(7, caption=" a cat ")]).open()
    assert isinstance(source, Source)
    assert source.inputs == {"image", "text"}
    assert len(source) == 2
    assert source.broken_rows == ()
    record = source[1]
    assert (record["id"], record["image_id"], record["text"]) == ("7", 7, ["a cat"])
    assert record["dialog"] == [
        {"question": "is it sunny", "answer": "no", "candidates": ["yes", "no", "red"]},
        {"question": "what colour is it", "answer": "red", "candidates": ["2", "red"]},
    ]
    assert decode_image(record["image"], record["origin"]).shape == (16, 20, 3)
    record["dialog"].clear()
    assert len(source[1]["dialog"]) == 2
    with pytest.raises(IndexError, match="2 dialogues, asked for 2"):
        source[2]


def test_the_last_round_of_a_test_set_has_options_but_no_answer(folder):
    last = {"question": 2, "answer_options": [0, 3]}
    record = write(folder, [dialog(7, [turn(), last])]).open()[0]
    assert record["dialog"][1] == {"question": "how many", "candidates": ["yes", "2"]}


def test_options_and_captions_may_be_absent(folder):
    bare = {"image_id": 7, "dialog": [{"question": 0, "answer": 0}]}
    record = write(folder, [bare]).open()[0]
    assert record["dialog"] == [{"question": "is it sunny", "answer": "yes"}]
    assert "text" not in record


def test_relevance_goes_to_its_round(folder):
    dense = [
        {"image_id": 7, "round_id": 2, "gt_relevance": [0, 1.0]},
        {"image_id": 8, "round_id": 1, "relevance": [0.5, 0, 1]},
    ]
    source = write(folder, [dialog(7), dialog(8)], dense=dense).open()
    assert source.broken_rows == ()
    assert [r.get("relevance") for r in source[0]["dialog"]] == [None, [0.0, 1.0]]
    assert [r.get("relevance") for r in source[1]["dialog"]] == [[0.5, 0.0, 1.0], None]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"image_id": 9, "round_id": 1, "gt_relevance": [1]}, "no such round: image 9, round 1"),
        ({"image_id": 7, "round_id": 0, "gt_relevance": [1]}, "round 0"),
        ({"image_id": 7, "round_id": 3, "gt_relevance": [1]}, "round 3"),
        ({"image_id": 7, "round_id": 1, "gt_relevance": [1, 0]}, "relevance of 3 options"),
        ({"image_id": 7, "round_id": 1, "gt_relevance": ["a", 0, 1]}, "as numbers"),
        ("text", "no such round"),
    ],
)
def test_relevance_that_fits_no_round_is_listed(folder, row, words):
    source = write(folder, [dialog(7)], dense=[row]).open()
    assert len(source) == 1
    (reason,) = reasons(source)
    assert "dense.json row 0" in reason
    assert words in reason


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (dialog(99), "named after image 99"),
        (dialog(8), "occurs twice: 8"),
        (dialog("7"), "`image_id`, a number"),
        ("text", "`image_id`, a number"),
        (dialog(7, []), "a list of rounds"),
        (dialog(7, caption=3), "`caption` of type string"),
        (dialog(7, [turn(), 3]), "round 2: expected an object"),
        (dialog(7, [turn(question=3)]), "round 1: `question` is 3, expected a number below 3"),
        (dialog(7, [turn(question=-1)]), "`question` is -1"),
        (dialog(7, [turn(answer=4)]), "`answer` is 4, expected a number below 4"),
        (dialog(7, [turn(options=(0, 9))]), "`answer_options` is 9"),
        (dialog(7, [turn(options=())]), "a list under `answer_options`"),
        (dialog(7, [turn(true=3)]), "gt_index 3, but there are 3 options"),
        (dialog(7, [turn(true=0)]), "option 0 (gt_index) is not the answer"),
    ],
)
def test_a_wrong_dialogue_is_skipped_and_listed(folder, entry, words):
    source = write(folder, [dialog(8), entry]).open()
    assert [source[k]["id"] for k in range(len(source))] == ["8"]
    (reason,) = reasons(source)
    assert "dialogs[1]" in reason
    assert words in reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON at line 1"),
        ("[1]", "expected VisDial v1.0.*got list"),
        ('{"data": {"questions": []}}', r"got \['questions'\]"),
    ],
)
def test_a_file_in_another_layout_is_refused(folder, content, message):
    (folder / "dialogs.json").write_text(content)
    with pytest.raises(DataError, match=message):
        VisDialConfig(dialogs=str(folder / "dialogs.json")).open()


def test_missing_files_are_named(folder):
    with pytest.raises(DataError, match=r"gone\.json: no such file; expected VisDial"):
        VisDialConfig(dialogs=str(folder / "gone.json")).open()
    config = write(folder, [dialog(7)])
    with pytest.raises(DataError, match="nowhere: expected a folder of images"):
        config.model_copy(update={"images": str(folder / "nowhere")}).open()
    (folder / "dense.json").write_text("{}")
    with pytest.raises(DataError, match=r"dense\.json: expected a list"):
        config.model_copy(update={"dense_annotations": str(folder / "dense.json")}).open()


def test_a_word_names_it(folder):
    config = write(folder, [dialog(7)])
    found = config.model_copy(update={"images": str(folder / "images")})
    assert parse_source(str(folder / "dialogs.json")) == found
    assert parse_source(f"visdial:dialogs={folder}/dialogs.json") == config


def test_the_scenes_world_comes_back_as_it_was_written(tmp_path):
    world = ScenesConfig(size=8, dialogue=True, dialogue_rounds=5).open()
    write_dataset(world, tmp_path)
    source = parse_source(str(tmp_path / "dialogs.json")).open()
    assert source.broken_rows == ()
    assert len(source) == 8
    for i in range(8):
        record = copy.deepcopy(source[i])
        rounds = [{**one} for one in world[i]["dialog"]]
        for one in rounds:
            del one["history_dependent"]  # the layout has no place for it
        assert record["dialog"] == rounds
        assert not {o["colour"] for o in world[i]["objects"]} & set(record["text"][0].split())
