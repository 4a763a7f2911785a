"""Columns of a table as tokens: numbers, categories, and what is missing among them."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from amodal.encoders.config import EncoderConfig, LayerGroups, PoolingName

FARTHEST = 1e4  # standard deviations
Row = tuple[tuple[float | None, ...], tuple[str | None, ...]]  # numbers and categories


class TabularConfig(EncoderConfig):
    """Which columns are read, and how wide their tokens are."""

    type: Literal["columns"] = "columns"
    kind: Literal["columns"] = "columns"
    numerical: tuple[str, ...] = ()  # columns of numbers
    categorical: tuple[str, ...] = ()  # columns of categories
    width: int = Field(64, ge=1)  # of a token, one for each column
    layers: int = Field(1, ge=0)  # Transformer layers over the tokens
    heads: int = Field(4, ge=1)  # of attention; they divide the width
    dropout: float = Field(0.0, ge=0, lt=1)  # of the Transformer layers
    cardinalities: tuple[int, ...] = ()  # values per category column, from the training rows

    @model_validator(mode="after")
    def _columns_are_named(self) -> TabularConfig:
        named = [*self.numerical, *self.categorical]
        if not named or len(set(named)) < len(named):
            raise ValueError(f"name each column once in numbers or categories, got {named}")
        if self.layers and self.width % self.heads:
            raise ValueError(f"width {self.width} does not divide by {self.heads} heads")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (*self.numerical, *self.categorical)

    def build(self, pretrained: bool = True) -> TabularEncoder:
        """The encoder with random weights; there are no pretrained ones."""
        return TabularEncoder(self)

    def preprocessor(self, records: Iterable[Mapping[str, Any]]) -> TabularPreprocessor:
        """The preprocessor of the columns, fitted on training records."""
        return TabularPreprocessor.fit(self.numerical, self.categorical, records)

    def for_preprocessor(self, prepare: TabularPreprocessor) -> TabularConfig:
        """The same with the number of values that each category column has."""
        return self.model_copy(
            update={"cardinalities": tuple(len(v) for v in prepare.vocabularies)}
        )


class TabularPreprocessor:
    """Reads columns of records, and makes tensors of what it read.

    Args:
        numerical: names of columns with numbers.
        categorical: names of columns with words.
        mean, std: of each number column, over the training rows.
        vocabularies: known values of each category column; any other counts as one more. A whole
            number is the same category with and without a decimal point, as a gap in a column adds
            one.

    Examples:
        >>> from amodal.encoders import TabularPreprocessor
        >>> records = [{"age": 30, "city": "Bern"}, {"age": 50, "city": "Ulm"}, {"city": "Bern"}]
        >>> prepare = TabularPreprocessor.fit(["age"], ["city"], records)
        >>> tensors = prepare([prepare.read(record) for record in records])
        >>> tensors["numbers"].tolist(), tensors["categories"].tolist()
        ([[-1.0], [1.0], [nan]], [[2], [3], [2]])
    """

    FILE = "columns_config.json"

    def __init__(
        self,
        numerical: Sequence[str],
        categorical: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        vocabularies: Sequence[Sequence[str]],
    ) -> None:
        self.numerical, self.categorical = tuple(numerical), tuple(categorical)
        self.mean, self.std = tuple(mean), tuple(std)
        self.vocabularies = tuple(tuple(names) for names in vocabularies)
        self._place = [{name: i for i, name in enumerate(names)} for names in self.vocabularies]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (*self.numerical, *self.categorical)

    @classmethod
    def fit(
        cls,
        numerical: Sequence[str],
        categorical: Sequence[str],
        records: Iterable[Mapping[str, Any]],
    ) -> TabularPreprocessor:
        """With means, standard deviations and values of training records, without unreadable cells.

        Raises:
            ValueError: no record has one of the columns; the nearest is named.
        """
        reader = cls(numerical, categorical, (), (), ())
        columns: set[str] = set()
        seen_numbers: list[list[float]] = [[] for _ in numerical]
        seen_names: list[set[str]] = [set() for _ in categorical]
        for record in records:
            columns.update(record)
            try:
                row = reader.read(record)
            except ValueError:
                continue  # reported when training draws the row
            if row is None:
                continue
            for values, number in zip(seen_numbers, row[0], strict=True):
                if number is not None:
                    values.append(number)
            for names, name in zip(seen_names, row[1], strict=True):
                if name is not None:
                    names.add(name)
        for column in (*numerical, *categorical):
            if column not in columns:
                spelled = [other for other in columns if other.lower() == column.lower()]
                near = spelled or difflib.get_close_matches(column, columns, n=1, cutoff=0.4)
                hint = f"; the nearest is {near[0]!r}" if near else ""
                there = ", ".join(map(repr, sorted(columns - {"origin"})))
                raise ValueError(f"no record has a column {column!r}, they have {there}{hint}")
        means, stds = [], []
        for values in seen_numbers:
            x = torch.tensor(values, dtype=torch.float64)
            deviation = float(x.std(correction=0)) if len(x) else 0.0
            mean = float(x.mean()) if len(x) else 0.0
            means.append(mean)
            # What is left of a constant column is rounding.
            stds.append(deviation if deviation > 1e-9 * (1 + abs(mean)) else 1.0)
        return cls(numerical, categorical, means, stds, [sorted(n) for n in seen_names])

    def read(self, record: Mapping[str, Any]) -> Row | None:
        """The cells of one record, None where one is empty; None where all are.

        Raises:
            ValueError: a cell of a number column that is no number.
        """
        numbers = tuple(_number(column, record.get(column)) for column in self.numerical)
        categories = tuple(category_name(record.get(column)) for column in self.categorical)
        if all(cell is None for cell in (*numbers, *categories)):
            return None
        return numbers, categories

    def __call__(self, values: list[Row]) -> dict[str, Tensor]:
        """`numbers` (B, P) float32 of mean 0, NaN where missing; `categories` (B, Q) int64.

        Numbers farther than 10,000 standard deviations from the mean are put there, so that one
        mistyped cell cannot blow up a step.

        Category 0 is a missing cell, 1 a value that no training row had.
        """
        mean = torch.tensor(self.mean, dtype=torch.float64)
        deviation = torch.tensor(self.std, dtype=torch.float64)
        numbers = torch.tensor(
            [[math.nan if x is None else x for x in row[0]] for row in values],
            dtype=torch.float64,
        ).view(len(values), len(self.numerical))
        places = [
            [
                0 if name is None else 2 + place.get(name, -1)
                for place, name in zip(self._place, row[1], strict=True)
            ]
            for row in values
        ]
        return {
            "numbers": ((numbers - mean) / deviation).clamp(-FARTHEST, FARTHEST).float(),
            "categories": torch.tensor(places, dtype=torch.int64).view(
                len(values), len(self.categorical)
            ),
        }

    def save(self, folder: str | Path) -> None:
        """Write `columns_config.json`."""
        path = Path(folder)
        path.mkdir(parents=True, exist_ok=True)
        values = {
            "numerical": self.numerical,
            "categorical": self.categorical,
            "mean": self.mean,
            "std": self.std,
            "vocabularies": self.vocabularies,
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        (path / self.FILE).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, folder: str | Path) -> TabularPreprocessor:
        """Read what `save` has written."""
        return cls(**json.loads((Path(folder) / cls.FILE).read_text(encoding="utf-8")))


class TabularEncoder(nn.Module):
    """One token per column: x_j w_j + b_j for a number, a learned vector for a category or a gap.

    Examples:
        >>> from amodal.encoders import TabularConfig
        >>> config = TabularConfig(numerical=("age",), categorical=("city",), width=8, heads=2)
        >>> prepare = config.preprocessor([{"age": 30, "city": "Bern"}, {"age": 50, "city": "Ulm"}])
        >>> encoder = config.for_preprocessor(prepare).build()
        >>> tokens, _ = encoder(**prepare([prepare.read({"city": "Ulm"})]))
        >>> tokens.shape  # one token per column, the missing one included
        torch.Size([1, 2, 8])

    References:
        Gorishniy et al. 2021, arXiv:2106.11959, section 3.3 (feature tokenizer and Transformer).
    """

    pooling: PoolingName = "attention"

    def __init__(self, config: TabularConfig) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        count = len(config.numerical)
        scale = config.width**-0.5
        self.number_weight = nn.Parameter(scale * torch.randn(count, config.width))
        self.number_bias = nn.Parameter(scale * torch.randn(count, config.width))
        self.number_missing = nn.Parameter(scale * torch.randn(count, config.width))
        cardinalities = config.cardinalities or (0,) * len(config.categorical)
        self.category = nn.ModuleList(nn.Embedding(2 + n, config.width) for n in cardinalities)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                config.width,
                config.heads,
                dim_feedforward=4 * config.width,
                dropout=config.dropout,
                activation="gelu",
                batch_first=True,
                norm_first=True,
            )
            for _ in range(config.layers)
        )

    def forward(self, numbers: Tensor, categories: Tensor) -> tuple[Tensor, None]:
        """(B, P) float, NaN where missing, and (B, Q) int64 → tokens (B, P + Q, D)."""
        missing = numbers.isnan()
        known = numbers.masked_fill(missing, 0)[..., None] * self.number_weight + self.number_bias
        tokens = [torch.where(missing[..., None], self.number_missing, known)]
        tokens += [table(categories[:, j])[:, None] for j, table in enumerate(self.category)]
        x = torch.cat([t.to(tokens[0].dtype) for t in tokens], dim=1)
        for layer in self.layers:
            x = layer(x)
        return x, None

    def layer_groups(self) -> LayerGroups:
        """The tokenizer, then the layers: what `freeze: n` counts."""
        stem: list[nn.Module | nn.Parameter] = [
            self.number_weight,
            self.number_bias,
            self.number_missing,
            self.category,
        ]
        return [stem, *[[layer] for layer in self.layers]]


def category_name(value: Any) -> str | None:
    """A cell as the name of a category; None where it is empty.

    Examples:
        >>> from amodal.encoders.tabular import category_name
        >>> [category_name(value) for value in (8001, 8001.0, "8001.0", "v1.0", " ", None)]
        ['8001', '8001', '8001', 'v1.0', None, None]
    """
    if _is_empty(value):
        return None
    name = str(value)
    whole, point, zeros = name.partition(".")
    is_whole = point and set(zeros) == {"0"} and whole.removeprefix("-").isdecimal()
    return whole if is_whole else name


def _is_empty(value: Any) -> bool:
    if isinstance(value, float) and math.isnan(value):
        return True  # an empty cell of a column of floats
    return value is None or (isinstance(value, str) and not value.strip())


def _number(column: str, value: Any) -> float | None:
    if _is_empty(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"column {column!r} contains {value!r:.40}, expected a number") from None
    if math.isnan(number):
        return None
    if math.isinf(number):
        raise ValueError(f"column {column!r} contains {value!r:.40}, expected a finite number")
    return number
