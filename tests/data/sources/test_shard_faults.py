"""Shards as people have them: nothing is lost without a note, no header exhausts the machine."""

import gzip
import io
import json
import resource
import tarfile
import time

import pytest

from amodal.data.inspection import inspect
from amodal.data.record import BrokenRecordError, DataError
from amodal.data.sources import shard_items, tar_members
from amodal.data.sources.shard_index import IndexedShards
from amodal.data.sources.specification import open_random_access, parse_source
from amodal.data.sources.webdataset import WebDatasetConfig

PNG = b"IMAGE"  # never decoded here


def tar_of(members):
    """The bytes of a tar of (name, content) in this order."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            data = content if isinstance(content, bytes) else content.encode()
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def write(path, members, pack=bytes):
    path.write_bytes(pack(tar_of(members)))
    return path


def read(pattern):
    """Records and broken rows, read in order, and the notes."""
    source = WebDatasetConfig(path=str(pattern)).open()
    found = list(source)
    records = [r for r in found if isinstance(r, dict)]
    return records, [r for r in found if isinstance(r, BrokenRecordError)], list(source.notes)


def indexed(pattern):
    source = WebDatasetConfig(path=str(pattern)).open()
    return IndexedShards(source.name, source.shards)


def both_ways(tmp_path, members):
    """The same members from a plain shard by index, and from a compressed one in order."""
    plain = write(tmp_path / "s.tar", members)
    packed = write(tmp_path / "s.tar.gz", members, gzip.compress)
    results = []
    for path in (plain, packed):
        records, broken, notes = read(path)
        for record in records:
            del record["origin"]
        results.append((records, [e.reason for e in broken], notes))
    assert results[0][0] == results[1][0]
    assert results[0][2] == results[1][2]
    return results[0]


# Keys.


def test_shards_with_the_same_keys_keep_their_items_apart(tmp_path, write_image):
    png = write_image(tmp_path / "x.png").read_bytes()
    for shard in range(4):
        members = [m for i in range(10) for m in ((f"{i:04}.png", png), (f"{i:04}.txt", f"{i}"))]
        write(tmp_path / f"s{shard}.tar", members)
    source = indexed(tmp_path / "s*.tar")
    ids = [source[i]["id"] for i in range(40)]
    assert len(set(ids)) == 40
    assert ids[0] == "s0/0000"
    (note,) = source.notes
    assert note.count == 30
    assert str(note).startswith("items that have the key of another shard's item")
    found = inspect(WebDatasetConfig(path=str(tmp_path / "s*.tar")).open())
    assert (found.items, found.repeated_ids.values) == (40, 0)
    assert [str(n) for n in found.notes] == [str(note)]


def test_shards_of_one_name_in_two_folders_keep_their_items_apart(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder / "s.tar", [("0.txt", folder)])
    records, _, _ = read(tmp_path / "?" / "s.tar")
    assert [r["id"] for r in records] == ["a/s/0", "b/s/0"]


def test_an_id_in_the_json_is_the_identity_and_repeats_are_counted(tmp_path, write_image):
    png = write_image(tmp_path / "x.png").read_bytes()
    members = []
    for i in range(3):
        members += [(f"{i}.png", png), (f"{i}.json", json.dumps({"id": "sku7", "caption": "a"}))]
    path = write(tmp_path / "s.tar", members)
    found = inspect(WebDatasetConfig(path=str(path)).open())
    assert (found.items, found.repeated_ids.values, found.repeated_ids.items) == (3, 1, 3)
    assert {r["id"] for r in read(path)[0]} == {"sku7"}


def test_shard_members_that_are_not_adjacent_are_joined_by_key(tmp_path):
    names = [f"{i:05}" for i in range(10)]
    members = [(f"{n}.png", PNG) for n in names] + [(f"{n}.txt", n) for n in names]
    path = write(tmp_path / "s.tar", members)
    source = indexed(path)
    assert [source[i]["text"] for i in range(len(source))] == [[n] for n in names]
    assert all(source[i]["image"] == PNG for i in range(10))
    (note,) = source.notes
    assert (note.count, note.what) == (10, "items whose members are not adjacent, joined by key")
    records, broken, _ = read(path)
    assert [r["text"] for r in records] == [[n] for n in names]
    assert broken == []
    # Read in order, what comes later is an error that says so, not a second item.
    records, broken, _ = read(write(tmp_path / "s.tar.gz", members, gzip.compress))
    assert len(records) == len(broken) == 10
    assert "have to be: sort them" in broken[0].reason


def test_shard_keys_with_dots_are_read(tmp_path):
    members = [(f"shot.2020.{i:02}.jpg", PNG) for i in range(3)]
    records, broken, notes = both_ways(tmp_path, members)
    assert [r["id"] for r in records] == [f"s/shot.2020.{i:02}" for i in range(3)]
    assert (broken, notes) == ([], [])
    members = [(f"{k}.{s}", PNG if s == "jpg" else k) for k in KEYS for s in ("jpg", "txt")]
    records, broken, notes = both_ways(tmp_path, members)
    assert {r["id"]: r["text"] for r in records} == {f"s/{k}": [k] for k in KEYS}
    assert (broken, notes) == ([], [])


KEYS = ("v1.0", "v1.1", "v1.2", "plain")


def test_many_keys_with_dots_of_one_stem_are_not_held_in_memory(tmp_path, monkeypatch):
    members = [(f"v.{i}.{s}", f"{i}") for i in range(500) for s in ("jpg", "txt")]
    records, broken, notes = both_ways(tmp_path, members)
    assert [r["text"] for r in records] == [[f"{i}"] for i in range(500)]
    assert (broken, notes) == ([], [])


def test_shard_captions_under_another_suffix_are_read(tmp_path):
    members = [m for i in range(3) for m in ((f"{i}.png", PNG), (f"{i}.caption", f"a {i}"))]
    records, broken, notes = both_ways(tmp_path, members)
    assert [(r["image"], r["text"]) for r in records] == [(PNG, [f"a {i}"]) for i in range(3)]
    parts = [m for i in range(3) for m in ((f"{i}.image.png", PNG), (f"{i}.caption.txt", f"a {i}"))]
    assert both_ways(tmp_path, parts)[0] == records
    assert (broken, notes) == ([], [])


def test_parts_that_are_not_known_are_counted_by_suffix(tmp_path):
    members = []
    for i in range(2):
        members += [(f"{i}.jpg", PNG), (f"{i}.txt", "a"), (f"{i}.depth.png", PNG)]
        members += [(f"{i}.npy", b""), (f"{i}", b"no suffix"), (f"._{i}.jpg", b"of a Mac")]
    records, broken, notes = both_ways(tmp_path, members)
    assert [r["image"] for r in records] == [PNG, PNG]
    assert broken == []
    (note,) = notes
    assert note.count == 8
    assert set(note.examples) == {
        ".depth.png 2, such as 0.depth.png",
        ".npy 2, such as 0.npy",
        "no suffix 2, such as 0",
        "hidden 2, such as ._0.jpg",
    }


def test_several_images_of_one_key_are_several_images_of_one_item(tmp_path, write_image):
    one, two = (write_image(tmp_path / f"{i}.png", seed=i).read_bytes() for i in range(2))
    numbered = [("7.0.png", one), ("7.1.png", two), ("7.txt", "a")]
    ((record,), broken, notes) = both_ways(tmp_path, numbered)
    assert (record["id"], record["image"], record["text"]) == ("s/7", [one, two], ["a"])
    assert (broken, notes) == ([], [])
    ((record,), _, _) = both_ways(tmp_path, [("7.png", one), ("7.jpg", two), ("7.txt", "a")])
    assert record["image"] == [one, two]
    assert inspect(WebDatasetConfig(path=str(tmp_path / "s.tar")).open()).rows["image"] == 2


def test_names_in_latin_1_are_read_and_can_be_written(tmp_path):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as t:
        for name in ("caf\xe9.txt", "caf\xe8.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            t.addfile(info, io.BytesIO(b"a"))
    (tmp_path / "s.tar").write_bytes(file.getvalue())
    records, broken, _ = read(tmp_path / "s.tar")
    assert [r["id"].encode() for r in records] == [b"s/caf\\xe9", b"s/caf\\xe8"]
    assert broken == []


# JSON.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ({"captions": [{"raw": "A dog"}]}, "got an object with 'raw'; write the caption itself"),
        ({"caption": {"en": "a", "fr": "b"}}, "got an object with 'en', 'fr'"),
        ({"captions": [["a", "dog"]]}, 'got ["a", "dog"]'),
        ({"caption": True}, "got true"),
        ({"caption": "a", "label": [0, 1]}, "expected `label` to be one class, got [0, 1]"),
        ({"caption": "a dog \ud83d"}, r"half of a surrogate pair (\ud83d)"),
    ],
)
def test_captions_that_are_no_strings_are_refused_with_the_way_out(tmp_path, data, reason):
    members = [("0.png", PNG), ("0.json", json.dumps(data)), ("1.png", PNG), ("1.txt", "a")]
    records, (error,), _ = both_ways(tmp_path, members)
    assert [r["id"] for r in records] == ["s/1"]
    assert reason in error


def test_labels_that_say_no_label_are_none(tmp_path):
    for i, label in enumerate(("NaN", "null", '" "')):
        path = write(tmp_path / f"{i}.tar", [("0.json", f'{{"text": "a", "label": {label}}}')])
        assert "label" not in read(path)[0][0]


def test_json_that_is_nested_too_deeply_or_a_number_of_5000_digits_is_one_broken_row(tmp_path):
    for content in ("[" * 100_000, '{"caption": ' + "9" * 5000 + "}"):
        records, (error,), _ = both_ways(tmp_path, [("0.json", content), ("1.txt", "a")])
        assert [r["id"] for r in records] == ["s/1"]
        assert "damaged json" in error


def test_metadata_whose_names_are_taken_keeps_its_value(tmp_path):
    data = {"caption": "a", "image": 1, "column_image": 2, "text": "b", "origin": 3}
    ((record,), _, _) = both_ways(tmp_path, [("0.json", json.dumps(data))])
    assert (record["column_image"], record["column_column_image"]) in ((1, 2), (2, 1))
    assert (record["column_text"], record["column_origin"]) == ("b", 3)


# Archives.


def header(name, size, kind=tarfile.REGTYPE):
    """A tar header that claims a size, in base 256 where octal digits do not do."""
    info = tarfile.TarInfo(name)
    info.type = kind
    block = bytearray(info.tobuf(tarfile.USTAR_FORMAT))
    block[124:136] = (
        f"{size:011o}\0".encode()
        if 0 <= size < 8**11
        else (b"\x80" if size >= 0 else b"\xff") + size.to_bytes(11, "big", signed=size < 0)
    )
    block[148:156] = b" " * 8
    block[148:156] = f"{sum(block):06o}\0 ".encode()
    return bytes(block)


@pytest.mark.parametrize(
    "kind", [tarfile.REGTYPE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_SPARSE]
)
@pytest.mark.parametrize("size", [4 << 60, 1 << 40, -512, -(1 << 62)])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_that_claims_4_eb_neither_hangs_nor_takes_memory(tmp_path, kind, size, pack):
    start = tar_of([("0.txt", "a")])[:1024]
    path = tmp_path / ("s.tar" if pack is bytes else "s.tar.gz")
    path.write_bytes(pack(start + header("1.txt", size, kind) + bytes(2048)))
    before = time.perf_counter()
    records, broken, _ = read(path)
    assert time.perf_counter() - before < 2
    assert [r["id"] for r in records] == ["s/0"]
    (error,) = broken
    assert "damaged tar" in error.reason
    assert "claims" in error.reason
    if pack is bytes:
        assert [e.reason for e in indexed(path).broken_rows] == [error.reason]


def test_a_size_in_an_extended_header_is_checked_too(tmp_path):
    record = b"30 size=4611686018427387904\n"
    record = f"{len(record)} size={4 << 60}\n".encode()
    record = f"{len(record)} size={4 << 60}\n".encode()
    pax = header("x", len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0")
    path = tmp_path / "s.tar"
    path.write_bytes(tar_of([("0.txt", "a")])[:1024] + pax + header("1.txt", 5) + bytes(2048))
    records, (error,), _ = read(path)
    assert [r["id"] for r in records] == ["s/0"]
    assert "claims 4,611,686,018,427,387,904 bytes" in error.reason


def test_a_damaged_extended_header_is_named(tmp_path):
    for record in (b"0 path=a\n", b"99999999999 path=a", b"x path=a", b"9" * 400):
        pax = header("x", len(record), tarfile.XHDTYPE) + record.ljust(512, b"\0")
        (tmp_path / "s.tar").write_bytes(pax + tar_of([("0.txt", "a")]))
        _, (error,), _ = read(tmp_path / "s.tar")
        assert "the extended header at byte 512 is damaged" in error.reason


def test_a_member_larger_than_the_bound_breaks_its_item_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(tar_members, "MAX_MEMBER_BYTES", 1 << 20)
    members = [("0.txt", "a"), ("1.txt", "b" * (1 << 20) + "b"), ("2.txt", "c")]
    records, broken, notes = both_ways(tmp_path, members)
    assert [r["id"] for r in records] == ["s/0", "s/2"]
    assert broken == ["txt: 1,048,577 bytes, more than 1,048,576"]
    assert notes == []


def test_an_item_of_too_many_members_is_bounded(tmp_path, monkeypatch):
    for module in ("shard_index", "shard_stream"):
        monkeypatch.setattr(f"amodal.data.sources.{module}.MAX_ITEM_BYTES", 1000)
    members = [("0.txt", "a"), *((f"0.{i}.png", bytes(100)) for i in range(20))]
    for path in (
        write(tmp_path / "s.tar", members),
        write(tmp_path / "s.tar.gz", members, gzip.compress),
    ):
        _, broken, _ = read(path)
        assert "more than 1,000" in broken[0].reason or "of more than 1,000" in broken[0].reason


def test_a_small_gzip_that_becomes_gigabytes_is_stopped(tmp_path):
    path = tmp_path / "s.tar.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        file.write(tar_of([("0.txt", "a")])[:1024])
        file.write(header("1.png", 200 << 20))
        for _ in range(70):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    records, (error,), _ = read(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # KiB
    assert [r["id"] for r in records] == ["s/0"]
    assert "perhaps a decompression bomb" in error.reason


def test_a_connection_that_fails_in_the_middle_is_one_broken_row(tmp_path, monkeypatch):
    class Failing(io.BytesIO):
        def read(self, size=-1):
            if self.tell() >= 2048:
                raise RuntimeError("connection reset")
            return super().read(size)

    data = tar_of([(f"{i}.txt", "a") for i in range(5)])
    monkeypatch.setattr(
        "amodal.data.sources.shard_stream.fsspec.open", lambda shard, mode: Failing(data)
    )
    source = WebDatasetConfig(path="memory://s.tar").open()
    *records, error = source
    assert [r["id"] for r in records] == ["s/0", "s/1"]
    assert "connection reset" in error.reason


def test_gzip_named_tar_is_read_in_order_and_refused_with_the_way_out_for_training(tmp_path):
    path = write(tmp_path / "s.tar", [("0.txt", "a")], gzip.compress)
    records, broken, _ = read(path)
    assert [r["id"] for r in records] == ["s/0"]
    assert broken == []
    message = r"compressed with gzip although it is named \.tar.*gunzip < s\.tar > s\.plain\.tar"
    with pytest.raises(DataError, match=message):
        open_random_access(parse_source(str(path)), "data.train")


def test_damage_in_the_middle_does_not_look_like_the_end(tmp_path):
    data = bytearray(tar_of([(f"{i}.txt", "a") for i in range(5)]))
    data[2 * 1024 + 100] ^= 0xFF  # in the header of the third
    for path, pack in ((tmp_path / "s.tar", bytes), (tmp_path / "s.tar.gz", gzip.compress)):
        path.write_bytes(pack(bytes(data)))
        records, (error,), _ = read(path)
        assert [r["id"] for r in records] == ["s/0", "s/1"]
        assert "no header at byte 2,048" in error.reason
        assert "what follows it is not read" in error.reason


def test_a_shard_cut_between_two_members_says_so(tmp_path):
    data = tar_of([(f"{i}.txt", "a") for i in range(5)])[: 3 * 1024]
    (tmp_path / "s.tar").write_bytes(data)
    records, (error,), _ = read(tmp_path / "s.tar")
    assert len(records) == 3
    assert "no end mark at byte 3,072, the archive may have been cut short" in error.reason


def test_archives_written_one_after_the_other_are_read_whole(tmp_path):
    first, second = tar_of([("0.txt", "a")]), tar_of([("1.txt", "b")])
    (tmp_path / "s.tar").write_bytes(first + second)
    records, broken, _ = read(tmp_path / "s.tar")
    assert [r["text"] for r in records] == [["a"], ["b"]]
    assert broken == []


def test_cut_or_damaged_compression_is_one_broken_row(tmp_path):
    packed = gzip.compress(tar_of([(f"{i}.txt", f"{i}" * 999) for i in range(50)]))
    for data in (packed[: len(packed) // 2], packed[:-30] + bytes(30)):
        (tmp_path / "s.tar.gz").write_bytes(data)
        _, broken, _ = read(tmp_path / "s.tar.gz")
        assert len(broken) == 1
    (tmp_path / "s.tar.gz").write_bytes(b"\xfd7zXZ\x00" + bytes(100))
    _, (error,), _ = read(tmp_path / "s.tar.gz")
    assert "compressed with xz, which is not read; unpack it with unxz" in error.reason


def test_a_hard_link_in_a_shard_is_what_it_is_linked_to_and_a_symbolic_link_breaks_its_item(
    tmp_path,
):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (("0.png", PNG), ("0.txt", b"a"), ("1.txt", b"b"), ("2.txt", b"c")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for name, kind, target in (
            ("1.png", tarfile.LNKTYPE, "0.png"),
            ("2.png", tarfile.SYMTYPE, "/etc/passwd"),
            ("3.png", tarfile.LNKTYPE, "gone.png"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    (tmp_path / "s.tar").write_bytes(file.getvalue())
    records, broken, _ = read(tmp_path / "s.tar")
    assert [(r["image"], r["text"]) for r in records] == [(PNG, ["a"]), (PNG, ["b"])]
    assert [e.reason for e in broken] == ["png: a link, not a file"] * 2
    (tmp_path / "s.tar.gz").write_bytes(gzip.compress(file.getvalue()))
    _, broken, _ = read(tmp_path / "s.tar.gz")
    assert [e.reason for e in broken] == ["png: a link, not a file"] * 3


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_in_every_format_are_read(tmp_path, format):
    names = ["d" * 60 + "/" + "n" * 90, *([] if format == 0 else ["狗" * 60, "x" * 300])]
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name in names:
            info = tarfile.TarInfo(f"./{name}.txt")
            info.size = 2
            tar.addfile(info, io.BytesIO(b"ab"))
    (tmp_path / "s.tar").write_bytes(file.getvalue())
    records, broken, notes = read(tmp_path / "s.tar")
    assert [r["id"] for r in records] == [f"s/{name}" for name in names]
    assert (broken, notes) == ([], [])


def test_random_bytes_in_a_shard_end_in_records_and_broken_rows(tmp_path):
    import random

    whole = tar_of([(f"{i}.{s}", "word " * i) for i in range(8) for s in ("jpg", "txt")])
    for seed in range(60):
        rng = random.Random(seed)
        data = bytearray(whole[: rng.choice((len(whole), rng.randrange(len(whole))))])
        for _ in range(rng.randrange(1, 20)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        (tmp_path / "s.tar").write_bytes(bytes(data))
        (tmp_path / "s.tar.gz").write_bytes(gzip.compress(bytes(data)))
        plain, _, _ = read(tmp_path / "s.tar")
        assert len(indexed(tmp_path / "s.tar")) >= len(plain)
        read(tmp_path / "s.tar.gz")


def test_suffixes_that_are_read_hold_no_pickle():
    assert not {"pyd", "pickle", "pkl", "pth", "pt", "npy"} & set(shard_items.SUFFIXES)
