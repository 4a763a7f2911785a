"""Media that stand in a cell as text are decoded; what is printed stays short."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from amodal.data.content import embedded_content, shortened
from amodal.data.decode import decode_image
from amodal.data.decode_audio import decode_audio
from amodal.data.record import BrokenRecordError


def encoded(format, side=30, **options):
    stream = io.BytesIO()
    Image.new("RGB", (side, side), (200, 30, 30)).save(stream, format, **options)
    return stream.getvalue()


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("how", ["plain", "url_safe", "lines", "data_url", "no_padding"])
def test_an_image_as_base64_is_decoded(format, how):
    data = encoded(format)
    text = {
        "plain": base64.b64encode(data).decode(),
        "url_safe": base64.urlsafe_b64encode(data).decode(),
        "lines": base64.encodebytes(data).decode(),
        "data_url": f"data:image/{format.lower()};base64," + base64.b64encode(data).decode(),
        "no_padding": base64.b64encode(data).decode().rstrip("="),
    }[how]
    np.testing.assert_array_equal(decode_image(text, "here"), decode_image(data, "here"))


def test_a_sound_as_base64_is_decoded():
    soundfile = pytest.importorskip("soundfile", reason="needs amodal[audio]")
    stream = io.BytesIO()
    soundfile.write(stream, np.linspace(-0.5, 0.5, 800), 8000, format="FLAC")
    text = base64.b64encode(stream.getvalue()).decode()
    for value in (text, "data:audio/flac;base64," + text, {"bytes": text, "path": None}):
        assert decode_audio(value, "here", 8000).shape == (800,)


def test_base64_that_is_no_image_is_named_and_not_printed():
    text = base64.b64encode(b"hello world, " * 5000).decode()
    for value in (text, f"/folder/of/the/table/{text}"):
        with pytest.raises(BrokenRecordError, match="looks like base64, but holds no") as error:
            decode_image(value, "here")
        assert len(str(error.value)) < 400


def test_a_long_path_is_shortened_in_the_message():
    with pytest.raises(BrokenRecordError, match=r"characters\)") as error:
        decode_image("folder/" * 20_000 + "a.jpg", "here")
    assert len(str(error.value)) < 400
    assert shortened("images/cat.jpg") == "images/cat.jpg"


@pytest.mark.parametrize(
    "path", ["a.jpg", "/9j/4AAQ", "images/" + "abcd" * 12, "data:", "data", "iVBORw0KGgo" * 2]
)
def test_a_path_is_not_taken_for_base64(path):
    assert embedded_content(path) is None


def test_a_path_that_is_a_pipe_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(BrokenRecordError, match="no regular file"):
        decode_image(tmp_path / "pipe.png", "here")
    with pytest.raises(BrokenRecordError, match="no regular file"):
        decode_audio(tmp_path / "pipe.wav", "here", 8000)
