"""`amodal draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from amodal.cli.console import console, tell_unknown
from amodal.cli.search import open_model
from amodal.data.record import DataError
from amodal.models.diffusion import HUB, DiffusionPainter, is_pipeline
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    Painter,
    draw_best,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.models.opening import open_run

LEAST = 128  # pixels that a drawn picture is wide in the file


def draw(
    run: Annotated[
        str,
        typer.Argument(
            help="Run folder of a recipe with tasks: [draw]; folder of a diffusers pipeline, or "
            "diffusers:OWNER/NAME of the hub.",
            show_default=False,
        ),
    ],
    text: Annotated[str, typer.Argument(help="What is to be seen.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File of the picture: .png, .jpg or .webp.")] = Path(
        "drawn.png"
    ),
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="How closely to follow the text; 1 is no guidance. By default "
            f"{GUIDANCE:g} for a run, and what a pipeline does by itself.",
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(min=0, help=f"How freely to draw, {TEMPERATURE} by default; 0: likeliest."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Choose among the likeliest so many codes.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Pictures, side by side in the file.")] = 1,
    candidates: Annotated[
        int, typer.Option(min=1, help="Drawn for each picture; --judge chooses the best.")
    ] = 1,
    judge: Annotated[
        Path | None,
        typer.Option(help="Run of a joint embedding that chooses among the candidates."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed draws the same picture.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=1, help="Make each pixel so many wide; by default so many that 128 are reached."
        ),
    ] = None,
) -> None:
    """Draw a picture of a text."""
    if candidates > 1 and judge is None:
        raise typer.BadParameter(
            "--candidates needs --judge RUN, a joint embedding that chooses among them"
        )
    if out.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"--out {out}: not the name of a picture; try {out.stem}.png")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
    given = {name: value for name, value in options.items() if value is not None}
    painter: Painter
    if run.startswith(HUB) or is_pipeline(Path(run)):
        unfit = sorted(set(given) - {"guidance"})
        if unfit:
            raise typer.BadParameter(f"a pipeline of diffusers has no {' and no '.join(unfit)}")
        painter = DiffusionPainter.from_pretrained(run.removeprefix(HUB), device=device)
    else:
        painter = _run(run, device)
    turns = getattr(painter, "turns", None)
    if turns is not None:
        tell_unknown(turns.unknown(text))
    pictures = draw_best(
        painter,
        [text] * count,
        candidates=candidates,
        judge=open_model(judge) if judge is not None else None,
        seed=seed,
        **given,
    )
    scale = scale or -(-LEAST // len(pictures[0]))
    side = scale * len(pictures[0])
    sheet = Image.new("RGB", (count * side + (count - 1) * scale, side), "white")
    for i, picture in enumerate(pictures):
        large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (i * (side + scale), 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    console.print(f"drawn in {out}", soft_wrap=True)


def _run(run: str, device: torch.device) -> MultimodalTransformer:
    model = open_run(run)
    if not isinstance(model, MultimodalTransformer) or not model.draws:
        raise DataError(
            f"{run}: does not draw; train one with recipes/scenes-draw.yaml (model.tasks: [draw])"
        )
    return model.to(device)  # type: ignore[arg-type]
