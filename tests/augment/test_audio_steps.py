"""Sounds: every step does what it says, and a sample depends on its own generator alone."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from amodal.augment.audio import (
    AudioAugmentation,
    add_noise,
    change_gain,
    change_speed,
    mask_spans,
    time_shift,
)
from amodal.augment.config import (
    AdditiveNoise,
    AugmentConfig,
    FrequencyMask,
    RandomGain,
    SpeedPerturbation,
    TimeMask,
)
from amodal.data.record import sample_rng
from amodal.encoders.audio.preprocessing import AudioPreprocessor
from amodal.models.inputs import collator_of

EVERY = (
    "speed_perturbation",
    "random_gain",
    "time_shift",
    {"kind": "additive_noise", "probability": 1},
    "time_mask",
    "frequency_mask",
)
PREPARE = AudioPreprocessor(8000, n_mels=32)


def tone(hertz=400, rate=8000, seconds=0.5, amplitude=0.3):
    t = np.arange(round(rate * seconds)) / rate
    return (amplitude * np.sin(2 * np.pi * hertz * t)).astype(np.float32)


def rngs(*numbers):
    return [sample_rng(0, 0, i) for i in numbers]


def augmentation(*steps):
    return AudioAugmentation(AugmentConfig.model_validate({"audio": steps}).steps["audio"])


def peak_hertz(x, rate=8000):
    return np.abs(np.fft.rfft(x * np.hanning(len(x)))).argmax() * rate / len(x)


def test_a_sample_depends_on_its_own_generator_alone():
    step = augmentation(*EVERY)
    sounds = [tone(300, seconds=s) for s in (0.2, 0.5, 0.9)]
    together = step.waveforms(sounds, rngs(4, 5, 6))
    tensors = PREPARE(together)
    own = rngs(7, 8, 9)
    hidden = step.features(tensors, own)
    for i, sound in enumerate(sounds):
        (alone,) = step.waveforms([sound], rngs(4 + i))
        np.testing.assert_array_equal(alone, together[i])
        assert alone.dtype == np.float32
        assert np.abs(alone).max() <= 1
        count = int(tensors["keep"][i].sum())
        single = {name: tensor[i : i + 1, :count] for name, tensor in tensors.items()}
        found = step.features(single, rngs(7 + i))["features"]
        assert torch.equal(found[0], hidden["features"][i, :count])
    again = step.waveforms(sounds, rngs(4, 5, 60))
    assert not np.array_equal(again[2], together[2])


def test_no_step_changes_nothing():
    nothing = augmentation()
    sound = tone()
    assert nothing.waveforms([sound], rngs(0))[0] is sound
    tensors = PREPARE([sound])
    assert nothing.features(tensors, rngs(0)) is tensors


def test_what_came_in_stays_as_it_was():
    sound, step = tone(), augmentation(*EVERY)
    before = sound.copy()
    tensors = PREPARE(step.waveforms([sound], rngs(0)))
    features = tensors["features"].clone()
    step.features(tensors, rngs(0))
    np.testing.assert_array_equal(sound, before)
    assert torch.equal(tensors["features"], features)


@pytest.mark.parametrize("speed", [0.8, 1.25])
def test_speed_moves_pitch_and_length(speed):
    got = change_speed(tone(400), speed, speed, rngs(0)[0])
    assert len(got) == pytest.approx(4000 / speed, abs=1)
    assert peak_hertz(got) == pytest.approx(400 * speed, abs=5)


def test_gain_is_what_was_drawn_and_never_clips():
    quiet = change_gain(tone(), -6, -6, rngs(0)[0])
    np.testing.assert_allclose(quiet, tone() * 10**-0.3, rtol=1e-5)
    loud = change_gain(tone(amplitude=0.5), 40, 40, rngs(0)[0])
    np.testing.assert_allclose(loud, tone(amplitude=1.0), atol=1e-3)
    silence = np.zeros(9, np.float32)
    np.testing.assert_array_equal(change_gain(silence, 6, 6, rngs(0)[0]), silence)


def test_shift_moves_and_fills_with_silence():
    sound = np.arange(1, 101, dtype=np.float32) / 100
    seen = set()
    for i in range(60):
        got = time_shift(sound, 0.2, rngs(i)[0])
        there = np.flatnonzero(got)
        by = int(there[0]) if got[0] == 0 else -(99 - int(there[-1]))
        seen.add(by)
        assert abs(by) <= 20
        want = np.zeros_like(sound)
        want[max(by, 0) : 100 + min(by, 0)] = sound[max(-by, 0) : 100 - max(by, 0)]
        np.testing.assert_array_equal(got, want)
    assert min(seen) < -10
    assert max(seen) > 10
    np.testing.assert_array_equal(time_shift(sound, 0.0, rngs(0)[0]), sound)


@pytest.mark.parametrize("ratio_db", [0.0, 20.0])
@pytest.mark.parametrize("colour", [0.0, 2.0])
def test_noise_has_the_ratio_that_was_asked_for(ratio_db, colour):
    step = AdditiveNoise(
        probability=1, low_snr_db=ratio_db, high_snr_db=ratio_db, max_exponent=colour
    )
    sound = tone(amplitude=0.05)  # far from clipping
    noise = add_noise(sound, step, rngs(1)[0]) - sound
    got = 10 * np.log10(np.mean(sound**2) / np.mean(noise**2))
    assert got == pytest.approx(ratio_db, abs=0.01)


def test_the_colour_of_noise_is_the_slope_of_its_spectrum():
    sound = tone(seconds=8, amplitude=0.05)

    class Fixed:  # a generator that draws the steepest slope
        def __init__(self):
            self.rng = np.random.default_rng(0)

        def random(self):
            return 0.0

        def uniform(self, low, high):
            return high

        def standard_normal(self, n):
            return self.rng.standard_normal(n)

    step = AdditiveNoise(probability=1, low_snr_db=0, high_snr_db=0, max_exponent=2)
    noise = add_noise(sound, step, Fixed()) - sound
    power = np.abs(np.fft.rfft(noise)) ** 2
    bands = [power[low : 2 * low].mean() for low in (500, 1000, 2000, 4000)]
    slopes = np.diff(np.log2(bands))
    np.testing.assert_allclose(slopes, -2, atol=0.35)  # f^-2; each band has 500 values or more


def test_noise_leaves_silence_and_the_unchosen_alone():
    silence = np.zeros(100, np.float32)
    always = AdditiveNoise(probability=1)
    np.testing.assert_array_equal(add_noise(silence, always, rngs(0)[0]), silence)
    never = AdditiveNoise(probability=0)
    np.testing.assert_array_equal(add_noise(tone(), never, rngs(0)[0]), tone())


def test_masks_lie_inside_and_are_as_wide_as_allowed():
    for step, length in (
        (TimeMask(num_masks=3, max_width=20, max_fraction=0.2), 60),
        (FrequencyMask(), 32),
    ):
        widths = []
        for i in range(300):
            spans = mask_spans(step, length, rngs(i)[0])
            assert len(spans) == step.num_masks
            for start, stop in spans:
                assert 0 <= start <= stop <= length
                widths.append(stop - start)
        widest = min(step.max_width, int(step.max_fraction * length))
        assert min(widths) == 0
        assert max(widths) == widest
        assert np.mean(widths) == pytest.approx(widest / 2, rel=0.1)


def test_masks_hide_whole_frames_and_bands_of_the_sound_and_nothing_of_its_padding():
    x = torch.randn(2, 40, 32, generator=torch.Generator().manual_seed(0))
    keep = torch.arange(40) < torch.tensor([[40], [25]])
    x = x.masked_fill(~keep[..., None], 0)
    frames = augmentation({"kind": "time_mask", "num_masks": 1, "max_width": 10, "max_fraction": 1})
    bands = augmentation(
        {"kind": "frequency_mask", "num_masks": 1, "max_width": 8, "max_fraction": 1}
    )
    for step, axis in ((frames, 1), (bands, 0)):
        found = step.features({"features": x, "keep": keep}, rngs(3, 4))
        assert torch.equal(found["keep"], keep)
        for row, before, kept in zip(found["features"], x, (40, 25), strict=True):
            changed = row[:kept] != before[:kept]
            hidden = changed.any(dim=axis)
            assert changed.all(dim=axis).equal(hidden)
            assert 0 < hidden.sum() <= (10 if axis == 1 else 8)
            values = row[:kept][hidden] if axis == 1 else row[:kept, hidden]
            torch.testing.assert_close(values, before[:kept].mean().expand_as(values))
            assert torch.equal(row[kept:], before[kept:])


def test_a_batch_of_training_is_augmented_and_one_of_evaluation_is_not():
    records = [{"id": str(i), "origin": str(i), "audio": (tone(), 8000)} for i in range(3)]
    records.append({"id": "3", "origin": "3"})
    inputs = SimpleNamespace(types={"audio": "audio"}, preprocessors={"audio": PREPARE})
    plain = collator_of(inputs)(records, rngs(*range(4)))
    torch.testing.assert_close(
        plain.tensors["audio"]["features"][0, :51], PREPARE([tone()])["features"][0, :51]
    )
    changed = collator_of(inputs, steps=AugmentConfig(steps={"audio": EVERY}).steps)(
        records, rngs(*range(4))
    )
    assert plain.present["audio"].equal(changed.present["audio"])
    lengths = changed.tensors["audio"]["keep"].sum(1).tolist()
    assert len(set(lengths[:3])) > 1
    assert lengths[3] == 0
    assert changed.tensors["audio"]["features"].isfinite().all()


@pytest.mark.parametrize(
    "step",
    [
        {"kind": "speed_perturbation", "low": 1.2, "high": 1.1},
        {"kind": "speed_perturbation", "low": 0},
        {"kind": "random_gain", "low_db": 3, "high_db": 1},
        {"kind": "additive_noise", "low_snr_db": 9, "high_snr_db": 1},
        {"kind": "additive_noise", "max_exponent": 3},
        {"kind": "time_shift", "fraction": 2},
        {"kind": "time_mask", "num_masks": 0},
        "reverb",
    ],
)
def test_ranges_that_are_none_are_refused(step):
    with pytest.raises(ValidationError):
        AugmentConfig.model_validate({"audio": [step]})


def test_a_name_is_a_step_with_its_defaults():
    steps = ["speed_perturbation", {"kind": "random_gain", "low_db": -3}]
    config = AugmentConfig.model_validate({"audio": steps})
    assert config.steps["audio"] == (SpeedPerturbation(), RandomGain(low_db=-3))
