"""English realisation of the claims of a caption."""

from __future__ import annotations

from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.world import Draw

SHAPES = {
    "circle": ("circle",),
    "square": ("square",),
    "triangle": ("triangle",),
    "star": ("star",),
    "diamond": ("diamond",),
    "pentagon": ("pentagon",),
    "cross": ("cross",),
    "heart": ("heart",),
    "ring": ("ring",),
    "semicircle": ("semicircle", "half circle"),
}
SIZES = {
    "small": ("small", "little"),
    "medium": ("medium", "medium-sized"),
    "large": ("large", "big"),
}
TEXTURES = {
    "solid": ("solid", "plain"),
    "striped": ("striped",),
    "dotted": ("dotted", "spotted"),
}
WITH_TEXTURE = {"striped": "with stripes", "dotted": "with dots"}
CELLS = {
    ("top", "left"): ("at the top left", "in the top left corner"),
    ("top", "centre"): ("at the top centre", "in the top middle"),
    ("top", "right"): ("at the top right", "in the top right corner"),
    ("centre", "left"): ("at the centre left", "in the middle left"),
    ("centre", "centre"): ("in the centre", "in the middle"),
    ("centre", "right"): ("at the centre right", "in the middle right"),
    ("bottom", "left"): ("at the bottom left", "in the bottom left corner"),
    ("bottom", "centre"): ("at the bottom centre", "in the bottom middle"),
    ("bottom", "right"): ("at the bottom right", "in the bottom right corner"),
}
RELATIONS = {
    "left_of": ("to the left of", "left of"),
    "right_of": ("to the right of", "right of"),
    "above": ("above",),
    "below": ("below", "under"),
}
BACKGROUNDS = {"white": "white", "grey": "grey", "beige": "beige"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_OPENINGS = ("There is ", "The picture shows ", "We see ", "A picture of ", "")


def realise(claims: Claims, draw: Draw) -> str:
    """The claims as one or more sentences."""
    mentions = claims.mentions
    related = {i: (name, j) for i, name, j in claims.relations}
    nouns = [_noun_phrase(m, draw) for m in mentions]
    places = [draw.choice(CELLS[m.cell]) if m.cell is not None else "" for m in mentions]
    links = {i: (draw.choice(RELATIONS[name]), j) for i, (name, j) in related.items()}
    background = f" on a {BACKGROUNDS[claims.background]} background" if claims.background else ""
    all_placed = all(places)
    if related:
        text = _chain(nouns, places, links, background, draw)
    elif all_placed and draw.random() < 0.35:
        text = _places_first(nouns, places, background, draw)
    else:
        text = _list(nouns, places, background, draw)
    return text


def _noun_phrase(mention: Mention, draw: Draw) -> str:
    words: list[str] = []
    tail = ""
    if mention.size is not None:
        words.append(draw.choice(SIZES[mention.size]))
    if mention.texture is not None:
        if mention.texture in WITH_TEXTURE and draw.random() < 0.3:
            tail = " " + WITH_TEXTURE[mention.texture]
        else:
            words.append(draw.choice(TEXTURES[mention.texture]))
    words.append(mention.colour)
    if len(words) == 3 and draw.random() < 0.2:  # "a large red striped star"
        words[1], words[2] = words[2], words[1]
    words.append(draw.choice(SHAPES[mention.shape]))
    return f"{_article(words[0])} {' '.join(words)}{tail}"


def _article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def _list(nouns: list[str], places: list[str], background: str, draw: Draw) -> str:
    parts = [f"{noun} {place}".rstrip() for noun, place in zip(nouns, places, strict=True)]
    if draw.random() < 0.2:
        number = NUMBERS[len(nouns)]
        thing = draw.choice(("object", "shape")) + ("s" if len(nouns) > 1 else "")
        return f"{number.capitalize()} {thing}{background}: {_enumerate(parts)}."
    opening = draw.choice(_OPENINGS)
    ending = f",{background}" if background and len(nouns) > 1 else background
    return _sentence(f"{opening}{_enumerate(parts)}{ending}")


def _places_first(nouns: list[str], places: list[str], background: str, draw: Draw) -> str:
    verb = draw.choice((" is ", " there is "))
    parts = [f"{place}{verb}{noun}" for noun, place in zip(nouns, places, strict=True)]
    text = _sentence(", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else parts[0])
    return text + (f" Everything is{background}." if background else "")


def _chain(
    nouns: list[str],
    places: list[str],
    links: dict[int, tuple[str, int]],
    background: str,
    draw: Draw,
) -> str:
    first = f"{nouns[0]} {places[0]}".rstrip()
    if len(nouns) == 2 and draw.random() < 0.4:
        text = _sentence(f"{nouns[1]} is {links[1][0]} {first}")
        return text + (f" Everything is{background}." if background else "")
    sentences = [_sentence(f"{draw.choice(_OPENINGS)}{first}")]
    for k, noun in enumerate(nouns[1:], start=1):
        if k in links:  # "it" is the object named last
            relation, _ = links[k]
            forms = (
                f"{relation} it is {noun}",
                f"{relation} it there is {noun}",
                f"{noun} is {relation} it",
            )
            sentences.append(_sentence(draw.choice(forms)))
        else:
            sentences.append(_sentence(f"there is also {noun} {places[k]}".rstrip()))
    text = " ".join(sentences)
    return text + (f" Everything is{background}." if background else "")


def _enumerate(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _sentence(text: str) -> str:
    text = text[0].upper() + text[1:]
    return text if text.endswith(".") else text + "."
