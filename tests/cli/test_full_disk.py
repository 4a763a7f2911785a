"""A disk that fills up: one line says so, what was complete is kept, and the command continues."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from amodal.cli import commands
from amodal.cli import main as cli
from amodal.data.atomic import full_disk_as_data_error
from amodal.data.record import DataError
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run

ENCODERS = {
    "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
    "text": {"kind": "small_transformer", "width": 16, "layers": 1, "heads": 2},
}
MODELS = {
    "embedding": {"encoders": ENCODERS, "projection": {"kind": "linear", "dim": 64}},
    "fusion": {
        "kind": "fusion",
        "encoders": ENCODERS,
        "fusion": {"kind": "gated", "dim": 8},
        "target": {"column": "count", "task": "regression"},
    },
}
SCENES = "scenes:size=150,image_size=32"
CASES = {  # size of the disk, command
    "pack": ("200k", "data pack scenes:size=90,image_size=64 disk/out --records-per-shard 20"),
    "make": ("100k", "data make scenes disk/out --size 60"),
    "index": ("400k", f"index embedding {SCENES} --out disk/out"),
    "embed": ("100k", f"embed embedding {SCENES} --out disk/out"),
    "predict": ("4k", f"predict fusion {SCENES} --out disk/out"),
    "evaluate": ("8m", f"evaluate disk/embedding --on {SCENES} --limit 10"),
    "plots": ("8m", "evaluate disk/embedding --task geometry --limit 10"),
}
ADVICE = {
    "pack": "complete shards are kept: free some space, and the same command continues",
    "make": "what is there is incomplete: free some space and make it again",
    "index": "what was written is kept: free some space, and the same command continues",
    "embed": "what was written is kept: free some space, and the same command continues",
    "predict": "free some space and predict again",
    "evaluate": "free some space and evaluate again",
    "plots": "free some space and evaluate again",
}
# Runs each command on a small disk, and again once the disk is larger, in a process that alone sees
# these disks. Prints JSON: case -> exit codes, errors and output of both, files after the first.
DRIVER = """
import contextlib, io, json, os, shutil, subprocess, sys
from amodal.cli import main as cli

def command(words):
    sys.argv = ["amodal", *words.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            return end.code, err.getvalue(), out.getvalue()

def mount(*words):
    subprocess.run(["mount", *words, "disk"], check=True)

found = {}
os.mkdir("disk")
for name, (size, words) in json.loads(sys.argv[1]).items():
    mount("-t", "tmpfs", "-o", f"size={size}", "none")
    if " disk/embedding" in words:
        shutil.copytree("embedding", "disk/embedding")
        with contextlib.suppress(OSError), open("disk/full", "wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    first = command(words)
    there = sorted(str(os.path.join(place, file)) for place, _, files in os.walk("disk")
                   for file in files)
    mount("-o", "remount,size=80m")
    found[name] = first, command(words), there
    subprocess.run(["umount", "-l", "disk"], check=True)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    try:
        words = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
        subprocess.run(words, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("a small disk needs unshare and tmpfs")
    folder = tmp_path_factory.mktemp("disks")
    source = {"kind": "scenes", "size": 20, "image_size": 32}
    for name, model in MODELS.items():
        recipe = {
            "data": {"train": source, "validation": {**source, "split": "validation"}},
            "model": model,
            "train": {"epochs": 1, "batch_size": 10, "precision": "fp32"},
        }
        train_run(parse_recipe(recipe, name), folder / name)
    words = ["unshare", "-rm", sys.executable, "-c", DRIVER, json.dumps(CASES)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_a_full_disk_is_one_line_and_the_command_continues_on_a_larger_one(found, name):
    (code, error, _), (again, error_again, _), _ = found[name]
    assert (code, again) == (1, 0), error + error_again
    place = {"evaluate": "disk/embedding/evaluation", "plots": "disk/embedding/evaluation"}
    line = f"error: {place.get(name, 'disk/out')}: the disk is full; {ADVICE[name]}"
    assert error.splitlines()[-1] == line
    assert "Traceback" not in error


@pytest.mark.slow
def test_what_was_complete_is_kept_and_nothing_is_half_written(found):
    after = {name: there for name, (*_, there) in found.items()}
    assert {"disk/out/.pack.json", "disk/out/shard-000000.tar"} <= {*after["pack"]}
    assert "disk/out/shard-000004.tar" not in after["pack"]
    assert "going on after" in found["pack"][1][1]
    assert "disk/out/captions.json" not in after["make"]
    assert after["predict"] == []
    assert not any(
        file.endswith((".partial", ".part")) for there in after.values() for file in there
    )
    for name in ("index", "embed"):
        assert "150 items: 150 image, 750 text rows" in found[name][1][2]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("lance error: LanceError(IO): No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_one_line_wherever_it_comes_from(error, monkeypatch, capsys):
    def full():
        raise error

    with (
        pytest.raises(DataError, match=r"^here: the disk is full; go on$"),
        full_disk_as_data_error(Path("here"), "go on"),
    ):
        full()
    with pytest.raises(ZeroDivisionError), full_disk_as_data_error(Path("here"), "go on"):
        raise ZeroDivisionError
    monkeypatch.setattr(commands, "app", full)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    assert capsys.readouterr().err == f"error: {error}\n"
