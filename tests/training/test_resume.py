"""Runs that were cut off: resumed they are, bit for bit, the runs that they would have been."""

import errno
import json
import random
import signal
from pathlib import Path

import pytest
import torch
from interrupted_runs import outcome

from amodal.training import interruption
from amodal.training.checkpoints import complete_checkpoints
from amodal.training.errors import RunError
from amodal.training.optim.muon import matrices_of_layers
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run
from amodal.training.tasks.joint_embedding import JointEmbeddingRun, JointEmbeddingTask
from amodal.training.trainer import RunTrainer

WORDS = ["red", "blue", "green", "small", "large", "circle", "star", "ring"]
ADVERSARIAL = [{"kind": "info_nce"}, {"kind": "adversarial", "weight": 0.1}]


class Killed(BaseException):
    """Ends a run where it stands, as kill -9 does."""


def table(file, rows, seed=0, words=WORDS):
    """Rows of a caption and of the sensor values that its words have."""
    rng = random.Random(seed)
    with file.open("a") as lines:
        for _ in range(rows):
            drawn = rng.sample(words, 3)
            sensor = [float(word in drawn) + rng.gauss(0, 0.1) for word in WORDS]
            lines.write(json.dumps({"caption": " ".join(drawn), "sensor": sensor}) + "\n")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    table(folder / "train.jsonl", 48)
    table(folder / "validation.jsonl", 12, seed=1)
    return folder


def recipe_of(data, objectives=None, **train):
    """Four steps an epoch, checkpoints every other one, lines of the log every third one."""
    text = {"kind": "small_transformer", "width": 8, "layers": 1, "heads": 2, "dropout": 0.1}
    text["tokenizer"] = {"kind": "trained", "model": "word"}
    text["embedding_init"] = "cooccurrence"
    values = {
        "data": {
            part: {"kind": "table", "path": str(data / f"{part}.jsonl")}
            for part in ("train", "validation")
        },
        "model": {
            "encoders": {"text": text, "sensor": {"kind": "vector", "type": "vector", "width": 16}},
            "projection": {"kind": "linear", "dim": 16},
            "normalization": ["center", "l2"],
        },
        "objectives": objectives or [{"kind": "info_nce"}],
        "augment": {"text": ["token_mask"]},
        "train": {
            "epochs": 3,
            "batch_size": 12,
            "precision": "fp32",
            "learning_rate": 1e-2,
            "ema": 0.9,
            "save_every": 0.5,
            "log_every": 3,
            **train,
        },
    }
    return parse_recipe(values, "test")


@pytest.fixture(scope="module", autouse=True)
def first_is_best():
    """The best weights are never the last ones, and evaluations draw random numbers."""
    evaluate, keep = JointEmbeddingTask.evaluate, RunTrainer._keep_best

    def drawing(self, *args):
        torch.rand(1)
        return evaluate(self, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JointEmbeddingTask, "evaluate", drawing)
        patch.setattr(RunTrainer, "_keep_best", lambda self, score: keep(self, -self.saved_at))
        yield


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C as in a new process, whatever other tests have left behind."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    train_run(recipe_of(data), folder)
    return outcome(folder)


def assert_same(folder, want):
    got = outcome(folder)
    assert got.keys() == want.keys()
    assert not [name for name, value in want.items() if got[name] != value]


def cut_off(recipe, folder, patch, owner, name, after=1, **more):
    """Start a run that is killed at the n-th call of a function."""
    plain, calls = getattr(owner, name), []

    def killed(*args, **kwargs):
        calls.append(1)
        if len(calls) == after:
            raise Killed
        return plain(*args, **kwargs)

    with patch.context() as within:
        within.setattr(owner, name, killed)
        with pytest.raises(Killed):
            train_run(recipe, folder, **more)


QUICK = (
    "before the first checkpoint",
    "in a step between two lines of the log",
    "in the final evaluation",
)
MOMENTS = {
    "before the first checkpoint": (RunTrainer, "training_step", 2),
    "in a step between two lines of the log": (RunTrainer, "training_step", 6),
    "while a checkpoint is written": (RunTrainer, "_save_rng_state", 3),
    "in an evaluation": (JointEmbeddingTask, "evaluate", 2),
    "while the best weights are kept": (RunTrainer, "_keep_best", 1),
    "in the last evaluation of training": (JointEmbeddingTask, "evaluate", 3),
    "while the normalization is fitted": (JointEmbeddingRun, "complete", 1),
    "in the final evaluation": (JointEmbeddingRun, "evaluate", 1),
}


