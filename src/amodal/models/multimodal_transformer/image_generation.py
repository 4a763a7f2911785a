"""Images as tokens that a Transformer says: places in a grid, guidance, drawing, choosing."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import LogitsProcessor, LogitsProcessorList
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from amodal.data.batch import Batch
from amodal.data.conversation import Turn
from amodal.encoders.text.chat_template import IGNORED
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.joint_embedding import JointEmbedding

Drawn = NDArray[np.uint8]  # (S, S, 3)
GUIDANCE, TEMPERATURE = 1.5, 0.7  # how closely to follow the caption, and how freely
FEATURES = 128  # of a code, from which its embedding is made


class Packed(NamedTuple):
    """(B, L) ids, numbers of exchanges and labels, as `TurnsPreprocessor` packs them."""

    ids: Tensor
    segment: Tensor
    labels: Tensor


class ImageContext(NamedTuple):
    """Where the tokens of a row stand in their images, and what is around.

    Args:
        places: (B, L) place of each token within its image, row by row; -1 where it is text.
        above: (B, L, 3) ids of the codes that touch the next place from above: straight above it,
            to the left and to the right of that; -1 where there is none.
    """

    places: Tensor
    above: Tensor

    def last(self, length: int) -> ImageContext:
        """Of the last so many tokens."""
        return ImageContext(self.places[:, -length:], self.above[:, -length:])


class ImageTokens(nn.Module):
    """What a Transformer needs to say images: an image tokenizer that stays as it is, and places.

    Ids from `first` on are the codes of the tokenizer, ids below are text. Codes that the tokenizer
    holds to be alike begin with like embeddings, and a code is said with those that touch it from
    above in view, so that neither has to be found out from the images again.

    Args:
        tokenizer: of images; its weights are kept with the model and do not learn.
        width: of the tokens of the Transformer.
        first: id of code 0, which also holds the place of an image before its codes are known.
        start: id of the token after which an image begins.
        caption_dropout: share of the images whose caption is hidden in training, for guidance.
    """

    def __init__(
        self,
        tokenizer: ImageTokenizer,
        width: int,
        *,
        first: int,
        start: int,
        caption_dropout: float,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.first, self.start, self.caption_dropout = first, start, caption_dropout
        self.row = nn.Parameter(0.02 * torch.randn(tokenizer.grid, width))
        self.column = nn.Parameter(0.02 * torch.randn(tokenizer.grid, width))
        self.above = nn.Linear(3 * width, width, bias=False)
        last = nn.Linear(FEATURES, width)
        nn.init.normal_(last.weight, std=0.02)
        self.of_codes = nn.Sequential(
            nn.Linear(tokenizer.architecture.codebook_dim, FEATURES), nn.GELU(), last
        )

    def train(self, mode: bool = True) -> ImageTokens:
        """The tokenizer always evaluates: its codes would move under the Transformer."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def context(self, ids: Tensor) -> ImageContext:
        """Of (B, L) ids, which hold every image from its beginning."""
        places, grid = self._places(ids), self.tokenizer.grid
        following = places + 1
        inside = (places >= 0) & (following >= grid) & (following < grid**2)
        above = []
        for aside in (0, -1, 1):
            column = following % grid + aside
            there = inside & (column >= 0) & (column < grid)
            above.append(torch.where(there, ids.roll(grid - 1 - aside, 1), -1))
        return ImageContext(places, torch.stack(above, dim=2))

    def embeddings(self, learned: Tensor) -> Tensor:
        """(first + K, D) what is learned of each token by itself → with what codes share."""
        shared = self.of_codes(self.tokenizer.quantizer.codebook)
        return torch.cat([learned[: self.first], learned[self.first :] + shared])

    def around(self, context: ImageContext, embeddings: Tensor) -> Tensor:
        """(B, L, D) of the next place: where the token stands, and what touches it from above."""
        place, grid = context.places.clamp(min=0), self.tokenizer.grid
        known = nn.functional.embedding(context.above.clamp(min=0), embeddings)
        known = known * (context.above >= 0)[..., None]
        found: Tensor = self.row[place // grid] + self.column[place % grid]
        return found + self.above(known.flatten(2))

    def _places(self, ids: Tensor) -> Tensor:
        drawn = ids >= self.first
        order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        starts = drawn.clone()
        starts[:, 1:] &= ~drawn[:, :-1]  # two images never touch: a token says what is next
        begun = torch.where(starts, order, 0).cummax(1).values
        return torch.where(drawn, order - begun, -1)

    def filled(self, batch: Batch, packed: Packed) -> Packed:
        """The codes of the batch's images in their places, in ids and labels.

        Where training says so, captions of some exchanges are hidden: their tokens become padding.
        """
        ids, segment, labels = packed
        there = batch.present["image"][:, 0]
        pixels = batch.tensors["image"]["pixel_values"]
        with torch.autocast(pixels.device.type, enabled=False):
            codes = self.tokenizer.encode(pixels.float()) + self.first  # (B, N)
        place = self._places(ids)
        after = torch.cat([place[:, 1:], torch.full_like(place[:, :1], -1)], dim=1)
        said = (labels == self.first) & (after >= 0)
        whole = torch.where(place >= 0, codes.gather(1, place.clamp(min=0)), ids)
        target = torch.where(said, codes.gather(1, after.clamp(min=0)), labels)
        target = target.masked_fill(said & ~there[:, None], IGNORED)
        if self.training and self.caption_dropout:
            drawn = torch.zeros(len(ids), int(segment.max()) + 1, device=ids.device)
            drawn.scatter_add_(1, segment, (place >= 0).to(drawn.dtype))
            hidden = (drawn > 0) & (torch.rand_like(drawn) < self.caption_dropout)
            caption = (place < 0) & (ids != self.start)
            segment = segment.masked_fill(hidden.gather(1, segment) & caption, 0)
        return Packed(whole, segment, target)


class Decoder(Protocol):
    """What drawing asks of a Transformer."""

    def decode(
        self,
        ids: Tensor,
        segment: Tensor,
        memory: None,
        cache: Cache | None = None,
        position_ids: Tensor | None = None,
        image_context: ImageContext | None = None,
    ) -> Tensor: ...

    def scores(self, hidden: Tensor) -> Tensor: ...


class ImageGenerator(Protocol):
    """Draws an image of each text."""

    @property
    def draw(self) -> Callable[..., list[Drawn]]: ...


class ImageSampler(LogitsProcessor):
    """Leaves one code per row: guided, tempered, and drawn by the row's own generator.

    Scores become free + guidance (told - free), where `free` are those without the caption. A code
    is drawn by adding Gumbel noise and taking the largest, which is a draw from the softmax; so
    what a row becomes does not depend on the rows beside it.

    Args:
        decoder: the model that `generate` asks, for its scores without the caption.
        images: its image tokens.
        guidance: 1 leaves the caption's scores alone; 0 ignores the caption.
        temperature: 0 takes the likeliest code.
        top_k: only so many of the likeliest codes; None: all.
        generators: one per row, on the CPU.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, eq. 6.
    """

    def __init__(
        self,
        decoder: Decoder,
        images: ImageTokens,
        *,
        guidance: float,
        temperature: float,
        top_k: int | None,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.decoder, self.image_tokens = decoder, images
        self.guidance, self.temperature, self.top_k = guidance, temperature, top_k
        self.generators = generators
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.steps = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """(R, L) ids so far and (R, V) scores → (R, V), all but one of each row -inf."""
        first = self.image_tokens.first
        told = scores[:, first:].float()
        if self.guidance != 1:
            free = self._without_caption(input_ids)[:, first:].float()
            told = free + self.guidance * (told - free)
        if self.top_k is not None and self.top_k < told.shape[1]:
            least = told.topk(self.top_k, dim=1).values[:, -1:]
            told = told.masked_fill(told < least, -torch.inf)
        if self.temperature > 0:
            uniform = torch.stack([torch.rand(told.shape[1], generator=g) for g in self.generators])
            noise = -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
            told = told / self.temperature + noise.to(told.device)
        code = told.argmax(1)
        self.steps += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, code[:, None] + first, 0.0)

    def _without_caption(self, ids: Tensor) -> Tensor:
        """(R, L) ids so far → (R, V) scores of a model that has not been told anything."""
        last = ids[:, -1:]
        hidden = self.decoder.decode(
            last,
            last.new_ones(len(last), self.steps + 1),
            None,
            self.cache,
            torch.zeros_like(last),
            self.image_tokens.context(ids).last(1),
        )
        return self.decoder.scores(hidden[:, -1])


@torch.inference_mode()
def generate_images(
    model: Any,
    texts: Sequence[str],
    *,
    guidance: float = GUIDANCE,
    temperature: float = TEMPERATURE,
    top_k: int | None = None,
    seed: int | None = None,
    batch_size: int = 64,
) -> list[Drawn]:
    """One image per text, by a `MultimodalTransformer` with image tokens.

    A text that occurs twice gives two images; the same text, occurrence and seed always give the
    same one, whatever else is drawn beside it.

    Raises:
        ValueError: the model has not learned to draw, or an argument is out of its range.
    """
    if isinstance(texts, str):
        raise ValueError("expected a list of texts, got one str")
    if not model.generates_images:
        raise ValueError(
            "this model does not draw; train one with model.tasks: [text_to_image] and an image tokenizer"
        )
    if temperature < 0 or guidance < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"need temperature >= 0, guidance >= 0 and top_k >= 1, got {temperature}, {guidance} "
            f"and {top_k}"
        )
    images: ImageTokens = model.image_tokens
    generators = row_generators(texts, secrets.randbits(63) if seed is None else seed)
    was_training = model.training
    model.eval()
    found: list[Drawn] = []
    for start in range(0, len(texts), batch_size):
        part = texts[start : start + batch_size]
        asked = [(Turn("caption", text, False), Turn("image", "", True)) for text in part]
        prompts = {n: t.to(model.device) for n, t in model.chat_template.prompts(asked).items()}
        sampler = ImageSampler(
            model,
            images,
            guidance=guidance,
            temperature=temperature,
            top_k=top_k,
            generators=generators[start : start + batch_size],
        )
        said = model.generate(
            **prompts,
            cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
            max_new_tokens=images.tokenizer.tokens,
            min_new_tokens=images.tokenizer.tokens,
            do_sample=False,
            pad_token_id=model.chat_template.pad_id,
            eos_token_id=model.chat_template.end_id,
            logits_processor=LogitsProcessorList([sampler]),
        )
        codes = said[:, -images.tokenizer.tokens :] - images.first
        pixels = images.tokenizer.decode(codes).cpu()
        found += list(pixels.permute(0, 2, 3, 1).contiguous().numpy())
    model.train(was_training)
    return found


