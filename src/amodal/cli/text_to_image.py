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
from amodal.models.diffusion import HUB, DiffusionGenerator, is_pipeline
from amodal.models.multimodal_transformer.image_generation import (
    GUIDANCE,
    TEMPERATURE,
    ImageGenerator,
    generate_best,
)
from amodal.models.multimodal_transformer.model import MultimodalTransformer
from amodal.training.kinds import open_run

LEAST = 128  # pixels that a drawn image is wide in the file


def draw(
    run: Annotated[
        str,
        typer.Argument(
            help="Run folder of a recipe with tasks: [text_to_image]; folder of a diffusers pipeline, or "
            "diffusers:OWNER/NAME of the hub.",
            show_default=False,
        ),
    ],
    text: Annotated[str, typer.Argument(help="What is to be seen.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File of the image: .png, .jpg or .webp.")] = Path(
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
    count: Annotated[int, typer.Option(min=1, help="Images, side by side in the file.")] = 1,
    candidates: Annotated[
        int, typer.Option(min=1, help="ImageArray for each image; --judge chooses the best.")
    ] = 1,
    reranker: Annotated[
        Path | None,
        typer.Option(help="Run of a joint embedding that chooses among the candidates."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="The same seed draws the same image.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=1, help="Make each pixel so many wide; by default so many that 128 are reached."
        ),
    ] = None,
) -> None:
    """Draw an image of a text."""
    if candidates > 1 and reranker is None:
        raise typer.BadParameter(
            "--candidates needs --judge RUN, a joint embedding that chooses among them"
        )
    if out.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"--out {out}: not the name of an image; try {out.stem}.png")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
    given = {name: value for name, value in options.items() if value is not None}
    image_generator: ImageGenerator
    if run.startswith(HUB) or is_pipeline(Path(run)):
        unfit = sorted(set(given) - {"guidance"})
        if unfit:
            raise typer.BadParameter(f"a pipeline of diffusers has no {' and no '.join(unfit)}")
        image_generator = DiffusionGenerator.from_pretrained(run.removeprefix(HUB), device=device)
    else:
        image_generator = _run(run, device)
    turns = getattr(image_generator, "chat_template", None)
    if turns is not None:
        tell_unknown(turns.unknown(text))
    images = generate_best(
        image_generator,
        [text] * count,
        candidates=candidates,
        reranker=open_model(reranker) if reranker is not None else None,
        seed=seed,
        **given,
    )
    scale = scale or -(-LEAST // len(images[0]))
    side = scale * len(images[0])
    sheet = Image.new("RGB", (count * side + (count - 1) * scale, side), "white")
    for i, image in enumerate(images):
        large = Image.fromarray(image).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (i * (side + scale), 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    console.print(f"drawn in {out}", soft_wrap=True)


def _run(run: str, device: torch.device) -> MultimodalTransformer:
    model = open_run(run)
    if not isinstance(model, MultimodalTransformer) or not model.generates_images:
        raise DataError(
            f"{run}: does not draw; train one with recipes/scenes-text-to-image.yaml (model.tasks: [text_to_image])"
        )
    return model.to(device)  # type: ignore[arg-type]
