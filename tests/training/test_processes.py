"""Training on several processes beside one, their failures and their signals."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from torch import nn

from amodal.data.record import DataError
from amodal.training import processes
from amodal.training.checkpoints import complete_checkpoints
from amodal.training.errors import TrainingError
from amodal.training.processes import (
    check_micro_batches,
    check_same_data,
    together,
    wait_for_all,
)
from amodal.training.recipe import parse_recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.run import train_run

ROOT = Path(__file__).parents[2]


def load_benchmark():
    path = ROOT / "benchmarks" / "processes.py"
    spec = importlib.util.spec_from_file_location("processes_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


benchmark = load_benchmark()
CASES = list(benchmark.cases(Path()))
CLOSE = 1e-5  # of a loss at any step


@pytest.fixture
def data(tmp_path):
    benchmark.make_data(tmp_path)
    return tmp_path


# --- parts, in one process ------------------------------------------------------------------------


def test_one_process_neither_meets_nor_waits():
    with together():
        wait_for_all()
    with pytest.raises(KeyError), together():
        raise KeyError("its own error")
    check_same_data(3, nn.Linear(2, 2), {})


def test_whole_batches_that_cannot_be_read_are_left_out_and_the_loss_is_that_of_the_others(data):
    recipe = parse_recipe(benchmark.cases(data)["whole_batches_unreadable"], "test")
    result = train_run(recipe, data / "run")
    lines = [json.loads(line) for line in (data / "run" / "train_log.jsonl").open()]
    steps = [line for line in lines if "learning_rate" in line]
    assert len(steps) == result.steps == 35
    assert len(result.broken) == 35
    found = [step["loss"] for step in steps if "loss" in step]
    assert 0 < len(found) < 35
    assert max(found) > 0


def test_a_source_of_which_nothing_can_be_read_is_refused_with_the_first_reason(data):
    for file in data.glob("*.png"):
        file.write_bytes(b"no image")
    recipe = parse_recipe(benchmark.cases(data)["uneven_batches"], "test")
    with pytest.raises(DataError, match=r"none of the first 70 rows .*png"):
        train_run(recipe, data / "run")


def test_micro_batches_of_other_rows_than_in_one_process_are_refused(monkeypatch):
    class Some(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.network = nn.Sequential(layer)

    check_micro_batches(Some(nn.BatchNorm1d(2)), 4)  # one process: as ever
    monkeypatch.setattr(processes, "world_size", lambda: 2)
    check_micro_batches(Some(nn.LayerNorm(2)), 4)
    check_micro_batches(Some(nn.BatchNorm1d(2)), None)
    with pytest.raises(RecipeError, match="micro_batch_size: 0 has statistics"):
        check_micro_batches(Some(nn.BatchNorm1d(2)), 4)


def test_processes_that_read_other_data_are_refused(monkeypatch):
    class Vocabulary:
        def save(self, folder):
            folder.mkdir(parents=True)
            (folder / "words.txt").write_text("a b")

    def other_process(change):
        def both(text):
            own = json.loads(text)
            key = next(k for k in own if k.startswith(change))
            return [text, json.dumps(own | {key: "another"})]

        return both

    monkeypatch.setattr(processes, "world_size", lambda: 2)
    for what in ("rows", "preprocessors", "weights"):
        monkeypatch.setattr(processes, "gather_texts", other_process(what))
        with pytest.raises(TrainingError, match=f"{what}.*another in process 1"):
            check_same_data(3, nn.Linear(2, 2), {"text": Vocabulary()})
    monkeypatch.setattr(processes, "gather_texts", lambda text: [text, text])
    check_same_data(3, nn.Linear(2, 2), {"text": Vocabulary()})


# --- two and three processes ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    """A folder with the runs of every case on one, two and three processes."""
    folder = tmp_path_factory.mktemp("processes")
    names = [*CASES, "float64"]
    command = [sys.executable, benchmark.__file__, "--keep", str(folder), "--only", *names]
    subprocess.run(command, check=True, timeout=3000, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("size", benchmark.GROUPS)
@pytest.mark.parametrize("case", CASES)
def test_the_losses_of_every_step_are_those_of_one_process(groups, case, size):
    gap, steps = benchmark.difference(groups / "1" / case, groups / str(size) / case)
    assert steps >= 7
    assert gap < CLOSE


@pytest.mark.slow
@pytest.mark.parametrize("size", benchmark.GROUPS)
def test_what_differs_in_a_run_that_amplifies_rounding_vanishes_in_double_precision(groups, size):
    gap, steps = benchmark.difference(groups / "1/float64", groups / str(size) / "float64")
    assert steps >= 7
    assert gap < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_what_was_read_is_counted_and_listed_once_for_all_processes(groups, case):
    alone = groups / "1" / case
    for size in benchmark.GROUPS:
        several = groups / str(size) / case
        one, other = (
            json.loads((folder / "metrics.json").read_text()) for folder in (alone, several)
        )
        counts = [name for name in one if name.startswith("data/")]
        assert {n: one[n] for n in counts} == {n: other[n] for n in counts}
        rows = [
            {row["origin"] for row in json.loads((folder / "broken_rows.json").read_text())}
            for folder in (alone, several)
        ]
        assert rows[0] == rows[1]


def torchrun(folder, recipe, *options, out="run", processes=2):
    """The command of the README, started and not waited for."""
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launcher, "-m", "amodal", "train", "recipe.yaml", "--out", out, *options]
    return subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def workers_of(launcher):
    """Process ids of the training processes, by rank."""
    found = {}
    listed = ["ps", "-o", "pid=", "--ppid", str(launcher.pid)]
    for pid in subprocess.run(listed, capture_output=True, text=True).stdout.split():
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        values = dict(entry.split(b"=", 1) for entry in entries if b"=" in entry)
        if b"RANK" in values:
            found[int(values[b"RANK"])] = int(pid)
    return found


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_message(data):
    recipe = benchmark.cases(data)["batch_norm"]
    broken = (
        "import os, amodal.training.tasks.joint_embedding as m\n"
        "plain = m.JointEmbeddingTask.backward\n"
        "def backward(self, batch, step):\n"
        "    if os.environ['RANK'] == '1' and step.number == 2:\n"
        "        raise ValueError('the third step went wrong')\n"
        "    return plain(self, batch, step)\n"
        "m.JointEmbeddingTask.backward = backward\n"
        "from amodal.cli.main import main\n"
        "main()\n"
    )
    (data / "broken.py").write_text(broken)
    (data / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command = ["--nproc-per-node", "2", "broken.py", "train", "recipe.yaml", "--out", "run"]
    begin = time.monotonic()
    done = subprocess.run(
        [*launcher, *command],
        cwd=data,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    # Process 0 says so too, "process 1: …", unless the launcher ends it before it has.
    assert "error: the third step went wrong" in said
    assert time.monotonic() - begin < 240


@pytest.mark.slow
def test_sigterm_of_one_process_ends_all_with_one_checkpoint_from_which_they_go_on(data):
    recipe = benchmark.cases(data)["batch_norm_gaps"]
    recipe["train"] |= {"epochs": 5, "evaluate_every": 99, "save_every": 99}
    started = torchrun(data, recipe)
    log = data / "run" / "train_log.jsonl"
    end = time.monotonic() + 200
    while not (log.is_file() and len(log.read_text().splitlines()) >= 3):
        assert time.monotonic() < end
        assert started.poll() is None, started.stdout.read()
        time.sleep(0.1)
    os.kill(workers_of(started)[1], signal.SIGTERM)
    said = started.communicate(timeout=120)[0]
    assert said.count("interrupted at step") == 1, said
    (checkpoint,) = complete_checkpoints(data / "run")
    assert {f"rng_state_{r}.pth" for r in (0, 1)} <= {f.name for f in checkpoint.iterdir()}
    resumed = torchrun(data, recipe, "--resume")
    said = resumed.communicate(timeout=300)[0]
    assert resumed.returncode == 0, said
    whole = torchrun(data, recipe, out="whole")
    assert whole.wait(timeout=300) == 0
    gap, steps = benchmark.difference(data / "whole", data / "run")
    assert steps > 20
    assert gap == 0
