"""Several sources as one: order, ids, notes, and what a run remembers of their columns."""

import pytest
import yaml
from pydantic import ValidationError
from typer.testing import CliRunner

from amodal.cli.commands import app
from amodal.data.inspection import inspect
from amodal.data.pack import pack
from amodal.data.record import BrokenRecordError, DataError
from amodal.data.sources.concat import ConcatConfig, Concatenated
from amodal.data.sources.specification import (
    open_random_access,
    open_source,
    parse_source,
    source_values,
)


def tables(folder):
    """Two tables with an id in common, the second with a row that cannot be used."""
    (folder / "a.csv").write_text("key,caption\nx,one\ny,two\n")
    (folder / "b.csv").write_text("key,words\nx,three\nz,\nw,four\n")
    first = f"table:path={folder}/a.csv,columns.id=key,columns.image=null"
    return [first, f"table:path={folder}/b.csv,columns={{id: key, image: null, text: words}}"]


def opened(folder, **options):
    return open_source(ConcatConfig.model_validate({**source_values(tables(folder)), **options}))


def test_records_come_one_source_after_the_other_with_ids_of_their_own(tmp_path):
    source = opened(tmp_path)
    assert isinstance(source, Concatenated)
    assert (len(source), source.inputs) == (5, {"text"})
    texts = [source[i]["text"] for i in (0, 1, 2, 4)]
    assert texts == [["one"], ["two"], ["three"], ["four"]]
    assert [source[i]["id"] for i in (0, 2)] == ["0/x", "1/x"]
    with pytest.raises(BrokenRecordError, match=r"b\.csv row 2"):
        source[3]
    with pytest.raises(IndexError):
        source[5]


def test_records_with_one_id_may_be_one_item(tmp_path):
    source = opened(tmp_path, shared_ids=True)
    assert [source[i]["id"] for i in (0, 1, 2)] == ["x", "y", "x"]


def test_what_is_wrong_with_any_part_is_listed(tmp_path):
    found = inspect(opened(tmp_path))
    assert (found.items, [row.origin for row in found.broken_rows]) == (
        4,
        [f"{tmp_path}/b.csv row 2"],
    )
    index = pack(opened(tmp_path), tmp_path / "shards")
    assert (index.records, index.broken) == (4, 1)


def test_shards_are_read_in_any_order_and_a_stream_is_refused(tmp_path):
    pack(opened(tmp_path), tmp_path / "shards")
    mixed = ConcatConfig.model_validate(source_values([tables(tmp_path)[0], f"{tmp_path}/shards"]))
    source = open_random_access(mixed, "data.train")
    assert (len(source), source[5]["text"]) == (6, ["four"])
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump(mixed.model_dump(mode="json")))
    assert parse_source(f"{tmp_path}/mixed.yaml") == mixed
    remote = ConcatConfig.model_validate(source_values(["https://host/a.tar"]))
    with pytest.raises(DataError, match="only be read in order"):
        open_source(remote)


def test_columns_are_those_of_the_part_with_the_same_place(tmp_path):
    trained = ConcatConfig.model_validate(source_values(tables(tmp_path)))
    bare = source_values([f"{tmp_path}/a.csv", f"{tmp_path}/b.csv", "scenes:size=2"])
    found = ConcatConfig.model_validate(bare).read_like(trained)
    assert found.sources[1].columns.text == "words"
    assert len(found.sources) == 3


def test_the_command_line_inspects_and_packs_it(tmp_path):
    (tmp_path / "mixed.yaml").write_text(
        yaml.safe_dump(
            ConcatConfig.model_validate(source_values(tables(tmp_path))).model_dump(mode="json")
        )
    )
    for command in (["inspect"], ["pack", str(tmp_path / "shards")]):
        name, *rest = command
        done = CliRunner().invoke(app, ["data", name, str(tmp_path / "mixed.yaml"), *rest])
        assert done.exit_code == 0, done.output


def test_nothing_is_no_source():
    with pytest.raises(ValidationError, match="at least 1"):
        ConcatConfig(sources=())
