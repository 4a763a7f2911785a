"""Augmentation configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeVar, Union

from pydantic import (
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from amodal.data.record import StrictModel
from amodal.plugins import load_plugins

Fraction = Annotated[float, Field(ge=0, le=1)]


class RandomResizedCrop(StrictModel):
    """A random part of the image, resized to the encoder's square."""

    kind: Literal["random_resized_crop"] = "random_resized_crop"
    scale: tuple[float, float] = (0.5, 1.0)  # smallest and largest area, as a fraction
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # width over height

    @model_validator(mode="after")
    def _ordered(self) -> RandomResizedCrop:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: need 0 < low <= high <= 1, got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio: need 0 < low <= high, got {self.ratio}")
        return self


class HorizontalFlip(StrictModel):
    """Random horizontal flip; left and right are swapped in the captions."""

    changes_other_inputs: ClassVar[bool] = True
    kind: Literal["horizontal_flip"] = "horizontal_flip"
    probability: Fraction = 0.5  # of a flip


class Rotate(StrictModel):
    """Random rotation by up to `degrees` either way."""

    kind: Literal["rotate"] = "rotate"
    degrees: float = Field(10, ge=0, le=180)  # at most, either way


class ColorJitter(StrictModel):
    """Random brightness, contrast, saturation and hue."""

    kind: Literal["color_jitter"] = "color_jitter"
    brightness: Fraction = 0.3  # factor drawn from 1 - x … 1 + x
    contrast: Fraction = 0.3  # factor, as of brightness
    saturation: Fraction = 0.3  # factor, as of brightness
    hue: float = Field(0.0, ge=0, le=0.5)  # of a full turn; captions name colours, so 0


class Grayscale(StrictModel):
    """Random conversion to grayscale."""

    kind: Literal["grayscale"] = "grayscale"
    probability: Fraction = 0.1  # of the conversion


class RandomErasing(StrictModel):
    """Random erasing: a box of the image's mean colour (Zhong et al. 2017, arXiv:1708.04896)."""

    kind: Literal["random_erasing"] = "random_erasing"
    probability: Fraction = 0.25  # of a box
    scale: tuple[float, float] = (0.02, 0.2)  # area of the box, as a fraction

    @model_validator(mode="after")
    def _ordered(self) -> RandomErasing:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale: need 0 < low <= high <= 1, got {self.scale}")
        return self


class RandomStart(StrictModel):
    """Random start of the sampling of frames, by up to one interval between them.

    Args:
        choices: starts to choose from; so many times the frames are decoded.
    """

    kind: Literal["random_start"] = "random_start"
    choices: int = Field(2, ge=2, le=16)


class TimeReversal(StrictModel):
    """Random reversal of the frames; "before" and "after" are swapped in the captions.

    Only for captions in which nothing else names an order or a direction of time.
    """

    changes_other_inputs: ClassVar[bool] = True
    kind: Literal["time_reversal"] = "time_reversal"
    probability: Fraction = 0.5  # of a reversal


class TokenMask(StrictModel):
    """Random token masking."""

    kind: Literal["token_mask"] = "token_mask"
    rate: float = Field(0.15, ge=0, lt=1)  # share of the tokens that are masked


class TokenDropout(StrictModel):
    """Random token dropout."""

    kind: Literal["token_dropout"] = "token_dropout"
    rate: float = Field(0.1, ge=0, lt=1)  # share of the tokens that are left out


class SpeedPerturbation(StrictModel):
    """Speed perturbation, which changes the pitch as well."""

    kind: Literal["speed_perturbation"] = "speed_perturbation"
    low: float = Field(0.85, ge=0.5, le=2)  # smallest factor
    high: float = Field(1.15, ge=0.5, le=2)  # largest factor

    @model_validator(mode="after")
    def _ordered(self) -> SpeedPerturbation:
        return _in_order(self, "low", "high")


class RandomGain(StrictModel):
    """Random gain."""

    kind: Literal["random_gain"] = "random_gain"
    low_db: float = -10.0  # smallest gain
    high_db: float = 6.0  # largest gain

    @model_validator(mode="after")
    def _ordered(self) -> RandomGain:
        return _in_order(self, "low_db", "high_db")


