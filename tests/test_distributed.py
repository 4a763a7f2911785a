"""Gathering over two real processes against one process that holds all rows."""

import os
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from amodal import distributed
from amodal.distributed import (
    barrier,
    gather,
    gather_with_gradient,
    is_main,
    rank,
    world_size,
)
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.positives import positives_from_keys
from amodal.projection import LinearConfig

SIZES = [5, 3]


class TwoTowers(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image = LinearConfig(dim=4).build(6).double()
        self.text = LinearConfig(dim=4).build(7).double()
        self.loss = InfoNCEConfig().build().double()

    def forward(self, image, text):
        return self.image(image), self.text(text)


def rows_of(part):
    g = torch.Generator().manual_seed(1)
    image = torch.randn(8, 6, generator=g, dtype=torch.float64)
    text = torch.randn(8, 7, generator=g, dtype=torch.float64)
    item = torch.tensor([0, 1, 2, 0, 3, 1, 4, 5])  # positives across processes
    return [t.split(SIZES)[part] if part is not None else t for t in (image, text, item)]


def loss_of(towers, image, text, item):
    return towers.loss(image, text, positives_from_keys(item, item))


def run(process, file, folder):
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{file}", rank=process, world_size=len(SIZES)
    )
    assert (rank(), world_size(), is_main()) == (process, 2, process == 0)
    found = {}

    # rows differ in number; order is that of the ranks
    local = torch.arange(SIZES[process])[:, None] + 10 * process
    found["gathered"] = gather(local)
    found["none_here"] = gather(torch.ones(2 * process, 3, dtype=torch.bool))

    # DistributedDataParallel averages over processes
    towers = TwoTowers()
    wrapped = DistributedDataParallel(towers)
    image, text, item = rows_of(process)
    embedded = [gather_with_gradient(z) for z in wrapped(image, text)]
    loss = loss_of(towers, *embedded, gather(item))
    loss.backward()
    found["loss"] = loss.detach()
    found["ddp"] = {n: p.grad.clone() for n, p in towers.named_parameters()}

    # the same without the wrapper
    towers.zero_grad()
    embedded = [gather_with_gradient(z) for z in towers(image, text)]
    loss_of(towers, *embedded, gather(item)).backward()
    for parameter in towers.parameters():
        dist.all_reduce(parameter.grad)
        parameter.grad /= world_size()
    found["by_hand"] = {n: p.grad.clone() for n, p in towers.named_parameters()}

    # a process without rows has no graph of its own and must not keep the others waiting
    z = torch.ones(2, 4, requires_grad=True) if process == 0 else torch.zeros(0, 4)
    gathered = gather_with_gradient(z)
    (gathered * torch.arange(8).view(2, 4) * (process + 1)).sum().backward()
    found["lonely"] = z.grad if process == 0 else None
    with torch.no_grad():
        assert not gather_with_gradient(z).requires_grad

    barrier()
    torch.save(found, Path(folder) / f"{process}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_processes():
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(run, args=(str(Path(folder) / "meet"), folder), nprocs=2)
        return [torch.load(Path(folder) / f"{i}.pt", weights_only=True) for i in range(2)]


@pytest.mark.slow
def test_rows_are_gathered_in_order_of_rank(two_processes):
    for found in two_processes:
        assert found["gathered"][:, 0].tolist() == [0, 1, 2, 3, 4, 10, 11, 12]
        assert found["none_here"].shape == (2, 3)
        assert found["none_here"].dtype == torch.bool


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ddp", "by_hand"])
def test_the_averaged_gradient_is_that_of_one_process_with_all_rows(two_processes, way):
    towers = TwoTowers()
    image, text, item = rows_of(None)
    loss = loss_of(towers, *towers(image, text), item)
    loss.backward()
    for found in two_processes:
        torch.testing.assert_close(found["loss"], loss.detach(), rtol=1e-12, atol=0)
        for name, parameter in towers.named_parameters():
            torch.testing.assert_close(
                found[way][name], parameter.grad, rtol=1e-10, atol=1e-13, msg=name
            )


@pytest.mark.slow
def test_the_owner_receives_the_sum_over_processes(two_processes):
    want = torch.arange(8).view(2, 4) * 3.0
    assert torch.equal(two_processes[0]["lonely"], want)


def test_one_process_is_the_identity():
    z = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(z) is z
    assert not gather(z).requires_grad
    assert torch.equal(gather(z), z)
    assert (rank(), world_size(), is_main()) == (0, 1, True)
    barrier()


def test_a_launcher_is_believed_before_the_group_is_there(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (2, 4, False)
    with pytest.raises(RuntimeError, match="not initialised"):
        gather(torch.ones(1))
