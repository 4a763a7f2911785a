"""What holds for every fusion: absent modalities, padding, order, and parameters that learn."""

import itertools

import pytest
import torch
from pydantic import TypeAdapter

from amodal.fusion.specification import FusionConfig, fusion_cost

ENTRIES = {
    "concat": {"kind": "concat"},
    "concat, two layers": {"kind": "concat", "hidden": 9},
    "gated by all": {"kind": "gated"},
    "gated per unit": {"kind": "gated", "gate": "unit"},
    "gated by its own": {"kind": "gated", "gate": "precision"},
    "tensor": {"kind": "tensor", "reduced_dim": None},
    "tensor, reduced": {"kind": "tensor", "reduced_dim": 2},
    "low_rank": {"kind": "low_rank", "rank": 3},
    "concat_tokens": {"kind": "concat_tokens"},
    "cross_attention": {"kind": "cross_attention", "heads": 2},
    "directional": {"kind": "cross_attention", "attention": "directional", "heads": 2, "layers": 1},
    "bottleneck": {"kind": "bottleneck", "heads": 2, "tokens": 3},
}
WIDTHS = {"image": 5, "text": 4, "audio": 3, "vector": 6, "columns": 2}
every_fusion = pytest.mark.parametrize("name", ENTRIES)


def build(name, count=3, dim=8):
    torch.manual_seed(0)
    config = TypeAdapter(FusionConfig).validate_python({**ENTRIES[name], "dim": dim})
    widths = dict(itertools.islice(WIDTHS.items(), count))
    return config.build(widths).double().eval(), widths


def inputs(module, widths, batch=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    values, masks = {}, {}
    for place, (m, d) in enumerate(widths.items()):
        shape = (batch, place + 2) if module.level == "tokens" else (batch,)
        values[m] = torch.randn(*shape, d, generator=g, dtype=torch.float64)
        masks[m] = torch.ones(*shape, dtype=torch.bool)
    return values, masks


def summed(out):
    """One vector per item, whatever the level."""
    if isinstance(out, tuple):
        tokens, keep = out
        return (tokens * keep[..., None]).sum(1)
    return out


@every_fusion
@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_two_to_five_modalities_give_the_width_that_was_asked_for(name, count):
    module, widths = build(name, count)
    out = summed(module(*inputs(module, widths)))
    assert out.shape == (6, 8)
    assert module.dim == 8
    assert out.isfinite().all()


@every_fusion
def test_what_stands_in_an_absent_modality_is_never_read(name):
    module, widths = build(name)
    values, masks = inputs(module, widths)
    for r in range(len(widths) + 1):
        for absent in itertools.combinations(widths, r):
            here = {m: mask.clone() for m, mask in masks.items()}
            wild = {m: x.clone() for m, x in values.items()}
            plain = {m: x.clone() for m, x in values.items()}
            for m in absent:
                here[m][:3] = False
                wild[m][:3] = torch.nan
                plain[m][:3] = 0
            leaves = {m: x.requires_grad_() for m, x in wild.items()}
            out = summed(module(leaves, here))
            assert torch.equal(out, summed(module(plain, here)))
            assert out.isfinite().all()
            out.sum().backward()
            for m in absent:
                assert (leaves[m].grad[:3] == 0).all()
            # Items that have everything do not feel what others lack.
            whole = summed(module(values, masks))
            torch.testing.assert_close(out[3:], whole[3:], rtol=1e-10, atol=1e-12)


@every_fusion
def test_an_absent_modality_makes_a_difference(name):
    module, widths = build(name)
    values, masks = inputs(module, widths)
    without = {m: mask & (m != "text") for m, mask in masks.items()}
    assert not torch.allclose(summed(module(values, masks)), summed(module(values, without)))


@every_fusion
def test_items_do_not_feel_each_other(name):
    module, widths = build(name)
    values, masks = inputs(module, widths)
    whole = summed(module(values, masks))
    order = torch.randperm(6)
    turned = summed(
        module({m: x[order] for m, x in values.items()}, {m: x[order] for m, x in masks.items()})
    )
    torch.testing.assert_close(turned, whole[order], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["concat_tokens", "cross_attention", "directional", "bottleneck"])
def test_padding_changes_nothing(name):
    module, widths = build(name)
    values, masks = inputs(module, widths)
    padded = {
        m: torch.cat([x, torch.full((6, 3, x.shape[2]), torch.nan).double()], 1)
        for m, x in values.items()
    }
    keep = {m: torch.cat([x, torch.zeros(6, 3).bool()], 1) for m, x in masks.items()}
    torch.testing.assert_close(
        summed(module(padded, keep)), summed(module(values, masks)), rtol=1e-6, atol=1e-9
    )


@every_fusion
@pytest.mark.parametrize("count", [2, 3])
def test_every_parameter_learns_and_is_saved(name, count):
    module, widths = build(name, count)
    values, masks = inputs(module, widths)
    for place, m in enumerate(masks):  # somebody lacks each modality, so that stand-ins learn too
        masks[m][place] = False
    g = torch.Generator().manual_seed(9)
    out = summed(module(values, masks))
    (out * torch.randn(out.shape, generator=g, dtype=torch.float64)).sum().backward()
    saved = module.state_dict()
    for parameter_name, parameter in module.named_parameters():
        assert parameter_name in saved
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.abs().max() > 0, parameter_name
    # Every tensor that a module holds is a parameter or a buffer: none hides in a plain list.
    for part in module.modules():
        for held in vars(part).values():
            held = held if isinstance(held, list | tuple) else [held]
            assert not any(isinstance(x, torch.Tensor) for x in held)


@every_fusion
def test_gradients_equal_finite_differences(name):
    module, widths = build(name, 2, dim=4)
    values, masks = inputs(module, widths, batch=2)
    masks["text"][0] = False
    leaves = [values[m].requires_grad_() for m in widths]

    def out(*rows):
        return summed(module(dict(zip(widths, rows, strict=True)), masks))

    assert torch.autograd.gradcheck(out, leaves)


@every_fusion
def test_what_does_not_fit_is_refused(name):
    module, widths = build(name)
    values, masks = inputs(module, widths)
    with pytest.raises(ValueError, match="pass an absent modality with"):
        module({m: x for m, x in values.items() if m != "text"}, masks)
    with pytest.raises(ValueError, match="text: expected"):
        module({**values, "text": values["text"][..., :2]}, masks)
    with pytest.raises(ValueError, match="2 to 5 modalities"):
        build(name, 1)


def test_costs_are_counted():
    widths = {"image": 32, "text": 16}
    parameters, flops = fusion_cost(
        TypeAdapter(FusionConfig).validate_python({"kind": "concat", "dim": 8}), widths
    )
    assert parameters == 48 * 8 + 8 + 48
    assert flops == 2 * 48 * 8
