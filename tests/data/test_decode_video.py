"""Video decoding: the right frames at the right times, and a clear error for every damage."""

import numpy as np
import pytest
from video_files import frame, number_of, write

from amodal.data import decode_video as decoding
from amodal.data.decode_audio import decode_audio, measure_audio
from amodal.data.decode_video import decode_video, video_facts, video_segments
from amodal.data.record import BrokenRecordError
from amodal.data.segment import Segment

av = pytest.importorskip("av")
RATE = 16000


def numbers(clip):
    return [number_of(pixels) for pixels in clip]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv"])
def test_frames_are_the_middles_of_equal_parts(tmp_path, suffix):
    path = write(tmp_path / f"a.{suffix}", np.arange(20) / 10)
    assert numbers(decode_video(str(path), "row", 4)) == [2, 7, 12, 17]
    assert numbers(decode_video(path.read_bytes(), "row", 20)) == list(range(20))


def test_avi_which_has_no_times_of_frames_is_a_frame_off_at_most(tmp_path):
    path = write(tmp_path / "a.avi", np.arange(20) / 10)
    assert np.abs(np.array(numbers(decode_video(path, "row", 4))) - [2, 7, 12, 17]).max() <= 1


def test_seeking_gives_the_frames_that_reading_all_of_them_gives(tmp_path):
    path = write(tmp_path / "a.mp4", np.arange(100) / 10)
    with av.open(str(path)) as container:
        all_frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    for count in (1, 3, 7, 40):
        places = [int((i + 0.5) * 100 / count) for i in range(count)]
        got = decode_video(path, "row", count)
        np.testing.assert_array_equal(got, np.stack([all_frames[p] for p in places]))


def test_a_variable_frame_rate_is_sampled_by_time(tmp_path):
    times = [0, 0.1, 0.2, 0.3, 2.0, 3.0, 3.9]
    path = write(tmp_path / "a.mp4", times, b_frames=False)
    # Four parts of about a second: 0.5 s, 1.5 s, 2.5 s and 3.5 s.
    assert numbers(decode_video(path, "row", 4)) == [3, 3, 4, 5]


def test_a_rotated_video_is_turned_as_it_is_shown(tmp_path):
    plain = decode_video(write(tmp_path / "a.mp4", [0, 0.1]), "row", 1)[0]
    turned = write(tmp_path / "b.mp4", [0, 0.1], rotation=90)
    assert plain.shape == (48, 64, 3)
    got = decode_video(turned, "row", 1)[0]
    assert got.shape == (64, 48, 3)
    # Turned counter-clockwise by 90 degrees, the black quarter is at the lower left.
    assert got[-8:, :8].max() < 8 < got[:8, :8].min()
    facts = video_facts(turned, "row")
    assert (facts.width, facts.height) == (48, 64)


def test_frames_are_reduced_by_a_whole_factor(tmp_path):
    path = write(tmp_path / "a.mp4", np.arange(4) / 10, size=(96, 128))
    assert decode_video(path, "row", 2, min_size=30).shape == (2, 32, 42, 3)
    assert decode_video(path, "row", 2, min_size=96).shape == (2, 96, 128, 3)
    assert decode_video(path, "row", 2, min_size=500).shape == (2, 96, 128, 3)


def test_a_short_video_repeats_frames(tmp_path):
    path = write(tmp_path / "a.mp4", [0, 0.1])
    assert numbers(decode_video(path, "row", 6)) == [0, 0, 0, 1, 1, 1]


def test_a_segment_is_sampled_on_its_own(tmp_path):
    path = write(tmp_path / "a.mp4", np.arange(24) / 10)
    parts = video_segments(str(path), "row", 1.0)
    assert [(part.start, part.end) for part in parts] == [(0.0, 0.8), (0.8, 1.6), (1.6, 2.4)]
    assert numbers(decode_video(parts[1], "row", 4)) == [9, 11, 13, 15]
    assert video_segments(str(path), "row", 3.0) == [str(path)]


def test_arrays_are_sampled_like_files():
    clip = np.stack([frame(number) for number in range(24)])
    assert numbers(decode_video(clip, "row", 4)) == [3, 9, 15, 21]
    np.testing.assert_array_equal(decode_video(clip, "row", 24), clip)


