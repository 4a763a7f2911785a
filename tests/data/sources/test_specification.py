"""A word names a source, or the refusal says what would."""

import json

import datasets
import pytest
from pydantic import TypeAdapter

from amodal.data.record import DataError
from amodal.data.scenes.motion_source import MovingScenesConfig
from amodal.data.scenes.source import ScenesConfig
from amodal.data.sources.coco_captions import CocoCaptionsConfig
from amodal.data.sources.columns import Columns
from amodal.data.sources.concat import ConcatConfig
from amodal.data.sources.folder import FolderConfig
from amodal.data.sources.huggingface import HuggingFaceConfig
from amodal.data.sources.specification import KINDS, SourceConfig, checked_source, parse_source
from amodal.data.sources.table import TableConfig
from amodal.data.sources.visdial import VisDialConfig
from amodal.data.sources.vqa import VqaConfig
from amodal.data.sources.webdataset import WebDatasetConfig


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_kinds_with_options():
    assert parse_source("scenes") == ScenesConfig()
    assert parse_source("scenes:size=7, seed=1,split=test") == ScenesConfig(
        size=7, seed=1, split="test"
    )
    assert parse_source("scenes:languages=[en,zh],size=3") == ScenesConfig(
        languages=("en", "zh"), size=3
    )
    assert parse_source(
        "table:path=a.csv,columns.text=[one,two],columns.image=null"
    ) == TableConfig(path="a.csv", columns=Columns(image=None, text=("one", "two")))
    assert parse_source("folder:path=x,caption_template=a photo of a {label}") == FolderConfig(
        path="x", caption_template="a photo of a {label}"
    )
    assert parse_source("huggingface:path=me/it,streaming=true") == HuggingFaceConfig(
        path="me/it", streaming=True
    )


def test_files_are_known_by_their_suffix(tmp_path):
    for name in ("a.csv", "b.TSV", "c.jsonl", "d.parquet"):
        assert parse_source(name) == TableConfig(path=name)
    for name in ("a.tar", "x-*.tar", "x-{00..09}.tar", "s3://b/x.tar", "https://h/x.tar?key=1"):
        assert parse_source(name) == WebDatasetConfig(path=name)


def test_json_is_captions_or_rows_or_a_source(tmp_path):
    (tmp_path / "images").mkdir()
    coco = tmp_path / "captions.json"
    coco.write_text('{"images": [], "annotations": []}')
    assert parse_source(str(coco)) == CocoCaptionsConfig(
        images=str(tmp_path / "images"), annotations=str(coco)
    )
    (tmp_path / "rows.json").write_text('[{"image": "a.png", "caption": "a"}]')
    assert parse_source("rows.json") == TableConfig(path="rows.json")
    assert parse_source("rows.json").open()[0]["text"] == ["a"]
    (tmp_path / "source.json").write_text(json.dumps({"kind": "scenes", "size": 4}))
    assert parse_source("source.json") == ScenesConfig(size=4)


def test_images_of_official_coco_are_found_by_the_split_in_the_name(tmp_path, write_image):
    write_image(tmp_path / "coco" / "val2017" / "1.jpg")
    (tmp_path / "coco" / "train2017").mkdir()
    file = tmp_path / "coco" / "annotations" / "captions_val2017.json"
    file.parent.mkdir()
    document = {
        "info": {"description": "x" * 9000},
        "images": [{"id": 1, "file_name": "1.jpg"}],
        "annotations": [{"id": 5, "image_id": 1, "caption": "x"}],
    }
    file.write_text(json.dumps(document))
    want = CocoCaptionsConfig(images="coco/val2017", annotations=f"{file.relative_to(tmp_path)}")
    assert parse_source("coco/annotations/captions_val2017.json") == want
    assert parse_source("coco") == want
    (tmp_path / "coco" / "val2017" / "1.jpg").rename(tmp_path / "coco" / "1.jpg")
    (tmp_path / "coco" / "val2017").rmdir()
    assert parse_source("coco").images == "coco"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"rows": [1], "version": 2},
            "'rows', 'version', which is the layout of no known",
        ),
        ({"data": [{"image": "a"}]}, "'data', which is the layout of no known"),
        ({"text": "the images and annotations"}, "'text', which is"),
        ({"info": {"images": 1, "x": "y" * 70_000}}, "'info', which is"),
    ],
)
def test_json_of_another_layout_is_not_taken_for_coco(tmp_path, content, message):
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=message):
        parse_source("a.json")


def test_json_with_a_long_beginning_is_known_by_its_keys(tmp_path):
    (tmp_path / "images").mkdir()
    document = {"info": "x" * 100_000, "questions": []}
    (tmp_path / "a.json").write_text(json.dumps(document))
    assert parse_source("a.json").kind == "vqa"


def test_json_lines_named_json_are_a_table(tmp_path):
    (tmp_path / "a.json").write_text('{"image": "a.png", "caption": "a"}\n{"image": "b.png"}\n')
    assert parse_source("a.json") == TableConfig(path="a.json")


