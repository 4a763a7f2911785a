"""From a folder of photos to an answering search page: time and recall in four layouts.

    unshare --map-root-user --net python benchmarks/own_photos.py    # six minutes on two cores

The first 300 photos of the dev split of Flickr8k, five captions each (one each in metadata.csv), as
a table captions.csv, as `a.txt` beside `a.jpg`, as metadata.csv, and as COCO captions. For each
layout, in a new folder with an empty HOME: `amodal init photos --yes`, then the commands that it
prints, to the moment when the page answers. Reported are the seconds of each command and the recall
on the photos that the recipe holds out. `unshare` takes the network away; without it the result
says so. Data are in $AMODAL_DATA/flickr8k. Writes benchmarks/results/own_photos.json.
"""

from __future__ import annotations

import csv
import http.client
import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from amodal.data.sources.coco_captions import CocoCaptionsConfig

HERE = Path(__file__).parent
RESULT = HERE / "results" / "own_photos.json"
DATA = Path(os.environ.get("AMODAL_DATA", HERE.parents[1] / "shared" / "data")) / "flickr8k"
PHOTOS = 300
PORT = 8123

Photo = tuple[str, list[str]]  # file name, captions


def photos() -> list[Photo]:
    """The first photos of the dev split."""
    source = CocoCaptionsConfig(
        images=str(DATA / "images"), annotations=str(DATA / "captions_dev.json")
    ).open()
    return [
        (Path(one["image"]).name, one["text"]) for one in map(source.__getitem__, range(PHOTOS))
    ]


def write_table(file: Path, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    """A CSV file."""
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([header, *rows])


def captions_csv(folder: Path, chosen: list[Photo]) -> None:
    """A row for each caption."""
    rows = [(name, caption) for name, captions in chosen for caption in captions]
    write_table(folder / "captions.csv", ("image", "caption"), rows)


def text_files(folder: Path, chosen: list[Photo]) -> None:
    """A text file beside each photo, a caption per line."""
    for name, captions in chosen:
        (folder / name).with_suffix(".txt").write_text("\n".join(captions) + "\n")


def metadata_csv(folder: Path, chosen: list[Photo]) -> None:
    """A row for each photo, with its first caption."""
    rows = [(name, captions[0]) for name, captions in chosen]
    write_table(folder / "metadata.csv", ("file_name", "text"), rows)


def coco(folder: Path, chosen: list[Photo]) -> None:
    """COCO captions: photos in `images`, annotations beside it."""
    (folder / "images").mkdir()
    for name, _ in chosen:
        (folder / name).rename(folder / "images" / name)
    pairs = [(i, caption) for i, (_, captions) in enumerate(chosen) for caption in captions]
    content = {
        "images": [{"id": i, "file_name": name} for i, (name, _) in enumerate(chosen)],
        "annotations": [{"id": i, "image_id": n, "caption": c} for i, (n, c) in enumerate(pairs)],
    }
    (folder / "captions.json").write_text(json.dumps(content))


LAYOUTS: dict[str, Callable[[Path, list[Photo]], None]] = {
    "captions.csv": captions_csv,
    "a.txt beside a.jpg": text_files,
    "metadata.csv": metadata_csv,
    "COCO": coco,
}


def answers(port: int) -> bool:
    """Whether the page is served."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def run(folder: Path) -> dict[str, Any]:
    """The commands of a new user in a folder that has `photos`."""
    home = folder / "home"
    home.mkdir()
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AMODAL_", "XDG_", "HF_"))}
    options: Any = {"cwd": folder, "env": {**kept, "HOME": str(home)}, "text": True}
    amodal = [sys.executable, "-m", "amodal"]
    seconds: dict[str, float] = {}

    def timed(words: list[str]) -> str:
        began = time.perf_counter()
        done = subprocess.run([*amodal, *words], check=True, stdout=subprocess.PIPE, **options)
        seconds[words[0]] = round(time.perf_counter() - began, 1)
        return str(done.stdout)

    printed = timed(["init", "photos", "--yes"])
    lines = [line.strip() for line in printed.splitlines()]
    train, index, serve = (
        shlex.split(line)[1:]
        for name in ("train", "index", "serve")
        for line in lines
        if line.startswith(f"amodal {name} ")
    )
    timed(train)
    timed(index)
    began = time.perf_counter()
    server = subprocess.Popen([*amodal, *serve, "--port", str(PORT)], **options)
    try:
        while not answers(PORT):
            if server.poll() is not None:
                raise SystemExit(f"amodal serve ended with {server.returncode}")
            time.sleep(0.1)
        seconds["serve"] = round(time.perf_counter() - began, 1)
    finally:
        server.terminate()
        server.wait()
    metrics = json.loads((folder / "runs" / "photos" / "metrics.json").read_text())
    recalls = {name: value for name, value in metrics.items() if name.endswith("recall@1")}
    return {"seconds": seconds, "total": round(sum(seconds.values()), 1), **recalls}


def main() -> None:
    interfaces = [name for _, name in socket.if_nameindex() if name != "lo"]
    if not interfaces:  # the page is asked for on this one, which is down at first
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    results: dict[str, Any] = {"photos": PHOTOS, "network": bool(interfaces)}
    chosen = photos()
    for name, write in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            there = Path(folder) / "photos"
            there.mkdir()
            for file, _ in chosen:
                shutil.copy(DATA / "images" / file, there)
            write(there, chosen)
            results[name] = run(Path(folder))
        print(name, json.dumps(results[name]), flush=True)
    RESULT.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
