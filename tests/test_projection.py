"""Projections end on the unit sphere, whatever comes in."""

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from amodal.projection import (
    IdentityConfig,
    LinearConfig,
    MLPConfig,
    ProjectionConfig,
    l2_normalize,
)

CONFIGS = [
    LinearConfig(dim=6),
    LinearConfig(dim=6, bias=True),
    MLPConfig(dim=6),
    MLPConfig(dim=6, hidden=9, norm="batch", dropout=0.2),
    MLPConfig(dim=6, norm="none", residual=True),
    MLPConfig(dim=4, residual=True),
    MLPConfig(dim=6, input_norm="batch", input_noise=0.3),
    LinearConfig(dim=6, input_norm="layer"),
    IdentityConfig(),
]


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_rows_come_out_with_unit_length(config):
    projection = config.build(4)
    z = projection(torch.randn(5, 4))
    assert z.shape == (5, projection.dim)
    assert projection.dim == getattr(config, "dim", 4)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))


@pytest.mark.parametrize("config", CONFIGS[:-1], ids=repr)
def test_every_parameter_learns(config):
    torch.manual_seed(0)
    projection = config.build(4)
    (projection(torch.randn(8, 4)) * torch.randn(8, projection.dim)).sum().backward()
    for name, parameter in projection.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("config", CONFIGS, ids=repr)
def test_a_batch_without_rows_stays_without_rows(config):
    projection = config.build(4).eval()
    assert projection(torch.zeros(0, 4)).shape == (0, projection.dim)


def test_a_zero_vector_stays_zero_and_has_a_finite_gradient():
    x = torch.zeros(3, 4)
    x[1] = 1.0
    x.requires_grad_()
    z = l2_normalize(x)
    z.sum().backward()
    assert torch.equal(z[0], torch.zeros(4))
    assert torch.isfinite(x.grad).all()
    assert x.grad.abs().max() < 10


def test_the_gradient_is_that_of_the_sphere():
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(l2_normalize, [x])
    g = torch.randn(4, 5, dtype=torch.float64)
    (l2_normalize(x) * g).sum().backward()
    along = (x.grad * l2_normalize(x)).sum(1)  # moving outwards changes nothing
    torch.testing.assert_close(along, torch.zeros(4, dtype=torch.float64))


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e3, 1e12])
def test_only_the_direction_matters(scale):
    x = torch.randn(4, 5, dtype=torch.float64)
    torch.testing.assert_close(l2_normalize(x * scale), l2_normalize(x))


def test_lengths_are_measured_in_single_precision_under_autocast():
    projection = LinearConfig(dim=64).build(32)
    with torch.autocast("cpu", torch.bfloat16):
        z = projection(torch.randn(16, 32))
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(16), rtol=1e-6, atol=1e-6)
    assert l2_normalize(torch.ones(1, 2, dtype=torch.float64)).dtype == torch.float64
    # 300 squared overflows half precision
    half = l2_normalize(torch.full((1, 4), 300.0, dtype=torch.float16))
    torch.testing.assert_close(half, torch.full((1, 4), 0.5))


def test_the_residual_adds_a_linear_shortcut():
    projection = MLPConfig(dim=6, residual=True).build(4)
    for parameter in projection.layers.branch.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(3, 4)
    torch.testing.assert_close(projection(x), l2_normalize(projection.layers.shortcut(x)))


def test_layer_norm_keeps_rows_apart_and_batch_norm_does_not():
    x = torch.randn(6, 4)
    for norm, apart in (("layer", True), ("batch", False)):
        projection = MLPConfig(dim=3, norm=norm).build(4).train()
        assert torch.allclose(projection(x)[:3], projection(x[:3]), atol=1e-6) is apart


def test_the_union_reads_kinds_and_refuses_unknown_ones():
    adapter = TypeAdapter(ProjectionConfig)
    assert adapter.validate_python({"kind": "mlp", "dim": 32}) == MLPConfig(dim=32)
    assert adapter.validate_python({"kind": "identity"}) == IdentityConfig()
    with pytest.raises(ValidationError, match="kind"):
        adapter.validate_python({"kind": "cubic"})
    with pytest.raises(ValidationError, match="dims"):
        adapter.validate_python({"kind": "linear", "dims": 3})


def test_features_of_any_scale_reach_the_head_with_mean_0_and_variance_1():
    torch.manual_seed(0)
    x = torch.randn(4000, 3) * torch.tensor([0.1, 1.0, 50.0]) + torch.tensor([5.0, 0.0, -300.0])
    projection = LinearConfig(dim=3, input_norm="batch").build(3)
    seen = []
    projection.layers[-1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    for _ in range(100):  # running statistics follow the batches
        projection(x)
    projection.eval()(x)
    torch.testing.assert_close(seen[-1].mean(dim=0), torch.zeros(3), atol=1e-2, rtol=0)
    torch.testing.assert_close(seen[-1].std(dim=0), torch.ones(3), atol=2e-2, rtol=0)


def test_noise_has_the_standard_deviation_that_is_set_and_is_of_training_alone():
    torch.manual_seed(0)
    projection = LinearConfig(dim=2, input_noise=0.3).build(2)
    seen = []
    projection.layers[-1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    x = torch.randn(20_000, 2)
    projection(x)
    assert (seen[0] - x).std().item() == pytest.approx(0.3, rel=0.02)
    projection.eval()(x)
    assert torch.equal(seen[1], x)
