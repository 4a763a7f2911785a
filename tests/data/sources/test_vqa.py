"""VQA v2 and easy-VQA: every question with its answers and image, and what is wrong is named."""

import json
import os
from pathlib import Path

import pytest

from amodal.data.decode import decode_image
from amodal.data.record import DataError, Source
from amodal.data.scenes.source import ScenesConfig, write_dataset
from amodal.data.sources.specification import parse_source
from amodal.data.sources.vqa import VqaConfig

DATA = Path(os.environ.get("AMODAL_DATA", Path(__file__).parents[3] / "shared" / "data"))


def question(id, image_id, text="is it red?", **more):
    return {"question_id": id, "image_id": image_id, "question": text, **more}


def annotation(id, answers, **more):
    people = [
        {"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(answers)
    ]
    return {"question_id": id, "answers": people, **more}


@pytest.fixture
def folder(tmp_path, write_image):
    for name in ("COCO_val2014_000000000007.jpg", "COCO_val2014_000000000012.jpg"):
        write_image(tmp_path / "images" / name)
    return tmp_path


def write(folder, questions, annotations=None, **head):
    head = {"info": {}, "data_subtype": "val2014", **head}
    (folder / "questions.json").write_text(json.dumps({**head, "questions": questions}))
    if annotations is not None:
        document = {**head, "annotations": annotations}
        (folder / "annotations.json").write_text(json.dumps(document))
    return VqaConfig(
        questions=str(folder / "questions.json"),
        annotations=None if annotations is None else str(folder / "annotations.json"),
    )


def reasons(source):
    return [str(e) for e in source.broken_rows]


def test_every_question_is_one_record_with_its_image_and_answers(folder):
    ten = ["red"] * 4 + ["blue"] * 5 + ["no"]
    config = write(
        folder,
        [
            question(120, 12, " what colour is it? ", multiple_choices=["red", "blue"]),
            question(70, 7),
        ],
        [
            annotation(70, ["yes"] * 10, answer_type="yes/no", question_type="is it"),
            annotation(120, ten, image_id=12, multiple_choice_answer="blue"),
        ],
    )
    source = config.open()
    assert isinstance(source, Source)
    assert len(source) == 2
    assert source.broken_rows == ()
    first, second = source[0], source[1]
    assert first["id"] == "120"
    assert first["question"] == ["what colour is it?"]
    assert first["answer"] == ["blue"]
    assert first["answers"] == ten
    assert first["multiple_choices"] == ["red", "blue"]
    assert first["image"].endswith("COCO_val2014_000000000012.jpg")
    assert decode_image(first["image"], first["origin"]).shape == (16, 20, 3)
    assert (second["answer_type"], second["question_type"]) == ("yes/no", "is it")
    first["answers"].clear()
    assert source[0]["answers"] == ten
    with pytest.raises(IndexError, match="has 2 records, asked for 2"):
        source[2]


def test_of_equally_common_answers_the_choice_of_the_file_is_taken(folder):
    rows = [question(1, 7), question(2, 7)]
    even = ["red", "blue"]
    annotations = [annotation(1, even, multiple_choice_answer="blue"), annotation(2, even)]
    source = write(folder, rows, annotations).open()
    assert [source[k]["answer"] for k in range(2)] == [["blue"], ["red"]]


def test_questions_of_a_test_set_have_no_answer(folder):
    record = write(folder, [question(1, 7)]).open()[0]
    assert "answer" not in record
    assert record["question"] == ["is it red?"]


def test_a_question_about_an_absent_image_is_skipped_and_counted(folder):
    source = write(
        folder, [question(1, 99), question(2, 7)], [annotation(1, ["no"]), annotation(2, ["no"])]
    ).open()
    assert [source[k]["id"] for k in range(len(source))] == ["2"]
    (reason,) = reasons(source)
    assert "questions[0]" in reason
    assert "image 99" in reason


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ("text", "a `question_id`"),
        ({"image_id": 7, "question": "a"}, "a `question_id`"),
        (question(1, 7), "occurs twice: 1"),
        (question(2, "seven"), "`image_id`, a number, got 'seven'"),
        (question(2, 7, "is it \ud83d"), "half of a surrogate pair"),
        (question(2, True), "a number, got True"),
        (question(2, 7, " "), "not empty"),
        (question(2, 7, None), "type string"),
    ],
)
def test_a_wrong_question_is_listed(folder, entry, words):
    source = write(folder, [question(1, 7), entry]).open()
    assert len(source) == 1
    (reason,) = reasons(source)
    assert "questions[1]" in reason
    assert words in reason


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (annotation(5, ["no"]), "a question that is not in questions.json: 5"),
        (7, "not in questions.json: None"),
        (annotation(1, ["no"], image_id=12), "image 12, but question 1 is about image 7"),
        (annotation(1, []), "no `answers`"),
        (annotation(1, [True, " ", "\ud83d"]), "no `answers`"),
    ],
)
def test_a_wrong_annotation_is_listed_and_a_question_without_one_too(folder, entry, words):
    rows, right = [question(1, 7), question(2, 7)], annotation(2, ["no"])
    source = write(folder, rows, [entry, right]).open()
    assert [source[k]["id"] for k in range(len(source))] == ["2"]
    wrong, unanswered = reasons(source)
    assert "annotations[0]" in wrong
    assert words in wrong
    assert "no answer in annotations.json" in unanswered


