"""The multimodal Transformer: looks at images, reads text, and says what comes next."""

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
from amodal.models.inputs import collator_of
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    Drawn,
    generate_images,
)
from amodal.models.multimodal_transformer.layers import (
    DecoderLayer,
    Memory,
    places,
    segment_mask,
)
from amodal.models.multimodal_transformer.network import TransformerNetwork
from amodal.models.run_folder import found_folder, read_model, write_model

ANSWERS_AT_ONCE = 256  # whose keys and values are kept


class MultimodalTransformer(TransformerNetwork):
    """Looks at images, reads text, and says what comes next: for people and for run folders.

    What its arguments are, and how it works inside, `TransformerNetwork` tells.
    """

    @torch.inference_mode()
    def encode(
        self,
        *,
        batch_size: int = 64,
        output: Literal["numpy", "torch"] = "numpy",
        **values: Sequence[Any],
    ) -> Any:
        """Embeddings of images or of captions in the space that they share.

        Args:
            batch_size: values encoded at once.
            output: type of the result; torch tensors are on the CPU.
            values: exactly one of `image=` and `text=`, as of `caption`.

        Returns:
            (N, E) float32 unit rows.

        Raises:
            ValueError: the model does not embed, or not exactly one list was given.
            BrokenRecordError: an image that cannot be read.
        """
        if self.contrast is None:
            raise ValueError(
                "this model embeds nothing; train with model.unimodal_layers: 1 and the objective "
                "info_nce"
            )
        if len(values) != 1 or not values.keys() <= {"image", "text"}:
            raise ValueError(
                f"encode takes exactly one of image=, text=; got {', '.join(values) or 'none'}"
            )
        ((modality, items),) = values.items()
        if isinstance(items, str | bytes | Path):
            raise ValueError(f"{modality}= takes a list, got one {type(items).__name__}")
        was_training = self.training
        self.eval()
        rows = []
        for start in range(0, len(items), batch_size):
            part = items[start : start + batch_size]
            if modality == "image":
                memory = self.fused(self.encode_inputs(self._images(part)), None)
                assert memory is not None
                z = self.contrast.embed_images(memory)
            else:
                named = self.chat_template([[(Turn("caption", str(text), True),)] for text in part])
                segment = named["segment"].to(self.device)
                read = self._read(named["input_ids"].to(self.device), segment)
                last = segment.sum(1) - 1  # one exchange, whose number is 1
                z = self.contrast.embed_captions(read[torch.arange(len(read)), last])
            rows.append(z.float().cpu())
        self.train(was_training)
        found = torch.cat(rows) if rows else torch.zeros(0, self.contrast.image.dim)
        return found.numpy() if output == "numpy" else found

    @torch.no_grad()
    def answer_scores(self, prompts: Mapping[str, Tensor], encoded: Memory | None) -> Tensor:
        """(R, A) scores of the listed answers after each of R prompts; see `say`."""
        if self.answer_head is None:
            raise ValueError("this model has no list of answers; it says them")
        given = {n: t.to(self.device) for n, t in prompts.items()}
        memory = self.fused(encoded, given)
        hidden = self.decode(given["input_ids"], given["attention_mask"], memory)
        return cast(Tensor, self.answer_head(hidden[:, -1]).float())

    @torch.inference_mode()
    def likelihoods(
        self,
        prompts: Mapping[str, Tensor],
        encoded: Memory | None,
        answers: Sequence[Sequence[str]],
    ) -> list[Tensor]:
        """How likely each of some answers is after each of R prompts.

        A prompt is read once, whatever the number of answers.

        Args:
            prompts: of `TurnsPreprocessor.prompts`, R rows; what has no room before the longest
                answer is cut off on the left.
            encoded: tokens of R items, of `encoded`.
            answers: R lists of texts.

        Returns:
            R tensors (C,) float32 on the CPU: log-likelihood per token, the end included.
        """
        found: list[Tensor] = []
        start = 0
        while start < len(answers):
            end, count = start + 1, len(answers[start])
            while end < len(answers) and count + len(answers[end]) <= ANSWERS_AT_ONCE:
                count += len(answers[end])
                end += 1
            part = {n: t[start:end].to(self.device) for n, t in prompts.items()}
            memory_rows = (
                Memory(encoded.tokens[start:end], encoded.keep[start:end]) if encoded else None
            )
            found += self._likelihoods(part, memory_rows, answers[start:end])
            start = end
        return found

    def _likelihoods(
        self,
        prompts: Mapping[str, Tensor],
        encoded: Memory | None,
        answers: Sequence[Sequence[str]],
    ) -> list[Tensor]:
        counts = [len(texts) for texts in answers]
        said = [
            [*self.chat_template.ids(t), self.chat_template.end_id]
            for texts in answers
            for t in texts
        ]
        if not said:
            return [torch.zeros(0) for _ in counts]
        length = max(map(len, said))
        room = max(1, len(self.position) - length + 1)
        asked = {n: t[:, -room:] for n, t in prompts.items()}
        memory = self.fused(encoded, asked)
        cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        read = asked["attention_mask"]
        hidden = self.decode(asked["input_ids"], read, memory, cache)
        of = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(self.device)
        padded = [row + [self.chat_template.pad_id] * (length - len(row)) for row in said]
        tokens = torch.tensor(padded, device=self.device)
        there = torch.arange(length) < torch.tensor([[len(row)] for row in said])
        there = there.to(self.device)
        scores = self.scores(hidden[:, -1:])[of]
        if length > 1:
            cache.batch_select_indices(of)
            memory_rows = Memory(memory.tokens[of], memory.keep[of]) if memory is not None else None
            whole = torch.cat([read[of], there[:, :-1].to(read.dtype)], dim=1)
            later = self.decode(tokens[:, :-1], whole, memory_rows, cache)
            scores = torch.cat([scores, self.scores(later)], dim=1)
        log_p = scores.float().log_softmax(2).gather(2, tokens[..., None])[..., 0] * there
        return list((log_p.sum(1) / there.sum(1)).cpu().split(counts))

    def answer(
        self, prompts: Mapping[str, Tensor], encoded: Memory | None, **options: Any
    ) -> list[str]:
        """The answer to each question: the best of the list, or what is said without one."""
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
        """What the model says after each prompt; R texts, or R x num_return_sequences.

        Args:
            prompts: of `TurnsPreprocessor.prompts`, R rows.
            encoded: tokens of R items, of `encoded`.
            max_new_tokens: most that is said; None: as much as there is room for.
            options: of `generate`: num_beams, do_sample, temperature, top_p, streamer, ...
        """
        ids = prompts["input_ids"].to(self.device)
        room = len(self.position) - ids.shape[1]
        memory = self.fused(encoded, {n: t.to(self.device) for n, t in prompts.items()})
        given: dict[str, Any] = {}
        if memory is not None:
            given = {"memory_tokens": memory.tokens, "memory_keep": memory.keep}
        model: Any = self  # its stubs do not know that a model may be a mixture
        found: Tensor = model.generate(
            input_ids=ids,
            attention_mask=prompts["attention_mask"].to(self.device),
            cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            max_new_tokens=max(1, min(max_new_tokens or room, room)),
            eos_token_id=self.chat_template.end_id,
            pad_token_id=self.chat_template.pad_id,
            **given,
            **options,
        )
        return [self.chat_template.text(row[ids.shape[1] :].tolist()) for row in found]

    def caption(self, images: Sequence[Any], **options: Any) -> list[str]:
        """A description of each image.

        Args:
            images: paths, bytes, uint8 arrays (H, W, 3) or PIL images.
            options: of `generate`, such as `num_beams=4`.

        Raises:
            BrokenRecordError: an image that cannot be read.
        """
        prompt = (Turn("caption", "", True),)
        return self._generate_for(images, [prompt] * len(images), **options)

    def ask(self, image: Any, question: str | Sequence[str], **options: Any) -> Any:
        """The answer to a question about an image; a list of answers to a list of questions."""
        questions = [question] if isinstance(question, str) else list(question)
        prompts = [_asked([], one) for one in questions]
        answers = self._generate_for([image] * len(prompts), prompts, self.answer, **options)
        return answers[0] if isinstance(question, str) else answers

    def chat(
        self, image: Any, history: Sequence[tuple[str, str]], question: str, **options: Any
    ) -> str:
        """The next answer of a conversation about an image.

        Args:
            history: (question, answer) of every round before.
        """
        return self._generate_for([image], [_asked(history, question)], **options)[0]

    def draw(
        self,
        texts: Sequence[str],
        *,
        guidance: float = GUIDANCE,
        temperature: float = TEMPERATURE,
        top_k: int | None = None,
        seed: int | None = None,
    ) -> list[Drawn]:
        """An image for each text, (S, S, 3) uint8; see `drawing.draw_pictures`.

        Raises:
            ValueError: the model has not learned to draw.
        """
        return generate_images(
            self, texts, guidance=guidance, temperature=temperature, top_k=top_k, seed=seed
        )

    @torch.inference_mode()
    def attention_map(self, image: Any, question: str, answer: str) -> Tensor:
        """Where the model looks as it says the first token of an answer.

        Returns:
            (N,) share of attention on each token of the image, row by row of its grid; the mean
            over heads and layers of the decoder that look. They sum to 1.
        """
        turns = (*_asked([], question)[:-1], Turn("answer", answer, True))
        tensors = self.chat_template([[turns]])
        place = int((tensors["labels"][0] != IGNORED).nonzero()[0])
        ids = tensors["input_ids"].to(self.device)
        segment = tensors["segment"].to(self.device)
        encoded = self.encode_inputs(self._images([image]))
        prompt = {"input_ids": ids[:, : place + 1], "attention_mask": segment[:, : place + 1]}
        memory = self.fused(encoded, prompt)
        if encoded is None or memory is None:
            raise ValueError("a model of text alone does not look")
        x = self.embedding(ids) + self.position[places(segment)]
        mask = segment_mask(segment, segment.shape[1])
        found = []
        for layer in self.decoder:
            assert isinstance(layer, DecoderLayer)
            read = layer.attention(x, mask)
            if layer.cross_attention is None:
                x = layer.feed(read)
                continue
            shares = layer.cross_attention.weights(read, memory)[0, :, place].mean(0)
            shares = shares[: encoded.tokens.shape[1]]  # of the image, what is asked aside
            found.append(shares / shares.sum())
            x = layer.feed(layer.cross_attention(read, memory))
        return torch.stack(found).mean(0).cpu()

    @torch.inference_mode()
    def _generate_for(
        self,
        images: Sequence[Any],
        prompts: Sequence[Conversation],
        generate: Callable[..., list[str]] | None = None,
        **options: Any,
    ) -> list[str]:
        if isinstance(images, str | bytes | Path):
            raise ValueError(f"expected a list of images, got one {type(images).__name__}")
        was_training = self.training
        self.eval()
        options = {"do_sample": False, **options}
        generate = generate or self.generate_text
        said = generate(
            self.chat_template.prompts(prompts), self.encode_inputs(self._images(images)), **options
        )
        self.train(was_training)
        return said

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
        """Open a run folder, or a model of the hub; in evaluation mode, on the CPU.

        Raises:
            ValueError: the folder is not a run, or its files do not fit together.
        """
        return read_model(cls, found_folder(pretrained_model_name_or_path))


def _asked(history: Sequence[tuple[str, str]], question: str) -> Conversation:
    turns = [
        turn
        for said, answer in history
        for turn in (Turn("question", said, False), Turn("answer", answer, True))
    ]
    return (*turns, Turn("question", question, False), Turn("answer", "", True))
