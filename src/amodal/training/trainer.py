"""Training of any model of the package on `transformers.Trainer`."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState

from amodal.data.batch import Batch
from amodal.data.reader import BatchReader, take_batch
from amodal.data.record import BrokenRecordError, DataError
from amodal.data.samplers import RunSampler
from amodal.distributed import is_main, rank, world_size
from amodal.training.errors import TrainingError
from amodal.training.optim.muon import MuonWithAdamW, matrices_of_layers
from amodal.training.optim.precision import (
    Precision,
    PrecisionTiming,
    autocast,
    is_measured,
    measured_precision,
    resolve_precision,
)
from amodal.training.progressive import shrink, side_at
from amodal.training.recipes.train import TrainRecipe
from amodal.training.tasks.protocol import Step, Task
from amodal.training.trained import Trained

LOG = "train_log.jsonl"
BEST = "best"
CHECKPOINTS = "checkpoints"
STATE = "amodal_state.json"
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
        report: called with (step, values) whenever something was logged.
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
        report: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self.task = task
        self.recipe = recipe
        self.folder = folder
        self.reader = reader
        self.report = report
        self.sampler = RunSampler(
            len(reader),
            batch_size=recipe.batch_size,
            epochs=recipe.epochs,
            seed=recipe.seed,
            rank=rank(),
            world_size=world_size(),
        )
        self.precision_timing: PrecisionTiming | None = None
        self.precision = self._chosen_precision(trained)
        self.broken: dict[str, BrokenRecordError] = {}
        self.truncated: dict[str, int] = {}
        self.read_items = 0
        self.best: dict[str, Any] = {}
        self.interrupted = False  # set from outside: save a checkpoint and stop after this step
        self.step_seconds = 0.0  # in training steps alone: no evaluation, no saving
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
        if batch is None or len(batch) == 0:
            return resolve_precision(self.recipe.precision)
        resized = self._resized(batch, 0, len(self.sampler))

        def step(precision: Precision) -> None:
            trained.train()
            self.task.backward(
                resized,
                Step(
                    model=trained,
                    trained=trained,
                    backward=lambda loss: loss.backward(),
                    no_sync=nullcontext,
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
            per_device_train_batch_size=self.sampler.batch_size // world_size(),
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
            ddp_find_unused_parameters=False,
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
            muon = self.recipe.optimizer == "muon"
            matrices = matrices_of_layers(self.trained) if muon else set()
            groups: dict[tuple[float, bool, bool], list[nn.Parameter]] = {}
            scales = self.trained.learning_rate_scales()
            for name, parameter in self.trained.named_parameters():
                if parameter.requires_grad:
                    scale = next((s for p, s in scales.items() if name.startswith(p)), 1.0)
                    group = (scale, parameter.ndim > 1, parameter in matrices)
                    groups.setdefault(group, []).append(parameter)
            kind, options = self.get_optimizer_cls_and_kwargs(self.args)
            rate = options.pop("lr")
            values: list[dict[str, Any]] = [
                {
                    "params": parameters,
                    "lr": rate * scale,
                    "weight_decay": self.args.weight_decay if decayed else 0.0,
                }
                for (scale, decayed, _), parameters in groups.items()
            ]
            if muon:
                for value, (_, _, matrix) in zip(values, groups, strict=True):
                    value["muon"] = matrix
                self.optimizer = MuonWithAdamW(values, lr=rate, betas=self.recipe.betas)
            else:
                self.optimizer = kind(values, lr=rate, **options)
        return self.optimizer

    def training_step(  # type: ignore[override]
        self, model: nn.Module, inputs: Batch, num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward of one batch; returns the detached loss."""
        self._tick = time.perf_counter()
        model.train()
        batch = inputs.to(self.args.device, non_blocking=True)
        self._count(batch)
        if len(batch) == 0:
            raise DataError(f"a whole batch is unreadable; the first: {batch.broken[0]}")
        return self.task.backward(
            self._resized(batch, self.state.global_step, self.state.max_steps),
            Step(
                model=model,
                trained=self.trained,
                backward=self.accelerator.backward,
                no_sync=lambda: self.accelerator.no_sync(model),
                autocast=self.autocast,
                number=self.state.global_step,
                steps=self.state.max_steps,
                logged=(self.state.global_step + 1) % self.recipe.log_every == 0,
            ),
        )

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
        """Metrics of the task on held-out data; the best weights so far are kept aside."""
        if not self.task.has_validation:
            return {}
        values = self.task.evaluate(self.trained.evaluation_weights, self.autocast)
        name = self.task.score_name
        if not self.best or values[name] > self.best[name]:
            self.best = {"step": self.state.global_step, name: values[name]}
            if is_main():
                self.trained.evaluation_weights.save_pretrained(self.folder / BEST)
                _write_json(self.folder / BEST / "best.json", self.best)
        self.log({f"eval/{name}": value for name, value in values.items()})
        metrics = {f"eval_{name}": value for name, value in values.items()}
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Append to the run's log and report the progress."""
        if "train_runtime" in logs:
            return  # the Trainer's own summary, which counts evaluation as training
        if "loss" in logs:
            if not torch.isfinite(torch.tensor(logs["loss"])):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {self.state.global_step}: lower "
                    "train.learning_rate, lengthen train.warmup, or set train.precision: fp32"
                )
            logs |= self.task.log_metrics()
        logs["epoch"] = self.state.global_step / self.sampler.steps_per_epoch
        logs["seconds"] = self.step_seconds
        step = self.state.global_step
        if is_main():
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, **logs}) + "\n")
        self.state.log_history.append({"step": step, **logs})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        if self.report is not None:
            self.report(step, logs)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Weights of model, objectives and average; nothing pickled by hand."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_model(self.trained, str(folder / "model.safetensors"))
        _write_json(
            folder / STATE,
            {
                "precision": self.precision,
                "best": self.best,
                "step_seconds": self.step_seconds,
                "read_items": self.read_items,
                "truncated": self.truncated,
                "broken": [[e.origin, e.reason] for e in self.broken.values()],
            },
        )

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        folder = Path(resume_from_checkpoint)
        safetensors.torch.load_model(self.trained, str(folder / "model.safetensors"))
        state = json.loads((folder / STATE).read_text(encoding="utf-8"))
        self.best = state["best"]
        self.step_seconds = state["step_seconds"]
        self.read_items = state["read_items"]
        self.truncated = state["truncated"]
        self.broken = {o: BrokenRecordError(o, reason) for o, reason in state["broken"]}
        step = json.loads((folder / "trainer_state.json").read_text())["global_step"]
        _cut_log(self.folder / LOG, step)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> None:
        return None  # the loss is a mean over the whole batch already

    def floating_point_ops(self, inputs: Any) -> int:
        return 0  # the Trainer's estimate knows only language models


