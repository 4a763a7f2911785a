"""Runs that are killed and stopped at random moments and resumed: nothing differs afterwards."""

import pytest
from interrupted_runs import interruptions, outcome, train

pytestmark = pytest.mark.slow
SCENES = {"kind": "scenes", "image_size": 32, "captions_per_scene": 2}
WRITES = 290  # about as many changes of the file system as one of the runs makes
OBJECTIVES = {
    "adamw": [{"kind": "info_nce"}],
    "muon": [
        {"kind": "info_nce", "momentum": 0.9, "queue_size": 30},
        {"kind": "adversarial", "weight": 0.1, "updates": "alternating"},
    ],
}


def recipe(optimizer):
    """Checkpoints every other step, evaluations every fourth, and lines of the log every third."""
    return {
        "data": {
            "train": {**SCENES, "split": "train", "size": 48},
            "validation": {**SCENES, "split": "validation", "size": 12},
        },
        "model": {
            "encoders": {
                "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                "text": {
                    "kind": "small_transformer",
                    "width": 16,
                    "layers": 1,
                    "heads": 2,
                    "max_length": 32,
                    "dropout": 0.1,
                },
            },
            "projection": {"kind": "linear", "dim": 16},
            "normalization": ["center", "l2"],
        },
        "objectives": OBJECTIVES[optimizer],
        "augment": {"image": ["random_resized_crop"], "text": ["token_mask"]},
        "train": {
            "epochs": 3,
            "batch_size": 12,
            "optimizer": optimizer,
            "learning_rate": 3e-3,
            "precision": "fp32",
            "ema": 0.9,
            "save_every": 0.5,
            "log_every": 3,
        },
    }


@pytest.fixture(scope="module", params=["adamw", "muon"])
def whole(request, tmp_path_factory):
    """A recipe, what its run leaves without an interruption, and the seconds that it takes."""
    values = recipe(request.param)
    folder = tmp_path_factory.mktemp(request.param) / "run"
    train(values, folder)  # the first one imports
    again = folder.with_name("again")
    seconds = train(values, again)
    assert outcome(again) == outcome(folder)
    return values, outcome(folder), seconds


@pytest.mark.parametrize("seed", range(10))
def test_a_run_killed_or_stopped_at_random_moments_ends_as_the_whole_run(whole, seed, tmp_path):
    values, want, seconds = whole
    chosen = interruptions(seed, seconds, WRITES)
    train(values, tmp_path / "run", chosen)
    got = outcome(tmp_path / "run")
    assert got.keys() == want.keys(), chosen
    for name, value in want.items():
        assert got[name] == value, (name, chosen)
