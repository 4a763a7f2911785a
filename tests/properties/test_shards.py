"""Whatever a shard holds: items, broken rows and listed members are all of its members."""

import gzip
import io
import json
import tarfile
from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from amodal.data.record import BrokenRecordError
from amodal.data.sources.shard_index import IndexedShards
from amodal.data.sources.shard_items import UNREAD
from amodal.data.sources.webdataset import WebDatasetConfig

NAMES = st.text(st.sampled_from("abv01_-é狗 "), min_size=1, max_size=4).filter(
    lambda name: name.strip() and not name.startswith("__")  # which is metadata of WebDataset
)
KEYS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)  # with dots
FOLDERS = st.sampled_from(["", "d/", "d.x/"])
CAPTIONS = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cc", "Cf", "Zl", "Zp", "Cs"]), min_size=1
).filter(lambda text: text.strip() and text.splitlines() == [text])
UNKNOWN = st.sampled_from(["npy", "pickle", "depth", "pdf"])


@st.composite
def shards(draw):
    """Shards of members in any order; a key is in several shards, and in one shard once."""
    found = []
    for _ in range(draw(st.integers(1, 3))):
        members = []
        # Among keys that are each other's beginning, one may be a part of the other's item.
        stems = draw(
            st.lists(st.tuples(FOLDERS, KEYS), min_size=1, max_size=6, unique_by=_first_dot)
        )
        for folder, key in stems:
            whole = folder + key
            if draw(st.booleans()):
                members.append((f"{whole}.{draw(st.sampled_from(['png', 'JPG']))}", b"IMAGE"))
            form = draw(st.sampled_from(["txt", "json", "caption", "none"]))
            captions = draw(st.lists(CAPTIONS, min_size=1, max_size=3))
            if form == "json":
                members.append((f"{whole}.json", json.dumps({"captions": captions}).encode()))
            elif form != "none":
                members.append((f"{whole}.{form}", "\n".join(captions).encode()))
            if draw(st.booleans()):
                members.append((f"{whole}.{draw(UNKNOWN)}", b"never read"))
        found.append(draw(st.permutations(members)))
    return found


def _first_dot(stem):
    return stem[0], stem[1].partition(".")[0]


def write(path, members, pack):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    path.write_bytes(pack(file.getvalue()))


def captions_by_tarfile(path):
    """Name up to the last dot -> captions, with the library of Python alone."""
    found = {}
    with tarfile.open(path) as tar:
        for info in tar:
            key, _, suffix = info.name.rpartition(".")
            content = tar.extractfile(info).read().decode()
            if suffix == "json":
                found[key] = json.loads(content)["captions"]
            elif suffix in ("txt", "caption"):
                found[key] = content.split("\n")
    return found


def check(tmp_path, given_shards, packed):
    for old in tmp_path.iterdir():
        old.unlink()
    suffix, pack = (".tar.gz", gzip.compress) if packed else (".tar", bytes)
    paths = [tmp_path / f"s{number}{suffix}" for number in range(len(given_shards))]
    for path, members in zip(paths, given_shards, strict=True):
        write(path, members, pack)
    source = WebDatasetConfig(path=tuple(map(str, paths))).open()
    found = list(source)
    records = [record for record in found if isinstance(record, dict)]
    broken = [error for error in found if isinstance(error, BrokenRecordError)]
    unread = sum(note.count for note in source.notes if note.what == UNREAD)
    # A member is in a record, in a broken row, or counted as not read.
    kept = sum(("image" in record) + ("text" in record) for record in records)
    total = sum(map(len, given_shards))
    assert kept + len(broken) + unread == total
    assert broken == []
    ids = Counter(record["id"] for record in records)
    assert set(ids.values()) <= {1}
    want = {
        f"s{number}/{key}": [caption.strip() for caption in captions]
        for number, path in enumerate(paths)
        for key, captions in captions_by_tarfile(path).items()
    }
    assert {r["id"]: r["text"] for r in records if "text" in r} == want
    return source, records


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shards())
def test_members_are_in_items_or_listed_and_captions_are_those_of_tarfile(tmp_path, found):
    source, records = check(tmp_path, found, packed=False)
    indexed = IndexedShards(source.name, source.shards)
    assert [indexed[i] for i in range(len(indexed))] == records
    assert indexed.broken_rows == ()
    assert sorted(map(str, indexed.notes)) == sorted(map(str, source.notes))


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(shards())
def test_compressed_shards_whose_members_are_adjacent_give_the_same(tmp_path, found):
    ordered = [
        sorted(members, key=lambda member: member[0].rpartition(".")[0]) for members in found
    ]
    check(tmp_path, ordered, packed=True)
