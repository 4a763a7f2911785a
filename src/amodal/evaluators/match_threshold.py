"""The match calibration of a run: fitted on held-out items, kept in its folder, read by search."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import torch
from pydantic import Field, ValidationError
from torch import Tensor

from amodal.data.atomic import write_text
from amodal.data.record import DataError, StrictModel
from amodal.losses.positives import related
from amodal.metrics.match_threshold import MatchCurve, fit_match_curve, score_pairs
from amodal.models.joint_embedding import Embeddings

FILE = "match_threshold.json"
MAX_QUERIES = 5000  # of a direction, evenly spaced


class EmbeddedRows(Protocol):
    """The embeddings of a source, by input."""

    @property
    def rows(self) -> Mapping[str, Embeddings]: ...


class Retrieved(Protocol):
    """The result of an evaluation of retrieval."""

    @property
    def embedded(self) -> EmbeddedRows: ...


class Model(Protocol):
    """A model whose weights have a fingerprint."""

    def fingerprint(self) -> str: ...


class MatchCalibration(StrictModel):
    """`match_threshold.json`: what a score says about a match, for the weights of a run.

    Args:
        fingerprint: of the weights.
        source: name of the held-out source.
        curves: direction of search, such as `text_to_image` -> its curve.
        uncalibrated: direction of search -> why it has no curve.
    """

    format: Literal[1] = 1
    fingerprint: str
    source: str
    curves: dict[str, MatchCurve]
    uncalibrated: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path, fingerprint: str) -> MatchCalibration | None:
        """The calibration of a run folder; None where there is none for these weights.

        Raises:
            DataError: the file is damaged.
        """
        file = folder / FILE
        try:
            found = cls.model_validate_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, UnicodeDecodeError, ValidationError) as error:
            first = str(error).splitlines()[0]
            raise DataError(
                f"{file}: cannot be read ({first}); `amodal evaluate {folder}` writes it anew"
            ) from None
        return found if found.fingerprint == fingerprint else None

    def write(self, folder: Path) -> None:
        """Write the calibration into a run folder."""
        write_text(folder / FILE, self.model_dump_json(indent=1) + "\n")


def keep_match_calibration(
    result: Retrieved, model: Model, source: str, folder: Path
) -> str | None:
    """Calibrate on the rows of an evaluation of retrieval, for a run without a calibration.

    Args:
        result: of held-out items.
        model: that was evaluated.
        source: name of the items.
        folder: of the run.

    Returns:
        A sentence on what was done; None where the run has a calibration of these weights.
    """
    fingerprint = model.fingerprint()
    before = MatchCalibration.read(folder, fingerprint)
    if before is not None and before.curves:
        return None
    calibration = calibrate_matches(result.embedded.rows, fingerprint, source)
    calibration.write(folder)
    if calibration.curves:
        return (
            f"match thresholds of {', '.join(calibration.curves)} were calibrated on {source} and "
            f"are in {FILE}; search uses them, so its items must not have been trained on"
        )
    first = next(iter(calibration.uncalibrated.values()))
    return f"no match threshold could be calibrated on {source}: {first}"


def calibrate_matches(
    rows: Mapping[str, Embeddings], fingerprint: str, source: str
) -> MatchCalibration:
    """Match curves of a joint embedding, from every input to every other.

    A pair matches where both rows belong to one item or have equal content, such as equal
    captions; all other pairs count as wrong, so that the stated precision is a lower bound where
    items resemble each other.

    Args:
        rows: input -> embeddings of held-out items.
        fingerprint: of the weights that made them.
        source: name of the items.

    Examples:
        >>> import torch
        >>> import torch.nn.functional as F
        >>> from amodal.evaluators import calibrate_matches
        >>> from amodal.models.joint_embedding import Embeddings
        >>> generator = torch.Generator().manual_seed(0)
        >>> image = F.normalize(torch.randn(200, 8, generator=generator), dim=1)
        >>> noise = 0.05 * torch.randn(200, 8, generator=generator)
        >>> item = torch.arange(200)
        >>> text = F.normalize(image + noise, dim=1)
        >>> rows = {n: Embeddings(z, item, None) for n, z in (("image", image), ("text", text))}
        >>> curve = calibrate_matches(rows, "weights-1", "test").curves["text_to_image"]
        >>> curve.match(0.99, gallery=200).label, curve.match(0.6, gallery=200).label
        ('likely match', 'weak')
    """
    curves, uncalibrated = {}, {}
    for a in rows:
        for b in rows:
            if a == b:
                continue
            try:
                curves[f"{a}_to_{b}"] = _curve(rows[a], rows[b])
            except ValueError as error:
                uncalibrated[f"{a}_to_{b}"] = str(error)
    return MatchCalibration(
        fingerprint=fingerprint, source=source, curves=curves, uncalibrated=uncalibrated
    )


def _curve(queries: Embeddings, gallery: Embeddings) -> MatchCurve:
    chosen = torch.linspace(0, len(queries.z) - 1, min(len(queries.z), MAX_QUERIES)).long()
    item = queries.item[chosen]
    content = queries.content[chosen] if queries.content is not None else None
    sides = (queries, gallery)
    owners = [(side.item, side.content) for side in sides if side.content is not None]

    def matches(part: slice) -> Tensor:
        own = content[part] if content is not None else None
        return related(item[part], gallery.item, own, gallery.content, owners)

    return fit_match_curve(score_pairs(queries.z[chosen], gallery.z, item, gallery.item, matches))