@pytest.mark.parametrize(
    "moment", [m if m in QUICK else pytest.param(m, marks=pytest.mark.slow) for m in MOMENTS]
)
def test_a_killed_run_resumes_to_the_whole_run(moment, data, whole, tmp_path, monkeypatch):
    recipe, folder = recipe_of(data), tmp_path / "run"
    cut_off(recipe, folder, monkeypatch, *MOMENTS[moment])
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_run_killed_while_its_report_is_written_writes_it_when_resumed(data, whole, tmp_path):
    recipe, folder = recipe_of(data), tmp_path / "run"

    def killed(result):
        raise Killed

    with pytest.raises(Killed):
        train_run(recipe, folder, finish=killed)
    assert not (folder / "metrics.json").exists()
    written = []
    train_run(recipe, folder, resume=True, finish=lambda result: written.append(1) or {"more": 1})
    assert written
    assert json.loads((folder / "metrics.json").read_text())["more"] == 1
    assert outcome(folder)["model.safetensors"] == whole["model.safetensors"]


def test_resuming_a_finished_run_changes_nothing_and_says_so(data, tmp_path):
    recipe, folder = recipe_of(data), tmp_path / "run"
    first = train_run(recipe, folder)
    files = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    told = []
    again = train_run(recipe, folder, resume=True, callbacks=ProgressCallbacks(warn=told.append))
    assert told == [f"{folder}: the run is finished; nothing was changed"]
    now = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}
    assert now == files
    assert again.finished_before
    assert again.metrics == first.metrics
    assert again.model.fingerprint() == first.model.fingerprint()


def press(number, monkeypatch, owner, name, call, times=1):
    """Send this process a signal, some times, at the n-th call of a function."""
    monkeypatch.setattr(interruption, "SAME_PRESS", 0.0)
    plain, calls = getattr(owner, name), []

    def pressed(*args, **kwargs):
        calls.append(1)
        if len(calls) == call:
            _press(number, times)
        return plain(*args, **kwargs)

    monkeypatch.setattr(owner, name, pressed)


def _press(number, times):
    try:
        signal.raise_signal(number)
    finally:
        if times > 1:
            _press(number, times - 1)