def test_images_are_found_by_number_by_pattern_and_by_split(tmp_path, write_image):
    for name in ("7.png", "sub/000000000008.jpg", "a/COCO_train2014_000000000009.jpg"):
        write_image(tmp_path / "images" / name)
    write_image(tmp_path / "images" / "b" / "COCO_val2014_000000000009.jpg")
    config = write(tmp_path, [question(k, k) for k in (7, 8, 9)])
    assert [Path(config.open()[k]["image"]).name for k in range(3)] == [
        "7.png",
        "000000000008.jpg",
        "COCO_val2014_000000000009.jpg",
    ]
    unsure = write(tmp_path, [question(9, 9)], data_subtype="").open()
    assert "several files" in reasons(unsure)[0]
    pattern = config.model_copy(update={"file_pattern": "sub/{image_id:012d}.jpg"})
    write(tmp_path, [question(k, k) for k in (7, 8)])
    source = pattern.open()
    assert [source[k]["image_id"] for k in range(len(source))] == [8]
    assert "no image sub/000000000007.jpg" in reasons(source)[0]


@pytest.mark.parametrize("pattern", ["image.jpg", "{number}.jpg", "{image_id:q}.jpg"])
def test_a_pattern_that_cannot_name_images_is_refused(folder, pattern):
    config = write(folder, [question(1, 7)]).model_copy(update={"file_pattern": pattern})
    with pytest.raises(DataError, match="file_pattern"):
        config.open()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON at line 1"),
        ('{"images": []}', r"a list under 'questions'.*an object with 'images'"),
        ("3", "got a int"),
    ],
)
def test_a_file_in_another_layout_is_refused(folder, content, message):
    (folder / "questions.json").write_text(content)
    with pytest.raises(DataError, match=message):
        VqaConfig(questions=str(folder / "questions.json")).open()


def test_missing_files_are_named(folder):
    with pytest.raises(DataError, match=r"gone\.json: no such file"):
        VqaConfig(questions=str(folder / "gone.json")).open()
    config = write(folder, [question(1, 7)])
    with pytest.raises(DataError, match="nowhere: expected a folder of images"):
        config.model_copy(update={"images": str(folder / "nowhere")}).open()
    with pytest.raises(DataError, match=r"gone\.json: no such file; expected VQA v2 annotations"):
        config.model_copy(update={"annotations": str(folder / "gone.json")}).open()


def test_easy_vqa_rows_hold_question_answer_and_image(tmp_path, write_image):
    write_image(tmp_path / "train" / "images" / "0.png")
    rows = [["is it red?", "yes", 0], ["what is it?", "cirle", 0], ["a", "yes"], ["a", "yes", 4]]
    (tmp_path / "train" / "questions.json").write_text(json.dumps(rows))
    (tmp_path / "answers.txt").write_text("yes\nno\ncircle")
    source = parse_source(str(tmp_path / "train")).open()
    assert source.vocabulary == ("yes", "no", "circle")
    assert len(source) == 1
    record = source[0]
    assert (record["question"], record["answer"], record["answers"]) == (
        ["is it red?"],
        ["yes"],
        ["yes"],
    )
    assert [r.partition(": ")[2] for r in reasons(source)] == [
        "'cirle' is not among the answers; the nearest is 'circle'",
        'expected [question, answer, image_id], got ["a", "yes"]',
        f"no file in {tmp_path / 'train' / 'images'} is named after image 4",
    ]
    with pytest.raises(DataError, match="leave out `annotations`"):
        VqaConfig(questions=str(tmp_path / "train" / "questions.json"), annotations="a").open()


def test_a_word_names_it(folder):
    config = write(folder, [question(1, 7)], [annotation(1, ["no"])])
    found = config.model_copy(update={"images": str(folder / "images")})
    assert parse_source(str(folder / "questions.json")) == found
    assert parse_source(str(folder)) == found
    assert parse_source(f"vqa:questions={folder}/questions.json,file_pattern=x") == VqaConfig(
        questions=f"{folder}/questions.json", file_pattern="x"
    )
    official = folder / "v2_OpenEnded_mscoco_val2014_questions.json"
    (folder / "questions.json").rename(official)
    (folder / "annotations.json").rename(folder / "v2_mscoco_val2014_annotations.json")
    parsed = parse_source(str(official))
    assert parsed.annotations == str(folder / "v2_mscoco_val2014_annotations.json")
    assert parsed.open()[0]["answer"] == ["no"]


