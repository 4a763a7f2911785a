"""What a run of the multimodal Transformer is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from amodal.data.conversation import conversations
from amodal.data.record import BrokenRecordError, DataError, Source
from amodal.evaluators.generation import answer_vocabulary
from amodal.evaluators.generation_metrics import GenerationResult, generation_metrics
from amodal.evaluators.retrieval import retrieval_metrics
from amodal.evaluators.text_to_image import TextToImageResult, text_to_image_metrics
from amodal.losses.info_nce import InfoNCEConfig
from amodal.losses.language_modeling import LanguageModelingConfig
from amodal.modalities.conversation import ConversationInput
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.answer_head import ClassifiedAnswers
from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
from amodal.models.multimodal_transformer.build import InitialEncoder, build_multimodal_transformer
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.opening import open_run
from amodal.training.contrastive_captioning import embed_captioned
from amodal.training.objectives import Objectives
from amodal.training.progress import ProgressCallbacks
from amodal.training.recipe import Recipe
from amodal.training.recipes.error import RecipeError
from amodal.training.recipes.multimodal_transformer import (
    InitFromRecipe,
    MultimodalTransformerRecipe,
)
from amodal.training.tasks.multimodal_transformer_task import MultimodalTransformerTask
from amodal.training.trainer import Trained

Autocast = Callable[[], AbstractContextManager[object]]
PIPELINES = {
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
    "text_to_image": 'images = model.draw(["a red star above a blue circle"], seed=0)',
}


class MultimodalTransformerRun:
    """Model, batches and task of a multimodal Transformer.

    Args:
        recipe: with a model of kind multimodal_transformer.
        train: training source.
        validation: held-out source, or None.
        resume: weights will come from a checkpoint.

    Raises:
        DataError: no training record has anything to be said for the task.
    """

    title = "A multimodal Transformer"

    def __init__(
        self, recipe: Recipe, train: Source, validation: Source | None, *, resume: bool
    ) -> None:
        options = recipe.model
        assert isinstance(options, MultimodalTransformerRecipe)
        self.recipe, self.options, self.train, self.validation = recipe, options, train, validation
        self.pipeline, self.usage = PIPELINES[options.tasks[0]], USAGE[options.tasks[0]]
        values = options.model_dump(
            exclude={"kind", "tasks", "encoders", "init_from", "answers", "image_tokenizer"}
        )
        begun = _start(options.init_from) if options.init_from is not None else None
        encoders = options.encoders if begun is None else {"image": begun.config}
        architecture = TransformerArchitecture(encoders=encoders, **values)
        names = " or ".join(options.tasks)
        images = _image_tokenizer(options)
        try:
            if isinstance(options.answers, ClassifiedAnswers):
                listed = options.answers.build_vocabulary(_answers(train))
                architecture = architecture.model_copy(update={"answers": listed})
            self.model: MultimodalTransformer = build_multimodal_transformer(
                architecture, _texts(train, options), image_tokenizer=images, initial_encoder=begun
            )
        except ValueError as error:
            raise DataError(f"{train.name}: nothing to say for {names}: {error}") from None
        conversation = ConversationInput(
            "conversation",
            self.model.chat_template,
            {task: recipe.data.conversations(task) for task in options.tasks},
            answer_vocabulary(self.model),
            training=True,
        )
        self.collator = collator_of(self.model, steps=recipe.steps(), further=[conversation])
        (objective,) = (o for o in recipe.objectives if isinstance(o, LanguageModelingConfig))
        compared = [o for o in recipe.objectives if isinstance(o, InfoNCEConfig)]
        heads = self.model.contrast
        self.contrast = Objectives(compared, dim=heads.image.dim) if heads is not None else None
        self.task = MultimodalTransformerTask(
            objective,
            options.tasks,
            chunk=recipe.train.micro_batch_size,
            validation=validation,
            validation_items=recipe.data.validation_items,
            contrast=self.contrast,
        )

    def trained(self) -> Trained:
        """What the optimizer sees."""
        from torch import nn

        return Trained(self.model, self.contrast or nn.Module(), self.recipe.train.ema)

    def complete(self, folder: Path, autocast: Autocast, callbacks: ProgressCallbacks) -> None:
        """Nothing is fitted after the weights."""

    def reopened(self, folder: Path) -> MultimodalTransformer:
        """The model that the folder now holds."""
        return MultimodalTransformer.from_pretrained(folder)

    def measured(
        self, kept: MultimodalTransformer, autocast: Autocast, callbacks: ProgressCallbacks
    ) -> tuple[dict[str, float], tuple[GenerationResult, ...] | TextToImageResult]:
        """What the model says about the validation source, and how right it is."""
        assert self.validation is not None
        if self.options.tasks == ("text_to_image",):
            drawn = TextToImageResult.of(kept, self.validation, tick=callbacks.advance)
            return text_to_image_metrics(drawn, self.train, seed=self.recipe.train.seed), drawn
        found = []
        metrics: dict[str, float] = {}
        for task in self.options.tasks:
            generated = GenerationResult.of(
                kept, self.validation, task, autocast=autocast, tick=callbacks.advance
            )
            metrics |= generation_metrics(generated, seed=self.recipe.train.seed)
            found.append(generated)
        if kept.contrast is not None:
            rows = embed_captioned(kept, self.validation, items=range(len(self.validation))).rows
            metrics |= retrieval_metrics(rows, bootstrap=1000, seed=self.recipe.train.seed)
        return metrics, tuple(found)

    def shown(self, metrics: dict[str, float]) -> dict[str, float]:
        """The figures that a model card shows."""
        names = (*self.options.tasks, "retrieval")
        return {n: v for n, v in metrics.items() if n.split("/")[0] in names}


def _start(start: InitFromRecipe) -> InitialEncoder:
    """The image encoder of a run, with the options that training has for it here."""
    try:
        model = open_run(start.run)
    except ValueError as error:
        raise RecipeError(f"model.init_from.run: {error}") from None
    if isinstance(model, ImageTokenizer) or "image" not in model.encoders:
        raise RecipeError(
            f"model.init_from.run: {start.run} has no image encoder; expected a run whose recipe has "
            "model.encoders.image"
        )
    encoder: Any = model.encoders["image"]
    own = {"freeze": start.freeze, "learning_rate_scale": start.learning_rate_scale}
    config = encoder.config.model_copy(update=own)
    return InitialEncoder(config, model.preprocessors["image"], encoder.state_dict())


def _image_tokenizer(options: MultimodalTransformerRecipe) -> ImageTokenizer | None:
    if options.image_tokenizer is None:
        return None
    try:
        return ImageTokenizer.from_pretrained(options.image_tokenizer)
    except ValueError as error:
        raise RecipeError(
            f"model.image_tokenizer: {error}; `amodal train recipes/scenes-image-tokenizer.yaml` trains "
            "one"
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
