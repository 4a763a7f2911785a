"""English and Chinese wordings of questions about scenes."""

from __future__ import annotations

from amodal.data.scenes import chinese, english
from amodal.data.scenes.programs import (
    CELLS,
    Attribute,
    Compare,
    CompareSize,
    Count,
    Description,
    Exists,
    Program,
    Query,
    Relate,
)
from amodal.data.scenes.world import Draw

_THINGS = ("thing", "object")
_ENGLISH_QUERIES: dict[Attribute, tuple[str, ...]] = {
    "colour": (
        "what colour is {x}?",
        "what is the colour of {x}?",
        "which colour does {x} have?",
    ),
    "shape": ("what shape is {x}?", "what is the shape of {x}?", "which shape does {x} have?"),
    "size": ("what size is {x}?", "how large is {x}?", "how big is {x}?"),
    "texture": (
        "what texture does {x} have?",
        "what is the texture of {x}?",
        "is {x} solid, striped or dotted?",
    ),
    "cell": (
        "where is {x}?",
        "in which part of the picture is {x}?",
        "where in the picture is {x}?",
    ),
}
_CHINESE_QUERIES: dict[Attribute, tuple[str, ...]] = {
    "colour": ("{x}是什么颜色？", "{x}的颜色是什么？"),
    "shape": ("{x}是什么形状？", "{x}的形状是什么？"),
    "size": ("{x}有多大？", "{x}是大、中还是小？"),
    "texture": ("{x}是什么花纹？", "{x}的花纹是什么？"),
    "cell": ("{x}在哪里？", "{x}在画面的什么位置？"),
}
# "没有花纹的", the wording of captions, is ambiguous after "有没有".
_CHINESE_TEXTURES = {**chinese.WITH_TEXTURE, "solid": "纯色的"}
_CHINESE_SIZES = {"small": "小", "medium": "中号", "large": "大"}
# Chinese answers; numbers are digits in both languages.
CHINESE_ANSWERS: dict[str, str] = {
    "yes": "是",
    "no": "否",
    **chinese.COLOURS,
    **{shape: words[0] for shape, words in chinese.SHAPES.items()},
    "small": "小",
    "medium": "中",
    "large": "大",
    **chinese.TEXTURES,
    **{name: chinese.CELLS[cell][0] for cell, name in CELLS.items()},
}


def ask_in_english(program: Program, draw: Draw) -> str:
    """The question in one of several wordings."""
    forms: tuple[str, ...]
    match program:
        case Exists(target):
            a = indefinite(target, draw)
            place = " in the picture" if target.anchor is None else ""
            forms = (f"is there {a}?", f"is there {a}{place}?", f"can you see {a}?")
        case Count(target):
            head, tail = _plural(target, draw), _tail(target, draw)
            if tail:
                forms = (
                    f"how many {head} are {tail}?",
                    f"how many {head} can you see {tail}?",
                    f"what is the number of {head} {tail}?",
                )
            else:
                forms = (
                    f"how many {head} are there?",
                    f"how many {head} can you see?",
                    f"what is the number of {head}?",
                )
        case Compare("equal", left, right):
            noun = draw.choice(_THINGS)
            xs, ys = _plural(left, draw, noun), _plural(right, draw, noun)
            forms = (
                f"are there as many {xs} as {ys}?",
                f"are there exactly as many {xs} as {ys}?",
                f"is the number of {xs} equal to the number of {ys}?",
            )
        case Compare(how, left, right):
            noun = draw.choice(_THINGS)
            xs, ys = _plural(left, draw, noun), _plural(right, draw, noun)
            forms = (
                f"are there {how} {xs} than {ys}?",
                f"can you see {how} {xs} than {ys}?",
                f"does the picture show {how} {xs} than {ys}?",
            )
        case CompareSize(how, left, right):
            x, y = definite(left, draw), definite(right, draw)
            word = draw.choice(("larger", "bigger")) if how == "larger" else "smaller"
            forms = (
                f"is {x} {word} than {y}?",
                f"compared with {y}, is {x} {word}?",
                f"is {x} the {word} one, compared with {y}?",
            )
        case Relate(relation, left, right):
            x, y = definite(left, draw), definite(right, draw)
            link = draw.choice(english.RELATIONS[relation])
            forms = (
                f"is {x} {link} {y}?",
                f"can {x} be seen {link} {y}?",
                f"does {x} lie {link} {y}?",
            )
        case Query(attribute, target):
            x = definite(target, draw)
            forms = tuple(form.format(x=x) for form in _ENGLISH_QUERIES[attribute])
    return draw.choice(forms)


