"""Several processes as one run: they meet, wait for each other, and end together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import PrefixStore, Store, TCPStore

from amodal.distributed import batch_statistics, gather_texts, is_main, rank, world_size
from amodal.models.vector_quantizer import VectorQuantizer
from amodal.training.errors import ProcessError, TrainingError
from amodal.training.recipes.error import RecipeError
from amodal.training.trained import Trained

TIMEOUT = timedelta(minutes=30)  # of one message between processes
POLL_SECONDS = 0.2
GRACE_SECONDS = 10.0  # to leave what a process is doing once another has failed
# Words of the libraries for a partner that is gone.
LOST = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe", "Timed out")


class _AnotherFailedError(RuntimeError):
    """Another process has failed while this one waited for it."""


class _Group:
    """Messages between the processes outside of collective operations.

    Args:
        store: of keys and values, seen by all processes.
    """

    def __init__(self, store: Store) -> None:
        self.whole_store = store
        self.runs = self.barriers = 0
        self.watched = False
        self.begin_run()

    def begin_run(self) -> None:
        """Forget what was said in an earlier run of the same processes."""
        self.runs += 1
        self.barriers = 0
        self.first_failure: tuple[int, str] | None = None
        self.store = PrefixStore(f"run-{self.runs}", self.whole_store)

    def failure(self) -> tuple[int, str] | None:
        """Rank and message of the process that failed first."""
        # The process that keeps the store may be the one that failed, and gone by now.
        with contextlib.suppress(RuntimeError):
            if self.first_failure is None and self.store.check(["failure"]):
                found, _, message = self.store.get("failure").decode().partition(" ")
                self.first_failure = int(found), message
        return self.first_failure

    def report(self, message: str) -> bool:
        """Tell the others why this process fails; False where another was first."""
        with contextlib.suppress(RuntimeError):
            if self.store.add("failures", 1) > 1:
                return False
            self.store.set("failure", f"{rank()} {message}")
            end = time.monotonic() + GRACE_SECONDS / 2
            # This process may keep the store: stay until the others have read why.
            while self.store.add("seen", 0) < world_size() - 1 and time.monotonic() < end:
                time.sleep(POLL_SECONDS / 4)
        return True

    def watch(self) -> None:
        """End this process, though it may hang in a collective operation, when another fails."""
        self.watched = True
        run = self.runs
        threading.Thread(target=self._watch, args=(run,), daemon=True).start()

    def _watch(self, run: int) -> None:
        while self.watched and self.runs == run:
            failure = self.failure()
            if failure is not None and failure[0] != rank():
                with contextlib.suppress(RuntimeError):
                    self.store.add("seen", 1)
                time.sleep(GRACE_SECONDS)
                if not self.watched or self.runs != run:
                    return
                if is_main():
                    print(f"error: process {failure[0]}: {failure[1]}", flush=True)
                os._exit(1)
            time.sleep(POLL_SECONDS)


_group: _Group | None = None


def join() -> None:
    """Meet the other processes that a launcher such as torchrun has started; once."""
    global _group
    if world_size() == 1 or _group is not None:
        return
    if not dist.is_initialized():
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            # Small integers go over gloo, so that no GPU has to be waited for.
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(backend, timeout=TIMEOUT)
    store: Store = dist.distributed_c10d._get_default_store()
    if "MASTER_ADDR" in os.environ:
        # A connection of its own: the other one is busy while a collective operation waits.
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=TIMEOUT)
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    _group = _Group(PrefixStore(f"amodal/{attempt}", store))


def wait_for_all() -> None:
    """Wait until every process is here, however long one of them works."""
    if world_size() == 1 or _group is None:
        return
    _group.barriers += 1
    key = f"barrier/{_group.barriers}"
    _group.store.add(key, 1)
    while _group.store.add(key, 0) < world_size():
        if _group.failure() is not None:
            raise _AnotherFailedError("another process has failed")
        time.sleep(POLL_SECONDS / 10)
    dist.barrier()


def check_same_data(rows: int, model: nn.Module, preprocessors: Mapping[str, Any]) -> None:
    """Refuse processes that would train different models, such as one that misses a file.

    Args:
        rows: of the training source.
        model: as it was built.
        preprocessors: as they were fitted; each has `save(folder)`.

    Raises:
        TrainingError: says what differs between the processes.
    """
    if world_size() == 1:
        return
    digest = hashlib.sha256()
    with TemporaryDirectory() as folder:
        for name, prepare in preprocessors.items():
            prepare.save(Path(folder) / name)
        for file in sorted(f for f in Path(folder).rglob("*") if f.is_file()):
            digest.update(str(file.relative_to(folder)).encode() + b"\0" + file.read_bytes())
    shapes = [(name, *tensor.shape) for name, tensor in model.state_dict().items()]
    own = {
        "rows in data.train": rows,
        "preprocessors (tokenizer, statistics, classes)": digest.hexdigest()[:12],
        "weights": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12],
    }
    found = [json.loads(text) for text in gather_texts(json.dumps(own))]
    for what, value in found[0].items():
        for process, other in enumerate(found):
            if other[what] != value:
                raise TrainingError(
                    f"processes do not read the same data: {what}: {value} in process 0, "
                    f"{other[what]} in process {process}; check that all of them see the same files"
                )


def check_micro_batches(trained: Trained, micro_batch_size: int | None) -> None:
    """Refuse micro-batches of several processes whose rows would be other ones than in one.

    Raises:
        RecipeError: the network has statistics over the rows of a micro-batch.
    """
    if micro_batch_size is None or world_size() == 1:
        return
    network = trained.network.train()
    layers = batch_statistics(network)
    codebooks = (n for n, m in network.named_modules() if isinstance(m, VectorQuantizer))
    layers += [name for name in codebooks if network.get_submodule(name).training]
    if layers:
        raise RecipeError(
            f"train.micro_batch_size: {layers[0]} has statistics over the rows of a micro-batch, "
            f"which would be other rows on {world_size()} processes than on one; leave "
            "micro_batch_size out (each process holds its share of the batch alone), or, for "
            "batch normalization, set `batch_norm: frozen` or `norm: group` on the encoder"
        )


def mean_over_processes(values: dict[str, float]) -> dict[str, float]:
    """Each value averaged over the processes that have it."""
    if world_size() == 1:
        return values
    all_values = [json.loads(text) for text in gather_texts(json.dumps(values))]
    names = dict.fromkeys(name for one in all_values for name in one)
    found = {n: [one[n] for one in all_values if n in one] for n in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in found.items()}


@contextmanager
def together() -> Iterator[None]:
    """Several processes that succeed or fail as one.

    A process that fails tells the others why, and they end too: each with the message of the one
    that failed first, even where it waits for a message that never comes.

    Raises:
        ProcessError: another process has failed; its message.
        SystemExit: another process has failed, and it or the first process says why.
    """
    join()
    if _group is None:
        yield
        return
    _group.begin_run()
    _group.watch()
    try:
        yield
    except SystemExit:
        raise
    except BaseException as error:
        _end_with_the_others(_group, error)
        raise
    finally:
        _group.watched = False


def _end_with_the_others(group: _Group, error: BaseException) -> None:
    """Raise the failure of the process that was first; return where that is this one."""
    message = " ".join(str(error).split()) or type(error).__name__
    lost = isinstance(error, _AnotherFailedError) or (
        isinstance(error, RuntimeError) and any(word in message for word in LOST)
    )
    if isinstance(error, KeyboardInterrupt) or lost:
        # A signal of the launcher, or a partner that is gone: the reason is elsewhere.
        end = time.monotonic() + GRACE_SECONDS / 5
        while group.failure() is None and time.monotonic() < end:
            time.sleep(POLL_SECONDS / 4)
    if isinstance(error, KeyboardInterrupt):
        message = "stopped by a signal"
    if group.failure() is None:
        if lost:
            message = (
                "another process ended without a message, killed perhaps for want of memory, or "
                f"did not answer for {int(TIMEOUT.total_seconds() / 60)} minutes ({message})"
            )
        if group.report(message):
            if lost:
                raise ProcessError(message) from error
            return
    first = group.failure()
    if first is None or first[0] == rank():
        return
    # The launcher ends all as soon as one has ended: let the first one say why before that.
    time.sleep(GRACE_SECONDS / 5)
    if is_main() and first[1] != message:
        raise ProcessError(f"process {first[0]}: {first[1]}") from None
    raise SystemExit(1) from None
