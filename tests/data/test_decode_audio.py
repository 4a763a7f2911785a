"""Sounds come out whole, mono and at the rate that was asked for, or not at all."""

import io
import struct
import sys

import numpy as np
import pytest
from scipy import signal

import amodal.data.decode_audio
from amodal.data.decode_audio import (
    MAX_SECONDS,
    decode_audio,
    lacks_end_mark,
    load_audio,
    measure_audio,
    resample,
)
from amodal.data.inspection import inspect
from amodal.data.record import BrokenRecordError
from amodal.data.sources.folder import FolderConfig


def tone(hertz, rate, seconds=0.5, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def wav(samples, rate=16000, claimed=None):
    """A WAV file of 16-bit integers; `claimed` is what its header says of the data's length."""
    samples = np.asarray(samples)
    data = np.round(samples * 32767).astype("<i2").tobytes()
    channels = 1 if samples.ndim == 1 else samples.shape[1]
    size = len(data) if claimed is None else claimed
    head = struct.pack("<HHIIHH", 1, channels, rate, 2 * channels * rate, 2 * channels, 16)
    body = b"WAVEfmt " + struct.pack("<I", 16) + head + b"data" + struct.pack("<I", size) + data
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + body


def encoded(samples, rate, format, subtype=None):
    soundfile = pytest.importorskip("soundfile", reason="needs amodal[audio]")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=format, subtype=subtype)
    return buffer.getvalue()


def level_db(x):
    """Of a sine's amplitude, away from both ends."""
    middle = x[len(x) // 4 : -len(x) // 4]
    return 20 * np.log10(np.sqrt(2 * np.mean(middle**2)) + 1e-15)


RATES = [(44100, 16000), (48000, 16000), (8000, 16000), (22050, 16000), (44101, 16000)]


@pytest.mark.parametrize(("rate", "new"), RATES)
def test_what_both_rates_can_hold_keeps_its_amplitude_and_place(rate, new):
    for hertz in (100, 0.85 * min(rate, new) / 2):
        got = resample(tone(hertz, rate, amplitude=1), rate, new)
        want = tone(hertz, new, amplitude=1)[: len(got)]
        assert abs(len(got) - round(new * 0.5)) <= 1
        edge = len(got) // 8
        np.testing.assert_allclose(got[edge:-edge], want[edge:-edge], atol=0.02)
        assert level_db(got) == pytest.approx(0, abs=0.01)  # 0.1 %


@pytest.mark.parametrize(("rate", "new"), [pair for pair in RATES if pair[0] > pair[1]])
def test_what_the_new_rate_cannot_hold_is_gone(rate, new):
    for share in (1.01, 1.2, 1.35):
        if share * new < rate:
            alias = resample(tone(share * new / 2, rate, amplitude=1), rate, new)
            assert level_db(alias) < -75


def test_resampling_agrees_with_the_spectrum_cut_by_hand():
    rng = np.random.default_rng(0)
    b = signal.firwin(401, 3000, fs=16000)
    x = signal.lfilter(b, 1, rng.normal(size=16000))  # nothing above 3.2 kHz
    x *= signal.windows.tukey(len(x), 0.2)
    want = signal.resample(x, 8000)  # by Fourier transform: exact for a periodic signal
    got = resample(x, 16000, 8000)
    np.testing.assert_allclose(got, want, atol=2e-3 * np.abs(want).max())


def test_the_same_rate_changes_nothing():
    x = tone(440, 16000)
    assert resample(x, 16000, 16000) is x


@pytest.mark.parametrize("format", ["WAV", "FLAC"])
def test_lossless_files_give_the_very_samples(format, tmp_path):
    want = np.round(tone(440, 16000) * 32768) / 32768
    data = encoded(want, 16000, format)
    path = tmp_path / "a.raw"  # the name says nothing
    path.write_bytes(data)
    for value in (data, str(path), path, {"bytes": data, "path": None}, {"path": str(path)}):
        got = decode_audio(value, "here", 16000)
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, want.astype(np.float32))


