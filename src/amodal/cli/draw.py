"""`amodal draw`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from PIL import Image

from amodal.cli.console import console
from amodal.data.record import DataError
from amodal.models.drawing import best_matches
from amodal.models.joint_embedding import JointEmbedding
from amodal.models.multimodal_transformer import MultimodalTransformer
from amodal.models.opening import open_run


def draw(
    run: Annotated[
        Path, typer.Argument(help="Run folder of a recipe with tasks: [draw].", show_default=False)
    ],
    text: Annotated[str, typer.Argument(help="What is to be seen.", show_default=False)],
    out: Annotated[Path, typer.Option(help="File of the picture: .png, .jpg or .webp.")] = Path(
        "drawn.png"
    ),
    guidance: Annotated[
        float, typer.Option(min=0, help="How closely to follow the text; 1 is no guidance.")
    ] = 3.0,
    temperature: Annotated[
        float, typer.Option(min=0, help="How freely to draw; 0 takes what is likeliest.")
    ] = 1.0,
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
    scale: Annotated[int, typer.Option(min=1, help="Make each pixel so many pixels wide.")] = 4,
) -> None:
    """Draw a picture of a text."""
    if candidates > 1 and judge is None:
        raise typer.BadParameter(
            "--candidates needs --judge RUN, a joint embedding that chooses among them"
        )
    if out.suffix.lower() not in Image.registered_extensions():
        raise typer.BadParameter(f"--out {out}: not the name of a picture; try {out.stem}.png")
    model = open_run(run)
    if not isinstance(model, MultimodalTransformer) or not model.draws:
        raise DataError(
            f"{run}: does not draw; train one with recipes/scenes-draw.yaml (model.tasks: [draw])"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)  # type: ignore[arg-type]
    pictures = model.draw(
        [text] * (count * candidates),
        guidance=guidance,
        temperature=temperature,
        top_k=top_k,
        seed=seed,
    )
    if judge is not None:
        groups = [pictures[i : i + candidates] for i in range(0, len(pictures), candidates)]
        best = best_matches(_judge(judge, device), [text] * count, groups)
        pictures = [group[i] for group, i in zip(groups, best, strict=True)]
    side = scale * len(pictures[0])
    sheet = Image.new("RGB", (count * side + (count - 1) * scale, side), "white")
    for i, picture in enumerate(pictures):
        large = Image.fromarray(picture).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(large, (i * (side + scale), 0))
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(out)
    console.print(f"drawn in {out}", soft_wrap=True)


def _judge(run: Path, device: torch.device) -> JointEmbedding:
    model = open_run(run)
    if not isinstance(model, JointEmbedding):
        raise DataError(
            f"{run}: holds a {type(model).__name__}; --judge needs a run of a joint embedding"
        )
    return model.to(device)  # type: ignore[arg-type]
