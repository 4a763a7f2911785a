# Written by docs/public_names.py from __init__.py.
from amodal.augment.audio import AudioAugmentation as AudioAugmentation
from amodal.augment.audio import add_noise as add_noise
from amodal.augment.audio import change_gain as change_gain
from amodal.augment.audio import change_speed as change_speed
from amodal.augment.audio import time_shift as time_shift
from amodal.augment.config import AdditiveNoise as AdditiveNoise
from amodal.augment.config import AugmentConfig as AugmentConfig
from amodal.augment.config import ColorJitter as ColorJitter
from amodal.augment.config import FrequencyMask as FrequencyMask
from amodal.augment.config import Grayscale as Grayscale
from amodal.augment.config import HorizontalFlip as HorizontalFlip
from amodal.augment.config import RandomErasing as RandomErasing
from amodal.augment.config import RandomGain as RandomGain
from amodal.augment.config import RandomResizedCrop as RandomResizedCrop
from amodal.augment.config import RandomStart as RandomStart
from amodal.augment.config import Rotate as Rotate
from amodal.augment.config import SpeedPerturbation as SpeedPerturbation
from amodal.augment.config import TimeMask as TimeMask
from amodal.augment.config import TimeReversal as TimeReversal
from amodal.augment.config import TimeShift as TimeShift
from amodal.augment.config import TokenDropout as TokenDropout
from amodal.augment.config import TokenMask as TokenMask
from amodal.augment.image import ImageAugmentation as ImageAugmentation
from amodal.augment.modality import drop_modalities as drop_modalities
from amodal.augment.text import swap_before_after as swap_before_after
from amodal.augment.text import swap_left_right as swap_left_right
from amodal.augment.text import token_dropout as token_dropout
from amodal.augment.text import token_mask as token_mask
from amodal.augment.video import VideoAugmentation as VideoAugmentation

__all__ = [
    "AdditiveNoise",
    "AudioAugmentation",
    "AugmentConfig",
    "ColorJitter",
    "FrequencyMask",
    "Grayscale",
    "HorizontalFlip",
    "ImageAugmentation",
    "RandomErasing",
    "RandomGain",
    "RandomResizedCrop",
    "RandomStart",
    "Rotate",
    "SpeedPerturbation",
    "TimeMask",
    "TimeReversal",
    "TimeShift",
    "TokenDropout",
    "TokenMask",
    "VideoAugmentation",
    "add_noise",
    "change_gain",
    "change_speed",
    "drop_modalities",
    "swap_before_after",
    "swap_left_right",
    "time_shift",
    "token_dropout",
    "token_mask",
]
