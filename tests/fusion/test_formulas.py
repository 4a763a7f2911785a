"""Each fusion of vectors against its formula, number by number."""

import itertools
import math

import pytest
import torch

from amodal.fusion.attention import CrossAttention
from amodal.fusion.concat import ConcatConfig
from amodal.fusion.gated import GatedConfig
from amodal.fusion.low_rank import LowRankConfig, low_rank_product
from amodal.fusion.tensor import TensorFusionConfig, outer_product

WIDTHS = {"a": 3, "b": 2, "c": 4}


def rows(batch=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    values = {m: torch.randn(batch, d, generator=g, dtype=torch.float64) for m, d in WIDTHS.items()}
    present = {m: torch.ones(batch, dtype=torch.bool) for m in WIDTHS}
    present["b"][1] = False
    present["a"][2] = present["c"][2] = False
    return values, present


def made(config):
    torch.manual_seed(1)
    return config.build(WIDTHS).double()


def test_the_outer_product_holds_every_product_in_order():
    values, _ = rows()
    got = outer_product(list(values.values()))
    for i in range(5):
        lists = [[1.0, *x[i].tolist()] for x in values.values()]
        want = [math.prod(t) for t in itertools.product(*lists)]
        assert got[i].tolist() == pytest.approx(want, rel=1e-12)


def test_low_rank_equals_the_explicit_tensor():
    values, _ = rows()
    g = torch.Generator().manual_seed(2)
    factors = [torch.randn(4, d + 1, 6, generator=g, dtype=torch.float64) for d in WIDTHS.values()]
    got = low_rank_product(list(values.values()), factors)
    weight = torch.einsum("rae,rbe,rce->abce", *factors)  # the tensor that is never written out
    ones = [torch.cat([torch.ones(5, 1, dtype=torch.float64), x], 1) for x in values.values()]
    want = torch.einsum("na,nb,nc,abce->ne", *ones, weight)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-9)


def test_low_rank_factors_are_parameters_that_learn():
    module = made(LowRankConfig(dim=4, rank=2))
    names = dict(module.named_parameters())
    assert {f"factors.{m}" for m in WIDTHS} <= set(names)
    assert sum(p.numel() for p in names.values()) == 2 * 4 * sum(d + 1 for d in WIDTHS.values()) + 4
    module(*rows()).sum().backward()
    assert all(names[f"factors.{m}"].grad.abs().max() > 0 for m in WIDTHS)


def test_absent_modalities_leave_the_products_of_the_others():
    values, present = rows()
    module = made(LowRankConfig(dim=4, rank=2))
    tensor = made(TensorFusionConfig(dim=4, reduced_dim=None))
    zeroed = {m: x * present[m][:, None] for m, x in values.items()}
    everyone = {m: torch.ones_like(there) for m, there in present.items()}
    for fusion in (module, tensor):
        assert torch.equal(fusion(values, present), fusion(zeroed, everyone))


def test_the_gates_are_a_softmax_over_who_is_there():
    values, present = rows()
    present["a"][3] = present["b"][3] = present["c"][3] = False
    for gate in ("modality", "unit", "precision"):
        module = made(GatedConfig(dim=6, gate=gate))
        gates = module.gates(values, present)
        there = torch.stack(list(present.values()), 1)
        assert (gates[~there] == 0).all()
        want = torch.ones(5, dtype=torch.float64)
        want[3] = 0
        torch.testing.assert_close(gates.sum(1), want)
        if gate == "unit":
            continue
        out = module(values, present)
        for i in range(5):
            total = [0.0] * 6
            for k, m in enumerate(WIDTHS):
                if not present[m][i]:
                    continue
                hidden = module.project[m](values[m][i]).tolist()
                for j in range(6):
                    content = math.tanh(hidden[j]) if gate == "modality" else hidden[j]
                    total[j] += float(gates[i, k].detach()) * content
            assert out[i].tolist() == pytest.approx(total, abs=1e-12)