def test_the_scenes_world_comes_back_as_it_was_written(tmp_path):
    world = ScenesConfig(size=12, questions_per_scene=3, languages=("en", "zh")).open()
    write_dataset(world, tmp_path)
    source = parse_source(str(tmp_path / "questions.json")).open()
    assert source.broken_rows == ()
    assert len(source) == 36
    for i in range(36):
        there, here = world[i // 3], source[i]
        assert here["image_id"] == i // 3
        assert here["question"] == [there["question"][i % 3]]
        assert here["answer"] == [there["answer"][i % 3]]
        assert here["answers"] == here["answer"] * 10
        assert here["question_type"] == there["question_type"][i % 3]
        kind = {"是": "yes/no", "否": "yes/no", "yes": "yes/no", "no": "yes/no"}
        expected = "number" if here["answer"][0].isdigit() else "other"
        assert here["answer_type"] == kind.get(here["answer"][0], expected)


def test_easy_vqa_is_read_whole():
    folder = DATA / "easy_vqa" / "train"
    if not folder.is_dir():
        pytest.skip(f"no easy_vqa in {DATA}")
    source = parse_source(str(folder)).open()
    assert len(source) == 38_575
    assert source.broken_rows == ()
    assert len(source.vocabulary) == 13
    answers = {source[i]["answer"][0] for i in range(len(source))}
    assert answers == set(source.vocabulary)
    assert decode_image(source[0]["image"], source[0]["origin"]).shape == (64, 64, 3)


def test_per_image_a_record_holds_all_questions_about_it(folder):
    config = write(
        folder,
        [
            question(1, 12, "what colour?"),
            question(2, 7, "is it red?"),
            question(3, 12, "how many?", multiple_choices=["1", "2"]),
        ],
        [
            annotation(1, ["red"] * 10, question_type="what"),
            annotation(2, ["no"] * 10),
            annotation(3, ["2"] * 6 + ["3"] * 4, question_type="how many"),
        ],
    )
    source = config.model_copy(update={"group_by": "image"}).open()
    assert [record["id"] for record in (source[0], source[1])] == ["12", "7"]
    first = source[0]
    assert first["question"] == ["what colour?", "how many?"]
    assert first["answer"] == ["red", "2"]
    assert first["answers"] == [["red"] * 10, ["2"] * 6 + ["3"] * 4]
    assert first["question_type"] == ["what", "how many"]
    assert first["multiple_choices"] == [None, ["1", "2"]]
    assert "question_type" not in source[1]
    with pytest.raises(IndexError, match="2 records"):
        source[2]


def test_answers_that_are_one_string_are_one_answer(folder):
    rows = [question(k, 7) for k in range(1, 5)]
    given = ["yes", "red car", 2, {"answer": "no"}]
    source = write(
        folder, rows, [{"question_id": k + 1, "answers": a} for k, a in enumerate(given)]
    )
    source = source.open()
    assert [source[k]["answer"] for k in range(4)] == [["yes"], ["red car"], ["2"], ["no"]]
    assert [source[k]["answers"] for k in range(4)] == [["yes"], ["red car"], ["2"], ["no"]]
    assert source.broken_rows == ()


def test_answers_inside_the_questions_are_read(folder):
    source = write(
        folder,
        [
            question(1, 7, answers=["yes", "yes", "no"]),
            question(2, 7, answer="red"),
            question(3, 12, answers=[{"answer": "2"}], answer_type="number"),
            question(4, 12),
        ],
    ).open()
    assert [source[k]["answer"] for k in range(len(source))] == [["yes"], ["red"], ["2"]]
    assert source[0]["answers"] == ["yes", "yes", "no"]
    assert source[2]["answer_type"] == "number"
    (reason,) = reasons(source)
    assert "question 4" in reason
    assert "no answer in questions.json" in reason
    per_image = VqaConfig(questions=str(folder / "questions.json"), group_by="image").open()
    assert per_image[0]["answer"] == ["yes", "red"]


def test_image_numbers_written_as_strings_are_numbers(folder):
    source = write(
        folder,
        [question(1, "7"), question(2, 12)],
        [annotation(2, ["a"], image_id="12"), annotation(1, ["b"], image_id=7)],
    ).open()
    assert [source[k]["image_id"] for k in range(len(source))] == [7, 12]
    assert source.broken_rows == ()


def test_answers_that_are_no_text_are_counted(folder):
    source = write(folder, [question(1, 7)], [annotation(1, ["yes", None, ["a"], "no"])]).open()
    assert source[0]["answers"] == ["yes", "no"]
    (reason,) = reasons(source)
    assert "2 of 4 answers are no text and left out, the first is 'None'" in reason
