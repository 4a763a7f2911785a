"""`amodal serve`, from the words typed to the exit code; the server itself does not run."""

import builtins
import socket
import sys

import pytest

pytest.importorskip("fastapi", reason="needs amodal[serve]")
pytest.importorskip("uvicorn", reason="needs amodal[serve]")
import uvicorn

import amodal.cli.serve as command
from amodal.cli import main as cli
from amodal.data.record import DataError
from amodal.serving.served import ServedModels


class ImageGenerator:
    def generate_images(self, texts, **options):
        return []


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """Every run that is named exists."""
    monkeypatch.setattr(command, "kind_of_run", lambda folder: None)


@pytest.fixture
def started(monkeypatch):
    """Sockets that a server was started with."""
    sockets = []
    served = ServedModels(name="text-to-image", kind="a model", image_generator=ImageGenerator())
    monkeypatch.setattr("amodal.serving.served.open_served", lambda folder, **options: served)
    monkeypatch.setattr(uvicorn.Server, "run", lambda self, sockets: started_with(sockets))

    def started_with(given):
        sockets.extend(given)
        raise KeyboardInterrupt  # as a person ends it

    yield sockets
    for one in sockets:
        one.close()


def amodal(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["amodal", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def test_it_listens_on_this_machine_alone_and_ctrl_c_is_its_end(started, monkeypatch, capsys):
    assert amodal(monkeypatch, "serve", "run", "--port", "0") == 0
    host, port = started[0].getsockname()
    assert host == "127.0.0.1"
    printed = capsys.readouterr().out
    assert "serving text-to-image: draw" in printed
    assert f"http://127.0.0.1:{port}/" in printed
    assert "password" not in printed


def test_another_address_is_warned_of(started, monkeypatch, capsys):
    assert amodal(monkeypatch, "serve", "run", "--port", "0", "--host", "0.0.0.0") == 0
    assert "no password" in capsys.readouterr().err


def test_the_browser_is_opened_when_asked(started, monkeypatch):
    shown = []
    monkeypatch.setattr(command.webbrowser, "open", shown.append)
    assert amodal(monkeypatch, "serve", "run", "--port", "0", "--open") == 0
    assert shown == [f"http://127.0.0.1:{started[0].getsockname()[1]}/"]


def test_a_port_that_is_taken_is_an_error_that_says_what_to_do(started, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert amodal(monkeypatch, "serve", "run", "--port", port) == 1
    assert "choose another with --port" in capsys.readouterr().err


def test_what_cannot_be_served_is_exit_code_1(monkeypatch, capsys):
    def refused(folder, **options):
        raise DataError(f"{folder}: holds a FusionModel")

    monkeypatch.setattr("amodal.serving.served.open_served", refused)
    assert amodal(monkeypatch, "serve", "run") == 1
    assert "holds a FusionModel" in capsys.readouterr().err


def test_without_the_extra_it_is_named(monkeypatch, capsys):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.split(".")[0] == "fastapi":
            raise ImportError("No module named 'fastapi'")
        return real(name, *args, **options)

    monkeypatch.delitem(sys.modules, "amodal.serving.app", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert amodal(monkeypatch, "serve", "run") == 1
    assert "amodal[serve]" in capsys.readouterr().err
