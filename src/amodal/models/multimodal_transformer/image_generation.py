"""Autoregressive image generation: image tokens, classifier-free guidance, sampling, reranking."""

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
from amodal.models.evaluation_mode import evaluation_mode
from amodal.models.image_tokenizer import ImageTokenizer
from amodal.models.joint_embedding import JointEmbedding

ImageArray = NDArray[np.uint8]  # (S, S, 3)
GUIDANCE, TEMPERATURE = 1.5, 0.7  # defaults: guidance scale and softmax temperature
FEATURES = 128  # hidden width between a codebook vector and its embedding


class PackedConversations(NamedTuple):
    """(B, L) ids, segment numbers and labels, as `ChatTemplate` packs them."""

    ids: Tensor
    segment: Tensor
    labels: Tensor


class ImageContext(NamedTuple):
    """Grid position of each token in its image, and the neighbours of the next position.

    Args:
        positions: (B, L) index of each token in its image, row by row; -1 for text tokens.
        above: (B, L, 3) ids of the codes directly above, above left and above right of the next
            position; -1 outside the image.
    """

    positions: Tensor
    above: Tensor

    def last(self, length: int) -> ImageContext:
        """The context of the last `length` tokens."""
        return ImageContext(self.positions[:, -length:], self.above[:, -length:])