class _AfterStep(TrainerCallback):
    """Updates between two optimizer steps."""

    def __init__(self, trainer: RunTrainer) -> None:
        self.trainer = trainer

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trained = self.trainer.trained
        self.trainer.task.after_step(trained)
        for slow in (trained.average, trained.momentum):
            if slow is not None:
                slow.update_parameters(trained.network)
        self.trainer.step_seconds += time.perf_counter() - self.trainer._tick
        if self.trainer.interrupted:
            control.should_save = True
            control.should_training_stop = True
        if state.global_step >= state.max_steps:
            control.should_log = True
            control.should_save = True
            control.should_evaluate = self.trainer.task.has_validation


def complete_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints that were written to the end, oldest first.

    The state file is the last that the Trainer writes, so a checkpoint that was cut off while
    it was written has none, or half of one.
    """
    found = []
    for path in (folder / CHECKPOINTS).glob("checkpoint-*"):
        try:
            json.loads((path / "trainer_state.json").read_text(encoding="utf-8"))
            found.append((int(path.name.split("-")[1]), path))
        except (OSError, ValueError):
            continue
    return [path for _, path in sorted(found)]


def _cut_log(path: Path, step: int) -> None:
    """Drop the lines after `step`: the resumed run writes them again."""
    if path.is_file():
        kept = [line for line in _lines(path) if line["step"] <= step]
        partial = path.with_suffix(".partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue  # the line that was being written when the run was cut off


def _write_json(path: Path, value: Any) -> None:
    partial_path = path.with_name(path.name + ".partial")
    partial_path.write_text(json.dumps(value), encoding="utf-8")
    os.replace(partial_path, path)
