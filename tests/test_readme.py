"""Every command and code block of the README runs, from an empty folder outside the repository.

All blocks run in order, in one process per README (`DRIVER`), as imports take longer than the
commands on small data. The data are generated (`write_data`). Options that make models and data
sets small are appended to commands by their leading words (`SMALL`): nothing else is changed.
Commands that are not run are listed with a reason (`NOT_RUN`), except those with a comment
`# … downloads …`, of which the recipe and its overrides must load.
"""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from amodal.training.recipe import load_recipe
from amodal.training.recipes.packaged import packaged_recipes

ROOT = Path(__file__).parents[1]
README, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)

NOT_RUN = {
    "make demo": "installs from a registry and trains for minutes; run by hand",
    "make test": "installs from a registry, and is this test suite",
    "pip install": "installs from a registry",
    "torchrun": "needs eight processes, COCO and pretrained weights",
}


def sets(**values):
    """`--set` options; two underscores stand for a dot."""
    pairs = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
    return [word for pair in pairs for word in ("--set", pair)]


SCENES = {
    "data__train__size": 16,
    "data__validation__size": 8,
    "train__epochs": 1,
    "train__batch_size": 8,
}
SMALL_TEXT = {
    "model__encoders__text__width": 16,
    "model__encoders__text__layers": 1,
    "model__projection__dim": 16,
}
SMALL_TRANSFORMER = {
    "model__encoders__image__size": 32,
    "model__encoders__image__widths": "[8, 8, 16, 16]",
    "model__width": 32,
    "model__heads": 2,
    "model__encoder_layers": 1,
    "model__decoder_layers": 1,
}
OWN_DATA = sets(
    model__encoders__image__name="resnet10t",
    model__encoders__image__size=32,
    train__progressive_resizing="null",
    train__epochs=2,
    train__batch_size=16,
    train__precision="fp32",
    **SMALL_TEXT,
)
SMALL = {  # leading words of a command -> appended options
    "amodal train photos.yaml": sets(train__epochs=2, train__precision="fp32"),
    "amodal train own-data.yaml ": OWN_DATA,
    "amodal train own-table-fusion ": sets(
        model__encoders__image__size=32,
        model__encoders__image__widths="[8, 8, 16, 16]",
        model__encoders__text__width=16,
        model__fusion__dim=16,
        train__epochs=2,
        train__batch_size=16,
    ),
    "amodal train scenes-vqa": sets(**SCENES, **SMALL_TRANSFORMER),
    "amodal train scenes-dialogue": sets(**SCENES, **SMALL_TRANSFORMER),
    "amodal train scenes-image-tokenizer": sets(
        **SCENES, model__widths="[8, 8]", model__codebook_size=16, model__warmup=1
    ),
    "amodal train scenes-text-to-image": sets(
        **SCENES, model__width=32, model__heads=2, model__decoder_layers=1
    ),
    "amodal train scenes-reranker": sets(
        **SCENES, model__encoders__image__widths="[8, 8, 16]", **SMALL_TEXT
    ),
    "amodal serve ": ["--port", "0"],
}
TYPED = {"amodal chat ": "what is its colour?\n\n"}  # on the terminal

# Runs the blocks that it reads as JSON lines of {kind, text, stdin}; prints one JSON line for each.
DRIVER = """
import contextlib, io, json, sys, traceback

def command(words):
    from amodal.cli.commands import app
    try:
        app(words, standalone_mode=False)
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"exit code {end.code}") from end

results = sys.stdout
for line in sys.stdin.read().splitlines():
    step = json.loads(line)
    said, error = io.StringIO(), ""
    sys.stdin = io.StringIO(step["stdin"])
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            if step["kind"] == "python":
                exec(compile(step["text"], "README.md", "exec"), {"__name__": "__main__"})
            else:
                command(step["words"])
        except BaseException:
            error = traceback.format_exc()
    print(json.dumps({"error": error, "said": said.getvalue()}), file=results, flush=True)
"""


def blocks(readme):
    """(language, text) of every code block."""
    return BLOCK.findall(readme.read_text(encoding="utf-8"))


