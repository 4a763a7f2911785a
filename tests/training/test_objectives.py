"""Any weighted sum of losses over the rows of a batch."""

import pytest
import torch
import torch.nn.functional as F

from amodal.losses.deep_cca import DeepCCAConfig, deep_cca_loss
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.nt_xent import NTXentConfig
from amodal.models.joint_embedding import Embeddings
from amodal.training.objectives import Objectives

pytestmark = pytest.mark.filterwarnings("ignore:deep_cca of width")


def rows(n, items, seed):
    generator = torch.Generator().manual_seed(seed)
    z = F.normalize(torch.randn(n, 4, generator=generator, dtype=torch.float64), dim=1)
    return Embeddings(z.requires_grad_(), torch.tensor(items), None)


def batch():
    return {"image": rows(6, [0, 1, 2, 3, 4, 5], 0), "text": rows(7, [5, 0, 0, 2, 3, 4, 9], 1)}


def test_the_total_is_the_weighted_sum_of_the_losses_alone():
    configs = [InfoNCEConfig(weight=0.5), DeepCCAConfig(weight=2.0, ridge=0.1)]
    total, values = Objectives(configs, dim=4)(batch())
    alone = [float(Objectives([c], dim=4)(batch())[0].detach()) for c in configs]
    assert list(values) == ["info_nce", "deep_cca_1"]
    assert float(total.detach()) == pytest.approx(sum(alone))


def test_matched_losses_see_the_first_row_of_every_item_that_all_modalities_have():
    objectives = Objectives([DeepCCAConfig(ridge=0.1)], dim=4)
    embedded = batch()
    want = deep_cca_loss(
        [embedded["image"].z[[0, 2, 3, 4, 5]], embedded["text"].z[[1, 3, 4, 5, 0]]], ridge=0.1
    )
    assert torch.equal(objectives(embedded)[0], want)


def test_an_objective_without_rows_is_zero_with_a_zero_gradient():
    embedded = {"image": rows(3, [0, 1, 2], 0)}
    configs = [InfoNCEConfig(), DeepCCAConfig(), NTXentConfig(mode="intra_modal")]
    objectives = Objectives(configs, dim=4)
    total, _ = objectives(embedded)
    total.backward()
    assert float(total) == 0
    assert embedded["image"].z.grad.abs().max() == 0
    assert all(p.grad is not None and p.grad == 0 for p in objectives.parameters())


def test_gradient_norms_are_those_of_each_weighted_loss():
    configs = [InfoNCEConfig(weight=0.5), DeepCCAConfig(weight=2.0, ridge=0.1)]
    objectives, embedded = Objectives(configs, dim=4), batch()
    _, values = objectives(embedded)
    norms = objectives.gradient_norms(embedded, values)
    for config, name in zip(configs, values, strict=True):
        alone = batch()
        Objectives([config], dim=4)(alone)[0].backward()
        square = sum(float(r.z.grad.square().sum()) for r in alone.values())
        assert norms[name] == pytest.approx(square**0.5)


def test_only_losses_with_a_temperature_have_one():
    objectives = Objectives([DeepCCAConfig(), InfoNCEConfig(temperature=0.05)], dim=4)
    found = objectives.temperatures()
    assert list(found) == ["temperature/info_nce_1"]
    assert found["temperature/info_nce_1"] == pytest.approx(0.05)
    objectives.constrain_()


@pytest.mark.parametrize(
    "kind", ["sigmoid", "decoupled", "triplet", "mmd", "coral", "cmd", "adversarial"]
)
def test_every_loss_trains_from_a_recipe_entry(kind):
    from pydantic import TypeAdapter

    from amodal.training.objectives import ObjectiveConfig

    config = TypeAdapter(ObjectiveConfig).validate_python({"kind": kind, "weight": 3})
    embedded, objectives = batch(), Objectives([config], dim=4).train()
    objectives(embedded)  # the reversal of the adversarial one starts from nothing
    objectives(embedded)[0].backward()
    assert all(r.z.grad.abs().max() > 0 for r in embedded.values())
    names = {"adversarial/accuracy", "adversarial/chance"} if kind == "adversarial" else set()
    assert set(objectives.metrics()) == names


@pytest.mark.parametrize("kind", ["info_nce", "sigmoid", "decoupled", "triplet"])
def test_rows_of_one_item_and_equal_captions_are_never_pushed_apart(kind):
    from pydantic import TypeAdapter

    from amodal.training.objectives import ObjectiveConfig

    config = TypeAdapter(ObjectiveConfig).validate_python({"kind": kind})
    # Two items with one caption between them, and nothing else: there is no negative.
    image = rows(2, [0, 1], 0)
    text = rows(2, [0, 1], 1)._replace(content=torch.tensor([7, 7]))
    value, _ = Objectives([config], dim=4)({"image": image, "text": text})
    want = 0.0 if kind != "sigmoid" else None
    value.backward()
    if want is not None:
        assert value.item() == pytest.approx(want, abs=1e-6)
    else:  # every pair pulls
        assert ((image.z.grad @ text.z.T) <= 0).all()
