"""Modality types and their encoders: those of this package, and those of other packages."""

from __future__ import annotations

import difflib
from functools import cache

from amodal.encoders.audio.huggingface import HuggingFaceAudioConfig
from amodal.encoders.audio.small_cnn import SmallAudioCNNConfig
from amodal.encoders.config import EncoderConfig
from amodal.encoders.huggingface import HuggingFaceTextConfig
from amodal.encoders.image.specification import IMAGE_ENCODERS
from amodal.encoders.packaged import PackagedTextConfig
from amodal.encoders.tabular import TabularConfig
from amodal.encoders.text.small_transformer import SmallTransformerConfig
from amodal.encoders.vector import VectorConfig
from amodal.encoders.video.frames import FrameEncoderConfig
from amodal.encoders.video.huggingface import HuggingFaceVideoConfig
from amodal.encoders.video.torchvision import TorchvisionVideoConfig
from amodal.modalities.audio import AudioModality
from amodal.modalities.conversation import ConversationModality
from amodal.modalities.image import ImageModality
from amodal.modalities.modality import Modality
from amodal.modalities.tabular import TabularModality
from amodal.modalities.text import TextModality
from amodal.modalities.vector import VectorModality
from amodal.modalities.video import VideoModality
from amodal.plugins import load_plugins

GROUP = "amodal.modalities"  # of entry points: NAME = "package.module:ModalityClass"
# Every modality type of this package and its encoders; a new type is one more row here.
ENCODERS_OF: dict[type[Modality], tuple[type[EncoderConfig], ...]] = {
    ImageModality: IMAGE_ENCODERS,
    TextModality: (HuggingFaceTextConfig, PackagedTextConfig, SmallTransformerConfig),
    AudioModality: (HuggingFaceAudioConfig, SmallAudioCNNConfig),
    VideoModality: (FrameEncoderConfig, TorchvisionVideoConfig, HuggingFaceVideoConfig),
    VectorModality: (VectorConfig,),
    TabularModality: (TabularConfig,),
    ConversationModality: (),
}
BUILT_IN = tuple(ENCODERS_OF)


@cache
def known_modalities() -> dict[str, Modality]:
    """Type name -> modality; those of entry points come after those of this package."""
    found = {kind.name: kind() for kind in ENCODERS_OF}
    for kind in load_plugins(GROUP):
        found.setdefault(kind.name, kind())
    return found


def modality(name: str) -> Modality:
    """The modality type of this name.

    Raises:
        ValueError: there is none; names the nearest.
    """
    known = known_modalities()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"no modality type {name!r}{hint} (types: {', '.join(known)})")
    return known[name]
