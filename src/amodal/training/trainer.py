"""Training of any model of the package on `transformers.Trainer`."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from amodal.data.atomic import write_text
from amodal.data.batch import Batch
from amodal.data.reader import BatchReader, take_batch
from amodal.data.record import BrokenRecordError, DataError
from amodal.data.samplers import BalancedSampler, RunSampler
from amodal.distributed import (
    any_process,
    batch_statistics,
    gather,
    gather_integers,
    gather_texts,
    is_main,
    rank,
    same_everywhere,
    world_size,
)
from amodal.training.checkpoints import (
    CHECKPOINT_WEIGHTS,
    CHECKPOINTS,
    STATE,
    TRAINER_STATE,
    complete_checkpoints,
    load_weights,
    new_checkpoint,
)
from amodal.training.errors import TrainingError
from amodal.training.folder import (
    BEST,
    BEST_SCORE,
    append_line,
    cut_log,
    log_size,
    write_weights,
)
from amodal.training.interruption import same_random_state
from amodal.training.optim.batch_norm import SynchronizedBatchNorm
from amodal.training.optim.groups import parameter_groups
from amodal.training.optim.muon import MuonWithAdamW
from amodal.training.optim.precision import (
    Precision,
    PrecisionTiming,
    autocast,
    is_measured,
    measured_precision,
    resolve_precision,
)
from amodal.training.processes import check_micro_batches, join, mean_over_processes
from amodal.training.progress import ProgressCallbacks
from amodal.training.progressive import shrink, side_at
from amodal.training.recipes.train import TrainRecipe
from amodal.training.tasks.protocol import Step, Task
from amodal.training.trained import Trained

MIN_ROWS_READ = 1000  # without one that is readable the data are wrong, not the rows
MIN_STEPS_TO_MEASURE = 60  # timing takes up to six steps: a tenth of such a run


class RunTrainer(Trainer):
    """`Trainer` for batches of any inputs and any task, with resume and averaged weights.

    Args:
        trained: model and objectives.
        task: gradients and validation.
        reader: training rows.
        recipe: the `train` part of the recipe.
        folder: the run folder; checkpoints go below it.
        workers: processes that read.
        groups: row numbers of groups that every batch has the same shares of; None: as they come.
        balance: see `BalancedSampler`.
        callbacks: progress of the steps, and what is logged.
    """

    def __init__(
        self,
        trained: Trained,
        task: Task,
        reader: BatchReader,
        recipe: TrainRecipe,
        folder: Path,
        *,
        workers: int = 0,
        groups: Sequence[np.ndarray] | None = None,
        balance: float = 1.0,
        callbacks: ProgressCallbacks | None = None,
    ) -> None:
        join()
        self.task = task
        self.recipe = recipe
        self.folder = folder
        self.reader = reader
        self.callbacks = callbacks or ProgressCallbacks()
        check_micro_batches(trained, recipe.micro_batch_size)
        options: dict[str, Any] = {
            "batch_size": recipe.batch_size,
            "epochs": recipe.epochs,
            "seed": recipe.seed,
            "rank": rank(),
            "world_size": world_size(),
        }
        self.sampler = (
            RunSampler(len(reader), **options)
            if groups is None
            else BalancedSampler(groups, balance=balance, **options)
        )
        self.precision_timing: PrecisionTiming | None = None
        self.precision = self._chosen_precision(trained)
        self.broken: dict[str, BrokenRecordError] = {}
        self.truncated: dict[str, int] = {}
        self.read_items = 0
        self.usable_items = self.unusable_items = 0  # of all processes, since this one began
        self.steps_without_items = 0  # since the last line of the log, at step `logged_at`
        self.logged_at = 0
        self.best: dict[str, Any] = {}
        self.interrupted = False  # set from outside: save a checkpoint and stop after this step
        self.evaluating = False  # a checkpoint of this moment is on the disk
        self.evaluation_due = False  # at this step, and not yet done
        self.saved_at: int | None = None  # step of the last checkpoint
        self.resumed_from: Path | None = None
        self._checkpoint_parent = folder / CHECKPOINTS
        self.step_seconds = 0.0  # in training steps alone: no evaluation, no saving
        self.data_seconds = 0.0  # between steps, waiting for the next batch
        self._tick = time.perf_counter()
        super().__init__(
            model=trained,
            args=self._arguments(workers),
            data_collator=cast(Any, take_batch),
            train_dataset=reader,
            eval_dataset=reader if task.has_validation else None,
            callbacks=[_AfterStep(self)],
        )
        self.remove_callback(PrinterCallback)
        same_everywhere(trained)
        if rank():
            torch.manual_seed((recipe.seed + rank()) % (1 << 32))  # other dropout on other rows

    def create_accelerator_and_postprocess(self) -> None:
        """As usual, but without `DistributedDataParallel`: see `amodal.distributed`."""
        super().create_accelerator_and_postprocess()
        prepare = self.accelerator.prepare_model
        self.accelerator.prepare_model = partial(prepare, evaluation_mode=True)  # type: ignore[method-assign]

    def _wrap_model(self, model: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
        return model  # on one of several visible GPUs: `DataParallel` cannot take a `Batch` apart

    def _chosen_precision(self, trained: Trained) -> Precision:
        """As the recipe says; `auto` on a CPU is the faster one on the first batch.

        A run that is continued keeps the format in which it began.
        """
        begun = complete_checkpoints(self.folder)
        if begun:
            state = json.loads((begun[-1] / STATE).read_text(encoding="utf-8"))
            return cast(Precision, state.get("precision", resolve_precision(self.recipe.precision)))
        measured = is_measured(self.recipe.precision) and len(self.sampler) >= MIN_STEPS_TO_MEASURE
        batch = self.reader.__getitems__(next(iter(self.sampler))) if measured else None
        if any_process(batch is None or len(batch) == 0) or batch is None:
            return resolve_precision(self.recipe.precision)
        resized = self._resized(batch, 0, len(self.sampler))

        def step(precision: Precision) -> None:
            trained.train()
            self._backward(
                resized,
                Step(
                    trained=trained,
                    backward=_backward_of,
                    autocast=lambda: autocast(precision, "cpu"),
                    number=0,
                    steps=len(self.sampler),
                    logged=False,
                ),
            )

        self.precision_timing = measured_precision(step, trained)
        self.task.log_metrics()  # forgets the losses of the timed steps
        return self.precision_timing.precision

    def _arguments(self, workers: int) -> TrainingArguments:
        recipe, per_epoch = self.recipe, self.sampler.steps_per_epoch
        return TrainingArguments(
            output_dir=str(self.folder / CHECKPOINTS),
            max_steps=len(self.sampler),
            per_device_train_batch_size=max(1, self.sampler.batch_size // world_size()),
            learning_rate=recipe.learning_rate,
            weight_decay=recipe.weight_decay,
            adam_beta1=recipe.betas[0],
            adam_beta2=recipe.betas[1],
            optim="adamw_torch_fused",
            lr_scheduler_type=recipe.schedule,
            warmup_steps=recipe.warmup,
            max_grad_norm=recipe.gradient_clip,
            bf16=self.precision == "bf16",
            fp16=self.precision == "fp16",
            use_cpu=not torch.cuda.is_available(),
            eval_strategy="steps" if self.task.has_validation else "no",
            eval_steps=max(1, round(recipe.evaluate_every * per_epoch)),
            save_strategy="steps",
            save_steps=max(1, round(recipe.save_every * per_epoch)),
            save_total_limit=2,
            logging_steps=recipe.log_every,
            logging_nan_inf_filter=False,
            logging_first_step=True,
            report_to=list(recipe.loggers) or "none",
            seed=recipe.seed % (1 << 32),
            dataloader_num_workers=workers,
            remove_unused_columns=False,
            disable_tqdm=True,
        )

    @property
    def trained(self) -> Trained:
        return self.accelerator.unwrap_model(self.model)

    def autocast(self) -> AbstractContextManager[object]:
        """The number format of the run, for forward passes."""
        return autocast(self.precision, self.args.device.type)

    def get_train_dataloader(self) -> DataLoader[Batch]:
        workers = self.args.dataloader_num_workers
        return DataLoader(
            self.reader,
            batch_sampler=self.sampler,  # type: ignore[arg-type]
            collate_fn=cast(Any, take_batch),
            num_workers=workers,
            persistent_workers=False,
            prefetch_factor=2 if workers else None,
            pin_memory=torch.cuda.is_available(),
        )

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """A learning rate per encoder; vectors and scalars are not decayed."""
        if self.optimizer is None:
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            rate = options.pop("lr")
            muon = self.recipe.optimizer == "muon"
            groups = parameter_groups(
                self.trained, rate, weight_decay=self.args.weight_decay, muon=muon
            )
            if muon:
                self.optimizer = MuonWithAdamW(groups, lr=rate, betas=self.recipe.betas)
            else:
                self.optimizer = kind(groups, lr=rate, **options)
        return self.optimizer

    def get_batch_samples(self, *args: Any) -> tuple[list[Any], Any]:
        """The next batch; how long the run waits for it is counted."""
        began = time.perf_counter()
        found: tuple[list[Any], Any] = super().get_batch_samples(*args)
        self.data_seconds += time.perf_counter() - began
        return found

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one batch; returns the detached loss."""
        self._tick = time.perf_counter()
        model.train()
        batch = inputs.to(self.args.device, non_blocking=True)
        self._count(batch)
        if not self._anything_in(batch):
            self.steps_without_items += 1
            return torch.zeros((), device=self.args.device)
        return self._backward(
            self._resized(batch, self.state.global_step, self.state.max_steps),
            Step(
                trained=self.trained,
                backward=partial(_backward_of, backward=self.accelerator.backward),
                autocast=self.autocast,
                number=self.state.global_step,
                steps=self.state.max_steps,
                logged=(self.state.global_step + 1) % self.recipe.log_every == 0,
            ),
        )

    def _backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of a batch; batch normalization counts the rows of all processes."""
        if not batch_statistics(step.trained):
            return self.task.backward(batch, step)
        with SynchronizedBatchNorm():
            return self.task.backward(batch, step)

    def _anything_in(self, batch: Batch) -> bool:
        """Whether any process has an item for this step; without one the weights stay.

        Raises:
            DataError: no row at all could be read so far.
        """
        found = gather_integers([len(batch), len(batch.broken)])
        usable, unusable = (sum(column) for column in zip(*found, strict=True))
        self.usable_items += usable
        self.unusable_items += unusable
        if not self.usable_items and self.unusable_items >= min(MIN_ROWS_READ, self.sampler.size):
            first = str(batch.broken[0]) if batch.broken else ""
            shown = next((text for text in gather_texts(first) if text), "")
            raise DataError(
                f"none of the first {self.unusable_items} rows of the training source can be "
                f"read; the first: {shown}"
            )
        return usable > 0

    def merge_counts(self) -> None:
        """Give every process the counts of what all of them have read, and the broken rows."""
        own = {
            "read_items": self.read_items,
            "truncated": self.truncated,
            "broken": [[e.origin, e.reason] for e in self.broken.values()],
        }
        all_own = [json.loads(text) for text in gather_texts(json.dumps(own))]
        self.read_items = sum(one["read_items"] for one in all_own)
        names = dict.fromkeys(name for one in all_own for name in one["truncated"])
        self.truncated = {
            name: sum(one["truncated"].get(name, 0) for one in all_own) for name in names
        }
        broken = [row for one in all_own for row in one["broken"]]
        self.broken = {origin: BrokenRecordError(origin, reason) for origin, reason in broken}

    def _resized(self, batch: Batch, step: int, steps: int) -> Batch:
        growing = self.recipe.progressive_resizing
        images = [named for named in batch.tensors.values() if "pixel_values" in named]
        if growing is None or not images:
            return batch
        full = max(named["pixel_values"].shape[-1] for named in images)
        return shrink(batch, side_at(growing, full, step, steps))

    def _count(self, batch: Batch) -> None:
        self.read_items += len(batch) + len(batch.broken)
        for error in batch.broken:
            self.broken[error.origin] = error
        for modality, count in batch.truncated.items():
            self.truncated[modality] = self.truncated.get(modality, 0) + count

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Metrics of the task on held-out data; the best weights so far are kept aside.

        A checkpoint comes first: an evaluation that is cut off is repeated by the resumed run.
        """
        if not self.task.has_validation:
            return {}
        self.evaluation_due = True
        if self.saved_at != self.state.global_step:
            self._save_checkpoint(cast(nn.Module, self.model), None)
            self.control = self.callback_handler.on_save(self.args, self.state, self.control)
        self.control.should_save = False
        # One of several processes cannot stop in the middle: the others would wait for it.
        self.evaluating = world_size() == 1
        try:
            if any_process(self.interrupted):
                self.interrupted = True
                raise KeyboardInterrupt
            with same_random_state():
                values = self.task.evaluate(self.trained.evaluation_weights, self.autocast)
            self._keep_best(values[self.task.score_name])
        finally:
            self.evaluating = False
        self.evaluation_due = False
        self.log({f"eval/{name}": value for name, value in values.items()})
        metrics = {f"eval_{name}": value for name, value in values.items()}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _keep_best(self, score: float) -> None:
        name = self.task.score_name
        if self.best and score <= self.best[name]:
            return
        best = {"step": self.state.global_step, name: score}
        if is_main():
            write_weights(self.folder / BEST, self.trained)
            write_text(self.folder / BEST / BEST_SCORE, json.dumps(best))
        self.best = best

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Append to the run's log and report the progress."""
        if "train_runtime" in logs:
            return  # the Trainer's own summary, which counts evaluation as training
        if "loss" in logs:
            self._leave_out_empty_steps(logs)
            if not math.isfinite(logs.get("loss", 0.0)):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: lower "
                    "train.learning_rate, lengthen train.warmup, or set train.precision: fp32"
                )
            logs |= mean_over_processes(self.task.log_metrics())
        logs["epoch"] = self.state.global_step / self.sampler.steps_per_epoch
        logs["seconds"] = self.step_seconds
        logs["data_seconds"] = self.data_seconds
        step = self.state.global_step
        if is_main():
            append_line(self.folder, json.dumps({"step": step, **logs}))
        self.state.log_history.append({"step": step, **logs})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        self.callbacks.logged(step, logs)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._checkpoint_parent)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """A checkpoint that replaces the one before the last as soon as it is whole."""
        with new_checkpoint(self.folder, self.state.global_step) as staged:
            self._checkpoint_parent = staged
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._checkpoint_parent = self.folder / CHECKPOINTS
        self.saved_at = self.state.global_step

    def _leave_out_empty_steps(self, logs: dict[str, float]) -> None:
        """The loss as the mean over the steps that had one; none where no step had."""
        steps = self.state.global_step - self.logged_at
        trained = steps - self.steps_without_items
        if not trained:
            del logs["loss"]
        elif self.steps_without_items:
            logs["loss"] = logs["loss"] * steps / trained
        self.steps_without_items, self.logged_at = 0, self.state.global_step

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights of model, objectives and average; nothing pickled by hand."""
        since_log = float(gather(self._tr_loss.reshape(1)).mean())
        own = {name: [v.tolist() for v in values] for name, values in self.task.logged.items()}
        values_since_log = [json.loads(text) for text in gather_texts(json.dumps(own))]
        self.merge_counts()
        if not is_main():
            # Counted by the first process from now on.
            self.read_items, self.truncated = 0, {}
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.trained, str(folder / CHECKPOINT_WEIGHTS))
        state = {
            "precision": self.precision,
            "best": self.best,
            "evaluation_due": self.evaluation_due,
            "log_bytes": log_size(self.folder),
            "logged_at": self._globalstep_last_logged,
            "loss_since_log": since_log,
            "values_since_log": values_since_log,
            "steps_without_items": self.steps_without_items,
            "step_seconds": self.step_seconds,
            "data_seconds": self.data_seconds,
            "read_items": self.read_items,
            "truncated": self.truncated,
            "broken": [[e.origin, e.reason] for e in self.broken.values()],
        }
        write_text(folder / STATE, json.dumps(state))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        load_weights(self.trained, folder)
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.best = state["best"]
        self.evaluation_due = state["evaluation_due"]
        self.step_seconds = state["step_seconds"]
        self.data_seconds = state.get("data_seconds", 0.0)  # older runs did not count it
        if is_main():  # they are of all processes
            self.read_items = state["read_items"]
            self.truncated = state["truncated"]
        self.broken = {o: BrokenRecordError(o, reason) for o, reason in state["broken"]}
        self.resumed_from = folder
        self.saved_at = json.loads((folder / TRAINER_STATE).read_text())["global_step"]
        if is_main():  # the resumed run writes again what came after the checkpoint
            cut_log(self.folder, state["log_bytes"])

    def _continue(self) -> None:
        """Go on at the moment of the checkpoint: between two lines of the log, or evaluating."""
        if self.resumed_from is None:
            return
        state = json.loads((self.resumed_from / STATE).read_text(encoding="utf-8"))
        self._tr_loss += state["loss_since_log"]
        self._globalstep_last_logged = self.logged_at = state["logged_at"]
        self.steps_without_items = state["steps_without_items"]
        all_values = state["values_since_log"]
        own = all_values[rank() if len(all_values) == world_size() else 0]
        for name, values in own.items():
            self.task.logged[name] = [torch.tensor(v, device=self.args.device) for v in values]
        self.callbacks.advance(self.state.global_step)
        if self.evaluation_due:
            self._load_rng_state(str(self.resumed_from))
            self.evaluate()

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None  # the loss is a mean over the whole batch already

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the Trainer's estimate knows only language models


class _AfterStep(TrainerCallback):
    """Updates between two optimizer steps."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.trainer._continue()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer = self.trainer
        trained = trainer.trained
        trainer.task.after_step(trained)
        for slow in (trained.average, trained.momentum):
            if slow is not None:
                slow.update_parameters(trained.network)
        trainer.step_seconds += time.perf_counter() - trainer._tick
        trainer.callbacks.advance(state.global_step)
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save = True
            control.should_evaluate = trainer.task.has_validation
        if any_process(trainer.interrupted):  # a signal may reach one of them alone
            trainer.interrupted = True
            trainer.evaluation_due = control.should_evaluate
            control.should_evaluate = False
            control.should_save = True
            control.should_training_stop = True


def _backward_of(
    loss: Tensor, *, backward: Callable[[Tensor], None] = torch.Tensor.backward
) -> None:
    """Backward pass of a loss, which nothing depends on where a batch has no usable value."""
    if loss.requires_grad:
        backward(loss)
