"""A modality type of another package, from a table to the served page; nothing of it in `src/`."""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

PLUGIN = Path(__file__).parent / "plugin"
SHAPES = ("line", "circle", "cross")
SIDES = ("left", "right")
RECIPE = """\
data:
  train: {kind: table, path: train.csv, columns: {text: caption}}
  validation: {kind: table, path: validation.csv, columns: {text: caption}}
model:
  encoders:
    cloud: {type: points, kind: point_set_mlp}
    text: {kind: small_transformer, width: 32, layers: 1, heads: 2, max_length: 12}
  projection: {kind: linear, dim: 16}
augment: {cloud: [point_noise]}
train: {epochs: 30, batch_size: 32, learning_rate: 3e-3, precision: fp32, save_every: 30,
  evaluate_every: 30}
"""


def points_of(shape, side, rng):
    t = rng.random(24)
    x, y = {
        "line": (t, np.full_like(t, 0.5)),
        "circle": (0.5 + 0.5 * np.cos(6.28 * t), 0.5 + 0.5 * np.sin(6.28 * t)),
        "cross": (np.where(t < 0.5, 2 * t, 0.5), np.where(t < 0.5, 0.5, 2 * t - 1)),
    }[shape]
    left = 0.05 if side == "left" else 0.6
    return np.stack([left + 0.35 * x, 0.3 + 0.4 * y], axis=1).round(3)


def write_table(path, count, seed):
    rng = np.random.default_rng(seed)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "cloud", "caption", "year"])
        for i in range(count):
            shape, side = SHAPES[i % 3], SIDES[i // 3 % 2]
            points = json.dumps(points_of(shape, side, rng).tolist())
            writer.writerow([f"p{i}", points, f"a {shape} on the {side}", 2000 + i])
        writer.writerow(["broken", "[[1, 2, 3]]", "three numbers", 1999])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("points")
    write_table(found / "train.csv", 240, 0)
    write_table(found / "validation.csv", 24, 1)
    (found / "recipe.yaml").write_text(RECIPE)
    return found


def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(PLUGIN), *sys.path])}


# Runs the commands that it reads as JSON lines; prints for each its exit code and what it said.
DRIVER = """
import contextlib, io, json, sys
from amodal.cli import main as cli

for line in sys.stdin:
    sys.argv, said = ["amodal", *json.loads(line)], io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code
    print(json.dumps([code, said.getvalue()]), flush=True)
"""


@pytest.fixture(scope="module")
def amodal(folder):
    """Runs commands one after the other in a process that has the plugin; returns what is said."""
    process = subprocess.Popen(
        [sys.executable, "-c", DRIVER],
        cwd=folder, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def run(*words, code=0):
        process.stdin.write(json.dumps(list(map(str, words))) + "\n")
        process.stdin.flush()
        found, said = json.loads(process.stdout.readline())
        assert found == code, said
        return said

    yield run
    process.stdin.close()
    assert process.wait(timeout=60) == 0


@pytest.fixture(scope="module")
def run(folder, amodal):
    said = amodal("train", "recipe.yaml", "--out", "run")
    assert "1 broken rows" in said
    return folder / "run"


@pytest.fixture(scope="module")
def index(folder, run, amodal):
    said = amodal("index", "run", "validation.csv", "--out", "index")
    assert "expected points (N, 2)" in said
    return folder / "index"


def test_a_trained_run_has_the_type_in_its_folder_and_its_report(folder, run):
    config = json.loads((run / "config.json").read_text())
    assert config["inputs"] == [["cloud", "points"], ["text", "text"]]
    assert (run / "cloud" / "points.json").is_file()
    report = (run / "report.html").read_text()
    assert "cloud" in report
    assert "data:image" in report  # what a point set looks like
    metrics = json.loads((run / "metrics.json").read_text())
    # Six kinds of item, four of each: any of the four is right for its caption.
    assert metrics["retrieval/text_to_cloud/recall@10"] > 0.9


def test_it_is_evaluated_embedded_and_searched(run, index, amodal):
    said = amodal("evaluate", "run", "--on", "validation.csv")
    assert "retrieval/cloud_to_text" in said
    said = amodal("embed", "run", "validation.csv", "--out", "rows")
    assert "24 cloud" in said
    hits = json.loads(amodal("search", "index", "a circle on the left", "--json", "-k", 4))
    assert [hit["input"] for hit in hits["hits"]] == ["cloud"] * 4
    assert all("circle on the left" in hit["text"] for hit in hits["hits"])
    points = json.dumps(points_of("cross", "right", np.random.default_rng(7)).tolist())
    found = json.loads(amodal("search", "index", "--input", f"cloud={points}", "--json", "-k", 1))
    assert found["hits"][0]["text"] == "a cross on the right"
    said = amodal("search", "index", "--input", "cloud=[[1, 2, 3]]", code=1)
    assert "expected points (N, 2)" in said


@pytest.fixture
def server(folder, index):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "amodal", "serve", "index", "--port", str(port)],
        cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    httpx = pytest.importorskip("httpx")
    address = f"http://127.0.0.1:{port}"
    for _ in range(300):
        try:
            httpx.get(f"{address}/health")
            break
        except httpx.TransportError:
            assert process.poll() is None, process.stdout.read()
            time.sleep(0.2)
    yield address
    process.terminate()
    process.wait(timeout=20)


def test_it_is_served_over_rest_and_on_the_page(server):
    import httpx

    about = httpx.get(f"{server}/api/about").json()
    fields = [
        {name: field[name] for name in ("name", "type", "field_type")} for field in about["inputs"]
    ]
    assert fields == [
        {"name": "cloud", "type": "points", "field_type": "value"},
        {"name": "text", "type": "text", "field_type": "text"},
    ]
    hits = httpx.post(f"{server}/api/search", data={"text": "a line on the right"}).json()["hits"]
    assert hits[0]["text"] == "a line on the right"
    assert hits[0]["thumbnail"].startswith("data:image/jpeg")
    points = json.dumps(points_of("line", "left", np.random.default_rng(9)).tolist())
    hits = httpx.post(f"{server}/api/search", data={"cloud": points}).json()["hits"]
    assert hits[0]["input"] == "text"
    assert hits[0]["text"] == "a line on the left"
    refused = httpx.post(f"{server}/api/search", data={"cloud": "{"})
    assert refused.status_code == 422
    chromium = "/usr/bin/chromium"
    if not Path(chromium).exists():
        pytest.skip("the page needs Debian's chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(server)
        page.wait_for_selector("#search-input-cloud")
        assert not page.is_visible("#image")  # no input takes an image
        page.fill("#search-input-cloud", points)
        page.click("#panel-search [type=submit]")
        page.wait_for_selector("#panel-search .hits li")
        assert "a line on the left" in page.inner_text("#panel-search .hits")
        browser.close()
