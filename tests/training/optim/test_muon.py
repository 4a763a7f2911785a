"""Muon beside AdamW: each moves its own weights, as one optimizer that schedules and resumes."""

import copy
import json

import pytest
import torch
from torch import nn

from amodal.training.optim.muon import MuonWithAdamW, matrices_of_layers
from amodal.training.recipe import parse_recipe
from amodal.training.run import train_run


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 3))


def groups(model):
    matrices = matrices_of_layers(model)
    return [
        {"params": list(matrices), "muon": True, "weight_decay": 0.1},
        {
            "params": [p for p in model.parameters() if p not in matrices],
            "muon": False,
            "weight_decay": 0.0,
        },
    ]


def gradients(model, seed):
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_matrices_are_those_of_linear_layers():
    model = network()
    assert {tuple(p.shape) for p in matrices_of_layers(model)} == {(10, 6), (3, 10)}


def test_each_part_moves_as_it_would_by_itself():
    model, other = network(), network()
    optimizer = MuonWithAdamW(groups(model), lr=1e-2, betas=(0.9, 0.95))
    muon, adamw = groups(other)
    alone = [
        torch.optim.Muon(muon["params"], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(adamw["params"], lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0),
    ]
    for step in range(4):
        gradients(model, step)
        gradients(other, step)
        optimizer.step()
        for part in alone:
            part.step()
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_a_step_of_muon_turns_every_direction_alike():
    """The update of a matrix without momentum has singular values near one."""
    model = network()
    before = model[1].weight.detach().clone()
    optimizer = MuonWithAdamW(groups(model), lr=1.0, betas=(0.9, 0.95))
    optimizer.param_groups[0]["weight_decay"] = 0.0
    gradients(model, 0)
    optimizer.step()
    values = torch.linalg.svdvals(model[1].weight.detach() - before) / (0.2 * 10**0.5)
    assert 0.5 < float(values.min()) <= float(values.max()) < 1.4


def test_schedules_reach_both_parts():
    model = network()
    optimizer = MuonWithAdamW(groups(model), lr=1e-2, betas=(0.9, 0.95))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    before = copy.deepcopy(list(model.parameters()))
    gradients(model, 0)
    optimizer.step()
    schedule.step()
    for a, b in zip(model.parameters(), before, strict=True):
        assert torch.equal(a, b)


def test_a_saved_state_goes_on_as_if_it_had_not_been_interrupted():
    model = network()
    optimizer = MuonWithAdamW(groups(model), lr=1e-2, betas=(0.9, 0.95))
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    again = copy.deepcopy(model)
    # Sets have no order; the groups of the copy must be those of the original.
    names = {id(p): n for n, p in model.named_parameters()}
    places = dict(again.named_parameters())
    resumed = MuonWithAdamW(
        [
            {
                **{k: g[k] for k in ("muon", "weight_decay")},
                "params": [places[names[id(p)]] for p in g["params"]],
            }
            for g in optimizer.param_groups
        ],
        lr=1e-2,
        betas=(0.9, 0.95),
    )
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for step in range(3, 6):
        for one, its in ((model, optimizer), (again, resumed)):
            gradients(one, step)
            its.step()
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_runs_learn_with_either(optimizer, tmp_path):
    scenes = {"kind": "scenes", "image_size": 32, "captions_per_scene": 1}
    result = train_run(
        parse_recipe(
            {
                "data": {"train": {**scenes, "size": 64}, "holdout": 0},
                "model": {
                    "kind": "joint_embedding",
                    "encoders": {
                        "image": {"kind": "small_cnn", "size": 32, "widths": [8, 16]},
                        "text": {
                            "kind": "small_transformer",
                            "width": 16,
                            "layers": 1,
                            "heads": 2,
                            "tokenizer": {"kind": "trained", "model": "word"},
                        },
                    },
                    "projection": {"kind": "linear", "dim": 16},
                },
                "train": {
                    "epochs": 6,
                    "batch_size": 16,
                    "optimizer": optimizer,
                    "learning_rate": 5e-3,
                    "precision": "fp32",
                    "log_every": 1,
                },
            },
            "test",
        ),
        tmp_path / "run",
    )
    lines = (tmp_path / "run" / "train_log.jsonl").read_text().splitlines()
    losses = [one["loss"] for line in lines if "loss" in (one := json.loads(line))]
    assert result.steps == 24
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])
