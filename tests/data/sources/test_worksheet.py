"""Excel workbooks as tables."""

from datetime import date, datetime

import openpyxl
import pytest

from amodal.data.record import BrokenRecordError, DataError
from amodal.data.sources.specification import parse_source
from amodal.data.sources.table import TableConfig


@pytest.fixture
def workbook(tmp_path):
    """Writes rows into a workbook, a sheet for each name."""

    def write(**sheets):
        book = openpyxl.Workbook()
        book.remove(book.active)
        for name, rows in sheets.items():
            sheet = book.create_sheet(name)
            for row in rows:
                sheet.append(row)
        book.save(tmp_path / "photos.xlsx")
        return tmp_path / "photos.xlsx"

    return write


def opened(file, **options):
    return TableConfig(path=str(file), **options).open()


def test_cells_are_text_numbers_dates_and_truth_values(workbook):
    rows = [
        ["image", "caption", "n", "price", "day", "at", "sold", None],
        ["a.jpg", "a dog", 1, 2.5, date(2024, 5, 1), datetime(2024, 5, 1, 12, 30), True, None],
        ["b.jpg", "a cat", 2.0, 3, date(2024, 6, 1), datetime(2024, 6, 1, 9), False, None],
    ]
    source = opened(workbook(photos=rows))
    first = source[0]
    assert first["text"] == ["a dog"]
    assert first["image"].endswith("a.jpg")
    assert [first[key] for key in ("n", "price", "sold")] == [1, 2.5, True]
    assert [first[key] for key in ("day", "at")] == ["2024-05-01", "2024-05-01T12:30:00"]
    assert source[1]["n"] == 2
    assert first["origin"].endswith("photos.xlsx row 1")


def test_the_first_sheet_is_read_unless_another_is_named(workbook):
    file = workbook(
        first=[["image", "caption"], ["a.jpg", "one"]],
        second=[["image", "caption"], ["a.jpg", "two"]],
    )
    assert opened(file)[0]["text"] == ["one"]
    assert opened(file, sheet="second")[0]["text"] == ["two"]
    with pytest.raises(DataError, match="no sheet 'secnd', did you mean 'second'"):
        opened(file, sheet="secnd")


def test_empty_rows_are_left_out_and_a_long_row_is_broken(workbook):
    rows = [[], ["image", "caption"], ["a.jpg", "one"], [None, None], ["b.jpg", "two", "three"]]
    source = opened(workbook(photos=rows))
    assert len(source) == 2
    with pytest.raises(BrokenRecordError, match="3 cells, the header has 2"):
        source[1]


def test_a_formula_without_a_result_and_an_error_are_noted(workbook):
    rows = [
        ["image", "caption", "n", "m"],
        ["a.jpg", "one", "=1+1", "#N/A"],
        ["b.jpg", "two", 3, 4],
    ]
    source = opened(workbook(photos=rows))
    assert source[0]["n"] is None
    notes = [str(note) for note in source.notes]
    assert any("formula whose result" in note and "row 1" in note for note in notes)
    assert any("#N/A" in note for note in notes)


def test_a_bare_path_means_a_table(workbook):
    file = workbook(photos=[["image", "caption"], ["a.jpg", "one"]])
    assert parse_source(str(file)) == TableConfig(path=str(file))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "the sheet is empty"),
        ([["image", "caption"]], "a header and no rows"),
        ([["image", "text"], ["a.jpg", "one"]], "no column 'caption'.*'image', 'text'"),
    ],
)
def test_a_sheet_that_is_no_table_is_refused(workbook, rows, message):
    with pytest.raises(DataError, match=message):
        opened(workbook(photos=rows))


def test_a_file_that_is_no_workbook_is_refused(tmp_path):
    file = tmp_path / "photos.xlsx"
    file.write_bytes(b"PK not an archive")
    with pytest.raises(DataError, match=r"photos\.xlsx: not an Excel workbook"):
        opened(file)