class Counting:
    """A container that counts the frames it decodes."""

    def __init__(self, container):
        self.container, self.frames = container, 0

    def __getattr__(self, name):
        return getattr(self.container, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.container.close()

    def decode(self, stream):
        for found in self.container.decode(stream):
            self.frames += 1
            yield found


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_a_two_hour_file_only_what_is_sampled_is_decoded(tmp_path, monkeypatch, suffix):
    path = write(tmp_path / f"a.{suffix}", np.arange(7200), rate=1, size=(32, 32))
    opened, really = [], decoding.open_container

    def counted(*arguments):
        opened.append(Counting(really(*arguments)))
        return opened[-1]

    monkeypatch.setattr(decoding, "open_container", counted)
    got = decode_video(path, "row", 8)
    assert numbers(got) == [(450 + 900 * i) % 28 for i in range(8)]
    # A group of 12 pictures, and the frame after the one that is shown.
    assert opened[0].frames <= 8 * 13


def test_a_file_without_a_length_is_measured(tmp_path):
    path = write(tmp_path / "a.mkv", np.arange(24) / 10, options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
        assert container.streams.video[0].duration is None
    assert video_facts(path, "row").seconds == pytest.approx(2.4, abs=0.11)
    assert numbers(decode_video(path, "row", 4))[1:] == pytest.approx([9, 15, 21], abs=1)


def broken(reason, value):
    with pytest.raises(BrokenRecordError, match=reason) as error:
        decode_video(value, "clips.csv row 7", 4)
    assert error.value.origin == "clips.csv row 7"


@pytest.mark.parametrize("options", [{}, {"movflags": "faststart"}])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_mp4_is_an_error(tmp_path, options, share):
    content = write(tmp_path / "a.mp4", np.arange(48) / 10, options=options).read_bytes()
    broken("cut short: the video has", content[: int(share * len(content))])


def test_a_truncated_matroska_file_is_an_error(tmp_path):
    content = write(tmp_path / "a.mkv", np.arange(80) / 10).read_bytes()
    broken("cut short: the last frame|damaged video file", content[: len(content) // 2])


def test_an_mp4_without_its_index_is_an_error(tmp_path):
    content = write(tmp_path / "a.mp4", np.arange(24) / 10).read_bytes()
    broken("damaged video file", content[: content.rindex(b"moov") - 4])


def test_noise_in_the_frames_is_no_crash(tmp_path):
    content = bytearray(write(tmp_path / "a.mp4", np.arange(24) / 10).read_bytes())
    start, end = content.index(b"mdat") + 8, content.rindex(b"moov") - 4
    rng = np.random.default_rng(0)
    content[start:end] = rng.integers(0, 256, end - start, np.uint8).tobytes()
    broken("damaged video file|no frames", bytes(content))


def audio_alone(path):
    with av.open(str(path), "w") as container:
        track = container.add_stream("aac", rate=RATE)
        track.layout = "mono"
        part = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.float32), "fltp", "mono")
        part.sample_rate = RATE
        container.mux(track.encode(part))
        container.mux(track.encode())
    return path


def test_a_file_without_a_video_stream_is_an_error(tmp_path):
    broken("no video stream: .* holds audio alone", audio_alone(tmp_path / "a.mp4"))


def test_a_video_stream_without_frames_is_an_error(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 32
        container.start_encoding()
    broken("no frames|damaged video file|no video stream", tmp_path / "a.mp4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a readable video file .mp4, .* begins with b'RIFF"),
        (b"#EXTM3U\nfile:///etc/passwd\n", "not a readable video file"),
        (np.zeros((2, 4, 4), np.uint8), r"expected frames \(T, H, W, 3\) of uint8"),
        (np.zeros((0, 4, 4, 3), np.uint8), r"expected frames"),
        ("missing.mp4", "no such video file: missing.mp4"),
        (7, "expected a path, bytes, an array of frames"),
    ],
)
def test_what_is_no_video_is_an_error(content, reason):
    broken(reason, content)


def test_a_mapping_of_hugging_face_is_its_file(tmp_path):
    path = write(tmp_path / "a.mp4", np.arange(24) / 10)
    for value in ({"bytes": path.read_bytes(), "path": None}, {"bytes": None, "path": str(path)}):
        assert numbers(decode_video(value, "row", 2)) == [6, 18]


def test_facts_of_a_file(tmp_path):
    tone = np.sin(np.arange(2 * RATE) / 5).astype(np.float32) / 2
    path = write(tmp_path / "a.mp4", np.arange(20) / 10, sound=(tone, RATE))
    facts = video_facts(path, "row")
    assert str(facts) == "64 x 48, 10 frames/s, with sound"
    assert facts.seconds == pytest.approx(2.0)


def test_the_sound_track_of_a_video_is_audio(tmp_path):
    tone = np.sin(np.arange(2 * RATE) / 5).astype(np.float32) / 2
    path = write(tmp_path / "a.mp4", np.arange(20) / 10, sound=(tone, RATE))
    got = decode_audio(str(path), "row", RATE)
    assert len(got) == pytest.approx(2 * RATE, abs=2048)  # a codec adds some at either end
    spectrum = np.abs(np.fft.rfft(got[RATE // 2 : RATE + RATE // 2]))
    assert abs(spectrum.argmax() - RATE / 5 / (2 * np.pi)) < 2
    samples, channels, rate = measure_audio(path.read_bytes(), "row")
    assert (channels, rate) == (1, RATE)
    assert samples == len(got)


def test_a_video_without_sound_has_no_audio(tmp_path):
    path = write(tmp_path / "a.mp4", [0, 0.1])
    with pytest.raises(BrokenRecordError, match=r"no sound track: .* leave its cell empty"):
        decode_audio(path, "row", RATE)


def test_a_sound_track_is_read_from_any_sample(tmp_path):
    from amodal.data.sound_track import SoundTrack

    noise = np.random.default_rng(0).normal(0, 0.1, 3 * RATE).astype(np.float32)
    path = write(tmp_path / "a.mp4", np.arange(30) / 10, sound=(noise, RATE))
    with path.open("rb") as stream, SoundTrack(stream, "row", "a file") as track:
        whole = track.read(1 << 40)
        for start in (0, 1000, 20_000):
            track.seek(start)
            got = np.concatenate([track.read(700), track.read(1300)])
            # The first frames after a jump are decoded without the ones before.
            np.testing.assert_allclose(got[1100:], whole[start + 1100 : start + 2000], atol=1e-3)


def test_a_segment_has_the_frames_of_its_file(tmp_path):
    path = write(tmp_path / "a.mp4", np.arange(24) / 10)
    assert numbers(decode_video(Segment(path, 1.2, 99.0), "row", 2)) == [15, 21]
