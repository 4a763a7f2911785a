"""A batch: named tensors per modality, with presence masks."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from hashlib import blake2b

import torch
from torch import Tensor

from amodal.data.record import BrokenRecordError


def key64(text: str) -> int:
    """A signed 64-bit key of `text`, equal on every machine and process."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


@dataclass(frozen=True)
class Batch:
    """B items, each with V_m rows (views, captions) in modality m.

    Rows lie item-major: row b * V_m + v is view v of item b. A row that is not present holds
    zeros, is never encoded and contributes nothing.

    Args:
        tensors: modality -> name -> (B * V_m, ...) tensor, the arguments of the encoder.
        present: modality -> (B, V_m) bool, True where the row is there.
        item: (B,) int64 key of the item's id; equal keys are positives of each other.
        content: modality -> (B, V_m) int64 key of the row's content where equal content means
            equal meaning (captions); rows with equal keys are positives of each other.
        broken: the records that were skipped while the batch was made.
        truncated: modality -> number of rows cut to the encoder's maximum length.
        label: (B,) int64 key of the item's label; an item without one has its own key here. None
            where no record has a label.
        target: (B, ...) what is to be predicted of each item, as the task encodes it, or None.
    """

    tensors: dict[str, dict[str, Tensor]]
    present: dict[str, Tensor]
    item: Tensor
    content: dict[str, Tensor] = field(default_factory=dict)
    broken: tuple[BrokenRecordError, ...] = ()
    truncated: dict[str, int] = field(default_factory=dict)
    label: Tensor | None = None
    target: Tensor | None = None

    def __len__(self) -> int:
        return len(self.item)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with every tensor on `device`."""

        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        return replace(
            self,
            tensors={
                m: {name: move(t) for name, t in named.items()} for m, named in self.tensors.items()
            },
            present={m: move(t) for m, t in self.present.items()},
            item=move(self.item),
            content={m: move(t) for m, t in self.content.items()},
            label=move(self.label) if self.label is not None else None,
            target=move(self.target) if self.target is not None else None,
        )

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, for copies that overlap with work on the GPU."""
        return replace(
            self,
            tensors={
                m: {name: t.pin_memory() for name, t in named.items()}
                for m, named in self.tensors.items()
            },
        )

    def split(self, size: int) -> list[Batch]:
        """The batch as parts of at most `size` items, in order; the first carries the counts."""
        parts = []
        for start in range(0, len(self), size):
            stop = min(start + size, len(self))
            views = {m: mask.shape[1] for m, mask in self.present.items()}
            parts.append(
                Batch(
                    tensors={
                        m: {
                            name: t[start * views[m] : stop * views[m]] for name, t in named.items()
                        }
                        for m, named in self.tensors.items()
                    },
                    present={m: mask[start:stop] for m, mask in self.present.items()},
                    item=self.item[start:stop],
                    content={m: keys[start:stop] for m, keys in self.content.items()},
                    broken=() if start else self.broken,
                    truncated={} if start else self.truncated,
                    label=self.label[start:stop] if self.label is not None else None,
                    target=self.target[start:stop] if self.target is not None else None,
                )
            )
        return parts
