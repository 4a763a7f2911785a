"""The number format: by the recipe, by the hardware, and by the clock on a CPU."""

import math
import random

import pytest
import torch
from torch import nn

from amodal.training.optim import precision as module
from amodal.training.optim.precision import (
    autocast,
    is_measured,
    measured_precision,
    resolve_precision,
)


class Steps:
    """Steps that take the given seconds on a clock of their own."""

    def __init__(self, fp32, bf16):
        self.seconds = {"fp32": list(fp32), "bf16": list(bf16)}
        self.now = 0.0
        self.run = []

    def __call__(self, precision):
        self.run.append(precision)
        self.now += self.seconds[precision].pop(0)

    def clock(self):
        return self.now


def measured(steps):
    return measured_precision(steps, nn.Linear(1, 1), clock=steps.clock)


def test_the_faster_format_is_taken_and_both_times_are_told():
    steps = Steps(fp32=[9, 2, 1.5], bf16=[9, 1.25, 1])  # the first ones warm up
    timing = measured(steps)
    assert (timing.precision, timing.seconds) == ("bf16", {"fp32": 1.5, "bf16": 1})
    assert steps.run == ["fp32", "bf16"] * 3
    told = "precision: auto is bf16 on this CPU; a step takes 1.5 s in fp32, 1 s in bf16"
    assert str(timing) == told


@pytest.mark.parametrize("bf16", [0.91, 1.0, 2.0])
def test_without_a_gain_of_a_tenth_it_stays_fp32(bf16):
    assert measured(Steps(fp32=[1, 1, 1], bf16=[1, bf16, bf16])).precision == "fp32"


def test_the_shortest_of_the_repetitions_counts():
    assert measured(Steps(fp32=[1, 1, 1], bf16=[1, 5, 0.8])).precision == "bf16"


def test_a_hopeless_format_costs_one_step():
    steps = Steps(fp32=[1], bf16=[60])
    assert measured(steps).precision == "fp32"
    assert steps.run == ["fp32", "bf16"]


def test_an_operation_without_bf16_leaves_fp32():
    def step(precision):
        if precision == "bf16":
            raise RuntimeError('"cdist" not implemented for BFloat16')

    timing = measured_precision(step, nn.Linear(1, 1))
    assert timing.precision == "fp32"
    assert timing.seconds["bf16"] == math.inf
    assert "bf16 not possible" in str(timing)


def test_an_error_of_the_step_itself_is_not_hidden():
    def step(precision):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        measured_precision(step, nn.Linear(1, 1))


class Queue(nn.Module):
    """A module that replaces its buffer instead of writing into it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("rows", torch.zeros(2))

    def forward(self, x):
        self.rows = self.rows + 1
        return x


@pytest.mark.parametrize("with_gradients", [False, True])
def test_nothing_is_changed_but_the_time(with_gradients):
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), Queue()).eval()
    if with_gradients:
        net(torch.ones(3, 4)).sum().backward()
    state = {name: value.clone() for name, value in net.state_dict().items()}
    gradients = [None if p.grad is None else p.grad.clone() for p in net.parameters()]
    seen = []

    def step(precision):
        net.train()
        random.random()
        with autocast(precision, "cpu"):
            out = net(torch.randn(6, 4))
        seen.append(out.dtype)
        out.float().sum().backward()

    torch.manual_seed(0)
    random.seed(0)
    measured_precision(step, net)
    drawn = torch.rand(3), random.random()
    torch.manual_seed(0)
    random.seed(0)
    assert torch.equal(drawn[0], torch.rand(3))
    assert drawn[1] == random.random()
    assert {torch.float32, torch.bfloat16} <= set(seen)
    assert not any(part.training for part in net.modules())
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        if gradient is None:
            assert parameter.grad is None
        else:
            assert torch.equal(parameter.grad, gradient)


def test_auto_is_measured_on_a_cpu_alone(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert is_measured("auto")
    assert not is_measured("bf16")
    assert resolve_precision("auto") == "fp32"
    with pytest.raises(ValueError, match="CUDA"):
        resolve_precision("fp16")
    with pytest.raises(ValueError, match="got 'half'"):
        resolve_precision("half")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: False)
    assert not is_measured("auto")
    assert resolve_precision("auto") == "fp16"


def test_several_processes_decide_by_the_slowest(monkeypatch):
    other = torch.tensor([[1.0, 2.0]], dtype=torch.float64)  # bf16 is slow there
    monkeypatch.setattr(module, "gather", lambda local: torch.cat([local, other]))
    steps = Steps(fp32=[1, 1, 1], bf16=[1, 0.5, 0.5])
    timing = measured(steps)
    assert (timing.precision, timing.seconds) == ("fp32", {"fp32": 1.0, "bf16": 2.0})
