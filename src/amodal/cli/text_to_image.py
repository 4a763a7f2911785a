"""`amodal draw`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from amodal.cli.console import console, note_unknown_words
from amodal.models.run_location import PIPELINE, is_pipeline
from amodal.training.kinds import kind_of_run, open_run

if TYPE_CHECKING:
    import torch

    from amodal.models.multimodal_transformer.image_generation import ImageGenerator
    from amodal.models.multimodal_transformer.model import MultimodalTransformer

LEAST = 128  # pixels: an image of fewer is enlarged in the file


def draw(
    run: Annotated[
        str,
        typer.Argument(
            help="Run folder of a recipe with tasks: [text_to_image]; folder of a diffusers "
            "pipeline, or diffusers:OWNER/NAME of the Hugging Face hub.",
            show_default=False,
        ),
    ],
    text: Annotated[str, typer.Argument(help="Description of the image.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Image file: .png, .jpg or .webp.")] = Path("drawn.png"),
    guidance: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Classifier-free guidance scale; 1 is none. By default 1.5 for a run, and a "
            "pipeline's own.",
            show_default=False,
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="Sampling temperature, 0.7 by default; 0 takes the most likely code.",
            show_default=False,
        ),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, help="Sample from the K most likely codes only.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Images, side by side in the file.")] = 1,
    candidates: Annotated[
        int,
        typer.Option(min=1, help="Images generated for each that is kept, by --reranker."),
    ] = 1,
    reranker: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Joint embedding that chooses among the candidates."),
    ] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Random seed; the same seed gives the same image.")
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Enlarge each pixel to N by N; by default until the image is 128 pixels wide.",
        ),
    ] = None,
) -> None:
    """Generate an image from a text."""
    if candidates > 1 and reranker is None:
        raise typer.BadParameter(
            "--candidates needs --reranker RUN, a joint embedding that chooses among them"
        )
    for place in (None if is_pipeline(run) else run, reranker):
        if place is not None:
            kind_of_run(place)  # a mistyped run is answered before the slow imports
    import torch
    from PIL import Image

    from amodal.cli.search import open_model
    from amodal.models.diffusion import DiffusionGenerator
    from amodal.models.multimodal_transformer.image_generation import generate_best

    if out.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"--out {out}: not an image file name; try {out.stem}.png")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    options = {"guidance": guidance, "temperature": temperature, "top_k": top_k}
    given = {name: value for name, value in options.items() if value is not None}
    generator: ImageGenerator
    if is_pipeline(run):
        unknown = sorted(set(given) - {"guidance"})
        if unknown:
            raise typer.BadParameter(f"a diffusers pipeline has no {' and no '.join(unknown)}")
        generator = DiffusionGenerator.from_pretrained(run.removeprefix(PIPELINE), device=device)
    else:
        generator = _run(run, device)
    template = getattr(generator, "chat_template", None)
    if template is not None:
        note_unknown_words(template.unknown(text))
    images = generate_best(
        generator,
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
    console.print(f"the image is in {out}", soft_wrap=True)


def _run(run: str, device: torch.device) -> MultimodalTransformer:
    from amodal.data.record import DataError

    model = open_run(run, "multimodal_transformer")
    if not model.generates_images:
        raise DataError(
            f"{run}: does not generate images; train the recipe scenes-text-to-image, or another "
            "with model.tasks: [text_to_image]"
        )
    return model.to(device)  # type: ignore[arg-type]
