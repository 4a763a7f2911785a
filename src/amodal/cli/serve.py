"""`amodal serve`."""

from __future__ import annotations

import socket
import webbrowser
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated

import typer

from amodal.cli.console import console
from amodal.serving.served import open_served


def serve(
    folder: Annotated[Path, typer.Argument(metavar="INDEX_OR_RUN", help="What to serve.")],
    host: Annotated[str, typer.Option(help="Address to listen at.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes any free one.")] = 8000,
    image_generator: Annotated[
        Path | None, typer.Option(metavar="RUN", help="A run that draws, beside the folder.")
    ] = None,
    reranker: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="A joint embedding that chooses among drawings."),
    ] = None,
    run: Annotated[
        Path | None, typer.Option(help="Run folder of an index, if it moved since.")
    ] = None,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Show the page in a browser.")
    ] = False,
) -> None:
    """Serve a page and a REST interface: ask, caption, chat, draw, search. Ctrl-C ends it."""
    from amodal.serving.app import LOCAL, create_app  # late: of an extra

    try:
        import uvicorn
    except ImportError as error:
        raise ImportError(f"serving needs uvicorn: pip install 'amodal[serve]' ({error})") from None
    served = open_served(folder, run=run, image_generator=image_generator, reranker=reranker)
    local = host in LOCAL or _loopback(host)
    if not local:
        console.print(
            f"[yellow]note[/] everyone who can reach {host} can use the model and see what the "
            "index holds, file names included; there is no password",
            soft_wrap=True,
        )
    app = create_app(served, hosts=(*LOCAL, host) if local else ("*",))
    listening = _listening(host, port)
    shown = f"[{host}]" if ":" in host else host
    url = f"http://{shown}:{listening.getsockname()[1]}/"
    console.print(f"{served.name} does: {', '.join(served.abilities)}", highlight=False)
    console.print(f"the page is at {url}, Ctrl-C ends it", highlight=False, soft_wrap=True)
    if open_page:
        webbrowser.open(url)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=3))
    try:
        server.run(sockets=[listening])
    except KeyboardInterrupt:
        console.print("stopped")


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _listening(host: str, port: int) -> socket.socket:
    """A socket that already takes connections, so that a browser may be sent to it at once."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        )
    except OSError as error:
        raise OSError(
            f"cannot listen at {host} port {port}: {error.strerror or error}; choose another with "
            "--port or --host"
        ) from None
