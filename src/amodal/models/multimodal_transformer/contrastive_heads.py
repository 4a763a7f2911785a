"""Contrastive heads: embeddings of images and captions beside a captioning decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from amodal.encoders.pooling import AttentionPooling
from amodal.models.multimodal_transformer.layers import Memory, segment_positions
from amodal.projection import ProjectionConfig

FACTOR = 0x2545F4914F6CDD1D  # odd, of even bits


class ContrastiveHeads(nn.Module):
    """Attention pooling of the tokens of an image, and the end token of a caption, projected.

    Args:
        width: D of the tokens.
        projection: into the shared space, one for each modality.

    Examples:
        >>> import torch
        >>> from amodal.projection import LinearConfig
        >>> heads = ContrastiveHeads(8, LinearConfig(dim=4))
        >>> memory = Memory(torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool))
        >>> heads.embed_images(memory).shape, heads.embed_captions(torch.randn(3, 8)).shape
        (torch.Size([2, 4]), torch.Size([3, 4]))

    References:
        Yu et al. 2022, arXiv:2205.01917, section 3.2. CoCa appends a [CLS] token to the caption;
        here the end token takes its role: it attends to the whole caption and has no target.
    """

    def __init__(self, width: int, projection: ProjectionConfig) -> None:
        super().__init__()
        self.pooling = AttentionPooling(width)
        self.norm = nn.LayerNorm(width)
        self.image, self.text = projection.build(width), projection.build(width)

    def embed_images(self, memory: Memory) -> Tensor:
        """(B, N, D) encoder tokens → (B, E) unit-norm rows."""
        z: Tensor = self.image(self.pooling(memory.tokens, memory.keep))
        return z

    def embed_captions(self, ends: Tensor) -> Tensor:
        """(P, D) states of the end tokens after the unimodal layers → (P, E) unit-norm rows."""
        z: Tensor = self.text(self.norm(ends))
        return z


def conversation_keys(ids: Tensor, segment: Tensor) -> Tensor:
    """(B, L) int64 hash of each conversation up to each token, equal where the ids are equal.

    Args:
        ids: (B, L) packed conversations.
        segment: (B, L) number of the conversation, 0 at padding.

    Examples:
        >>> import torch
        >>> ids, segment = torch.tensor([[7, 3, 7, 3]]), torch.tensor([[1, 1, 2, 2]])
        >>> keys = conversation_keys(ids, segment)[0]
        >>> bool(keys[1] == keys[3]), bool(keys[0] == keys[1])
        (True, False)
    """
    position = segment_positions(segment)
    # Powers of an odd number, which wrap around: a polynomial of the ids modulo 2 to the 64.
    power = torch.full((ids.shape[1],), FACTOR, device=ids.device).cumprod(0)
    terms = ids * power[position]
    running = terms.cumsum(1)
    before = (running - terms).gather(1, torch.arange(ids.shape[1], device=ids.device) - position)
    return (running - before) * FACTOR + position


def caption_ends(ids: Tensor, segment: Tensor, caption: int, end: int) -> Tensor:
    """(B, L) bool mask of the end token of each conversation that is a complete caption.

    Args:
        ids: (B, L) packed conversations.
        segment: (B, L) number of the conversation, 0 at padding.
        caption: id of the role token of a caption. A caption truncated on the left lacks it.
        end: id of the end token.

    Examples:
        >>> import torch
        >>> ids = torch.tensor([[7, 1, 9, 1, 9]])  # the second caption is truncated
        >>> caption_ends(ids, torch.tensor([[1, 1, 1, 2, 2]]), caption=7, end=9).tolist()
        [[False, False, True, False, False]]
    """
    begins = torch.ones_like(segment, dtype=torch.bool)
    begins[:, 1:] = segment[:, 1:] != segment[:, :-1]
    stops = torch.ones_like(begins)
    stops[:, :-1] = begins[:, 1:]
    position = torch.arange(ids.shape[1], device=ids.device).expand_as(ids)
    first = ids.gather(1, torch.where(begins, position, 0).cummax(1).values)
    return stops & (segment > 0) & (ids == end) & (first == caption)