def steps(readme):
    """(kind, line or block): a command of a sh block, or a Python block."""
    found = []
    for language, text in blocks(readme):
        if language == "sh":
            lines = text.replace("\\\n", " ").splitlines()
            found += [("sh", line) for line in lines if shlex.split(line, comments=True)]
        elif language == "python":
            found.append(("python", text))
    return found


def plain(line):
    """A command without its comment."""
    return shlex.join(shlex.split(line, comments=True))


def is_run(line):
    return not any(plain(line).startswith(prefix) for prefix in NOT_RUN) and not downloads(line)


def downloads(line):
    return "downloads" in line.partition(" #")[2]


def words_of(line):
    """Arguments of `amodal`, with the options that make things small."""
    words = shlex.split(line, comments=True)
    for prefix, options in SMALL.items():
        if (plain(line) + " ").startswith(prefix.rstrip() + " "):
            words += options
    return words[1:]


STEPS = steps(README)
RUN = [(kind, text) for kind, text in STEPS if kind == "python" or is_run(text)]


def name(step):
    return plain(step[1])[:60] if step[0] == "sh" else "python"


# --- data ---------------------------------------------------------------------------------------


def write_data(folder):
    """Tables and images under the names that the README uses."""
    rng = np.random.default_rng(0)
    for place in ("photos", "houses"):
        (folder / place).mkdir()

    def image(path):
        low = rng.integers(0, 255, (4, 4, 3), np.uint8)
        Image.fromarray(low).resize((72, 64), Image.Resampling.BILINEAR).save(folder / path)
        return path

    things, places = ("dog", "cat", "boat", "bird"), ("beach", "street", "grass", "snow", "roof")
    captions = [f"a {thing} on the {place}" for thing in things for place in places] * 3
    rows = [
        (image(f"photos/{i}.jpg"), f"{caption}, photo {i}", 2000 + i)
        for i, caption in enumerate(captions)
    ]
    write_table(folder / "photos.csv", ("image", "caption", "year"), rows[:48])
    write_table(folder / "held-out.csv", ("image", "caption", "year"), rows[48:])
    image("query.jpg")
    image("image.png")
    towns = ("Bern", "Ulm", "Graz")
    houses = [
        (
            i,
            "" if i % 7 == 3 else image(f"houses/{i}.jpg"),
            "" if i % 5 == 2 else f"a flat with {i % 4} balconies",
            i % 5 + 1,
            "" if i % 6 == 1 else 30 + 2 * i,
            towns[i % 3],
            1000 * (20 + i),
        )
        for i in range(60)
    ]
    columns = ("id", "photo", "text", "rooms", "area", "town", "price")
    write_table(folder / "houses.csv", columns, houses[:48])
    write_table(folder / "new.csv", columns[:-1], [row[:-1] for row in houses[48:]])


