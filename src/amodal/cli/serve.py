"""`amodal serve`."""

from __future__ import annotations

import socket
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import console, note
from amodal.data.near_folders import INDEX_FILE, did_you_mean
from amodal.training.kinds import kind_of_run


def serve(
    folder: Annotated[
        Path, typer.Argument(metavar="INDEX_OR_RUN", help="Index folder or run folder.")
    ],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes any free one.")
    ] = 8000,
    generator: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Run that generates images, served beside the folder."),
    ] = None,
    reranker: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN", help="Joint embedding that chooses the best of several generated images."
        ),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder of an index, if it has moved since indexing.")
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = False,
) -> None:
    """Serve a web page and a REST API: search, ask, caption, chat, draw. Ctrl-C ends it."""
    # A mistyped folder is answered before the slow imports.
    if not (folder / INDEX_FILE).is_file():
        near = "" if folder.exists() else did_you_mean(folder, INDEX_FILE)
        if near:
            raise ValueError(f"{folder}: no such folder{near}")
        kind_of_run(folder)
    for place in (run, generator, reranker):
        if place is not None:
            kind_of_run(place)
    from amodal.serving.app import LOCAL, create_app
    from amodal.serving.served import open_served

    try:
        from amodal.serving.protocol import http_server
    except ImportError as error:
        raise ImportError(f"serving needs uvicorn: pip install 'amodal[serve]' ({error})") from None
    served = open_served(folder, run=run, image_generator=generator, reranker=reranker, warn=note)
    local = host in LOCAL or _loopback(host)
    if not local:
        note(
            f"everyone who can reach {host} can use the model and see what the index holds, file "
            "names included; there is no password"
        )
    app = create_app(served, hosts=(*LOCAL, host) if local else ("*",))
    listening = _listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}/"
    console.print(f"serving {served.name}: {', '.join(served.capabilities)}", highlight=False)
    console.print(f"open {url} (Ctrl-C stops the server)", highlight=False, soft_wrap=True)
    if open_page:
        webbrowser.open(url)
    try:
        http_server(app).run(sockets=[listening])
    except KeyboardInterrupt:
        console.print("stopped")


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """A listening socket, made before the server starts: a browser can connect at once."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise OSError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with "
            "--port or --host"
        ) from None
