"""Checks of logs that are written by hand: what is a finding, and what is noise or not yet one."""

import json

import pytest

from amodal.doctor import open_subject
from amodal.doctor.checks import CHECKS
from amodal.training.recipe import load_recipe

STEPS = list(range(10, 310, 10))


@pytest.fixture
def run(tmp_path):
    """Writes the folder of an unfinished run of 640 scenes with this log; returns its findings."""

    def write(lines, end="", **changes):
        settings = [
            "data.train.size=640",
            "data.validation.size=100",
            "train.batch_size=64",
            "train.epochs=30",
            *(f"{key}={value}" for key, value in changes.items()),
        ]
        (tmp_path / "recipe.yaml").write_text(load_recipe("quickstart", settings).to_yaml())
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (tmp_path / "train_log.jsonl").write_text(text + end)
        subject = open_subject(str(tmp_path))
        checks = [check for check in CHECKS if "log" in check.needs]
        assert all(check.needs <= subject.parts for check in checks)
        return {found.name: found for check in checks for found in check.find(subject)}

    return write


def losses(values, **more):
    return [
        {"step": step, "loss": value, "loss/info_nce": value, **more}
        for step, value in zip(STEPS, values, strict=False)
    ]


def falling(start=4.1, rate=0.97):
    return [start * rate**number for number in range(len(STEPS))]


def test_a_falling_loss_is_no_finding_even_where_the_last_line_was_cut_off(run):
    assert run(losses(falling()), end='{"step": 31') == {}


def test_a_run_of_a_few_steps_says_nothing(run):
    assert run(losses([4.2, 4.15])[:1]) == {}


def test_a_loss_that_stays_at_ln_of_the_batch_is_at_chance(run):
    found = run(losses([4.2] * 5 + [4.159] * 25))
    assert list(found) == ["loss_at_chance"]
    assert "4.159 in batches of 64" in found["loss_at_chance"].evidence
    assert found["loss_at_chance"].settings == {"train.learning_rate": 2e-4}  # a tenth


def test_a_loss_that_stays_at_chance_with_tiny_steps_gets_larger_ones(run):
    found = run(losses([4.2] * 30), **{"train.learning_rate": 2e-5})
    assert found["loss_at_chance"].settings["train.learning_rate"] == 2e-4


def test_chance_counts_the_captions_of_an_item_and_the_queue(run):
    # (ln 64 + ln 316) / 2 = 4.96 with five captions, ln 1064 = 6.97 with a queue of 1,000
    assert run(losses([4.2] * 30), **{"data.captions_per_item": 5}) == {}
    assert list(run(losses([4.95] * 30), **{"data.captions_per_item": 5})) == ["loss_at_chance"]
    assert run(losses([4.2] * 30), **{"objectives.0.queue_size": 1000}) == {}


def test_a_loss_that_rises_again_diverges(run):
    found = run(losses(falling()[:15] + [3.5] * 15))
    assert list(found) == ["loss_rises"]
    assert found["loss_rises"].settings == {"train.learning_rate": 2e-4}


def test_noise_of_the_loss_does_not_diverge(run):
    noisy = [value * (1.08 if number % 2 else 0.92) for number, value in enumerate(falling())]
    assert run(losses(noisy)) == {}


def test_a_temperature_that_ends_above_its_bound_is_no_finding(run):
    assert run(losses(falling(), **{"temperature/info_nce": 0.03})) == {}


def test_a_temperature_that_fell_to_the_bound_of_clip_is_one(run):
    found = run(losses(falling(), **{"temperature/info_nce": 0.01}))
    assert list(found) == ["temperature_at_bound"]
    assert found["temperature_at_bound"].settings == {"objectives.0.label_smoothing": 0.1}


def test_a_temperature_that_began_at_the_bound_of_clip_is_none(run):
    log = losses(falling(), **{"temperature/info_nce": 0.01})
    assert run(log, **{"objectives.0.temperature": 0.01}) == {}


def test_steps_that_wait_longer_than_they_compute_are_found(run):
    log = losses(falling(), data_seconds=40.0, seconds=20.0)
    found = run(log, **{"data.cache": "false"})
    assert list(found) == ["waiting_for_data"]
    assert "67%" in found["waiting_for_data"].evidence
    assert found["waiting_for_data"].settings == {"data.cache": True}
    assert "data.workers" in run(log)["waiting_for_data"].settings  # cached already


@pytest.mark.parametrize(("waited", "stepped"), [(8.0, 1.0), (40.0, 60.0)])
def test_a_short_wait_and_a_small_share_are_no_finding(run, waited, stepped):
    assert run(losses(falling(), data_seconds=waited, seconds=stepped)) == {}


def test_recall_at_chance_beside_a_loss_that_fell_is_found(run):
    log = [*losses(falling(rate=0.9)), {"step": 300, "eval/mean_recall": 0.06}]
    assert list(run(log)) == ["validation_at_chance"]
    log[-1]["eval/mean_recall"] = 0.3
    assert run(log) == {}