@pytest.mark.parametrize("format", ["OGG", "MP3"])
def test_lossy_files_are_near(format):
    want = tone(440, 16000)
    got = decode_audio(encoded(want, 16000, format), "here", 16000)
    assert len(got) == len(want)
    assert level_db(got) == pytest.approx(level_db(want), abs=0.5)


def test_channels_are_averaged():
    left, right = tone(440, 16000), tone(880, 16000)
    both = np.stack([left, right], axis=1)
    want = ((left + right) / 2).astype(np.float32)
    for value in ((both, 16000), (both.T, 16000), {"array": both.T, "sampling_rate": 16000}):
        np.testing.assert_allclose(decode_audio(value, "here", 16000), want, atol=1e-6)
    stereo = encoded(both, 16000, "WAV", "FLOAT")
    np.testing.assert_allclose(decode_audio(stereo, "here", 16000), want, atol=1e-6)
    assert load_audio(stereo, "here")[0].shape == (8000, 2)


@pytest.mark.parametrize("kind", ["int16", "int32", "uint8"])
def test_integers_are_scaled_by_their_range(kind):
    info = np.iinfo(kind)
    x = np.array([info.min, (info.min + info.max + 1) // 2, info.max], dtype=kind)
    got = decode_audio((x, 8000), "here", 8000)
    np.testing.assert_allclose(got, [-1, 0, 1], atol=0.01)
    assert got[1] == 0


def test_what_rings_past_full_scale_is_cut():
    square = np.sign(tone(1000, 48000))
    assert np.abs(decode_audio((square, 48000), "here", 16000)).max() <= 1


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "expected a path, bytes, a pair"),
        (7, "expected a path, bytes, a pair"),
        ({"bytes": None, "path": None}, "expected a path, bytes, a pair"),
        ((np.zeros(0), 8000), "no samples"),
        ((np.zeros(9), 0), "expected a rate of 1 to"),
        ((np.zeros(9), None), "expected a waveform and its rate"),
        ((np.zeros(9), 8000.5), "whole Hz"),
        ((np.array(["a"]), 8000), "of numbers"),
        ((np.zeros((2, 2, 2)), 8000), "of numbers"),
        ((np.array([0.0, np.nan]), 8000), "not finite"),
        ((np.array([0.0, np.inf]), 8000), "not finite"),
        ((np.array([0.0, 12000.0]), 8000), "divide them"),
        ((np.zeros((100, 99)), 8000), "channels"),
        ((np.broadcast_to(np.float32(0), (MAX_SECONDS + 1) * 8000), 8000), "cut it into parts"),
    ],
)
def test_what_is_no_sound_is_named(value, message):
    with pytest.raises(BrokenRecordError, match=f"^here: .*{message}"):
        decode_audio(value, "here", 16000)


def test_files_that_cannot_be_read_are_named(tmp_path):
    pytest.importorskip("soundfile", reason="needs amodal[audio]")
    (tmp_path / "empty.wav").write_bytes(b"")
    (tmp_path / "text.mp3").write_bytes(b"no sound at all, but some words " * 50)
    for name, message in (
        ("gone.wav", "no such audio file"),
        ("empty.wav", "0 bytes"),
        ("text.mp3", "not a readable audio file"),
        ("", "unreadable file"),
    ):
        with pytest.raises(BrokenRecordError, match=f"^here: .*{message}"):
            decode_audio(tmp_path / name, "here", 16000)
    with pytest.raises(BrokenRecordError, match="a URL"):
        decode_audio("https://example.org/a.wav", "here", 16000)
    with pytest.raises(BrokenRecordError, match="no samples"):
        decode_audio(wav(np.zeros(0)), "here", 16000)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_file_cut_short_is_refused(format):
    data = encoded(np.random.default_rng(0).normal(0, 0.1, 32000), 16000, format)
    assert len(decode_audio(data, "here", 16000)) == 32000
    for share in (0.02, 0.5, 0.9):
        with pytest.raises(BrokenRecordError):
            decode_audio(data[: int(share * len(data))], "here", 16000)


