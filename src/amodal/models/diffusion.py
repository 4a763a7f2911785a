"""A pretrained text-to-image pipeline of `diffusers`, behind the interface of our own models."""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.models.multimodal_transformer.image_generation import Drawn, row_generators

INDEX = "model_index.json"
HUB = "diffusers:"  # before the name of a pipeline of the hub


class DiffusionGenerator:
    """Draws with any pipeline whose call takes a `prompt`: Stable Diffusion, SDXL, PixArt, Flux, …

    Args:
        pipeline: of `diffusers`, with its weights.
    """

    draws = True

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.known = set(inspect.signature(pipeline.__call__).parameters)
        if "prompt" not in self.known:
            raise ValueError(
                f"{type(pipeline).__name__} takes no text; a pipeline that draws from text is "
                "needed, such as StableDiffusionPipeline"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DiffusionGenerator:
        """Open a folder that `save_pretrained` of a pipeline wrote, or a pipeline of the hub.

        Only safetensors are read, never a pickle, and no code of the pipeline's own is run.

        Args:
            name: folder, or `owner/name` of the hub.
            device: where it draws; None: the GPU if there is one.
            dtype: of the weights; None: float16 on a GPU, else float32.

        Raises:
            ImportError: `diffusers` is not installed.
            ValueError: the folder is no pipeline, or its weights are pickles.
        """
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise ImportError(
                f"drawing by diffusion needs diffusers: pip install 'amodal[diffusion]' ({error})"
            ) from None
        folder = Path(name)
        if folder.is_dir():
            _check(folder)
        place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind = dtype or (torch.float16 if place.type == "cuda" else torch.float32)
        pipeline = DiffusionPipeline.from_pretrained(
            str(name), torch_dtype=kind, use_safetensors=True
        )
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(place))

    @torch.inference_mode()
    def draw(
        self,
        texts: Sequence[str],
        *,
        guidance: float | None = None,
        steps: int | None = None,
        size: int | None = None,
        negative: str | None = None,
        seed: int | None = None,
        batch_size: int = 4,
    ) -> list[Drawn]:
        """An image for each text, (S, S, 3) uint8.

        A text that occurs twice gives two images; the same text, occurrence and seed begin from
        the same noise, whatever else is drawn beside it.

        Args:
            guidance, steps, size, negative: None: what the pipeline does by itself.
            seed: None: another image each time.

        Raises:
            ValueError: the pipeline does not take an argument that was given.
        """
        if isinstance(texts, str):
            raise ValueError("expected a list of texts, got one str")
        options: dict[str, Any] = {
            "guidance_scale": guidance,
            "num_inference_steps": steps,
            "height": size,
            "width": size,
            "negative_prompt": negative,
        }
        options = {name: value for name, value in options.items() if value is not None}
        unknown = sorted(set(options) - self.known)
        if unknown:
            raise ValueError(f"{type(self.pipeline).__name__} does not take {', '.join(unknown)}")
        generators = row_generators(texts, secrets.randbits(63) if seed is None else seed)
        found: list[Drawn] = []
        for start in range(0, len(texts), batch_size):
            part = list(texts[start : start + batch_size])
            given = dict(options)
            if negative is not None:
                given["negative_prompt"] = [negative] * len(part)
            said = self.pipeline(
                prompt=part,
                generator=generators[start : start + batch_size],
                output_type="np",
                **given,
            )
            found += [(255 * image).round().astype(np.uint8) for image in np.asarray(said.images)]
        return found


def is_pipeline(folder: Path) -> bool:
    """Whether a folder holds a pipeline of `diffusers`."""
    return (folder / INDEX).is_file()


def _check(folder: Path) -> None:
    """That a folder is a pipeline, and has weights that are not pickles.

    Raises:
        ValueError: says what is wrong, and how to mend it.
    """
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{folder}: not a pipeline of diffusers, {INDEX} is missing; "
            "`pipeline.save_pretrained(FOLDER)` writes one"
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder / INDEX}: cannot be read: {error}") from None
    if not isinstance(index, dict):
        raise ValueError(f"{folder / INDEX}: expected a mapping of parts, got {index!r:.60}")
    for part in sorted(path for path in folder.iterdir() if path.name in index and path.is_dir()):
        pickles = sorted(p.name for kind in ("*.bin", "*.pt", "*.ckpt") for p in part.glob(kind))
        if pickles and not any(part.glob("*.safetensors")):
            raise ValueError(
                f"{part}: {pickles[0]} is a pickle, which is never loaded; expected "
                "*.safetensors. Where you trust it, open it with diffusers and write it anew with "
                "pipeline.save_pretrained(FOLDER, safe_serialization=True)"
            )
