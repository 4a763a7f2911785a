"""Claims of a caption in a form that can be checked against any scene."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from amodal.data.scenes.world import RELATIONS, Object, Scene


@dataclass(frozen=True, slots=True)
class Mention:
    """Attributes of one object as stated by a caption; None where unstated."""

    shape: str
    colour: str
    size: str | None = None
    texture: str | None = None
    cell: tuple[str, str] | None = None

    def fits(self, item: Object) -> bool:
        """Whether all stated attributes are those of `item`."""
        return (
            self.shape == item.shape
            and self.colour == item.colour
            and self.size in (None, item.size)
            and self.texture in (None, item.texture)
            and self.cell in (None, item.cell)
        )


@dataclass(frozen=True, slots=True)
class Claims:
    """All claims of a caption.

    Args:
        mentions: the objects in the order of the text.
        relations: (i, relation, j): the relation holds from mention i to mention j.
        complete: the scene has no other object.
        background: its colour, None where unstated.

    Examples:
        >>> scene = Scene((Object("star", "red", "small", "solid", 0.5, 0.5),))
        >>> Claims((Mention("star", "red"),)).hold_in(scene)
        True
        >>> Claims((Mention("star", "blue"),)).hold_in(scene)
        False
    """

    mentions: tuple[Mention, ...]
    relations: tuple[tuple[int, str, int], ...] = ()
    complete: bool = True
    background: str | None = None

    def hold_in(self, scene: Scene) -> bool:
        """Whether some assignment of objects to mentions makes all claims true."""
        if self.background not in (None, scene.background):
            return False
        objects, mentions = len(scene.objects), len(self.mentions)
        if mentions > objects or (self.complete and mentions != objects):
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
        """The claims about the mirrored scene: left and right swapped."""
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
