"""Augmentation of images, text and audio, drawn per item from seeded generators."""

from amodal.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(
    __name__,
    {
        "audio": "AudioAugmentation add_noise change_gain change_speed time_shift",
        "config": "AdditiveNoise AugmentConfig ColorJitter FrequencyMask Grayscale HorizontalFlip"
        " RandomErasing RandomGain RandomResizedCrop RandomStart Rotate SpeedPerturbation TimeMask"
        " TimeReversal TimeShift TokenDropout TokenMask",
        "image": "ImageAugmentation",
        "modality": "drop_modalities",
        "text": "swap_before_after swap_left_right token_dropout token_mask",
        "video": "VideoAugmentation",
    },
)