@pytest.mark.parametrize(
    ("number", "times"),
    [
        (signal.SIGINT, 2),
        pytest.param(signal.SIGINT, 1, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 1, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_while_evaluating_stops_at_once_and_loses_nothing(
    number, times, data, whole, tmp_path, monkeypatch
):
    recipe, folder, told = recipe_of(data), tmp_path / "run", []
    with monkeypatch.context() as patch:
        press(number, patch, JointEmbeddingTask, "evaluate", 2, times)
        result = train_run(recipe, folder, callbacks=ProgressCallbacks(warn=told.append))
    assert "stopping now; the evaluation is repeated when the run is resumed" in told
    assert result.stopped_at == 8
    assert complete_checkpoints(folder)[-1].name == "checkpoint-8"
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_ctrl_c_in_a_step_leaves_a_checkpoint_after_it(number, data, whole, tmp_path, monkeypatch):
    recipe, folder, told = recipe_of(data), tmp_path / "run", []
    with monkeypatch.context() as patch:
        press(number, patch, RunTrainer, "training_step", 7, times=2)
        result = train_run(recipe, folder, callbacks=ProgressCallbacks(warn=told.append))
    assert [line for line in told if "step" in line] == [
        "stopping after this step, when its checkpoint is written",
        "still at this step; once more ends it at once and goes back to step 6",
    ]
    assert result.stopped_at == 7
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
def test_ctrl_c_in_the_step_before_an_evaluation_leaves_it_to_the_resumed_run(
    data, whole, tmp_path, monkeypatch
):
    recipe, folder = recipe_of(data), tmp_path / "run"
    with monkeypatch.context() as patch:
        press(signal.SIGINT, patch, RunTrainer, "training_step", 8)
        assert train_run(recipe, folder).stopped_at == 8
    steps = [json.loads(line) for line in (folder / "train_log.jsonl").read_text().splitlines()]
    assert not [line for line in steps if line["step"] == 8]
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
def test_the_third_ctrl_c_ends_a_step_and_the_checkpoint_before_it_counts(
    data, whole, tmp_path, monkeypatch
):
    recipe, folder = recipe_of(data), tmp_path / "run"
    with monkeypatch.context() as patch:
        press(signal.SIGINT, patch, RunTrainer, "training_step", 8, times=3)
        with pytest.raises(KeyboardInterrupt):
            train_run(recipe, folder)
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
def test_ctrl_c_in_the_final_evaluation_stops_the_run(data, whole, tmp_path, monkeypatch):
    recipe, folder = recipe_of(data), tmp_path / "run"
    with monkeypatch.context() as patch:
        press(signal.SIGINT, patch, JointEmbeddingRun, "evaluate", 1)
        assert train_run(recipe, folder).stopped_at == 12
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


def test_a_signal_that_comes_twice_at_once_counts_once(monkeypatch):
    class Trainer:
        interrupted = evaluating = False
        saved_at = None

    told, trainer = [], Trainer()
    with interruption.graceful_interrupt(trainer, told.append):
        for _ in range(4):  # torchrun passes on what the terminal has sent to all
            signal.raise_signal(signal.SIGINT)
    assert trainer.interrupted
    assert len(told) == 1


def test_muon_with_an_adversarial_objective_resumes_to_the_whole_run(data, tmp_path, monkeypatch):
    recipe = recipe_of(data, ADVERSARIAL, optimizer="muon")
    train_run(recipe, tmp_path / "whole")
    with monkeypatch.context() as patch:
        press(signal.SIGINT, patch, RunTrainer, "training_step", 7)
        train_run(recipe, tmp_path / "parts")
    train_run(recipe, tmp_path / "parts", resume=True)
    assert_same(tmp_path / "parts", outcome(tmp_path / "whole"))


def test_making_an_optimizer_does_not_advance_a_spectral_norm():
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(6, 4))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    plain = torch.nn.Linear(3, 2)
    assert matrices_of_layers(torch.nn.Sequential(layer, plain)) == {plain.weight}
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


def test_a_resumed_run_keeps_its_tokenizer_and_says_that_the_data_changed(
    data, tmp_path, monkeypatch
):
    for name in ("train.jsonl", "validation.jsonl"):
        (tmp_path / name).write_bytes((data / name).read_bytes())
    recipe, folder, told = recipe_of(tmp_path), tmp_path / "run", []
    cut_off(recipe, folder, monkeypatch, RunTrainer, "training_step", 6)
    table(tmp_path / "train.jsonl", 30, seed=2, words=["zebra", "lion", "tiger", "monkey"])
    before = [(folder / name).read_bytes() for name in ("text/tokenizer.json", "config.json")]
    callbacks = ProgressCallbacks(warn=told.append)
    result = train_run(recipe, folder, resume=True, callbacks=callbacks)
    assert [message for message in told if "changed" in message] == [
        "data.train has changed since the run began: 78 items, 48 before; training goes on with "
        "the preprocessors of the run folder (tokenizer, statistics, classes)"
    ]
    after = [(folder / name).read_bytes() for name in ("text/tokenizer.json", "config.json")]
    assert after == before
    assert "zebra" not in result.model.preprocessors["text"].tokenizer.get_vocab()
    table(tmp_path / "train.jsonl", 30, seed=3)
    train_run(recipe, folder, resume=True)
    after = [(folder / name).read_bytes() for name in ("text/tokenizer.json", "config.json")]
    assert after == before


NO_SPACE = OSError(errno.ENOSPC, "No space left on device")
WRITERS = {  # of a checkpoint, or of the line of the log that comes next
    "torch.save": ("torch.save", RuntimeError("[enforce fail at inline_container.cc:664]")),
    "safetensors": ("safetensors.torch.save_model", NO_SPACE),
    "the state": ("amodal.training.trainer.write_text", NO_SPACE),
    "the log": ("amodal.training.trainer.append_line", NO_SPACE),
}


@pytest.mark.parametrize(
    "writer", [w if w == "torch.save" else pytest.param(w, marks=pytest.mark.slow) for w in WRITERS]
)
def test_a_full_disk_is_one_line_and_the_checkpoint_before_is_whole(
    writer, data, whole, tmp_path, monkeypatch
):
    recipe, folder = recipe_of(data), tmp_path / "run"
    name, error = WRITERS[writer]

    def full(*args, **kwargs):
        raise error

    def fill(step, values):
        if (step == 4 and writer == "the log") or step == 6:
            monkeypatch.setattr(name, full)

    with monkeypatch.context() as monkeypatch, pytest.raises(RunError) as refused:
        train_run(recipe, folder, callbacks=ProgressCallbacks(logged=fill))
    message = str(refused.value)
    assert "\n" not in message
    assert str(folder) in message
    assert "--resume" in message
    kept = folder / "checkpoints/checkpoint-4"
    assert complete_checkpoints(folder)[-1] == kept
    assert str(kept) in message
    assert not (kept.parent / "partial").exists()
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


@pytest.mark.slow
def test_a_full_disk_while_the_run_folder_is_written_is_one_line(
    data, whole, tmp_path, monkeypatch
):
    recipe, folder = recipe_of(data), tmp_path / "run"

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("amodal.training.run.keep_weights", "amodal.training.run.write_text"):
        with monkeypatch.context() as patch:
            patch.setattr(name, full)
            with pytest.raises(RunError, match=r"the disk is full.*checkpoint-12.*--resume"):
                train_run(recipe, folder, resume=folder.exists())
    with pytest.raises(RunError, match=r"the disk is full.*checkpoint-12.*--resume"):
        train_run(recipe, folder, resume=True, finish=full)  # such as the plots of the report
    train_run(recipe, folder, resume=True)
    assert_same(folder, whole)


def test_every_step_is_reported(data, tmp_path):
    steps = []
    recipe = recipe_of(data, epochs=2, log_every=100, evaluate_every=2)
    train_run(recipe, tmp_path / "run", callbacks=ProgressCallbacks(advance=steps.append))
    assert steps[:8] == list(range(1, 9))


def test_a_run_killed_before_it_wrote_anything_begins_when_resumed(data, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "recipe.yaml.partial").write_text("half of")
    assert Path(train_run(recipe_of(data, epochs=1), folder, resume=True).folder) == folder
