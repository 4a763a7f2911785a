"""SIGTERM, which schedulers send, ends a command as Ctrl-C does: nothing that was done is lost."""

import json
import random
import signal
import subprocess
import sys
import time

import pytest
import yaml

from amodal.training.recipe import load_recipe
from amodal.training.run import train_run

pytestmark = pytest.mark.slow


def start(*words):
    return subprocess.Popen(
        [sys.executable, "-m", "amodal", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_until(condition, process, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the process did not come this far"
        time.sleep(0.02)


def losses(folder):
    lines = map(json.loads, (folder / "train_log.jsonl").read_text().splitlines())
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def test_a_terminated_training_resumes_as_if_it_had_not_been(tmp_path, small_recipe):
    recipe = tmp_path / "recipe.yaml"
    small_recipe["data"]["train"] = "scenes:split=train,size=120,image_size=32"
    small_recipe["train"] |= {
        "epochs": 4,
        "batch_size": 6,
        "log_every": 1,
        "evaluate_every": 2,
        "save_every": 2,
    }
    recipe.write_text(yaml.safe_dump(small_recipe))
    run, log = tmp_path / "run", tmp_path / "run" / "train_log.jsonl"
    process = start("train", recipe, "--out", run)
    wait_until(lambda: log.is_file() and len(log.read_text().splitlines()) > 5, process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "interrupted at step" in out
    assert err.endswith("\nstopped\n")
    assert "--resume" in out
    assert "Traceback" not in err
    stopped = max(losses(run))
    assert 5 < stopped < 80
    assert (run / "checkpoints" / f"checkpoint-{stopped}").is_dir()
    train_run(load_recipe(recipe), run, resume=True)
    train_run(load_recipe(recipe), tmp_path / "whole")
    whole = losses(tmp_path / "whole")
    assert len(whole) == 80
    assert losses(run) == pytest.approx(whole, rel=1e-5)

    index = tmp_path / "index"
    process = start("index", run, "scenes:size=20000,image_size=32", "--out", index)
    wait_until(lambda: (index / "index.json").is_file(), process)
    time.sleep(2)  # it embeds some
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.endswith("\nstopped\n")
    assert "rows are kept" in out
    assert "the same command continues" in out
    assert "Traceback" not in err


# A command whose code is made from a string, as that of dataclasses is while modules are imported.
IN_A_STRING = """
from amodal.cli import commands, main
commands.app = lambda: exec("import os, signal; os.kill(os.getpid(), signal.{name})")
main.main()
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_an_interrupt_within_code_from_a_string_does_not_kill_the_process(tmp_path, name):
    (tmp_path / "command.py").write_text(IN_A_STRING.format(name=name))
    # `-m` as in `python -m amodal`: a script that is given by its path ends in another way.
    words = [sys.executable, "-m", "command"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "stopped\n")


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_command_stopped_at_any_moment_ends_with_one_code_and_one_line(sent, handles_signals):
    words = ("data", "inspect", "scenes:size=60,image_size=32", "--json")
    process = start(*words)
    wait_until(lambda: handles_signals(process), process)
    begin = time.monotonic()
    whole, _ = process.communicate()
    seconds = time.monotonic() - begin
    rng = random.Random(int(sent))
    codes = []
    for _ in range(6):
        process = start(*words)
        wait_until(lambda: handles_signals(process), process)  # noqa: B023
        time.sleep(rng.uniform(0, seconds))
        process.send_signal(sent)
        out, err = process.communicate(timeout=60)
        codes.append(process.returncode)
        assert "Traceback" not in err
        if process.returncode == 0:
            assert out == whole
        else:
            assert process.returncode == 130, err
            assert err.splitlines()[-1] == "stopped"
    assert 130 in codes


def test_progress_is_a_plain_line_and_json_stays_clean():
    words = ["data", "inspect", "scenes:size=20,image_size=32", "--json"]
    process = start(*words)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0
    assert json.loads(out)["items"] == 20
    assert "20/20 (100 %)" in err