def test_a_byte_order_mark_does_not_hide_the_layout(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf{"questions": []}')
    assert parse_source("a.json").kind == "vqa"


def test_folders_of_compressed_shards_are_recognised(tmp_path):
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar.gz").touch()
    assert parse_source("shards") == WebDatasetConfig(path="shards/*.tar.gz")
    (tmp_path / "shards" / "b.tar").touch()
    assert parse_source("shards").path == ("shards/*.tar", "shards/*.tar.gz")


def test_a_yaml_file_holds_one_source(tmp_path):
    (tmp_path / "source.yaml").write_text("kind: table\npath: a.csv\ncolumns: {text: title}\n")
    assert parse_source("source.yaml") == TableConfig(path="a.csv", columns=Columns(text="title"))
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(DataError, match=r"bad\.yaml: not YAML"):
        parse_source("bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(DataError, match=r"list\.yaml: expected `kind`"):
        parse_source("list.yaml")
    with pytest.raises(DataError, match="no such file"):
        parse_source("gone.yaml")
    for content in ("[" * 20_000, "size: " + "9" * 5000):
        (tmp_path / "bad.yaml").write_text(content)
        with pytest.raises(DataError, match=r"bad\.yaml: line 1: "):
            parse_source("bad.yaml")
    for value in ("[" * 20_000, "9" * 5000):
        with pytest.raises(DataError):
            parse_source(f"scenes:size={value}")


def test_folders_are_recognised(tmp_path, write_image):
    write_image(tmp_path / "classes" / "cat" / "1.png")
    assert parse_source("classes") == FolderConfig(path="classes")
    write_image(tmp_path / "coco" / "images" / "1.png")
    (tmp_path / "coco" / "captions_train.json").write_text("{}")
    assert parse_source("coco") == CocoCaptionsConfig(
        images="coco/images", annotations="coco/captions_train.json"
    )
    (tmp_path / "coco" / "captions_val.json").write_text("{}")
    with pytest.raises(DataError, match=r"name one of them: coco/captions_train\.json"):
        parse_source("coco")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "a.tar").touch()
    assert parse_source("shards") == WebDatasetConfig(path="shards/*.tar")
    datasets.Dataset.from_dict({"caption": ["a"]}).save_to_disk("saved")
    assert parse_source("saved") == HuggingFaceConfig(path="saved")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no known data set; accepted are"):
        parse_source("empty")


@pytest.mark.parametrize("text", ["nothing", "", "nothing:a=1", "a.docx"])
def test_a_refusal_lists_what_is_accepted(text):
    with pytest.raises(DataError, match=r"not a source.*accepted are(.|\n)*KIND:KEY=VALUE"):
        parse_source(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scnes", "nearest kind is 'scenes'"),
        ("scenes:siz=3", "unknown key 'siz', did you mean 'size'"),
        ("scenes:size=many", "size: .*got 'many'"),
        ("scenes:size", "expected KEY=VALUE"),
        ("scenes:size=1,size.a=2", "both a value and keys"),
        ("scenes:min_objects=4,max_objects=2", "min_objects is 4"),
        ("table", "'path' is required"),
        ("table:path=a.csv,column.text=b", "unknown key 'column', did you mean 'columns'"),
        ("table:path=a.csv,columns.text=3", r"columns\.text"),
    ],
)
def test_wrong_options_are_named(text, message):
    with pytest.raises(DataError, match=message):
        parse_source(text)


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(DataError, match="nearest is 'coco_captions'"):
        checked_source({"kind": "coco_caption"}, "recipe.yaml")


def test_every_kind_survives_writing_and_reading():
    examples = [
        ScenesConfig(size=3),
        MovingScenesConfig(size=3, shapes=("star",)),
        CocoCaptionsConfig(images="i", annotations="a.json"),
        TableConfig(path=("a.csv", "b.csv"), columns=Columns(text=("x", "y"))),
        WebDatasetConfig(path="x.tar"),
        HuggingFaceConfig(path="me/it"),
        FolderConfig(path="x"),
        VqaConfig(questions="q.json"),
        VisDialConfig(dialogs="d.json"),
        ConcatConfig(sources=(ScenesConfig(size=3), FolderConfig(path="x"))),
    ]
    assert {e.kind for e in examples} == set(KINDS)
    adapter = TypeAdapter(SourceConfig)
    for example in examples:
        assert adapter.validate_python(json.loads(example.model_dump_json())) == example


def test_shards_on_disk_are_opened_for_any_order_and_streams_are_refused(tmp_path):
    import io
    import tarfile

    from amodal.data.sources.specification import open_random_access

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(3):
            info = tarfile.TarInfo(f"{i}.txt")
            info.size = 5
            tar.addfile(info, io.BytesIO(b"a dog"))
    config = parse_source(str(tmp_path / "a.tar"))
    source = open_random_access(config, "--on")
    assert (len(source), source[2]["id"]) == (3, "a/2")
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    with pytest.raises(DataError, match=r"data\.train: empty\.tar has no rows"):
        open_random_access(parse_source(str(tmp_path / "empty.tar")), "data.train")
    remote = parse_source("memory://a.tar")
    with pytest.raises(DataError, match="copy them to this machine"):
        open_random_access(remote, "--on")
