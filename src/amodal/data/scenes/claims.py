"""What a caption says, in a form that can be checked against any scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from amodal.data.scenes.world import RELATIONS, Object, Scene


@dataclass(frozen=True, slots=True)
class Mention:
    """What a caption says of one object; None where it says nothing."""

    shape: str
    colour: str
    size: str | None = None
    texture: str | None = None
    cell: tuple[str, str] | None = None

    def fits(self, item: Object) -> bool:
        """Whether everything said is true of `item`."""
        return (
            self.shape == item.shape
            and self.colour == item.colour
            and self.size in (None, item.size)
            and self.texture in (None, item.texture)
            and self.cell in (None, item.cell)
        )


@dataclass(frozen=True, slots=True)
class Claims:
    """Everything that a caption says.

    Args:
        mentions: the objects, in the order in which they are named.
        relations: (i, relation, j): mention i stands in that relation to mention j.
        complete: the scene holds no other object.
        background: its colour, where named.
    """

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    complete: bool = True
    background: str | None = None

    def hold_in(self, scene: Scene) -> bool:
        """Whether the objects of `scene` can be matched to the mentions so that all is true."""
        if self.background not in (None, scene.background):
            return False
        found, named = len(scene.objects), len(self.mentions)
        if named > found or (self.complete and named != found):
            return False
        return any(True for _ in self._matches(scene.objects, ()))

    def _matches(self, objects: Sequence[Object], chosen: tuple[int, ...]) -> Iterator[None]:
        k = len(chosen)
        if k == len(self.mentions):
            if all(
                RELATIONS[name](objects[chosen[i]], objects[chosen[j]])
                for i, name, j in self.relations
            ):
                yield None
            return
        for index, item in enumerate(objects):
            if index not in chosen and self.mentions[k].fits(item):
                yield from self._matches(objects, (*chosen, index))

    def mirrored(self) -> Claims:
        """The claims with left and right exchanged."""
        other = {"left": "right", "right": "left", "left_of": "right_of", "right_of": "left_of"}
        return replace(
            self,
            mentions=tuple(
                m
                if m.cell is None
                else replace(m, cell=(m.cell[0], other.get(m.cell[1], m.cell[1])))
                for m in self.mentions
            ),
            relations=tuple((i, other.get(name, name), j) for i, name, j in self.relations),
        )
