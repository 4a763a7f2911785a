"""`amodal caption`, `amodal ask` and `amodal chat`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, note_unknown_words
from amodal.training.kinds import kind_of_run, open_run

if TYPE_CHECKING:
    from amodal.models.multimodal_transformer.model import MultimodalTransformer

Run = Annotated[Path, typer.Argument(help="Run folder of a multimodal Transformer.")]
Image = Annotated[Path, typer.Argument(help="Image file.")]
Beams = Annotated[int, typer.Option(min=1, help="Beam width; 1 is greedy decoding.")]
LEAVE = ("", "exit", "quit")


def caption(
    run: Run,
    images: Annotated[list[Path], typer.Argument(help="Image files.")],
    beams: Beams = 3,
) -> None:
    """Describe images."""
    model = _opened(run)
    for image in images:
        (text,) = model.caption([image], num_beams=beams)
        name = f"{image}: " if len(images) > 1 else ""
        console.print(f"{name}{text}", soft_wrap=True, highlight=False, markup=False)


def ask(
    run: Run,
    image: Image,
    question: Annotated[str, typer.Argument(help="Question about the image.")],
    beams: Beams = 1,
    attention: Annotated[
        Path | None, typer.Option(help="PNG file for the attention map of the answer.")
    ] = None,
) -> None:
    """Answer a question about an image."""
    model = _opened(run)
    from amodal.data.decode import decode_image
    from amodal.reports.attention_plots import save_attention

    note_unknown_words(model.chat_template.unknown(question))
    answer = model.ask(image, question, num_beams=beams)
    console.print(answer, soft_wrap=True, highlight=False, markup=False)
    if attention is not None:
        pixels = decode_image(image, str(image), min_size=256)
        attended = model.attention_map(image, question, answer)
        save_attention(attention, pixels, attended, f"{question} {answer}")
        console.print(f"the attention map is in {attention}", soft_wrap=True)


def chat(run: Run, image: Image, beams: Beams = 1) -> None:
    """Hold a conversation about an image, with its history. An empty line ends it."""
    model = _opened(run)
    from amodal.data.decode import decode_image

    decode_image(image, str(image), min_size=8)  # an unreadable image fails before the first turn
    history: list[tuple[str, str]] = []
    while True:
        try:
            question = console.input("[bold]you[/]   ")
        except (EOFError, KeyboardInterrupt):
            break
        if question.strip().lower() in LEAVE:
            break
        note_unknown_words(model.chat_template.unknown(question))
        answer = model.chat(image, history, question.strip(), num_beams=beams)
        history.append((question.strip(), answer))
        console.print(f"model {answer}", soft_wrap=True, highlight=False, markup=False)


def _opened(run: Path) -> MultimodalTransformer:
    kind_of_run(run)  # a mistyped run is answered before the slow imports
    import torch

    from amodal.data.record import DataError

    model = open_run(run, "multimodal_transformer")
    if model.generates_images:
        raise DataError(
            f"{run}: generates images and takes none as input; use `amodal draw {run} TEXT`"
        )
    model.to(torch.device("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
    return model