def test_a_damaged_flac_is_refused():
    data = bytearray(encoded(np.random.default_rng(0).normal(0, 0.1, 32000), 16000, "FLAC"))
    data[len(data) // 2 : len(data) // 2 + 60] = bytes(60)
    with pytest.raises(BrokenRecordError):
        decode_audio(bytes(data), "here", 16000)


def test_a_wav_that_was_written_to_a_pipe_is_whole():
    pytest.importorskip("soundfile", reason="needs amodal[audio]")
    x = tone(440, 16000)
    got = decode_audio(wav(x, claimed=0xFFFFFFFF), "here", 16000)
    np.testing.assert_allclose(got, x, atol=1e-4)
    with pytest.raises(BrokenRecordError, match="cut short"):
        decode_audio(wav(x, claimed=100_000), "here", 16000)


def test_a_file_that_claims_hours_is_refused_before_it_is_read():
    data = bytearray(encoded(np.zeros(1600), 16000, "FLAC"))
    # STREAMINFO: the number of samples is the low 36 bits of the 8 bytes at 18.
    (packed,) = struct.unpack(">Q", data[18:26])
    hours = 16000 * 3600 * 5
    data[18:26] = struct.pack(">Q", packed >> 36 << 36 | hours)
    with pytest.raises(BrokenRecordError, match=r"decompression bomb: .* claims 18,000 s"):
        decode_audio(bytes(data), "here", 16000)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ImportError, match=r"pip install 'amodal\[audio\]'"):
        decode_audio(wav(tone(440, 16000)), "here", 16000)
    assert len(decode_audio((tone(440, 16000), 16000), "here", 16000)) == 8000  # needs none


def test_folders_of_sounds_are_a_source_and_can_be_inspected(tmp_path):
    pytest.importorskip("soundfile", reason="needs amodal[audio]")
    for label, hertz in (("low", 200), ("high", 2000)):
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.wav").write_bytes(wav(tone(hertz, 8000), 8000))
    (tmp_path / "low" / "bad.flac").write_bytes(b"fLaC")
    source = FolderConfig(path=str(tmp_path)).open()
    assert source.inputs == {"audio"}
    assert [source[i]["label"] for i in range(3)] == ["high", "low", "low"]
    found = inspect(source)
    assert (found.items, found.broken, found.rows) == (2, 1, {"audio": 2})
    assert found.audio_formats == {"8000 Hz x 1": 2}
    assert found.audio_milliseconds.median == 500


def test_a_folder_with_images_is_read_as_images(tmp_path, write_image):
    write_image(tmp_path / "cat" / "1.png")
    (tmp_path / "cat" / "1.wav").write_bytes(wav(np.zeros(9)))
    source = FolderConfig(path=str(tmp_path)).open()
    assert source.inputs == {"image"}
    assert len(source) == 1


@pytest.mark.parametrize(("rate", "new"), [(44100, 16000), (8000, 16000), (44101, 16000)])
def test_a_long_sound_is_resampled_in_parts_to_the_same_samples(rate, new, monkeypatch):
    g = np.random.default_rng(0)
    x = g.uniform(-1, 1, 70_001)
    want = resample(x, rate, new)
    monkeypatch.setattr(amodal.data.decode_audio, "BLOCK", 5_000)
    blocks = iter(np.split(x, np.cumsum(g.integers(1, 9_000, 12))))
    got = np.concatenate(list(amodal.data.decode_audio._resampled(blocks, rate, new)))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12)