def write_table(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


# --- running ------------------------------------------------------------------------------------


def environment():
    package = str(Path(sys.modules["amodal"].__file__).parents[1])
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([package, os.environ.get("PYTHONPATH", "")]),
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "AMODAL_TRACEBACK": "1",
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("readme")
    write_data(found)
    return found


@pytest.fixture(scope="module")
def results(folder):
    """Step -> its result, of every step that the driver runs."""
    driven = [step for step in RUN if not is_server(step)]
    lines = [
        json.dumps(
            {
                "kind": kind,
                "text": text,
                "words": words_of(text) if kind == "sh" else [],
                "stdin": next((t for p, t in TYPED.items() if text.startswith(p)), ""),
            }
        )
        for kind, text in driven
    ]
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        input="\n".join(lines),
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(driven), done.stdout[-2000:] + done.stderr[-4000:]
    return dict(zip(driven, found, strict=True))


def is_server(step):
    return step[0] == "sh" and step[1].startswith("amodal serve")


@pytest.mark.slow
@pytest.mark.parametrize("step", RUN, ids=name)
def test_the_block_runs(step, folder, results):
    if is_server(step):
        assert healthy(words_of(step[1]), folder)
    else:
        assert not results[step]["error"], results[step]["said"] + results[step]["error"]


def healthy(words, folder):
    """Whether a server answers /health; it is stopped afterwards."""
    server = subprocess.Popen(
        [sys.executable, "-m", "amodal", *words],
        cwd=folder, env=environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    said = []
    try:
        for line in server.stdout:
            said.append(line)
            url = re.search(r"http://[\d.]+:\d+/", line)
            if url:
                with urllib.request.urlopen(url[0] + "health", timeout=60) as answer:
                    return answer.status == 200
        pytest.fail("".join(said))
    finally:
        server.terminate()
        server.wait(60)


@pytest.mark.slow
def test_the_files_of_the_readme_are_there(results, folder):
    for path in ("predictions.csv", "attention.png", "drawn.png", "own-data.yaml"):
        assert (folder / path).is_file(), path
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 12


# --- what takes no time ---------------------------------------------------------------------------


@pytest.mark.parametrize("line", [text for kind, text in STEPS if kind == "sh"], ids=plain)
def test_the_command_is_run_or_listed(line):
    listed = any(plain(line).startswith(prefix) for prefix in NOT_RUN)
    assert listed or line.startswith("amodal "), f"{line}: run it, or give a reason in NOT_RUN"


def test_every_reason_belongs_to_a_command():
    lines = [plain(text) for kind, text in STEPS if kind == "sh"]
    for prefix in (*NOT_RUN, *SMALL, *TYPED):
        assert any((line + " ").startswith(prefix) for line in lines), prefix


@pytest.mark.parametrize(
    "line", [text for kind, text in STEPS if kind == "sh" and downloads(text)], ids=plain
)
def test_recipes_that_download_load(line):
    words = shlex.split(line, comments=True)
    assert words[:2] == ["amodal", "train"]
    load_recipe(words[2], [words[i + 1] for i, word in enumerate(words) if word == "--set"])


def test_recipes_in_yaml_load(tmp_path):
    for language, text in blocks(README):
        if language == "yaml":
            (tmp_path / "recipe.yaml").write_text(text, encoding="utf-8")
            load_recipe(tmp_path / "recipe.yaml")


def test_the_table_names_every_recipe():
    rows = [line for line in README.read_text("utf-8").splitlines() if line.startswith("|")]
    start = rows.index("| you have | recipe |")
    cells = []
    for row in rows[start + 2 :]:
        if row.startswith("|---") or "| content |" in row:
            break
        cells += re.findall(r"`([\w-]+)`", row.split("|")[2])
    assert set(packaged_recipes()) == set(cells)


def test_results_are_those_of_the_benchmarks():
    text = README.read_text("utf-8").partition("## Results")[2]
    measured = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    numbers = [n for row in re.findall(r"^\|.*\| (.*) \|$", text, re.MULTILINE)
               for n in re.findall(r"\d+\.\d+", row)]  # fmt: skip
    assert len(numbers) >= 10
    assert not [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", measured)]


def test_the_chinese_readme_has_the_same_results():
    english, chinese = (
        re.findall(r"^\|.*\| ([\d./ %]+) \|$", file.read_text("utf-8"), re.MULTILINE)
        for file in (README, CHINESE)
    )
    assert english
    assert english == chinese


def test_the_chinese_readme_has_the_same_blocks():
    assert [(kind, plain(text)) for kind, text in steps(README) if kind == "sh"] == [
        (kind, plain(text)) for kind, text in steps(CHINESE) if kind == "sh"
    ]
    assert [without_comments(text) for kind, text in steps(README) if kind == "python"] == [
        without_comments(text) for kind, text in steps(CHINESE) if kind == "python"
    ]
    assert [yaml.safe_load(text) for language, text in blocks(README) if language == "yaml"] == [
        yaml.safe_load(text) for language, text in blocks(CHINESE) if language == "yaml"
    ]
    images = [
        re.findall(r"!\[.*\]\((\S+)\)", file.read_text("utf-8")) for file in (README, CHINESE)
    ]
    assert images[0] == images[1]
    assert all((ROOT / image).stat().st_size < 300_000 for image in images[0])


def without_comments(code):
    return [line.partition("  #")[0].rstrip() for line in code.splitlines()]