def test_gates_from_all_are_softmax_of_one_linear_map():
    values, present = rows()
    module = made(GatedConfig(dim=6))
    i = 0  # has everything
    whole = torch.cat([x[i] for x in values.values()])
    scores = (module.score.weight @ whole + module.score.bias).tolist()
    exps = [math.exp(s) for s in scores]
    want = [e / sum(exps) for e in exps]
    assert module.gates(values, present)[i].tolist() == pytest.approx(want, rel=1e-12)


def test_every_unit_has_gates_of_its_own():
    values, present = rows()
    module = made(GatedConfig(dim=6, gate="unit"))
    out = module(values, present)
    weight = module.score.weight.view(3, 6, -1)
    bias = module.score.bias.view(3, 6)
    names = list(WIDTHS)
    for i in range(5):
        there = [k for k, m in enumerate(names) if present[m][i]]
        whole = torch.cat([x[i] * present[m][i] for m, x in values.items()])
        for j in range(6):
            exps = {k: math.exp(float(weight[k, j] @ whole + bias[k, j])) for k in there}
            want = sum(
                exps[k] / sum(exps.values())
                * math.tanh(float(module.project[names[k]](values[names[k]][i])[j]))
                for k in there
            )  # fmt: skip
            assert out[i, j].item() == pytest.approx(want, abs=1e-12)


def test_the_log_precision_sees_how_large_features_are():
    values, _ = rows()
    module = made(GatedConfig(dim=6, gate="precision"))
    x = values["a"]
    energy = torch.tensor([math.log(sum(v * v for v in row) / 3 + 1e-6) for row in x.tolist()])
    want = module.score["a"](torch.cat([x, energy.double()[:, None]], 1))
    torch.testing.assert_close(module.log_precision("a", x), want)
    assert float(module.log_precision("a", 1e30 * x).abs().max()) <= 6


def test_noise_in_one_modality_leaves_the_own_scores_of_the_others():
    values, present = rows()
    module = made(GatedConfig(dim=6, gate="precision"))
    gates = module.gates(values, present)
    louder = module.gates({**values, "a": values["a"] + 5}, present)
    i = 0
    assert (gates[i, 1] / gates[i, 2]).item() == pytest.approx(
        (louder[i, 1] / louder[i, 2]).item(), rel=1e-9
    )


def test_concatenation_puts_a_learned_vector_where_nothing_is():
    values, present = rows()
    module = made(ConcatConfig(dim=6))
    with torch.no_grad():
        module.absent["b"].fill_(0.5)
    filled = torch.cat([values["a"][1], torch.full((2,), 0.5).double(), values["c"][1]])
    want = module.layers.weight @ filled + module.layers.bias
    torch.testing.assert_close(module(values, present)[1], want)


def test_a_product_that_is_too_large_says_how_large():
    with pytest.raises(ValueError, match=r"513 x 513 x 513.*135,005,697.*low_rank"):
        TensorFusionConfig(reduced_dim=None).build({"a": 512, "b": 512, "c": 512})


def test_attention_equals_its_formula_and_its_weights_say_where_it_looked():
    torch.manual_seed(0)
    module = CrossAttention(4, 2).double()
    x, context = torch.randn(2, 3, 4).double(), torch.randn(2, 5, 4).double()
    keep = torch.tensor([[True, True, False, True, False], [False] * 5])
    weights = module.weights(x, context, keep)
    assert (weights[0, :, :, ~keep[0]] == 0).all()
    torch.testing.assert_close(weights[0].sum(-1), torch.ones(2, 3).double())
    assert (weights[1] == 0).all()
    value = module.key_value(module.context_norm(context)).chunk(2, dim=-1)[1]
    heads = value.unflatten(-1, (2, 2)).transpose(1, 2)
    answer = module.out((weights @ heads).transpose(1, 2).flatten(2))
    got = module(x, context, keep)
    torch.testing.assert_close(got[0], (x + answer)[0])
    assert torch.equal(got[1], x[1])