class TimeShift(StrictModel):
    """Random time shift by up to a fraction of the length, zero-padded."""

    kind: Literal["time_shift"] = "time_shift"
    fraction: Fraction = 0.1  # of the length at most, either way


class AdditiveNoise(StrictModel):
    """Additive Gaussian noise at a random signal-to-noise ratio."""

    kind: Literal["additive_noise"] = "additive_noise"
    probability: Fraction = 0.5  # of noise
    low_snr_db: float = 5.0  # smallest signal-to-noise ratio
    high_snr_db: float = 30.0  # largest signal-to-noise ratio
    max_exponent: float = Field(2.0, ge=0, le=2)  # of the spectrum, f^-x with x from 0 … this

    @model_validator(mode="after")
    def _ordered(self) -> AdditiveNoise:
        return _in_order(self, "low_snr_db", "high_snr_db")


class TimeMask(StrictModel):
    """Time masking: spans of frames (SpecAugment: Park et al. 2019, arXiv:1904.08779)."""

    kind: Literal["time_mask"] = "time_mask"
    num_masks: int = Field(2, ge=1)  # spans of frames
    max_width: int = Field(20, ge=1)  # frames at most
    max_fraction: Fraction = 0.15  # of the clip at most, each


class FrequencyMask(StrictModel):
    """Frequency masking: spans of mel bands (SpecAugment: Park et al. 2019, arXiv:1904.08779)."""

    kind: Literal["frequency_mask"] = "frequency_mask"
    num_masks: int = Field(2, ge=1)  # spans of mel bands
    max_width: int = Field(12, ge=1)  # bands at most
    max_fraction: Fraction = 0.25  # of the bands at most, each


Step = TypeVar("Step", bound=StrictModel)


def _in_order(step: Step, low: str, high: str) -> Step:
    """The step itself, if its range is one."""
    if getattr(step, low) > getattr(step, high):
        raise ValueError(
            f"need {low} <= {high}, got {getattr(step, low)} and {getattr(step, high)}"
        )
    return step


def _named(step: Any) -> Any:
    return {"kind": step} if isinstance(step, str) else step


IMAGE_STEPS: tuple[type[StrictModel], ...] = (
    RandomResizedCrop,
    HorizontalFlip,
    Rotate,
    ColorJitter,
    Grayscale,
    RandomErasing,
)
# Those of images are the same over all frames of a clip.
VIDEO_STEPS: tuple[type[StrictModel], ...] = (*IMAGE_STEPS, RandomStart, TimeReversal)
TEXT_STEPS: tuple[type[StrictModel], ...] = (TokenMask, TokenDropout)
AUDIO_STEPS: tuple[type[StrictModel], ...] = (
    SpeedPerturbation,
    RandomGain,
    TimeShift,
    AdditiveNoise,
    TimeMask,
    FrequencyMask,
)
# Steps of modality types of other packages, registered as entry points.
PLUGIN_STEPS: tuple[type[StrictModel], ...] = load_plugins("amodal.augmentations")
if TYPE_CHECKING:  # the union is made of tuples, which a type checker cannot read
    AnyStep = StrictModel
else:
    AnyStep = Annotated[
        Union[(*VIDEO_STEPS, *TEXT_STEPS, *AUDIO_STEPS, *PLUGIN_STEPS)],
        Field(discriminator="kind"),
        BeforeValidator(_named),
    ]


class AugmentConfig(StrictModel):
    """Steps per input; a step is a name, or a mapping with `kind` and its parameters.

    In a recipe the inputs stand beside the other keys: `{photo: [horizontal_flip]}`.

    Args:
        steps: input -> its steps, in order.
        modality_dropout: share of items that lose an input while a fusion model is trained: one
            rate, or one per input.
    """

    steps: dict[str, tuple[AnyStep, ...]] = Field(default_factory=dict)
    modality_dropout: Annotated[float, Field(ge=0, lt=1)] | dict[str, Fraction] = 0.0

    @model_validator(mode="before")
    @classmethod
    def _inputs_beside_the_rest(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "steps" in values:
            return values
        known = {key: values[key] for key in cls.model_fields if key in values}
        return {**known, "steps": {k: v for k, v in values.items() if k not in known}}

    @model_serializer(mode="wrap")
    def _flat(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        whole = dump(self)
        return {**whole.pop("steps"), **whole}
