"""Heads that embed images and captions beside a model that says captions."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.encoders.pooling import AttentionPooling
from amodal.models.multimodal_transformer.layers import Memory, places
from amodal.projection import ProjectionConfig

FACTOR = 0x2545F4914F6CDD1D  # odd, of even bits


class ContrastiveHeads(nn.Module):
    """Attention pooling of the tokens of an image, and the last token of a caption, projected.

    Args:
        width: D of the tokens.
        projection: into the shared space, one for each modality.

    References:
        Yu et al. 2022, arXiv:2205.01917, section 3.2. Theirs appends a token of its own to the
        caption; here the end token is it, which reads the whole caption and predicts nothing.
    """

    def __init__(self, width: int, projection: ProjectionConfig) -> None:
        super().__init__()
        self.pooling = AttentionPooling(width)
        self.norm = nn.LayerNorm(width)
        self.image, self.text = projection.build(width), projection.build(width)

    def embed_images(self, memory: Memory) -> Tensor:
        """(B, N, D) tokens → (B, E) unit rows."""
        found: Tensor = self.image(self.pooling(memory.tokens, memory.keep))
        return found

    def embed_captions(self, ends: Tensor) -> Tensor:
        """(P, D) states of the end tokens, before anything has memory_rows → (P, E) unit rows."""
        found: Tensor = self.text(self.norm(ends))
        return found


def conversation_keys(ids: Tensor, segment: Tensor) -> Tensor:
    """(B, L) int64: at each token a key of its exchange up to it, equal where the ids are.

    Args:
        ids: (B, L) packed exchanges.
        segment: (B, L) number of the exchange, 0 at padding.
    """
    place = places(segment)
    # Powers of an odd number, which wrap around: a polynomial of the ids modulo 2 to the 64.
    power = torch.full((ids.shape[1],), FACTOR, device=ids.device).cumprod(0)
    terms = ids * power[place]
    running = terms.cumsum(1)
    before = (running - terms).gather(1, torch.arange(ids.shape[1], device=ids.device) - place)
    return (running - before) * FACTOR + place


def caption_ends(ids: Tensor, segment: Tensor, caption: int, end: int) -> Tensor:
    """(B, L) bool: the end token of each exchange that is a whole caption.

    Args:
        ids: (B, L) packed exchanges.
        segment: (B, L) number of the exchange, 0 at padding.
        caption: id of the token that begins a caption. One that was cut on the left lacks it.
        end: id of the token that ends it.
    """
    begins = torch.ones_like(segment, dtype=torch.bool)
    begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
    stops = torch.ones_like(begins)
    stops[:, :-1] = begins[:, 1:]
    place = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    first = ids.gather(1, torch.where(begins, place, 0).cummax(1).values)
    return stops & (segment > 0) & (ids == end) & (first == caption)
