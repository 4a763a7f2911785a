"""Training on videos with sound: files that cannot be used, and a run that is opened again."""

import csv
import json

import numpy as np
import pytest
from video_files import write

import amodal
from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

pytest.importorskip("av")
RATE = 8000
RECIPE = """\
data:
  train:
    kind: table
    path: clips.csv
    columns: {video: clip, audio: clip, text: caption, image: null}
  validation:
    kind: table
    path: whole.csv
    columns: {video: clip, audio: clip, text: caption, image: null}
model:
  kind: joint_embedding
  encoders:
    video: {kind: frames, frame: {kind: small_cnn, size: 16, widths: [8, 8]}, frames: 4, layers: 1}
    audio: {kind: small_audio_cnn, sample_rate: 8000, n_mels: 16, widths: [4, 4, 4, 4], width: 8}
    text: {kind: small_transformer, width: 16, layers: 1, heads: 2}
  projection: {kind: linear, dim: 8}
augment: {video: [random_resized_crop, horizontal_flip, random_start, time_reversal]}
train: {epochs: 2, batch_size: 4, learning_rate: 1e-3, save_every: 2, evaluate_every: 2}
"""


def write_table(path, names):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["clip", "caption"])
        writer.writerows([name, f"{name[0]} before the end"] for name in names)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tone = np.sin(np.arange(RATE) / 3).astype(np.float32) / 2
    whole = [f"{letter}.mp4" for letter in "abcdef"]
    for number, name in enumerate(whole):
        times = np.arange(8 + number) / 10
        write(tmp_path / name, times, sound=(tone, RATE))
    content = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(content[: len(content) // 2])
    write(tmp_path / "y.mp4", [0, 0.1])  # without sound
    write_table(tmp_path / "whole.csv", whole)
    write_table(tmp_path / "clips.csv", [*whole, "x.mp4", "y.mp4"])
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path


def test_a_run_on_videos_with_sound_lists_the_files_that_it_skipped(folder):
    train_run(load_recipe("recipe.yaml"), folder / "run")
    metrics = json.loads((folder / "run" / "metrics.json").read_text())
    for pair in ("video_to_text", "audio_to_video", "text_to_audio"):
        assert 0 <= metrics[f"retrieval/{pair}/recall@1"] <= 1
    listed = json.loads((folder / "run" / "broken_rows.json").read_text())
    assert "cut short: x.mp4" in json.dumps(listed)
    assert "no sound track: y.mp4" in json.dumps(listed)
    model = amodal.load(folder / "run")
    z = model.encode(video=["b.mp4", (folder / "b.mp4").read_bytes()])
    np.testing.assert_array_equal(z[0], z[1])