def test_a_file_is_mixed_and_resampled_in_parts_to_the_same_samples(monkeypatch):
    both = np.stack([tone(440, 44100, 1), tone(880, 44100, 1)], axis=1)
    data = encoded(both, 44100, "FLAC")
    want = decode_audio(data, "here", 16000)
    monkeypatch.setattr(amodal.data.decode_audio, "BLOCK", 3_000)
    np.testing.assert_allclose(decode_audio(data, "here", 16000), want, rtol=0, atol=1e-7)
    assert measure_audio(data, "here") == (44100, 2, 44100)


def without_end_mark(data):
    """An Ogg file as it is recorded from a stream: its last page says nothing of an end."""
    page = data.rindex(b"OggS")
    damaged = bytearray(data)
    damaged[page + 5] &= ~4
    damaged[page + 22 : page + 26] = bytes(4)
    damaged[page + 22 : page + 26] = ogg_checksum(bytes(damaged[page:])).to_bytes(4, "little")
    return bytes(damaged)


def ogg_checksum(page):
    value = 0
    for byte in page:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 1 << 31 else 0)) & 0xFFFFFFFF
    return value


def test_an_ogg_file_without_the_mark_of_its_end_is_read():
    data = without_end_mark(encoded(tone(440, 16000), 16000, "OGG"))
    assert decode_audio(data, "here", 16000).shape == (8000,)
    assert lacks_end_mark(data, "here")
    assert not lacks_end_mark(encoded(tone(440, 16000), 16000, "OGG"), "here")
    assert not lacks_end_mark(wav(tone(440, 16000)), "here")


def test_inspection_notes_an_ogg_file_without_the_mark_of_its_end(tmp_path):
    whole = encoded(tone(440, 16000), 16000, "OGG")
    (tmp_path / "a.ogg").write_bytes(whole)
    (tmp_path / "b.ogg").write_bytes(without_end_mark(whole))
    found = inspect(FolderConfig(path=str(tmp_path)).open())
    assert (found.rows, found.broken) == ({"audio": 2}, 0)
    assert [note.count for note in found.notes if "Ogg files without" in note.what] == [1]


def test_an_ogg_file_cut_within_a_page_is_refused():
    data = without_end_mark(encoded(tone(440, 16000, 4), 16000, "OGG"))
    last = data.rindex(b"OggS")
    for length in (len(data) - 1, last + 100, last + 27, last + 10, last + 5):
        with pytest.raises(BrokenRecordError, match="cut short"):
            decode_audio(data[:length], "here", 16000)
    if data.count(b"OggS") > 3:  # whole pages only: nothing says that there were more
        assert len(decode_audio(data[:last], "here", 16000))
        assert lacks_end_mark(data[:last], "here")


def test_a_wav_file_of_many_parts_is_refused_at_once():
    data = wav(tone(440, 16000))
    with pytest.raises(BrokenRecordError, match="more than 10,000 parts"):
        decode_audio(data[:12] + b"junk\0\0\0\0" * 20_000 + data[12:], "here", 16000)


@pytest.mark.slow
def test_a_small_file_of_much_silence_takes_little_memory(tmp_path):
    """Ten minutes of stereo: 154 MB as floats, of which one channel at 16 kHz is kept."""
    import subprocess

    soundfile = pytest.importorskip("soundfile", reason="needs amodal[audio]")
    path = str(tmp_path / "silence.flac")
    with soundfile.SoundFile(path, "w", 32000, 2) as file:
        for _ in range(600):
            file.write(np.zeros((32000, 2)))
    script = """
import resource, sys
from amodal.data.decode_audio import decode_audio
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
decode_audio(sys.argv[2], "here", 16000)
before = peak()
decode_audio(sys.argv[1], "here", 16000)
print(peak() - before)
"""
    short = str(tmp_path / "short.flac")
    soundfile.write(short, np.zeros((32000, 2)), 32000)
    done = subprocess.run(
        [sys.executable, "-c", script, path, short], check=True, capture_output=True, text=True
    )
    assert int(done.stdout) < 150e6
