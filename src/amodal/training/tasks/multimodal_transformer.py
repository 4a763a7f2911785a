"""Runs of a multimodal Transformer: language modeling, exact match and nll on held-out items."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from amodal.data.answer_vocabulary import NOT_A_QUESTION
from amodal.data.batch import Batch
from amodal.data.conversation import Task as GenerationTask
from amodal.data.conversation import conversations
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.distributed import gather_integers, world_size
from amodal.evaluators.generation import evaluate_generation
from amodal.evaluators.loop import Autocast
from amodal.evaluators.result import EvaluationResult
from amodal.evaluators.retrieval import evaluate_captioner_retrieval
from amodal.evaluators.teacher_forcing import answer_vocabulary, evaluate_teacher_forced
from amodal.evaluators.text_to_image import evaluate_text_to_image
from amodal.losses.answer_classification import answer_classification_loss
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.language_modeling import LanguageModelingConfig, language_modeling_loss
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.answer_head import ClassifiedAnswers
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import InitialEncoder, build_multimodal_transformer
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.run_folder import read_definition
from amodal.training.kinds import open_run
from amodal.training.objectives import Objectives
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.multimodal_transformer import (
    InitFromRecipe,
    MultimodalTransformerRecipe,
)
from amodal.training.tasks.protocol import ModelCard, Step
from amodal.training.trained import Trained

PIPELINE_TAGS = {
    "vqa": "visual-question-answering",
    "caption": "image-to-text",
    "dialogue": "image-text-to-text",
    "single_turn": "visual-question-answering",
    "text_to_image": "text-to-image",
}
USAGE = {
    "vqa": 'model.ask("a.jpg", "what colour is the star?")',
    "caption": 'model.caption(["a.jpg"])',
    "single_turn": 'model.ask("a.jpg", "what colour is the star?")',
    "dialogue": 'model.chat("a.jpg", [("is there a star?", "yes")], "what is its colour?")',
    "text_to_image": 'images = model.generate_images(["a red star above a blue circle"], seed=0)',
}
SCORED_BY_LIKELIHOOD = ("caption", "text_to_image")


class MultimodalTransformerRun:
    """Model, batches and task of a multimodal Transformer; see `protocol.Run`.

    Raises:
        DataError: no training record has anything to learn for the tasks.
    """

    notes: Sequence[str] = ()

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, saved: Path | None
    ) -> None:
        options = cast(MultimodalTransformerRecipe, recipe.model)
        self.recipe, self.options, self.train, self.validation = recipe, options, train, validation
        self.model = (
            read_definition(MultimodalTransformer, saved)
            if saved is not None
            else _new_model(options, train)
        )
        self.collator = collator_of(
            self.model,
            steps=recipe.steps(),
            tasks={task: recipe.data.conversations(task) for task in options.tasks},
            answers=answer_vocabulary(self.model),
        )
        (objective,) = (o for o in recipe.objectives if isinstance(o, LanguageModelingConfig))
        contrastive = [o for o in recipe.objectives if isinstance(o, InfoNCEConfig)]
        heads = self.model.contrast
        self.contrast = Objectives(contrastive, dim=heads.image.dim) if heads is not None else None
        self.task = MultimodalTransformerTask(
            objective,
            options.tasks,
            micro_batch_size=recipe.train.micro_batch_size,
            validation=validation,
            max_validation_items=recipe.data.max_validation_items,
            contrast=self.contrast,
        )

    def trained(self) -> Trained:
        return Trained(self.model, self.contrast or nn.Module(), self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def evaluate(
        self, model: MultimodalTransformer, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], dict[str, EvaluationResult]]:
        """Every task of the recipe on the validation source, generated freely."""
        assert self.validation is not None
        seed, tick = self.recipe.train.seed, callbacks.advance
        results: dict[str, EvaluationResult] = {}
        for task in self.options.tasks:
            if task == "text_to_image":
                results[task] = evaluate_text_to_image(
                    model, self.validation, training_source=self.train, seed=seed, tick=tick
                )
            else:
                results[task] = evaluate_generation(
                    model, self.validation, task, seed=seed, autocast=autocast, tick=tick
                )
        if model.contrast is not None:
            results["retrieval"] = evaluate_captioner_retrieval(model, self.validation, seed=seed)
        metrics = {n: v for result in results.values() for n, v in result.metrics.items()}
        return metrics, results

    def card(self, metrics: dict[str, float]) -> ModelCard:
        names = (*self.options.tasks, "retrieval")
        first = self.options.tasks[0]
        return ModelCard(
            title="A multimodal Transformer",
            usage=USAGE[first],
            pipeline_tag=PIPELINE_TAGS[first],
            metrics={n: v for n, v in metrics.items() if n.split("/")[0] in names},
        )


class MultimodalTransformerTask:
    """Language modeling in micro-batches; the best weights have the highest exact match.

    Captions and images have many correct wordings and appearances, so there the likelihood of
    the references decides: exp(-nll), the geometric mean of the probabilities of their tokens.

    Args:
        config: the loss.
        tasks: what is learned.
        micro_batch_size: items at once; None: the whole batch.
        validation: source to measure on, or None.
        max_validation_items: so many of its first items; None: all.
        contrast: objectives over what the model embeds, added to the loss; needs a whole batch.
    """

    def __init__(
        self,
        config: LanguageModelingConfig,
        tasks: Sequence[GenerationTask],
        *,
        micro_batch_size: int | None = None,
        validation: Source | None = None,
        max_validation_items: int | None = None,
        contrast: Objectives | None = None,
    ) -> None:
        self.config, self.tasks = config, tuple(tasks)
        self.micro_batch_size = micro_batch_size
        self.validation = validation
        self.has_validation = validation is not None
        self.max_validation_items = max_validation_items
        self.score_name = "score"
        self.contrast = contrast
        self.logged: dict[str, list[Tensor]] = {}

    def backward(self, batch: Batch, step: Step) -> Tensor:
        """Gradients of one batch; parts count by their target tokens (or conversations)."""
        parts = batch.split(self.micro_batch_size or len(batch))
        counts = [self._count(part) for part in parts]
        classified = [_in_vocabulary(part) for part in parts]
        # Averaged over processes, the contribution of each counts as often as there are processes.
        everywhere = gather_integers([sum(counts), sum(classified)])
        total, all_classified = (
            max(sum(column), 1) / world_size() for column in zip(*everywhere, strict=True)
        )
        loss_of_all = torch.zeros((), device=batch.item.device)
        for i, (part, count) in enumerate(zip(parts, counts, strict=True)):
            with step.autocast():
                predicted = step.trained(part)
            with torch.autocast(batch.item.device.type, enabled=False):
                loss = language_modeling_loss(
                    predicted.logits,
                    predicted.labels,
                    predicted.item * (1 << 20) + predicted.conversation,
                    label_smoothing=self.config.label_smoothing,
                    average_over=self.config.average_over,
                )
                weighted = self.config.weight * count / total * loss
                if predicted.classified is not None:
                    chosen = answer_classification_loss(
                        predicted.classified.logits, predicted.classified.targets
                    )
                    share = self.config.weight * classified[i] / all_classified
                    weighted = weighted + share * chosen
                    inside = (predicted.classified.targets > 0).any(1)
                    self._note("vqa/out_of_vocabulary_answers", (~inside).float())
                if self.contrast is not None:
                    contrastive, _ = self.contrast(predicted.embedded)
                    self._note("loss/contrastive", contrastive.detach())
                    weighted = weighted + contrastive
            loss_of_all = loss_of_all + weighted.detach()
            if len(predicted.labels):
                with torch.no_grad():
                    correct = predicted.logits.argmax(1) == predicted.labels
                    self._note("token_accuracy", correct.float().mean())
            step.backward(weighted)
        step.average_gradients()
        return loss_of_all

    def _count(self, part: Batch) -> int:
        labels, segment = (
            part.tensors["conversation"]["labels"],
            part.tensors["conversation"]["segment"],
        )
        target = labels >= 0
        asked = part.tensors["conversation"].get("answer_targets")
        if asked is not None:
            item = torch.arange(len(labels), device=labels.device)[:, None]
            target &= asked[..., 0][item, (segment - 1).clamp(min=0)] == NOT_A_QUESTION
        if self.config.average_over == "token":
            return int(target.sum())
        return sum(len(segment[i][target[i]].unique()) for i in range(len(part)))

    def after_step(self, trained: Trained) -> None:
        """Put learned temperatures back into their bounds."""
        if self.contrast is not None:
            self.contrast.constrain_()

    def log_metrics(self) -> dict[str, float]:
        """Since the last call: share of target tokens predicted correctly, and further losses."""
        values = {"token_accuracy": 0.0}
        # Answers vary in number from batch to batch, and every one counts alike.
        values |= {
            name: float(torch.cat([found.reshape(-1) for found in noted]).mean())
            for name, noted in self.logged.items()
        }
        self.logged.clear()
        if self.contrast is not None:
            values |= self.contrast.temperatures()
        return values

    def _note(self, name: str, value: Tensor) -> None:
        self.logged.setdefault(name, []).append(value)

    def evaluate(self, model: PreTrainedModel, autocast: Autocast) -> dict[str, float]:
        """Exact match and nll, teacher-forced, on the validation source."""
        assert self.validation is not None
        size = min(self.max_validation_items or len(self.validation), len(self.validation))
        values: dict[str, float] = {}
        scores = []
        for task in self.tasks:
            found = evaluate_teacher_forced(
                cast(MultimodalTransformer, model),
                self.validation,
                task,
                items=range(size),
                autocast=autocast,
            )
            values |= found.metrics
            likelihood = task in SCORED_BY_LIKELIHOOD
            scores.append(math.exp(-found.nll) if likelihood else values[f"{task}/exact_match"])
        return {**values, self.score_name: sum(scores) / len(scores)}


def _new_model(options: MultimodalTransformerRecipe, train: Source) -> MultimodalTransformer:
    """The model of a recipe, its tokenizer and answer vocabulary fitted on the training source."""
    values = options.model_dump(
        exclude={"kind", "tasks", "encoders", "init_from", "answer_head", "image_tokenizer"}
    )
    initial = _initial_encoder(options.init_from) if options.init_from is not None else None
    encoders = options.encoders if initial is None else {"image": initial.config}
    architecture = TransformerArchitecture(encoders=encoders, **values)
    tokenizer = _image_tokenizer(options)
    try:
        if isinstance(options.answer_head, ClassifiedAnswers):
            answers = options.answer_head.build_vocabulary(_answers(train))
            architecture = architecture.model_copy(update={"answers": answers})
        return build_multimodal_transformer(
            architecture,
            _texts(train, options),
            image_tokenizer=tokenizer,
            initial_encoder=initial,
        )
    except ValueError as error:
        names = " or ".join(options.tasks)
        raise DataError(f"{train.name}: nothing to learn for {names}: {error}") from None


def _in_vocabulary(part: Batch) -> int:
    """Number of questions with an answer in the vocabulary."""
    asked = part.tensors["conversation"].get("answer_targets")
    return int((asked[..., 1:] > 0).any(2).sum()) if asked is not None else 0


def _initial_encoder(init_from: InitFromRecipe) -> InitialEncoder:
    """The image encoder of another run, with the fine-tuning options of this one."""
    try:
        model: Any = open_run(init_from.run)
    except ValueError as error:
        raise RecipeError(f"model.init_from.run: {error}") from None
    encoders: Any = getattr(model, "encoders", {})
    images = [name for name in encoders if hasattr(model.preprocessors[name], "resize")]
    if not images:
        raise RecipeError(
            f"model.init_from.run: {init_from.run} has no image encoder; expected a run whose "
            "recipe has one in model.encoders"
        )
    encoder: Any = encoders[images[0]]
    options = {"freeze": init_from.freeze, "learning_rate_scale": init_from.learning_rate_scale}
    config = encoder.config.model_copy(update=options)
    return InitialEncoder(config, model.preprocessors[images[0]], encoder.state_dict())


def _image_tokenizer(options: MultimodalTransformerRecipe) -> ImageTokenizer | None:
    if options.image_tokenizer is None:
        return None
    try:
        return ImageTokenizer.from_pretrained(options.image_tokenizer)
    except ValueError as error:
        raise RecipeError(
            f"model.image_tokenizer: {error}; `amodal train scenes-image-tokenizer` trains one"
        ) from None


def _answers(source: Source) -> Iterator[str]:
    for i in range(len(source)):
        try:
            found = conversations(source[i], "vqa")
        except BrokenRecordError:
            continue  # reported when training draws the row
        for turns in found:
            yield turns[-1].text


def _texts(source: Source, options: MultimodalTransformerRecipe) -> Iterator[str]:
    for i in range(len(source)):
        try:
            record = source[i]
            found = [turns for task in options.tasks for turns in conversations(record, task)]
        except BrokenRecordError:
            continue  # reported when training draws the row
        for turns in found:
            for turn in turns:
                yield turn.text
