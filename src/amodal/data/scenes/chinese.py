"""Chinese realisation of the claims of a caption."""

from __future__ import annotations

from amodal.data.scenes.claims import Claims, Mention
from amodal.data.scenes.world import Draw

COLOURS = {
    "red": "红色",
    "orange": "橙色",
    "yellow": "黄色",
    "green": "绿色",
    "cyan": "青色",
    "blue": "蓝色",
    "purple": "紫色",
    "pink": "粉色",
    "brown": "棕色",
    "lime": "黄绿色",
}
SHAPES = {
    "circle": ("圆形",),
    "square": ("正方形",),
    "triangle": ("三角形",),
    "star": ("五角星", "星形"),
    "diamond": ("菱形",),
    "pentagon": ("五边形",),
    "cross": ("十字形",),
    "heart": ("心形",),
    "ring": ("圆环",),
    "semicircle": ("半圆形",),
}
SIZES = {"small": ("小", "小号"), "medium": ("中号", "中等大小"), "large": ("大", "大号")}
TEXTURES = {"solid": "纯色", "striped": "条纹", "dotted": "圆点"}
WITH_TEXTURE = {"solid": "没有花纹的", "striped": "带条纹的", "dotted": "带圆点的"}
CELLS = {
    ("top", "left"): ("左上角", "左上方"),
    ("top", "centre"): ("上方中间", "顶部中间"),
    ("top", "right"): ("右上角", "右上方"),
    ("centre", "left"): ("左侧中间", "中间左侧"),
    ("centre", "centre"): ("正中央", "正中间"),
    ("centre", "right"): ("右侧中间", "中间右侧"),
    ("bottom", "left"): ("左下角", "左下方"),
    ("bottom", "centre"): ("下方中间", "底部中间"),
    ("bottom", "right"): ("右下角", "右下方"),
}
RELATIONS = {
    "left_of": ("左边", "左侧"),
    "right_of": ("右边", "右侧"),
    "above": ("上面", "上方"),
    "below": ("下面", "下方"),
}
BACKGROUNDS = {"white": "白色", "grey": "灰色", "beige": "米色"}
NUMBERS = ("零", "一", "两", "三", "四", "五", "六")


def realise(claims: Claims, draw: Draw) -> str:
    """The claims as one or more sentences."""
    mentions = claims.mentions
    related = {i: (name, j) for i, name, j in claims.relations}
    nouns = [_noun_phrase(m, draw) for m in mentions]
    parts: list[str] = []
    places_first = draw.random() < 0.5
    for k, mention in enumerate(mentions):
        if k in related:
            name, _ = related[k]
            side = draw.choice(RELATIONS[name])
            verb = draw.choice(("是", "有"))
            parts.append(f"它的{side}{verb}{nouns[k]}")
        elif mention.cell is None:
            parts.append(("有" if k == 0 else "还有") + nouns[k])
        else:
            place = draw.choice(CELLS[mention.cell])
            parts.append(f"{place}有{nouns[k]}" if places_first else f"{nouns[k]}在{place}")
    text = ("，" if draw.random() < 0.7 else "；").join(parts) + "。"
    opening = draw.random()
    if opening < 0.2:
        text = f"图中共有{NUMBERS[len(mentions)]}个图形：{text}"
    elif opening < 0.4 and (places_first or mentions[0].cell is None):
        text = f"{draw.choice(('图中', '画面中'))}{text}"
    if claims.background is not None:
        colour = BACKGROUNDS[claims.background]
        text = f"{colour}背景上，{text}" if draw.random() < 0.5 else f"{text}背景是{colour}的。"
    return text


def _noun_phrase(mention: Mention, draw: Draw) -> str:
    colour, shape = COLOURS[mention.colour], draw.choice(SHAPES[mention.shape])
    size = "" if mention.size is None else draw.choice(SIZES[mention.size])
    if mention.texture is None:
        return f"一个{size}{'的' if size else ''}{colour}{shape}"
    if draw.random() < 0.5:
        return f"一个{size}的{colour}{TEXTURES[mention.texture]}{shape}"
    short = "" if mention.size is None else SIZES[mention.size][0]
    return f"一个{WITH_TEXTURE[mention.texture]}{colour}{short}{shape}"
