"""Adapter of pretrained `diffusers` text-to-image pipelines to the interface of our models."""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from amodal.models.multimodal_transformer.image_generation import ImageArray, row_generators

INDEX = "model_index.json"
HUB = "diffusers:"  # prefix of the name of a pipeline on the hub


class DiffusionGenerator:
    """Text-to-image generation by any pipeline that takes a `prompt`: Stable Diffusion, Flux, …

    Args:
        pipeline: of `diffusers`, with its weights.

    Raises:
        ValueError: the pipeline takes no prompt.

    Examples:
        >>> from types import SimpleNamespace
        >>> class Pipeline:  # stands for a StableDiffusionPipeline
        ...     def __call__(self, prompt, generator, output_type):
        ...         return SimpleNamespace(images=np.zeros((len(prompt), 8, 8, 3)))
        >>> (image,) = DiffusionGenerator(Pipeline()).generate_images(["a red star"], seed=0)
        >>> image.shape, image.dtype
        ((8, 8, 3), dtype('uint8'))
    """

    generates_images = True

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline
        self.parameters = set(inspect.signature(pipeline.__call__).parameters)
        if "prompt" not in self.parameters:
            raise ValueError(
                f"{type(pipeline).__name__} takes no prompt; expected a text-to-image pipeline, "
                "such as StableDiffusionPipeline"
            )

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> DiffusionGenerator:
        """A pipeline from a folder written by its `save_pretrained`, or from the hub.

        Only safetensors are loaded, never pickles, and no code of the pipeline is executed.

        Args:
            name: folder, or `owner/name` on the hub.
            device: None: the GPU if there is one.
            dtype: of the weights; None: float16 on a GPU, else float32.

        Raises:
            ImportError: `diffusers` is not installed.
            ValueError: the folder is not a pipeline, or its weights are pickles.
        """
        try:
            from diffusers import DiffusionPipeline
        except ImportError as error:
            raise ImportError(
                "image generation by diffusion needs diffusers: "
                f"pip install 'amodal[diffusion]' ({error})"
            ) from None
        folder = Path(name)
        if folder.is_dir():
            _check(folder)
        target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        weight_type = dtype or (torch.float16 if target.type == "cuda" else torch.float32)
        pipeline = DiffusionPipeline.from_pretrained(
            str(name), torch_dtype=weight_type, use_safetensors=True
        )
        pipeline.set_progress_bar_config(disable=True)
        return cls(pipeline.to(target))

    @torch.inference_mode()
    def generate_images(
        self,
        texts: Sequence[str],
        *,
        guidance: float | None = None,
        steps: int | None = None,
        size: int | None = None,
        negative: str | None = None,
        seed: int | None = None,
        batch_size: int = 4,
    ) -> list[ImageArray]:
        """A generated image for each text, (S, S, 3) uint8.

        A text that occurs twice gives two images. The same text, occurrence and seed begin from
        the same noise whatever the other texts are.

        Args:
            texts: prompts.
            guidance: scale of classifier-free guidance.
            steps: of the sampler.
            size: S, in pixels.
            negative: negative prompt. All four: None is the pipeline's default.
            seed: None: another image each time.
            batch_size: images generated at once.

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
        unknown = sorted(set(options) - self.parameters)
        if unknown:
            raise ValueError(f"{type(self.pipeline).__name__} does not take {', '.join(unknown)}")
        generators = row_generators(texts, secrets.randbits(63) if seed is None else seed)
        images: list[ImageArray] = []
        for start in range(0, len(texts), batch_size):
            chunk = list(texts[start : start + batch_size])
            if negative is not None:
                options["negative_prompt"] = [negative] * len(chunk)
            output = self.pipeline(
                prompt=chunk,
                generator=generators[start : start + batch_size],
                output_type="np",
                **options,
            )
            images += [(255 * x).round().astype(np.uint8) for x in np.asarray(output.images)]
        return images


def is_pipeline(folder: Path) -> bool:
    """Whether a folder is a pipeline of `diffusers`."""
    return (folder / INDEX).is_file()


def _check(folder: Path) -> None:
    """Check that a folder is a pipeline whose weights are safetensors.

    Raises:
        ValueError: with the file, what was expected, and how to fix it.
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
                "*.safetensors. If you trust it, convert it with diffusers: "
                "pipeline.save_pretrained(FOLDER, safe_serialization=True)"
            )
