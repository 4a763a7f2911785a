"""The multimodal Transformer: captioning, question answering, dialogue and image generation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from amodal.data.batch import Batch
from amodal.data.conversation import Conversation, Turn
from amodal.data.record import sample_rng
from amodal.encoders.text.chat_template import IGNORED
from amodal.models.evaluation_mode import evaluation_mode
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    ImageArray,
    generate_images,
)
from amodal.models.multimodal_transformer.layers import (
    DecoderLayer,
    Memory,
    segment_mask,
    segment_positions,
)
from amodal.models.multimodal_transformer.network import TransformerNetwork
from amodal.models.run_folder import read_model, write_model
from amodal.models.run_location import found_folder

MAX_CACHED_CANDIDATES = 256  # candidates whose keys and values are in memory at once

CAPTIONS = "text"  # name of captions among the values that a contrastive captioner embeds


class MultimodalTransformer(TransformerNetwork):
    """`TransformerNetwork` with text and image generation, scoring, and run folders.

    See `TransformerNetwork` for the constructor's arguments and the data flow, and
    `build_multimodal_transformer` for a new model. `caption`, `ask`, `chat` and `generate_images`
    take raw values; the other methods take the tensors of `ChatTemplate.prompts` and
    `encode_inputs`.

    Examples:
        >>> from amodal.data.conversation import Turn
        >>> from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> from amodal.models.multimodal_transformer.build import build_multimodal_transformer
        >>> model = build_multimodal_transformer(
        ...     TransformerArchitecture(
        ...         width=16,
        ...         heads=2,
        ...         decoder_layers=1,
        ...         tokenizer=TrainedTokenizerConfig(model="word"),
        ...     ),
        ...     ["is there a red star ?", "yes", "no"],
        ... ).eval()
        >>> turns = (Turn("question", "is there a star ?", False), Turn("answer", "", True))
        >>> prompts = model.chat_template.prompts([turns])
        >>> (scores,) = model.log_likelihoods(prompts, None, [["yes", "no"]])
        >>> scores.shape
        torch.Size([2])
    """

    @torch.inference_mode()
    def encode(
        self,
        *,
        batch_size: int = 64,
        output: Literal["numpy", "torch"] = "numpy",
        **values: Sequence[Any],
    ) -> Any:
        """Embeddings of images or captions in the shared space of the contrastive heads.

        Args:
            batch_size: values encoded at once.
            output: type of the result; torch tensors are on the CPU.
            values: exactly one of `image=`, as of `caption`, and `text=`.

        Returns:
            (N, E) float32 unit-norm rows.

        Raises:
            ValueError: the model has no contrastive heads, or not exactly one list was given.
            BrokenRecordError: an image cannot be read.
        """
        if self.contrast is None:
            raise ValueError(
                "this model has no contrastive heads; train one with model.unimodal_layers: 1 and "
                "the objective info_nce"
            )
        embed = {self.inputs[0]: self._embed_images, CAPTIONS: self._embed_captions}
        if len(values) != 1 or not values.keys() <= embed.keys():
            raise ValueError(
                f"encode takes exactly one of {', '.join(f'{name}=' for name in embed)}; got "
                f"{', '.join(values) or 'none'}"
            )
        ((name, items),) = values.items()
        if isinstance(items, str | bytes | Path):
            raise ValueError(f"{name}= takes a list, got one {type(items).__name__}")
        with evaluation_mode(self):
            rows = [
                embed[name](items[start : start + batch_size]).float().cpu()
                for start in range(0, len(items), batch_size)
            ]
        whole = torch.cat(rows) if rows else torch.zeros(0, self.contrast.image.dim)
        return whole.numpy() if output == "numpy" else whole

    def _embed_images(self, images: Sequence[Any]) -> Tensor:
        """(B, E) unit-norm rows."""
        assert self.contrast is not None
        memory = self.fuse(self.encode_inputs(self._images(images)), None)
        assert memory is not None
        return self.contrast.embed_images(memory)

    def _embed_captions(self, texts: Sequence[Any]) -> Tensor:
        """(B, E) unit-norm rows."""
        assert self.contrast is not None
        named = self.chat_template([[(Turn("caption", str(text), True),)] for text in texts])
        segment = named["segment"].to(self.device)
        states = self._decode_unimodal(named["input_ids"].to(self.device), segment)
        last = segment.sum(1) - 1  # one conversation, whose number is 1
        return self.contrast.embed_captions(states[torch.arange(len(states)), last])

    @torch.no_grad()
    def answer_scores(self, prompts: Mapping[str, Tensor], encoded: Memory | None) -> Tensor:
        """(R, A) logits over the answer vocabulary after each of R prompts.

        Args:
            prompts: of `ChatTemplate.prompts`, R rows.
            encoded: tokens of R items, of `encode_inputs`.

        Raises:
            ValueError: the model has no answer vocabulary.
        """
        if self.answer_head is None:
            raise ValueError("this model has no answer vocabulary; it generates answers")
        inputs = {n: t.to(self.device) for n, t in prompts.items()}
        memory = self.fuse(encoded, inputs)
        hidden = self.decode(inputs["input_ids"], inputs["attention_mask"], memory)
        return cast(Tensor, self.answer_head(hidden[:, -1]).float())

    @torch.inference_mode()
    def log_likelihoods(
        self,
        prompts: Mapping[str, Tensor],
        encoded: Memory | None,
        answers: Sequence[Sequence[str]],
    ) -> list[Tensor]:
        """Mean log-likelihood per token of candidate answers after each of R prompts.

        Each prompt is decoded once; its candidates share the cached keys and values.

        Args:
            prompts: of `ChatTemplate.prompts`, R rows; truncated on the left where prompt and
                longest answer exceed `max_length`.
            encoded: tokens of R items, of `encode_inputs`.
            answers: R lists of candidate answers.

        Returns:
            R tensors (C,) float32 on the CPU, in nats; the end token counts.
        """
        scores: list[Tensor] = []
        start = 0
        while start < len(answers):
            end, count = start + 1, len(answers[start])
            while end < len(answers) and count + len(answers[end]) <= MAX_CACHED_CANDIDATES:
                count += len(answers[end])
                end += 1
            chunk = {n: t[start:end].to(self.device) for n, t in prompts.items()}
            items = encoded.select(slice(start, end)) if encoded else None
            scores += self._log_likelihoods(chunk, items, answers[start:end])
            start = end
        return scores

    def _log_likelihoods(
        self,
        prompts: Mapping[str, Tensor],
        encoded: Memory | None,
        answers: Sequence[Sequence[str]],
    ) -> list[Tensor]:
        counts = [len(texts) for texts in answers]
        candidates = [
            [*self.chat_template.ids(text), self.chat_template.end_id]
            for texts in answers
            for text in texts
        ]
        if not candidates:
            return [torch.zeros(0) for _ in counts]
        length = max(map(len, candidates))
        room = max(1, len(self.position) - length + 1)
        prompts = {n: t[:, -room:] for n, t in prompts.items()}
        memory = self.fuse(encoded, prompts)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        prompt_mask = prompts["attention_mask"]
        hidden = self.decode(prompts["input_ids"], prompt_mask, memory, cache)
        row = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(self.device)
        pad = self.chat_template.pad_id
        padded = [ids + [pad] * (length - len(ids)) for ids in candidates]
        tokens = torch.tensor(padded, device=self.device)
        mask = torch.arange(length) < torch.tensor([[len(ids)] for ids in candidates])
        mask = mask.to(self.device)
        logits = self.scores(hidden[:, -1:])[row]
        if length > 1:
            cache.batch_select_indices(row)
            repeated = memory.select(row) if memory is not None else None
            segment = torch.cat([prompt_mask[row], mask[:, :-1].to(prompt_mask.dtype)], dim=1)
            states = self.decode(tokens[:, :-1], segment, repeated, cache)
            logits = torch.cat([logits, self.scores(states)], dim=1)
        log_p = logits.float().log_softmax(2).gather(2, tokens[..., None])[..., 0] * mask
        return list((log_p.sum(1) / mask.sum(1)).cpu().split(counts))

    def answer(
        self, prompts: Mapping[str, Tensor], encoded: Memory | None, **options: Any
    ) -> list[str]:
        """Answers to R prompts, classified or generated; arguments as of `generate_text`."""
        if self.answer_head is None:
            return self.generate_text(prompts, encoded, **options)
        best = self.answer_scores(prompts, encoded).argmax(1).tolist()
        return [self.answer_head.answers[i] for i in best]

    @torch.no_grad()
    def generate_text(
        self,
        prompts: Mapping[str, Tensor],
        encoded: Memory | None,
        *,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> list[str]:
        """Continuations of R prompts: R texts, or R x num_return_sequences.

        Args:
            prompts: of `ChatTemplate.prompts`, R rows.
            encoded: tokens of R items, of `encode_inputs`.
            max_new_tokens: None: up to `max_length`.
            options: of `GenerationMixin.generate`: num_beams, do_sample, temperature, top_p,
                streamer, ...
        """
        ids = prompts["input_ids"].to(self.device)
        room = len(self.position) - ids.shape[1]
        memory = self.fuse(encoded, {n: t.to(self.device) for n, t in prompts.items()})
        memory_inputs: dict[str, Any] = {}
        if memory is not None:
            memory_inputs = {"memory_tokens": memory.tokens, "memory_keep": memory.keep}
        model: Any = self  # the stubs of `generate` do not allow a mixin's subclass
        generated: Tensor = model.generate(
            input_ids=ids,
            attention_mask=prompts["attention_mask"].to(self.device),
            cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            max_new_tokens=max(1, min(max_new_tokens or room, room)),
            eos_token_id=self.chat_template.end_id,
            pad_token_id=self.chat_template.pad_id,
            **memory_inputs,
            **options,
        )
        return [self.chat_template.text(row[ids.shape[1] :].tolist()) for row in generated]

    def caption(self, images: Sequence[Any], **options: Any) -> list[str]:
        """A caption of each image.

        Args:
            images: paths, bytes, uint8 arrays (H, W, 3) or PIL images.
            options: of `generate_text`, such as `num_beams=4`.

        Raises:
            BrokenRecordError: an image cannot be read.
        """
        prompt = (Turn("caption", "", True),)
        return self._generate_for(images, [prompt] * len(images), **options)

    def ask(self, image: Any, question: str | Sequence[str], **options: Any) -> Any:
        """The answer to a question about an image; a list of answers to a list of questions.

        Args:
            image: path, bytes, uint8 array (H, W, 3) or PIL image.
            question: one, or a list.
            options: of `generate_text`.

        Raises:
            BrokenRecordError: the image cannot be read.
        """
        questions = [question] if isinstance(question, str) else list(question)
        prompts = [_prompt([], one) for one in questions]
        answers = self._generate_for([image] * len(prompts), prompts, self.answer, **options)
        return answers[0] if isinstance(question, str) else answers

    def chat(
        self, image: Any, history: Sequence[tuple[str, str]], question: str, **options: Any
    ) -> str:
        """The next answer of a conversation about an image.

        Args:
            image: path, bytes, uint8 array (H, W, 3) or PIL image.
            history: (question, answer) pairs so far; truncated on the left to `max_length`.
            question: the next one.
            options: of `generate_text`.

        Raises:
            BrokenRecordError: the image cannot be read.
        """
        return self._generate_for([image], [_prompt(history, question)], **options)[0]

    def generate_images(
        self,
        texts: Sequence[str],
        *,
        guidance: float = GUIDANCE,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[ImageArray]:
        """A generated image for each text, (S, S, 3) uint8; see `generate_images`.

        Raises:
            ValueError: the model does not generate images, or an argument is out of its range.
        """
        return generate_images(
            self, texts, guidance=guidance, temperature=temperature, top_k=top_k, seed=seed
        )

    @torch.inference_mode()
    def attention_map(self, image: Any, question: str, answer: str) -> Tensor:
        """Cross-attention over the image tokens at the first token of an answer.

        Args:
            image: path, bytes, uint8 array (H, W, 3) or PIL image.
            question: about the image.
            answer: given or generated.

        Returns:
            (N,) weights that sum to 1, row by row of the token grid; the mean over heads and
            decoder layers with cross-attention.

        Raises:
            ValueError: a model of text alone.
            BrokenRecordError: the image cannot be read.
        """
        turns = (*_prompt([], question)[:-1], Turn("answer", answer, True))
        tensors = self.chat_template([[turns]])
        first = int((tensors["labels"][0] != IGNORED).nonzero()[0])
        ids = tensors["input_ids"].to(self.device)
        segment = tensors["segment"].to(self.device)
        encoded = self.encode_inputs(self._images([image]))
        prompt = {"input_ids": ids[:, : first + 1], "attention_mask": segment[:, : first + 1]}
        memory = self.fuse(encoded, prompt)
        if encoded is None or memory is None:
            raise ValueError("a model of text alone has no attention map")
        x = self.embedding(ids) + self.position[segment_positions(segment)]
        mask = segment_mask(segment, segment.shape[1])
        maps = []
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)
            x = layer.attention(x, mask)
            if layer.cross_attention is not None:
                weights = layer.cross_attention.weights(x, memory)[0, :, first].mean(0)
                weights = weights[: encoded.tokens.shape[1]]  # without the tokens of the prompt
                maps.append(weights / weights.sum())
                x = layer.cross_attention(x, memory)
            x = layer.feed(x)
        return torch.stack(maps).mean(0).cpu()

    @torch.inference_mode()
    def _generate_for(
        self,
        images: Sequence[Any],
        prompts: Sequence[Conversation],
        method: Callable[..., list[str]] | None = None,
        **options: Any,
    ) -> list[str]:
        if isinstance(images, str | bytes | Path):
            raise ValueError(f"expected a list of images, got one {type(images).__name__}")
        options = {"do_sample": False, **options}
        method = method or self.generate_text
        with evaluation_mode(self):
            encoded = self.encode_inputs(self._images(images))
            return method(self.chat_template.prompts(prompts), encoded, **options)

    def _images(self, images: Sequence[Any]) -> Batch:
        (name, *_) = self.inputs or ("image",)
        records = [
            {
                "id": str(i),
                "origin": str(image) if isinstance(image, str | Path) else f"images[{i}]",
                name: image,
            }
            for i, image in enumerate(images)
        ]
        batch = collator_of(self)(records, [sample_rng(0, 0, i) for i in range(len(records))])
        if batch.broken:
            raise batch.broken[0]
        return batch.to(self.device)

    def save_pretrained(self, save_directory: str | Path, **kwargs: Any) -> None:  # type: ignore[override]
        """Write config.json, model.safetensors and one preprocessor folder per modality."""
        write_model(self, self.preprocessors, Path(save_directory))

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | Path, **kwargs: Any
    ) -> MultimodalTransformer:
        """A model from a run folder or `hub:OWNER/NAME`, in evaluation mode, on the CPU.

        Raises:
            ValueError: the folder is not a run folder, or its files do not match.
        """
        return read_model(cls, found_folder(pretrained_model_name_or_path))


def _prompt(history: Sequence[tuple[str, str]], question: str) -> Conversation:
    turns = [
        turn
        for previous, answer in history
        for turn in (Turn("question", previous, False), Turn("answer", answer, True))
    ]
    return (*turns, Turn("question", question, False), Turn("answer", "", True))
