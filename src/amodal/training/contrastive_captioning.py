"""Conditions of contrastive captioning: captions generated and matched with images in one step."""

from __future__ import annotations

from collections.abc import Sequence

from amodal.losses.info_nce import InfoNCEConfig


def contrastive_captioning_error(
    contrastive: Sequence[InfoNCEConfig],
    *,
    unimodal_layers: int,
    has_image_encoder: bool,
    tasks: Sequence[str],
    micro_batch_size: int | None,
) -> str | None:
    """Why a multimodal Transformer cannot learn L = language_modeling + w info_nce, or None.

    References:
        Yu et al. 2022, arXiv:2205.01917, eq. 4.
    """
    if not contrastive:
        if unimodal_layers:
            return (
                "model.unimodal_layers needs a contrastive loss over captions and images: add the "
                "objective {kind: info_nce}"
            )
        return None
    if len(contrastive) > 1:
        return "a multimodal Transformer takes one info_nce"
    if not has_image_encoder:
        return "info_nce matches captions with images: give model.encoders.image"
    if not unimodal_layers:
        return (
            "info_nce needs layers that read the caption without the image: set "
            "model.unimodal_layers: 1 or more"
        )
    if "caption" not in tasks:
        return f"info_nce needs the task caption, model.tasks are {', '.join(tasks)}"
    (one,) = contrastive
    if one.queue_size or one.momentum is not None or one.positives != "item":
        return (
            "info_nce of a multimodal Transformer has neither queue_size nor momentum, and "
            "positives: item"
        )
    if micro_batch_size is not None:
        return "train.micro_batch_size would split the batch of info_nce: leave it out"
    return None