class ImageTokens(nn.Module):
    """Embeddings of image tokens: a frozen image tokenizer and two-dimensional positions.

    Ids from `first` on are codes of the tokenizer, ids below are text. The embedding of a code is a
    learned vector plus an MLP of its codebook vector, so that similar codes begin with similar
    embeddings. The position embedding of the next token includes the codes above it.

    Args:
        tokenizer: image tokenizer; its weights are saved with the model and stay frozen.
        width: D of the Transformer's tokens.
        first: id of code 0, also the placeholder of image tokens before their codes are known.
        start: id of the role token that precedes an image.
        caption_dropout: share of training images whose caption is masked, for guidance.

    Examples:
        >>> import torch
        >>> from amodal.models.image_tokenizer import ImageTokenizerConfig
        >>> sizes = dict(size=8, patch_size=4, widths=[4], codebook_size=6, codebook_dim=2)
        >>> tokenizer = ImageTokenizer(ImageTokenizerConfig(sizes))  # a grid of 2 x 2 codes
        >>> tokens = ImageTokens(tokenizer, 8, first=10, start=3, caption_dropout=0.0)
        >>> tokens.context(torch.tensor([[1, 3, 10, 12, 15, 11]])).positions.tolist()
        [[-1, -1, 0, 1, 2, 3]]
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
        self.code_mlp = nn.Sequential(
            nn.Linear(tokenizer.architecture.codebook_dim, FEATURES), nn.GELU(), last
        )

    def train(self, mode: bool = True) -> ImageTokens:
        """Training mode of all but the tokenizer, whose codes must not change."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def context(self, ids: Tensor) -> ImageContext:
        """Context of (B, L) ids that contain every image from its first token on."""
        positions, grid = self._positions(ids), self.tokenizer.grid
        following = positions + 1
        inside = (positions >= 0) & (following >= grid) & (following < grid**2)
        above = []
        for offset in (0, -1, 1):
            column = following % grid + offset
            exists = inside & (column >= 0) & (column < grid)
            above.append(torch.where(exists, ids.roll(grid - 1 - offset, 1), -1))
        return ImageContext(positions, torch.stack(above, dim=2))

    def embeddings(self, learned: Tensor) -> Tensor:
        """(first + K, D) learned embeddings → the same with the MLP of the codebook added."""
        shared = self.code_mlp(self.tokenizer.quantizer.codebook)
        return torch.cat([learned[: self.first], learned[self.first :] + shared])

    def position_embeddings(self, context: ImageContext, embeddings: Tensor) -> Tensor:
        """(B, L, D) row, column and codes above the next position, of image tokens."""
        position, grid = context.positions.clamp(min=0), self.tokenizer.grid
        above = nn.functional.embedding(context.above.clamp(min=0), embeddings)
        above = above * (context.above >= 0)[..., None]
        x: Tensor = self.row[position // grid] + self.column[position % grid]
        return x + self.above(above.flatten(2))

    def _positions(self, ids: Tensor) -> Tensor:
        is_image = ids >= self.first
        order = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
        starts = is_image.clone()
        starts[:, 1:] &= ~is_image[:, :-1]  # a role token separates any two images
        start = torch.where(starts, order, 0).cummax(1).values
        return torch.where(is_image, order - start, -1)

    def insert_codes(self, batch: Batch, packed: PackedConversations) -> PackedConversations:
        """Ids and labels with the codes of the batch's images in place of the placeholders.

        In training the captions of some conversations are masked: their segment number becomes 0.
        """
        ids, segment, labels = packed
        present = batch.present["image"][:, 0]
        pixels = batch.tensors["image"]["pixel_values"]
        with torch.autocast(pixels.device.type, enabled=False):
            codes = self.tokenizer.encode(pixels.float()) + self.first  # (B, N)
        position = self._positions(ids)
        following = torch.cat([position[:, 1:], torch.full_like(position[:, :1], -1)], dim=1)
        target = (labels == self.first) & (following >= 0)
        new_ids = torch.where(position >= 0, codes.gather(1, position.clamp(min=0)), ids)
        new_labels = torch.where(target, codes.gather(1, following.clamp(min=0)), labels)
        new_labels = new_labels.masked_fill(target & ~present[:, None], IGNORED)
        if self.training and self.caption_dropout:
            counts = torch.zeros(len(ids), int(segment.max()) + 1, device=ids.device)
            counts.scatter_add_(1, segment, (position >= 0).to(counts.dtype))
            hidden = (counts > 0) & (torch.rand_like(counts) < self.caption_dropout)
            caption = (position < 0) & (ids != self.start)
            segment = segment.masked_fill(hidden.gather(1, segment) & caption, 0)
        return PackedConversations(new_ids, segment, new_labels)


class Decoder(Protocol):
    """The part of `MultimodalTransformer` that sampling needs."""

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
    """A text-to-image model: `generate_images(texts, **options)` returns one image per text."""

    @property
    def generate_images(self) -> Callable[..., list[ImageArray]]: ...


class ImageSampler(LogitsProcessor):
    """Sampling of one image code per row with classifier-free guidance.

    Logits become l_u + guidance (l_c - l_u), with l_c those given the caption and l_u those without
    it. A code is sampled by the Gumbel-max trick with the row's own generator, so that the image
    of a row does not depend on the other rows.

    Args:
        decoder: the model, for its unconditional logits.
        image_tokens: of the model.
        guidance: 1: conditional logits; 0: unconditional logits.
        temperature: of the softmax; 0: the most likely code.
        top_k: number of most likely codes to sample from; None: all.
        generators: one per row, on the CPU.

    References:
        Ho & Salimans 2022, arXiv:2207.12598, eq. 6.
    """

    def __init__(
        self,
        decoder: Decoder,
        image_tokens: ImageTokens,
        *,
        guidance: float,
        temperature: float,
        top_k: int | None,
        generators: Sequence[torch.Generator],
    ) -> None:
        self.decoder, self.image_tokens = decoder, image_tokens
        self.guidance, self.temperature, self.top_k = guidance, temperature, top_k
        self.generators = generators
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.steps = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:  # type: ignore[override]
        """(R, L) ids so far and (R, V) logits → (R, V), -inf but for one code per row."""
        first = self.image_tokens.first
        logits = scores[:, first:].float()
        if self.guidance != 1:
            unconditional = self._unconditional(input_ids)[:, first:].float()
            logits = unconditional + self.guidance * (logits - unconditional)
        if self.top_k is not None and self.top_k < logits.shape[1]:
            least = logits.topk(self.top_k, dim=1).values[:, -1:]
            logits = logits.masked_fill(logits < least, -torch.inf)
        if self.temperature > 0:
            uniform = torch.stack(
                [torch.rand(logits.shape[1], generator=g) for g in self.generators]
            )
            noise = -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
            logits = logits / self.temperature + noise.to(logits.device)
        code = logits.argmax(1)
        self.steps += 1
        return torch.full_like(scores, -torch.inf).scatter_(1, code[:, None] + first, 0.0)

    def _unconditional(self, ids: Tensor) -> Tensor:
        """(R, L) ids so far → (R, V) logits without the caption."""
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
) -> list[ImageArray]:
    """One image per text, generated by a `MultimodalTransformer` with image tokens.

    A text that occurs twice gives two images. The same text, occurrence and seed give the same
    image whatever the other texts are.

    Args:
        model: with image tokens.
        texts: T captions.
        guidance: classifier-free guidance scale, >= 0; 1: no guidance.
        temperature: of the softmax, >= 0; 0: the most likely codes.
        top_k: number of most likely codes to sample from; None: all.
        seed: None: another image each time.
        batch_size: images generated at once.

    Returns:
        T images, (S, S, 3) uint8.

    Raises:
        ValueError: the model does not generate images, or an argument is out of its range.

    Examples:
        >>> from amodal.encoders.text.tokenizer import TrainedTokenizerConfig
        >>> from amodal.models.image_tokenizer import ImageTokenizerConfig
        >>> from amodal.models.multimodal_transformer.architecture import TransformerArchitecture
        >>> from amodal.models.multimodal_transformer.build import build_multimodal_transformer
        >>> sizes = dict(size=8, patch_size=4, widths=[4], codebook_size=6, codebook_dim=2)
        >>> model = build_multimodal_transformer(
        ...     TransformerArchitecture(
        ...         width=16,
        ...         heads=2,
        ...         decoder_layers=1,
        ...         tokenizer=TrainedTokenizerConfig(model="word"),
        ...     ),
        ...     ["a red star"],
        ...     image_tokenizer=ImageTokenizer(ImageTokenizerConfig(sizes)),
        ... )
        >>> [image.shape for image in generate_images(model, ["a red star", "a star"], seed=0)]
        [(8, 8, 3), (8, 8, 3)]
    """
    if isinstance(texts, str):
        raise ValueError("expected a list of texts, got one str")
    if not model.generates_images:
        raise ValueError(
            "this model does not generate images; train one with model.tasks: [text_to_image] and "
            "an image tokenizer"
        )
    if temperature < 0 or guidance < 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"need temperature >= 0, guidance >= 0 and top_k >= 1, got {temperature}, {guidance} "
            f"and {top_k}"
        )
    image_tokens: ImageTokens = model.image_tokens
    count = image_tokens.tokenizer.tokens
    generators = row_generators(texts, secrets.randbits(63) if seed is None else seed)
    images: list[ImageArray] = []
    with evaluation_mode(model):
        for start in range(0, len(texts), batch_size):
            chunk = texts[start : start + batch_size]
            turns = [(Turn("caption", text, False), Turn("image", "", True)) for text in chunk]
            prompts = model.chat_template.prompts(turns)
            sampler = ImageSampler(
                model,
                image_tokens,
                guidance=guidance,
                temperature=temperature,
                top_k=top_k,
                generators=generators[start : start + batch_size],
            )
            ids = model.generate(
                **{name: tensor.to(model.device) for name, tensor in prompts.items()},
                cache=EncoderDecoderCache(DynamicCache(), DynamicCache()),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=model.chat_template.pad_id,
                eos_token_id=model.chat_template.end_id,
                logits_processor=LogitsProcessorList([sampler]),
            )
            pixels = image_tokens.tokenizer.decode(ids[:, -count:] - image_tokens.first).cpu()
            images += list(pixels.permute(0, 2, 3, 1).contiguous().numpy())
    return images


