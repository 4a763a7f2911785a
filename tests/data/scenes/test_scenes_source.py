"""The world as a source and as a data set on disk."""

import json
import pickle

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pydantic import ValidationError

from amodal.data.record import Source
from amodal.data.scenes.render import render
from amodal.data.scenes.source import ScenesConfig, write_dataset
from amodal.data.scenes.world import Scene

GENERALIZATIONS = ("iid", "attribute-pair", "count", "relation")


def test_it_is_a_source():
    source = ScenesConfig(size=7).open()
    assert isinstance(source, Source)
    assert len(source) == 7
    assert source.inputs == {"image", "text"}
    with pytest.raises(IndexError, match="7 scenes, asked for 7"):
        source[7]


def test_a_record_holds_the_image_of_its_truth():
    source = ScenesConfig(size=20, image_size=48, languages=("en", "zh")).open()
    for i in range(20):
        record = source[i]
        scene = Scene.from_json({k: record[k] for k in ("objects", "background")})
        assert scene == source.scene(i)
        np.testing.assert_array_equal(record["image"], render(scene, 48))
        assert record["count"] == len(scene.objects)
        assert record["label"] in {o.shape for o in scene.objects}
        assert record["languages"] == ["en", "zh", "en", "zh", "en"]
        assert len(record["text"]) == 5


def test_a_record_is_the_same_in_any_order_and_in_any_process():
    source = ScenesConfig(size=5).open()
    copy = pickle.loads(pickle.dumps(source))
    for i in (4, 0, 2):
        a, b = source[i], copy[i]
        np.testing.assert_array_equal(a.pop("image"), b.pop("image"))
        assert a == b


def test_ids_are_unique_over_seeds_splits_parts_and_options():
    ids = [
        ScenesConfig(size=20, seed=seed, generalization=generalization, split=split).open()[i]["id"]
        for seed in (0, 1)
        for generalization in GENERALIZATIONS
        for split in ("train", "validation", "test")
        for i in range(20)
    ]
    ids += [ScenesConfig(size=20, min_objects=5, max_objects=6).open()[i]["id"] for i in range(20)]
    assert len(set(ids)) == len(ids)


def test_the_count_split_trains_on_few_and_tests_on_many():
    for split, low, high in (("train", 1, 3), ("validation", 1, 3), ("test", 4, 6)):
        source = ScenesConfig(size=100, generalization="count", split=split).open()
        assert {source[i]["count"] for i in range(100)} == set(range(low, high + 1))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"min_objects": 5}, "min_objects is 5"),
        ({"max_objects": 7}, "less than or equal to 6"),
        ({"languages": []}, "at least 1 item"),
        ({"generalization": "relation", "split": "test", "max_objects": 1}, "at least 2"),
        ({"colour": "red"}, "Extra inputs"),
        ({"questions_per_scene": -1}, "greater than or equal to 0"),
        ({"dialogue": True, "min_objects": 1}, "min_objects of at least 2, got 1"),
        ({"dialogue": True, "languages": ["zh"]}, "dialogues are in English"),
        ({"dialogue": True, "max_objects": 1}, "min_objects is 2, more than max_objects, 1"),
        ({"dialogue_rounds": 9}, "less than or equal to 8"),
    ],
)
def test_a_wrong_config_is_refused(wrong, words):
    with pytest.raises(ValidationError, match=words):
        ScenesConfig(**wrong)


def test_a_config_survives_json():
    config = ScenesConfig(generalization="count", split="test", languages=["zh"])
    assert ScenesConfig.model_validate_json(config.model_dump_json()) == config


def test_questions_and_dialogues_are_optional():
    plain = ScenesConfig(size=5, min_objects=2).open()
    full = ScenesConfig(
        size=5, min_objects=2, questions_per_scene=4, dialogue=True, languages=("en", "zh")
    ).open()
    added = {
        "question",
        "answer",
        "question_family",
        "question_type",
        "question_language",
        "dialog",
    }
    for i in range(5):
        record = full[i]
        assert set(record) - set(plain[i]) == added
        assert {len(record[key]) for key in added - {"dialog"}} == {4}
        assert record["question_language"] == ["en", "zh", "en", "zh"]
        assert len(record["dialog"]) == 6
        for turn in record["dialog"]:
            assert set(turn) == {
                "question",
                "answer",
                "candidates",
                "relevance",
                "history_dependent",
            }
        for key in ("id", "objects", "label"):
            assert record[key] == plain[i][key]


def test_scenes_with_dialogues_have_two_objects_or_more():
    counts = {
        r["count"] for r in map(ScenesConfig(size=60, dialogue=True).open().__getitem__, range(60))
    }
    assert counts == {2, 3, 4}


def test_a_default_record_never_changes():
    record = ScenesConfig(size=1).open()[0]
    assert list(record) == [
        "id",
        "origin",
        "image",
        "text",
        "languages",
        "label",
        "count",
        "objects",
        "background",
    ]
    assert record["id"] == "scenes/iid/train/0/0/293f366565"


def test_pycocotools_reads_the_data_set_on_disk(tmp_path):
    source = ScenesConfig(size=6, languages=("en", "zh")).open()
    write_dataset(source, tmp_path / "scenes")
    coco = COCO(tmp_path / "scenes" / "captions.json")
    truth = (tmp_path / "scenes" / "scenes.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(coco.imgs) == list(range(6))
    for i, line in enumerate(truth):
        record = source[i]
        image = Image.open(tmp_path / "scenes" / "images" / coco.imgs[i]["file_name"])
        np.testing.assert_array_equal(np.asarray(image), record.pop("image"))
        assert [a["caption"] for a in coco.imgToAnns[i]] == record["text"]
        row = json.loads(line)
        assert row.pop("file_name") == coco.imgs[i]["file_name"]
        assert row == record


def test_an_interrupted_data_set_is_a_valid_smaller_one(tmp_path):
    def two_and_stop(indices):
        yield from indices[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(ScenesConfig(size=6).open(), tmp_path, track=two_and_stop)
    assert sorted(COCO(tmp_path / "captions.json").imgs) == [0, 1]
    assert len((tmp_path / "scenes.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_sizes_and_textures_that_are_left_out_never_occur():
    options = {"sizes": ["medium", "large"], "textures": ["solid"], "max_objects": 3}
    source = ScenesConfig(size=200, questions_per_scene=4, **options).open()
    things = [o for i in range(200) for o in source.scene(i).objects]
    assert {o.size for o in things} == {"medium", "large"}
    assert {o.texture for o in things} == {"solid"}
    assert len({o.shape for o in things}) == 10
    assert all(len(source[i]["question"]) == 4 for i in range(20))
    every = ScenesConfig(size=50).open()
    named = ScenesConfig(
        size=50, sizes=["large", "small", "medium"], textures=["solid", "striped", "dotted"]
    ).open()
    assert [every.scene(i) for i in range(50)] == [named.scene(i) for i in range(50)]


def test_more_large_objects_than_there_is_room_for_are_refused():
    assert len(ScenesConfig(sizes=["large"], min_objects=4, size=2).open().scene(1).objects) == 4
    with pytest.raises(ValueError, match="room for 4 large objects, max_objects is 5"):
        ScenesConfig(sizes=["large"], max_objects=5)
    with pytest.raises(ValueError, match="sizes"):
        ScenesConfig(sizes=["huge"])
    with pytest.raises(ValueError, match="textures"):
        ScenesConfig(textures=[])
