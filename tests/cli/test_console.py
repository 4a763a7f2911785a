"""Progress as lines: when they are written, and what they say."""

import pytest

from amodal.cli import console as module
from amodal.cli.console import ProgressLines, note, progress_callbacks, shown_metrics


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def lines():
    return []


@pytest.fixture
def progress(clock, lines):
    return ProgressLines(lines.append, clock)


def test_a_stage_has_a_first_and_a_last_line(progress, lines):
    progress.stage("reading", 4)
    for done in range(1, 5):
        progress.advance(done)
    progress.stage("training", None)
    progress.advance(3)
    progress.close()
    assert lines == [
        "reading: 0/4 (0 %), 0:00",
        "reading: 4/4 (100 %), 0:00",
        "training: 0, 0:00",
        "training: 3, 0:00",
    ]


def test_lines_come_every_ten_seconds_and_later_every_minute(progress, lines, clock):
    progress.stage("training", 100_000)
    for second in range(7200):
        clock.now = float(second)
        progress.advance(second)
    minutes = [line.split(", ")[1] for line in lines[1:]]
    assert minutes[:4] == ["0:10", "0:20", "0:30", "0:40"]
    assert 120 < len(lines) < 200  # two hours
    assert minutes[-1] == "119:26" or minutes[-1].startswith("119")


def test_logged_metrics_are_on_the_line_and_evaluations_are_written_at_once(progress, lines, clock):
    progress.stage("training", 20)
    progress.logged(5, {"loss": 1.5, "learning_rate": 0.1})
    assert len(lines) == 1  # not due
    progress.logged(10, {"eval/mean_recall": 0.25, "eval/caption/nll": 2.0})
    assert lines[-1] == (
        "training: 10/20 (50 %), 0:00, loss 1.500, mean recall 0.250, caption nats per token 2.000"
    )


def test_metrics_of_many_inputs_do_not_fill_the_line():
    recalls = {f"eval/retrieval/a_to_{b}/recall@1": 0.5 for b in "bcdef"}
    assert shown_metrics({**recalls, "other": 1.0}) == ["a→b R@1 0.500", "a→c R@1 0.500"]


def test_progress_goes_to_standard_error_and_one_process_reports(capsys, monkeypatch):
    with progress_callbacks() as callbacks:
        callbacks.stage("reading [x]", 2)
        callbacks.warn("a note with [brackets]")
        callbacks.advance(2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "reading [x]: 0/2 (0 %), 0:00",
        "note: a note with [brackets]",
        "reading [x]: 2/2 (100 %), 0:00",
    ]
    monkeypatch.setenv("RANK", "1")
    with progress_callbacks() as callbacks:
        callbacks.stage("reading", 2)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_bars(monkeypatch, capsys):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(module, "errors", module.LazyConsole(stderr=True))
    with progress_callbacks() as callbacks:
        callbacks.stage("training [x]", 10)
        callbacks.logged(4, {"loss": 1.0})
        callbacks.stage("evaluation", None)
        callbacks.advance(3)
    out, err = capsys.readouterr()
    assert out == ""
    assert "training [x]" in err
    assert "loss 1.000" in err
    assert "━" in err


def test_an_interrupted_stage_is_not_called_complete(progress, lines):
    progress.stage("training", 10)
    progress.advance(3)
    progress.close()
    assert lines[-1] == "training: 3/10 (30 %), 0:00"


def test_notes_escape_markup(capsys):
    note("pip install 'amodal[serve]'")
    assert capsys.readouterr().err == "note: pip install 'amodal[serve]'\n"
