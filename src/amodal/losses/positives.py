"""Positive pairs of two modalities, from the keys of items and of contents."""

from __future__ import annotations

import torch
from torch import Tensor

STRIP = 1 << 24  # pairs looked up at once


def positives_from_keys(
    left_item: Tensor,
    right_item: Tensor,
    left_content: Tensor | None = None,
    right_content: Tensor | None = None,
) -> Tensor:
    """Mask of the pairs (i, j) that are positives, and never negatives.

    Row i is a positive of row j where

    - both belong to the same item, or
    - both have the same content, or
    - the item of one owns the content of the other: some row of either side carries both keys.
      An image whose own caption reads the same as caption j of another item is described by
      caption j.

    It stops after this one step. Two items that share the caption "a dog" do not share their
    other captions: "a dog on a red sofa" need not be true of the other image.

    Args:
        left_item: (N,) int64 item key of each row.
        right_item: (M,) int64.
        left_content: (N,) int64 content key of each row, or None where content has no key.
        right_content: (M,) int64, or None.

    Returns:
        (N, M) bool.

    Examples:
        >>> import torch
        >>> from amodal.losses import positives_from_keys
        >>> image_item, text_item = torch.tensor([0, 1]), torch.tensor([0, 0, 1])
        >>> positives_from_keys(image_item, text_item).int()
        tensor([[1, 1, 0],
                [0, 0, 1]], dtype=torch.int32)
        >>> text_content = torch.tensor([10, 11, 10])  # the captions of rows 0 and 2 are equal
        >>> positives_from_keys(image_item, text_item, None, text_content).int()
        tensor([[1, 1, 1],
                [1, 0, 1]], dtype=torch.int32)
    """
    sides = ((left_item, left_content), (right_item, right_content))
    owners = [(item, content) for item, content in sides if content is not None]
    return related(left_item, right_item, left_content, right_content, owners)


def related(
    left_item: Tensor,
    right_item: Tensor,
    left_content: Tensor | None,
    right_content: Tensor | None,
    owners: list[tuple[Tensor, Tensor]],
) -> Tensor:
    """`positives_from_keys` with the (item, content) rows of all owners given separately."""
    mask = left_item[:, None] == right_item[None, :]  # (N, M)
    if left_content is not None and right_content is not None:
        mask |= left_content[:, None] == right_content[None, :]
    if not owners:
        return mask
    owner_item = torch.cat([item for item, _ in owners])
    owner_content = torch.cat([content for _, content in owners])
    if right_content is not None:
        _mark_owned(mask, left_item, right_content, owner_item, owner_content)
    if left_content is not None:
        _mark_owned(mask.T, right_item, left_content, owner_item, owner_content)
    return mask


def _mark_owned(
    mask: Tensor, item: Tensor, content: Tensor, owner_item: Tensor, owner_content: Tensor
) -> None:
    """Set mask[i, j] where some owner row has item[i] and content[j]; the rest is untouched."""
    if not len(item) or not len(content) or not len(owner_item):
        return
    pairs = torch.unique(torch.stack([owner_content, owner_item], dim=1), dim=0)
    contents, counts = torch.unique_consecutive(pairs[:, 0], return_counts=True)
    shared = contents[counts > 1]  # sorted; a content of one item alone adds no pair
    if not len(shared):
        return
    pairs = pairs[torch.isin(pairs[:, 0], shared)]
    columns = torch.isin(content, shared).nonzero()[:, 0]
    if not len(columns):
        return
    items, row_of = torch.unique(item, return_inverse=True)
    who = pairs[torch.isin(pairs[:, 1], items)].T.contiguous()  # (2, pairs)
    owns = torch.zeros(len(items), len(shared), dtype=torch.bool, device=item.device)
    owns[torch.searchsorted(items, who[1]), torch.searchsorted(shared, who[0])] = True
    place = torch.searchsorted(shared, content[columns])
    rows = max(1, STRIP // len(place))
    for start in range(0, len(row_of), rows):
        part = slice(start, start + rows)
        mask[part, columns] |= owns[row_of[part][:, None], place]
