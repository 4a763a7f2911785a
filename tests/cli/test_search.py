"""The commands embed, index and search, from the words typed to the exit code."""

import json
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import amodal.cli.search as commands
from amodal.encoders.image.preprocessing import ImagePreprocessor
from amodal.evaluators.match_threshold import MatchCalibration
from amodal.metrics.match_threshold import MatchCurve
from amodal.search.description import StoreError

COLOURS = {"red": (220, 20, 20), "green": (20, 220, 20), "blue": (20, 20, 220)}


class Model:
    """Images by their mean colour, texts by the colour they name."""

    types = MappingProxyType({"image": "image", "text": "text"})
    preprocessors = MappingProxyType({"image": ImagePreprocessor(8)})
    dim = 3

    def __init__(self, weights="weights-1"):
        self.weights = weights

    def fingerprint(self):
        return self.weights

    def fingerprints(self):
        return (self.weights,)

    def encode(self, *, batch_size=64, **values):
        ((modality, items),) = values.items()
        rows = [self._colour(modality, item) for item in items]
        rows = np.asarray(rows, np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def _colour(self, modality, item):
        if modality == "text":
            return np.sum([c for name, c in COLOURS.items() if name in item] + [(1, 1, 1)], axis=0)
        if not isinstance(item, np.ndarray):
            item = Image.open(item).convert("RGB")
        return np.asarray(item).mean((0, 1)) + 1


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(commands, "open_model", lambda run: Model())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"model_type": "amodal_joint_embedding"}')
    (tmp_path / "run" / "model.safetensors").touch()
    lines = []
    for name, colour in COLOURS.items():
        Image.new("RGB", (20, 20), colour).save(tmp_path / f"{name}.png")
        row = {"image": f"{name}.png", "caption": f"a {name} wall", "size": len(name)}
        lines.append(json.dumps(row))
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nothing")
    lines.append(json.dumps({"image": "broken.png", "caption": "a wall", "size": 0}))
    (tmp_path / "table.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


def amodal(*words):
    app = typer.Typer()
    for command in (commands.embed, commands.index, commands.search):
        app.command()(command)
    return CliRunner().invoke(app, list(words))


def indexed():
    result = amodal("index", "run", "table.jsonl", "--out", "index")
    assert result.exit_code == 0, result.output
    return result


def hits(*words):
    result = amodal("search", "index", *words, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)["hits"]


def test_indexing_says_what_it_did_and_names_what_is_broken(place):
    output = indexed().output
    assert "4 items: 3 image, 4 text rows" in output
    assert "1 could not be used" in output
    assert "broken.png" in output
    assert json.loads((place / "index" / "broken.json").read_text())[0]["origin"]


def test_words_find_images_and_images_find_words(place):
    indexed()
    best = hits("something green")[0]
    assert (best["rank"], best["id"], best["input"]) == (1, "green.png", "image")
    assert best["path"].endswith("green.png")
    assert best["score"] > 0.98
    assert best["metadata"] == {"size": 5}
    assert {hit["input"] for hit in hits("green")} == {"image"}
    assert hits("--image", "blue.png")[0]["text"] == "a blue wall"
    assert {hit["input"] for hit in hits("--image", "blue.png")} == {"text"}
    assert hits("red", "--image", "blue.png", "-k", "2")[1]["id"] in {"red.png", "blue.png"}


def test_results_can_be_limited_filtered_and_of_any_modality(place):
    indexed()
    assert len(hits("green", "-k", "2")) == 2
    assert [hit["id"] for hit in hits("green", "--where", "size = 3")] == ["red.png"]
    assert {hit["input"] for hit in hits("green", "--return", "all")} == {"image", "text"}
    assert hits("green", "--where", "size > 100") == []
    assert "nothing found" in amodal("search", "index", "green", "--where", "size > 100").output


def test_people_get_a_table(place):
    indexed()
    output = amodal("search", "index", "green", "-k", "1").output
    assert [word in output for word in ("rank", "score", "a green wall", "green.png")] == [True] * 4


def calibrate():
    """Even odds at a score of 0.9 among 3 rows; from 0.95 on 91 % of the hits are matches."""
    rows = {"score": [0.5, 0.95], "recall": [1.0, 0.4], "wrong": [1.0, 0.05]}
    curve = MatchCurve(
        queries=99,
        gallery=3,
        **rows,
        wrong_low=[0.9, 0.01],
        wrong_high=[1.1, 0.1],
        odds_score=[0, 1],
        log_odds=[-90, 10],
        no_match_score=0.8,
        no_match_growth=0,
    )
    calibration = MatchCalibration(
        fingerprint="weights-1", source="held-out", curves={"text_to_image": curve}
    )
    calibration.write(Path("run"))


def test_hits_carry_what_the_calibration_of_the_run_says(place):
    indexed()
    plain = amodal("search", "index", "green", "--json")
    assert json.loads(plain.stdout)["likely_match"] is None
    assert "the run has no match calibration" in json.loads(plain.stdout)["notes"][0]
    refused = amodal("search", "index", "green", "--min-precision", "0.9")
    assert "no match calibration" in str(refused.exception)
    calibrate()
    found = json.loads(amodal("search", "index", "green", "--json").stdout)
    assert found["likely_match"] is True
    assert [hit["match"]["label"] for hit in found["hits"]] == ["likely match", "weak", "weak"]
    assert "likely match 1.00" in amodal("search", "index", "green").output
    cut = amodal("search", "index", "green", "--min-precision", "0.9", "--json")
    assert [hit["id"] for hit in json.loads(cut.stdout)["hits"]] == ["green.png"]
    assert json.loads(cut.stdout)["left_out"] == 2
    other = amodal("search", "index", "grey", "--min-precision", "0.9").output
    assert "no likely match among 3 rows" in other
    assert "nothing found: 3 hits were left out" in other


def test_wrong_usage_ends_with_2(place):
    indexed()
    for words in (
        ["search"],
        ["search", "index"],
        ["search", "index", " "],
        ["search", "index", "--image", "missing.png"],
        ["search", "index", "red", "-k", "0"],
        ["search", "index", "red", "--min-precision", "90"],
        ["search", "index", "red", "-k", "1001"],
        ["index", "run", "table.jsonl"],
    ):
        assert amodal(*words).exit_code == 2, words


def test_failures_say_what_to_do(place, monkeypatch):
    indexed()
    for words, message in (
        (["search", "nowhere", "red"], "amodal index"),
        (["search", "index", "red", "--where", "nope = 1"], "size"),
        (["search", "index", "red", "--where", "size > 1 -- "], "filters have no comments"),
        (["search", "index", "red", "--return", "audio"], "it has image, text"),
    ):
        result = amodal(*words)
        assert result.exit_code == 1
        assert isinstance(result.exception, StoreError)
        assert message in str(result.exception)
    monkeypatch.setattr(commands, "open_model", lambda run: Model("weights-2"))
    assert "other weights" in str(amodal("search", "index", "red").exception)
    assert "other weights" in str(amodal("index", "run", "table.jsonl", "--out", "index").exception)


def test_a_run_that_moved_is_asked_for(place, monkeypatch):
    indexed()
    opened = []
    monkeypatch.setattr(commands, "open_model", lambda run: opened.append(run) or Model())
    (place / "run").rename(place / "moved")
    assert "--run" in str(amodal("search", "index", "red").exception)
    assert amodal("search", "index", "red", "--run", "moved").exit_code == 0
    assert [run.name for run in opened] == ["moved"]


def test_indexing_again_adds_only_what_is_new_and_can_replace(place):
    indexed()
    Image.new("RGB", (20, 20), COLOURS["red"]).save(place / "wall.png")
    line = json.dumps({"image": "wall.png", "caption": "a red wall", "size": 1})
    with (place / "table.jsonl").open("a") as file:
        file.write(line + "\n")
    output = indexed().output
    assert "5 items: 4 image, 5 text rows" in output
    assert "7 of the rows were there before" in output
    Image.new("RGB", (20, 20), COLOURS["blue"]).save(place / "green.png")
    indexed()
    assert hits("blue", "-k", "1")[0]["id"] == "blue.png"
    assert amodal("index", "run", "table.jsonl", "--out", "index", "--replace").exit_code == 0
    assert {hit["id"] for hit in hits("blue", "-k", "2")} == {"blue.png", "green.png"}


def test_embedding_again_continues(place):
    result = amodal("embed", "run", "table.jsonl", "--out", "embeddings")
    assert result.exit_code == 0, result.output
    assert "4 items: 3 image, 4 text rows" in result.output
    again = amodal("embed", "run", "table.jsonl", "--out", "embeddings")
    assert "7 of the rows were there before" in again.output
    assert len(list((place / "embeddings").glob("*.parquet"))) == 1


def test_ctrl_c_is_no_error_of_ours(place, monkeypatch):
    def stopped(*args, **kwargs):
        raise KeyboardInterrupt
        yield

    monkeypatch.setattr("amodal.search.embed.embed_source", stopped)
    for command in ("index", "embed"):
        result = amodal(command, "run", "table.jsonl", "--out", command)
        assert result.exit_code == 130
        assert "0 rows are kept" in result.output
        assert "the same command continues" in result.output


def test_parts_of_a_query_are_given_by_type_or_by_name(place):
    indexed()
    red = hits("red")
    assert hits("--input", "text=red") == red
    assert hits("--input", "image=blue.png")[0]["text"] == "a blue wall"
    combined = hits("red", "--image", "blue.png", "--return", "all")
    assert combined == hits("--input", "text=red", "--input", "image=blue.png", "--return", "all")
    document = amodal("search", "index", "red", "--image", "blue.png", "--json").stdout
    assert json.loads(document)["query"] == {"text": "red", "image": "blue.png"}
    for words, message in (
        (["--input", "smell=x"], "no input 'smell'"),
        (["--audio", "red.png"], "no input of type audio"),
    ):
        assert message in str(amodal("search", "index", *words).exception)
    for words in (["--input", "text"], ["--input", "=red"], ["--input", "text= "]):
        assert amodal("search", "index", *words).exit_code == 2, words


def test_only_the_named_inputs_are_embedded(place):
    result = amodal("embed", "run", "table.jsonl", "--out", "texts", "--input", "text")
    assert result.exit_code == 0, result.output
    assert "4 items: 4 text rows" in result.output


def test_a_mistyped_index_names_the_nearest(place):
    indexed()
    assert "indx: no such folder; did you mean index?" in str(
        amodal("search", "indx", "red").exception
    )