def row_generators(texts: Sequence[str], seed: int) -> list[torch.Generator]:
    """One generator per text, seeded by the text, its occurrence and `seed` alone.

    Examples:
        >>> a, b = row_generators(["a star", "a star"], seed=0)
        >>> (c,) = row_generators(["a star"], seed=0)
        >>> a.initial_seed() == c.initial_seed(), a.initial_seed() == b.initial_seed()
        (True, False)
    """
    occurrences: Counter[str] = Counter()
    generators = []
    for text in texts:
        key = blake2b(f"{seed}/{occurrences[text]}/{text}".encode(), digest_size=7).digest()
        generators.append(torch.Generator().manual_seed(int.from_bytes(key, "big")))
        occurrences[text] += 1
    return generators


def generate_best(
    image_generator: ImageGenerator,
    texts: Sequence[str],
    *,
    candidates: int = 1,
    reranker: JointEmbedding | None = None,
    **options: Any,
) -> list[ImageArray]:
    """One image per text: the candidate with the highest score of the reranker.

    Args:
        image_generator: a text-to-image model.
        texts: T captions.
        candidates: images generated for each text.
        reranker: joint embedding of images and texts; needed for several candidates.
        options: of `generate_images`.

    Raises:
        ValueError: several candidates and no reranker.

    Examples:
        >>> class Blank:
        ...     def generate_images(self, texts):
        ...         return [np.zeros((4, 4, 3), np.uint8) for _ in texts]
        >>> len(generate_best(Blank(), ["a star", "a ring"]))
        2
    """
    if candidates < 1 or (candidates > 1 and reranker is None):
        raise ValueError(f"{candidates} candidates need a reranker, a run of a joint embedding")
    images = image_generator.generate_images(
        [text for text in texts for _ in range(candidates)], **options
    )
    if reranker is None or candidates == 1:
        return images
    groups = [images[i : i + candidates] for i in range(0, len(images), candidates)]
    best = best_matches(reranker, texts, groups)
    return [group[i] for group, i in zip(groups, best, strict=True)]


def best_matches(
    reranker: JointEmbedding, texts: Sequence[str], candidates: Sequence[Sequence[ImageArray]]
) -> list[int]:
    """Index of the candidate image with the highest cosine similarity to each text.

    Args:
        reranker: joint embedding of images and texts.
        texts: T captions.
        candidates: T lists of images.

    Returns:
        T indices into the lists.
    """
    z_text = cast(Tensor, reranker.encode(text=list(texts), output="torch"))
    best = []
    for z, images in zip(z_text, candidates, strict=True):
        z_image = cast(Tensor, reranker.encode(image=list(images), output="torch"))
        best.append(int((z_image @ z).argmax()))
    return best