def row_generators(texts: Sequence[str], seed: int) -> list[torch.Generator]:
    """One per text, the same for the same text, occurrence and seed."""
    occurred: Counter[str] = Counter()
    found = []
    for text in texts:
        key = blake2b(f"{seed}/{occurred[text]}/{text}".encode(), digest_size=7).digest()
        found.append(torch.Generator().manual_seed(int.from_bytes(key, "big")))
        occurred[text] += 1
    return found


def generate_best(
    image_generator: ImageGenerator,
    texts: Sequence[str],
    *,
    candidates: int = 1,
    reranker: JointEmbedding | None = None,
    **options: Any,
) -> list[Drawn]:
    """One image per text: of several that are drawn, the one that the judge likes best.

    Args:
        painter: a model that draws.
        texts: T.
        candidates: drawn for each text.
        judge: of images and texts; None where there is one candidate.
        options: of the painter's `draw`.

    Raises:
        ValueError: several candidates and no judge.
    """
    if candidates < 1 or (candidates > 1 and reranker is None):
        raise ValueError(f"{candidates} candidates need a judge to choose among them")
    images = image_generator.draw([text for text in texts for _ in range(candidates)], **options)
    if reranker is None or candidates == 1:
        return images
    groups = [images[i : i + candidates] for i in range(0, len(images), candidates)]
    best = best_matches(reranker, texts, groups)
    return [group[i] for group, i in zip(groups, best, strict=True)]


def best_matches(
    reranker: JointEmbedding, texts: Sequence[str], candidates: Sequence[Sequence[Drawn]]
) -> list[int]:
    """Of the candidates for each text, the one nearest to it in a joint embedding.

    Args:
        judge: of images and texts.
        texts: T.
        candidates: T lists of images.

    Returns:
        T places in the lists.
    """
    z_text = cast(Tensor, reranker.encode(text=list(texts), output="torch"))
    chosen = []
    for z, images in zip(z_text, candidates, strict=True):
        z_image = cast(Tensor, reranker.encode(image=list(images), output="torch"))
        chosen.append(int((z_image @ z).argmax()))
    return chosen
