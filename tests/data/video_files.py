"""Small video files whose frames tell their number."""

from fractions import Fraction

import numpy as np

STEP = 8  # of brightness from one frame to the next


def frame(number, size=(48, 64)):
    """A frame whose brightness is its number modulo 28; its top left quarter is black."""
    pixels = np.full((*size, 3), 32 + STEP * (number % 28), np.uint8)
    pixels[: size[0] // 2, : size[1] // 2] = 0
    return pixels


def number_of(pixels):
    """The number of a decoded frame, by its lower right corner."""
    return round((float(pixels[-4:, -4:].mean()) - 32) / STEP)


def write(
    path,
    times,
    *,
    rate=10,
    options=None,
    rotation=0,
    sound=None,
    size=(48, 64),
    b_frames=True,
):
    """A file whose frame i is shown from times[i] on, in seconds.

    Args:
        options: of the container.
        rotation: degrees, counter-clockwise.
        sound: (waveform, rate in Hz) of a sound track.
        b_frames: False: the file says its length with a variable frame rate right.
    """
    import av

    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(
            "libx264",
            rate=rate,
            options={"g": "12", "crf": "1", **({} if b_frames else {"bf": "0"})},
        )
        stream.width, stream.height, stream.pix_fmt = size[1], size[0], "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        track = None
        if sound is not None:
            track = container.add_stream("aac", rate=sound[1])
            track.layout = "mono"
        for number, time in enumerate(times):
            image = av.VideoFrame.from_ndarray(frame(number, size), format="rgb24")
            image.pts, image.time_base = round(1000 * time), Fraction(1, 1000)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
        if track is not None:
            waveform = np.asarray(sound[0], np.float32)[None]
            part = av.AudioFrame.from_ndarray(waveform, format="fltp", layout="mono")
            part.sample_rate, part.pts = sound[1], 0
            container.mux(track.encode(part))
            container.mux(track.encode())
    return path
