"""Help and wrong usage are answered at once: half a second of CPU time, no heavy library."""

import json
import os
import subprocess
import sys

import pytest
import typer

from amodal.cli.commands import COMMANDS, load_command
from amodal.cli.main import main
from amodal.cli.renamed import RENAMED_OPTIONS, RENAMED_TASKS

HEAVY = (
    *("torch", "transformers", "datasets", "lancedb", "faiss", "torchvision", "timm", "sklearn"),
    *("scipy", "pyarrow", "pandas", "matplotlib", "numpy", "peft", "fastapi", "huggingface_hub"),
)
CPU_SECONDS = 0.5
# Runs the command, then reports the CPU time of its process and which libraries it imported.
PROGRAM = f"""
import json, os, resource, sys
from amodal.cli.main import main
try:
    main()
    code = 0
except SystemExit as end:
    code = end.code
times = os.times()
print(json.dumps({{
    "code": code or 0,
    "cpu": times.user + times.system,
    "heavy": [name for name in {HEAVY!r} if name in sys.modules],
}}), file=sys.stderr)
"""


def words_of_all_commands():
    for name, (place, _) in COMMANDS.items():
        yield (name,)
        if place.endswith(":app"):  # a group
            for inner in load_command(name).commands:
                yield name, inner


def run(*words):
    """Exit code, heavy libraries, CPU seconds (least of up to three attempts), output, error."""
    cpu = []
    for _ in range(3):  # other processes on the machine make CPU time longer, never shorter
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, *words], capture_output=True, text=True, env=os.environ
        )
        found = json.loads(done.stderr.splitlines()[-1])
        cpu.append(found["cpu"])
        if min(cpu) <= CPU_SECONDS:
            break
    message = "".join(done.stderr.splitlines()[:-1])
    return found["code"], found["heavy"], min(cpu), done.stdout, message


@pytest.mark.parametrize("words", [(), *words_of_all_commands()], ids=" ".join)
def test_help_is_light(words):
    code, heavy, cpu, printed, _ = run(*words, "--help")
    assert (code, heavy) == (0, [])
    assert "Usage:" in printed
    assert cpu <= CPU_SECONDS


@pytest.mark.parametrize("words", [("trian",), *words_of_all_commands()], ids=" ".join)
def test_wrong_usage_is_light_and_has_exit_code_2(words):
    code, heavy, cpu, _, _ = run(*words, "--no-such-option")
    assert (code, heavy) == (2, [])
    assert cpu <= CPU_SECONDS


@pytest.mark.parametrize("words", [("search", "x", "-k", "0"), ("draw",), ("data", "make")])
def test_bad_and_missing_values_are_light(words):
    code, heavy, cpu, _, _ = run(*words)
    assert (code, heavy) == (2, [])
    assert cpu <= CPU_SECONDS


@pytest.mark.parametrize(("command", "option"), RENAMED_OPTIONS, ids="".join)
def test_a_renamed_option_is_refused_with_its_new_name(command, option):
    code, heavy, cpu, _, message = run(command, "a", "b", "c", option, "d")
    new = RENAMED_OPTIONS[command, option]
    assert (code, heavy) == (2, [])
    assert f"No such option: {option}; it is now called {new}" in message
    assert cpu <= CPU_SECONDS
    assert f"  {new} " in run(command, "--help")[3]


@pytest.mark.parametrize(("task", "new"), RENAMED_TASKS.items())
def test_a_renamed_task_is_refused_with_its_new_name(task, new):
    code, _, _, _, message = run("evaluate", "run", "--task", task)
    assert code == 2
    assert f"it is now called {new}" in message


NEGATIVE = {
    "evaluate": ("captions", "folds", "beams", "limit", "candidates", "guidance", "temperature"),
    "predict": ("limit",),
    "caption": ("beams",),
    "draw": ("count", "candidates", "seed", "scale", "guidance", "temperature", "top-k"),
    "embed": ("batch-size",),
    "index": ("batch-size",),
    "data inspect": ("limit", "workers"),
    "data pack": ("shard-mib", "records-per-shard", "workers"),
    "data make scenes": ("size", "seed", "image-size"),
}


@pytest.mark.parametrize(
    ("command", "option"), [(c, o) for c, options in NEGATIVE.items() for o in options]
)
def test_a_negative_count_is_refused(command, option, capsys, monkeypatch):
    words = [*command.split(), "a", "b", "c"][:4]
    monkeypatch.setattr(sys, "argv", ["amodal", *words, f"--{option}", "-1"])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert f"'--{option}'" in capsys.readouterr().err.replace('"', "'")


def test_every_command_has_one_line_in_the_help():
    assert all(help.endswith(".") and len(help) <= 60 for _, help in COMMANDS.values())
    printed = run("--help")[3]
    assert all(f"  {name} " in printed and help in printed for name, (_, help) in COMMANDS.items())


def test_importing_the_package_is_light():
    program = "import sys, amodal; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program, *HEAVY], capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


def test_groups_are_found_by_the_walk():
    assert isinstance(load_command("data"), typer.core.TyperGroup)
    assert ("data", "inspect") in list(words_of_all_commands())


MISTYPED = {
    "evaluate": ("evaluate", "runs/frst", "--on", "x.csv"),
    "evaluate --reranker": ("evaluate", "runs/first", "--reranker", "runs/frst"),
    "predict": ("predict", "runs/frst", "x.csv", "--out", "p.csv"),
    "caption": ("caption", "runs/frst", "x.png"),
    "ask": ("ask", "runs/frst", "x.png", "what?"),
    "chat": ("chat", "runs/frst", "x.png"),
    "draw": ("draw", "runs/frst", "a star", "--out", "x.png"),
    "draw --reranker": ("draw", "runs/first", "a", "--out", "x.png", "--reranker", "runs/frst"),
    "embed": ("embed", "runs/frst", "x.csv", "--out", "e"),
    "index": ("index", "runs/frst", "x.csv", "--out", "i"),
    "serve": ("serve", "runs/frst"),
}


@pytest.mark.parametrize("words", MISTYPED.values(), ids=MISTYPED)
def test_a_mistyped_run_is_answered_at_once_and_asks_nobody(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_folder = tmp_path / "runs" / "first"
    run_folder.mkdir(parents=True)
    (run_folder / "config.json").write_text('{"model_type": "amodal_joint_embedding"}')
    (run_folder / "model.safetensors").write_bytes(b"")
    code, heavy, cpu, _, message = run(*words)
    assert (code, heavy) == (1, [])
    assert message == "error: runs/frst: no such run folder; did you mean runs/first?"
    assert cpu <= CPU_SECONDS
