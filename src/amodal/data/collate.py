"""From records to a `Batch`: decode, augment, tokenize, and drop what is broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from amodal.data.answer_vocabulary import AnswerVocabulary
from amodal.data.batch import Batch, key64
from amodal.data.conversation import Conversation, Task, conversations
from amodal.data.decode import decode_image
from amodal.data.decode_audio import decode_audio
from amodal.data.record import BrokenRecordError, Record
from amodal.data.sources.vqa import people_of

Rngs = Sequence[np.random.Generator]


class ImageInput(Protocol):
    """What an image encoder wants: how large, and how its pixels are scaled."""

    size: int

    def resize(self, images: list[np.ndarray]) -> Tensor: ...
    def normalize(self, pixels: Tensor) -> dict[str, Tensor]: ...


class TextInput(Protocol):
    """What a text encoder wants: token ids with their mask."""

    def __call__(self, texts: list[str]) -> dict[str, Tensor]: ...
    def count_truncated(self, texts: list[str]) -> int: ...


class AudioInput(Protocol):
    """What an audio encoder wants: at which rate, and tensors of waveforms."""

    sample_rate: int  # Hz

    def __call__(self, waveforms: list[np.ndarray]) -> dict[str, Tensor]: ...
    def count_truncated(self, waveforms: list[np.ndarray]) -> int: ...


class ValueInput(Protocol):
    """What the encoder of any other modality wants: a value of a record, and tensors of many."""

    def read(self, record: Record) -> Any | None:
        """The value, or None where the record has none; a ValueError where it is bad."""
        ...

    def __call__(self, values: list[Any]) -> dict[str, Tensor]: ...


class ConversationInput(Protocol):
    """What a decoder of text wants: exchanges as ids, mask and labels."""

    def __call__(self, items: Sequence[Sequence[Conversation]]) -> dict[str, Tensor]: ...
    def count_truncated(self, conversations: Sequence[Conversation]) -> int: ...


class TargetInput(Protocol):
    """What is to be predicted of an item."""

    def read(self, record: Record) -> Any | None: ...
    def encode(self, values: Sequence[Any | None]) -> Tensor: ...


class Augment(Protocol):
    """Training-time changes to one batch; each sample draws from its own generator."""

    def images(self, images: list[np.ndarray], rngs: Rngs) -> tuple[Tensor, np.ndarray]:
        """Uint8 pixels (B, 3, S, S), and (B,) bool: which were mirrored."""
        ...

    def caption(self, text: str, mirrored: bool) -> str:
        """`text`, still true of an image that was mirrored."""
        ...

    def tokens(self, tokens: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]: ...

    def audio(self, waveforms: list[np.ndarray], rngs: Rngs) -> list[np.ndarray]:
        """Waveforms (T,) float32, at the rate at which they came."""
        ...

    def audio_features(self, features: dict[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        """What the audio encoder gets, with parts of it hidden."""
        ...

    def presence(self, present: Mapping[str, Tensor], rngs: Rngs) -> dict[str, Tensor]:
        """Which rows are there, after some were taken away."""
        ...


class Collator:
    """Makes a `Batch` of records.

    Args:
        inputs: modality -> preprocessor of its encoder: an `ImageInput` for `image`, a `TextInput`
            for `text`, an `AudioInput` for `audio`, a `TurnsInput` for `turns`, a `ValueInput` for
            any other.
        captions: captions per item and step; where an item has fewer, the rest is absent.
            None takes all that the items of a batch have.
        views: images per item and step, each augmented on its own.
        augment: training-time augmentation; None leaves every value as it is and takes the
            first captions of an item instead of random ones.
        target: what is to be predicted, or None.
        tasks: what is said about an item, where the inputs have `turns`, and the most exchanges of
            each per item and step; None: all that there are.
        answers: the list from which answers to questions are chosen, or None.
    """

    def __init__(
        self,
        inputs: Mapping[str, Any],
        *,
        captions: int | None = 1,
        views: int = 1,
        augment: Augment | None = None,
        target: TargetInput | None = None,
        tasks: Mapping[Task, int | None] | None = None,
        answers: AnswerVocabulary | None = None,
    ) -> None:
        self.inputs = dict(inputs)
        known = ("image", "text", "audio", "conversation")
        self.others = {m: i for m, i in self.inputs.items() if m not in known}
        self.tasks = dict(tasks or {}) if "conversation" in self.inputs else {}
        self.target = target
        self.answers = answers
        self.captions = captions
        self.views = views
        self.augment = augment

    def __call__(self, records: Sequence[Record], rngs: Rngs) -> Batch:
        """The batch of the records that can be read.

        Args:
            records: B records of any source; a `BrokenRecordError` in the place of a record
                is passed on in `Batch.broken`.
            rngs: B generators, one per record.
        """
        kept: list[tuple[Record, np.random.Generator]] = []
        images: list[np.ndarray | None] = []
        sounds: list[np.ndarray | None] = []
        others: dict[str, list[Any]] = {modality: [] for modality in self.others}
        targets: list[Any] = []
        said: list[list[list[Conversation]]] = []  # item -> task -> exchanges
        broken: list[BrokenRecordError] = []
        for record, rng in zip(records, rngs, strict=True):
            if isinstance(record, BrokenRecordError):
                broken.append(record)
                continue
            try:
                image = None
                if "image" in self.inputs and record.get("image") is not None:
                    image = decode_image(
                        record["image"], record["origin"], min_size=self.inputs["image"].size
                    )
                sound = None
                if "audio" in self.inputs and record.get("audio") is not None:
                    rate = self.inputs["audio"].sample_rate
                    sound = decode_audio(record["audio"], record["origin"], rate)
                values = {m: one.read(record) for m, one in self.others.items()}
                target = self.target.read(record) if self.target is not None else None
                turns = [conversations(record, task) for task in self.tasks]
            except BrokenRecordError as error:
                broken.append(error)
                continue
            except ValueError as error:
                broken.append(BrokenRecordError(record["origin"], str(error)))
                continue
            kept.append((record, rng))
            images.append(image)
            sounds.append(sound)
            targets.append(target)
            said.append(turns)
            for modality, value in values.items():
                others[modality].append(value)
        tensors: dict[str, dict[str, Tensor]] = {}
        present: dict[str, Tensor] = {}
        content: dict[str, Tensor] = {}
        truncated: dict[str, int] = {}
        mirrored = np.zeros((len(kept), self.views), dtype=bool)
        if "image" in self.inputs:
            tensors["image"], present["image"], mirrored = self._images(
                images, [rng for _, rng in kept]
            )
        if "text" in self.inputs:
            texts, present["text"] = self._choose_captions(kept, mirrored)
            tensors["text"], content["text"], truncated["text"] = self._texts(
                texts, present["text"].shape[1], [rng for _, rng in kept]
            )
        if "audio" in self.inputs:
            tensors["audio"], present["audio"], truncated["audio"] = self._sounds(
                sounds, [rng for _, rng in kept]
            )
        if self.tasks:
            tensors["conversation"], present["conversation"], truncated["conversation"] = (
                self._turns(
                    [record for record, _ in kept], said, mirrored, [rng for _, rng in kept]
                )
            )
        for modality, values_of in others.items():
            tensors[modality], present[modality] = _values(self.others[modality], values_of)
            count = getattr(self.others[modality], "count_truncated", None)
            if count is not None:
                truncated[modality] = count([v for v in values_of if v is not None])
        if self.augment is not None and kept:
            present = self.augment.presence(present, [rng for _, rng in kept])
        return Batch(
            tensors=tensors,
            present=present,
            item=torch.tensor([key64(str(r["id"])) for r, _ in kept], dtype=torch.int64),
            content=content,
            broken=tuple(broken),
            truncated=truncated,
            label=_labels([r for r, _ in kept]),
            target=self.target.encode(targets) if self.target is not None else None,
        )

    def _images(
        self, images: list[np.ndarray | None], rngs: Rngs
    ) -> tuple[dict[str, Tensor], Tensor, np.ndarray]:
        there = np.array([image is not None for image in images], dtype=bool)
        rows = [i for i, image in enumerate(images) if image is not None]
        present = torch.from_numpy(np.repeat(there[:, None], self.views, axis=1))
        mirrored = np.zeros((len(images), self.views), dtype=bool)
        encoder_input: ImageInput = self.inputs["image"]
        size = encoder_input.size
        pixels = torch.zeros(len(images) * self.views, 3, size, size, dtype=torch.uint8)
        repeated = [images[i] for i in rows for _ in range(self.views)]
        values = [image for image in repeated if image is not None]
        if values:
            place = [i * self.views + v for i in rows for v in range(self.views)]
            if self.augment is None:
                pixels[place] = encoder_input.resize(values)
            else:
                one_each = [rngs[i] for i in rows for _ in range(self.views)]
                pixels[place], flags = self.augment.images(values, one_each)
                mirrored.reshape(-1)[place] = flags
        return encoder_input.normalize(pixels), present, mirrored

    def _sounds(
        self, sounds: list[np.ndarray | None], rngs: Rngs
    ) -> tuple[dict[str, Tensor], Tensor, int]:
        waveforms = [sound for sound in sounds if sound is not None]
        encoder_input: AudioInput = self.inputs["audio"]
        truncated = encoder_input.count_truncated(waveforms)
        if self.augment is None:
            return *_spread(encoder_input(waveforms), sounds), truncated
        own = [rng for rng, sound in zip(rngs, sounds, strict=True) if sound is not None]
        features = encoder_input(self.augment.audio(waveforms, own))
        return *_spread(self.augment.audio_features(features, own), sounds), truncated

    def _choose_captions(
        self, kept: list[tuple[Record, np.random.Generator]], mirrored: np.ndarray
    ) -> tuple[list[list[str]], Tensor]:
        chosen: list[list[str]] = []
        most = self.captions or max((len(r.get("text") or []) for r, _ in kept), default=1)
        present = torch.zeros(len(kept), most, dtype=torch.bool)
        for i, (record, rng) in enumerate(kept):
            texts = list(record.get("text") or [])
            if self.augment is not None:
                if len(texts) > 1:
                    order = rng.permutation(len(texts))[:most]
                    texts = [texts[j] for j in order]
                # With several views of an image a caption can follow only one of them.
                texts = [self.augment.caption(t, bool(mirrored[i, 0])) for t in texts]
            chosen.append(texts[:most])
            present[i, : len(chosen[i])] = True
        return chosen, present

    def _turns(
        self,
        records: Sequence[Record],
        said: list[list[list[Conversation]]],
        mirrored: np.ndarray,
        rngs: Rngs,
    ) -> tuple[dict[str, Tensor], Tensor, int]:
        chosen: list[list[Conversation]] = []
        asked: list[list[tuple[str, list[str]] | None]] = []
        for i, by_task in enumerate(said):
            kept: list[Conversation] = []
            listed: list[tuple[str, list[str]] | None] = []
            for found, (task, most) in zip(by_task, self.tasks.items(), strict=True):
                order = list(range(len(found)))
                if self.augment is not None:
                    order = rngs[i].permutation(len(found)).tolist()
                for j in order[:most]:
                    texts = self._following([turn.text for turn in found[j]], mirrored[i, 0])
                    turns = zip(found[j], texts, strict=True)
                    kept.append(tuple(turn._replace(text=text) for turn, text in turns))
                    if self.answers is None:
                        continue
                    if task != "vqa":
                        listed.append(None)
                        continue
                    people = self._following(people_of(records[i], j), mirrored[i, 0])
                    listed.append((texts[-1], people))
            chosen.append(kept)
            asked.append(listed)
        encoder_input: ConversationInput = self.inputs["conversation"]
        present = torch.tensor([bool(found) for found in chosen], dtype=torch.bool)[:, None]
        truncated = encoder_input.count_truncated([turns for found in chosen for turns in found])
        tensors = encoder_input(chosen)
        if self.answers is not None:
            tensors["asked"] = self.answers(asked)
        return tensors, present, truncated

    def _following(self, texts: list[str], mirrored: bool) -> list[str]:
        """The texts, still true of an image that was mirrored."""
        if self.augment is None:
            return texts
        return [self.augment.caption(text, bool(mirrored)) for text in texts]

    def _texts(
        self, chosen: list[list[str]], most: int, rngs: Rngs
    ) -> tuple[dict[str, Tensor], Tensor, int]:
        flat = [t for texts in chosen for t in texts + [""] * (most - len(texts))]
        encoder_input: TextInput = self.inputs["text"]
        tokens = encoder_input(flat) if flat else {}
        content = torch.tensor([key64(t) for t in flat], dtype=torch.int64)
        if self.augment is not None and flat:
            tokens = self.augment.tokens(tokens, [r for r in rngs for _ in range(most)])
        return tokens, content.view(len(chosen), most), encoder_input.count_truncated(flat)


def _values(
    encoder_input: ValueInput, values: list[Any | None]
) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors with a row per value, and (B, 1) bool which are there."""
    return _spread(encoder_input([value for value in values if value is not None]), values)


def _spread(
    found: dict[str, Tensor], values: Sequence[Any | None]
) -> tuple[dict[str, Tensor], Tensor]:
    """Tensors with zeros where there is no value, and (B, 1) bool where there is one."""
    there = torch.tensor([value is not None for value in values], dtype=torch.bool)
    if bool(there.all()):
        return found, there[:, None]
    spread = {}
    for name, tensor in found.items():
        spread[name] = tensor.new_zeros(len(values), *tensor.shape[1:])
        spread[name][there] = tensor
    return spread, there[:, None]


def _labels(records: Sequence[Record]) -> Tensor | None:
    if all(record.get("label") is None for record in records):
        return None
    keys = [str(r["id"]) if r.get("label") is None else f"label\0{r['label']}" for r in records]
    return torch.tensor([key64(key) for key in keys], dtype=torch.int64)