def definite(description: Description, draw: Draw) -> str:
    """ "the large star", "the thing above the red circle"."""
    return f"the {_words(description, draw)} {_tail(description, draw)}".rstrip()


def indefinite(description: Description, draw: Draw) -> str:
    """ "a large star", "an orange thing above the red circle"."""
    words = _words(description, draw)
    article = "an" if words[0] in "aeiou" else "a"
    return f"{article} {words} {_tail(description, draw)}".rstrip()


def _words(description: Description, draw: Draw, noun: str | None = None) -> str:
    words = []
    if description.size is not None:
        words.append(draw.choice(english.SIZES[description.size]))
    if description.texture is not None:
        words.append(draw.choice(english.TEXTURES[description.texture]))
    if description.colour is not None:
        words.append(description.colour)
    if description.shape is None:
        words.append(draw.choice(_THINGS) if noun is None else noun)
    else:
        words.append(draw.choice(english.SHAPES[description.shape]))
    return " ".join(words)


def _plural(description: Description, draw: Draw, noun: str | None = None) -> str:
    words = _words(description, draw, noun)
    return words + ("es" if words.endswith("s") else "s")


def _tail(description: Description, draw: Draw) -> str:
    parts = []
    if description.cell is not None:
        parts.append(draw.choice(english.CELLS[description.cell]))
    if description.relation is not None and description.anchor is not None:
        link = draw.choice(english.RELATIONS[description.relation])
        parts.append(f"{link} {definite(description.anchor, draw)}")
    return " ".join(parts)


def ask_in_chinese(program: Program, draw: Draw) -> str:
    """The question in one of several wordings."""
    forms: tuple[str, ...]
    match program:
        case Exists(target):
            x = _chinese(target, draw)
            forms = (f"图中有{x}吗？", f"有没有{x}？", f"画面里有{x}吗？")
        case Count(target):
            x = _chinese(target, draw)
            forms = (f"{x}有几个？", f"{x}的数量是多少？", f"一共有几个{x}？")
        case Compare("equal", left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            forms = (f"{x}和{y}一样多吗？", f"{x}的数量等于{y}的数量吗？")
        case Compare(how, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            word = "多" if how == "more" else "少"
            forms = (f"{x}比{y}{word}吗？", f"图中的{x}是不是比{y}{word}？")
        case CompareSize(how, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            word = "大" if how == "larger" else "小"
            forms = (f"{x}比{y}{word}吗？", f"{x}是不是比{y}{word}？")
        case Relate(relation, left, right):
            x, y = _chinese(left, draw), _chinese(right, draw)
            side = draw.choice(chinese.RELATIONS[relation])
            forms = (f"{x}在{y}的{side}吗？", f"{x}是不是在{y}的{side}？")
        case Query(attribute, target):
            x = _chinese(target, draw)
            forms = tuple(form.format(x=x) for form in _CHINESE_QUERIES[attribute])
    return draw.choice(forms)


def _chinese(description: Description, draw: Draw) -> str:
    place = ""
    if description.relation is not None and description.anchor is not None:
        side = draw.choice(chinese.RELATIONS[description.relation])
        place = f"{_chinese(description.anchor, draw)}{side}的"
    if description.cell is not None:
        place += f"{draw.choice(chinese.CELLS[description.cell])}的"
    texture = "" if description.texture is None else _CHINESE_TEXTURES[description.texture]
    size = "" if description.size is None else _CHINESE_SIZES[description.size]
    colour = "" if description.colour is None else chinese.COLOURS[description.colour]
    noun = "图形" if description.shape is None else draw.choice(chinese.SHAPES[description.shape])
    return f"{place}{texture}{colour}{size}{noun}"
