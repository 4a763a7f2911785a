"""`amodal caption`, `amodal ask` and `amodal chat`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from amodal.cli.console import console, tell_unknown
from amodal.data.decode import decode_image
from amodal.data.record import DataError
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.reports.attention_plots import save_attention
from amodal.training.kinds import open_run

Run = Annotated[Path, typer.Argument(help="Run folder of a multimodal Transformer.")]
Image = Annotated[Path, typer.Argument(help="An image.")]
Beams = Annotated[int, typer.Option(min=1, help="Width of the beam search; 1 is greedy.")]
LEAVE = ("", "exit", "quit")


def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Images.")],
    beams: Beams = 3,
) -> None:
    """Describe images."""
    model = _opened(run)
    for image in images:
        (said,) = model.caption([image], num_beams=beams)
        name = f"{image}: " if len(images) > 1 else ""
        console.print(f"{name}{said}", soft_wrap=True, highlight=False, markup=False)


def ask(
    run: Run,
    image: Image,
    question: Annotated[str, typer.Argument(help="What you want to know.")],
    beams: Beams = 1,
    look: Annotated[
        Path | None, typer.Option(help="PNG of where the model looked for its answer.")
    ] = None,
) -> None:
    """Answer a question about an image."""
    model = _opened(run)
    tell_unknown(model.chat_template.unknown(question))
    said = model.ask(image, question, num_beams=beams)
    console.print(said, soft_wrap=True, highlight=False, markup=False)
    if look is not None:
        pixels = decode_image(image, str(image), min_size=256)
        save_attention(
            look, pixels, model.attention_map(image, question, said), f"{question} {said}"
        )
        console.print(f"where it looked is in {look}", soft_wrap=True)


def chat(run: Run, image: Image, beams: Beams = 1) -> None:
    """Talk about an image; what was said before counts. An empty line ends it."""
    model = _opened(run)
    decode_image(image, str(image), min_size=8)  # complain before the first question
    history: list[tuple[str, str]] = []
    while True:
        try:
            question = console.input("[bold]you[/]   ")
        except (EOFError, KeyboardInterrupt):
            break
        if question.strip().lower() in LEAVE:
            break
        tell_unknown(model.chat_template.unknown(question))
        said = model.chat(image, history, question.strip(), num_beams=beams)
        history.append((question.strip(), said))
        console.print(f"model {said}", soft_wrap=True, highlight=False, markup=False)


def _opened(run: Path) -> MultimodalTransformer:
    model = open_run(run)
    if not isinstance(model, MultimodalTransformer):
        raise DataError(
            f"{run}: holds a {type(model).__name__}; this needs a run of a recipe with "
            "model.kind: multimodal_transformer"
        )
    if model.generates_images:
        raise DataError(
            f"{run}: draws and does not see; `amodal draw {run} TEXT` is what it can do"
        )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return model
