"""Text augmentation: captions of mirrored images, token masking and token dropout."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

OPPOSITE = {"clockwise": "counterclockwise", "counterclockwise": "clockwise"}
for _end in ("", "most", "hand", "handed", "side", "ward", "wards", "y", "ies"):
    OPPOSITE["left" + _end] = "right" + _end
    OPPOSITE["right" + _end] = "left" + _end
OPPOSITE |= {"左": "右", "右": "左", "顺时针": "逆时针", "逆时针": "顺时针"}
OPPOSITE |= {"順時針": "逆時針", "逆時針": "順時針"}

# The first alternatives match first and have no opposite, so that they are kept.
WORD = re.compile(
    r"左右|右左|座右[铭銘]|无出其右|無出其右|旁[门門]左道|相左|[左右]派"
    r"|[左右]|[顺逆]时针|[順逆]時針"
    r"|\b(?:left|right)(?:most|handed|hand|side|wards?|y|ies)?\b"
    r"|\b(?:(?:counter|anti)-?)?clockwise\b",
    re.IGNORECASE,
)


def _ends(words: str) -> re.Pattern[str]:
    """Pattern of text that ends with one of `words`, before a word."""
    return re.compile(rf"(?:^|[^\w'’])(?:{words})[\s-]+$", re.IGNORECASE)


def _starts(words: str) -> re.Pattern[str]:
    """Pattern of text that starts with one of `words`, after a word."""
    return re.compile(rf"[\s-]+(?:{words})(?![\w'’])", re.IGNORECASE)


# Text that is written in the image is kept: `the words " Look Right "`.
WRITTEN = re.compile(
    r"\b(?:say|says|saying|said|read|reads|reading|words?|labell?ed|lettering|written|titled)\b"
    r"(?:[^\"“”]{0,20}[\"“][^\"”]*|\s+(?:look|turn|keep|no|go|stay|exit|merge|bear|drive)\s+)$",
    re.IGNORECASE,
)
# Nouns that have a left and a right one; also after "has" and "is" ("has left arm raised").
SIDED = _starts(
    r"sides?|hands?|handed|arms?|forearms?|legs?|foot|feet|footed|shoulders?|elbows?|wrists?"
    r"|fingers?|thumb|fist|palm|knees?|ankles?|thigh|hip|toes?|heel|eyes?|ears?|cheek|profile"
    r"|paws?|hooves|hoof|horn|wings?|fin|flipper|sleeves?|gloves?|shoes?|boots?|socks?|skates?|ski"
    r"|corner|edge|half|lane|turn|hook|jab|field|fielder|(?:front|hind|rear|back) \w+"
)
ARTICLE = r"the|his|her|their|its|my|your|our|one['’]s"
PLACE = r"(?:far|near|extreme|upper|lower|top|bottom|front|back|rear|hind|cent(?:er|re)|middle|mid)"
TO_THE = _ends(
    rf"(?:to|on|at|in|from|off|towards?|by|with|along|for)(?:\s+(?:{ARTICLE}|hi))?(?:\s+{PLACE})?"
    rf"|of\s+(?:{ARTICLE})(?:\s+{PLACE})?"
)
DETERMINED = _ends(rf"{ARTICLE}|{PLACE}|a|an|both|each|only|\w+['’]s|\w+ ['’]s")
TURN = _ends(
    r"(?:turn|veer|swerve?|bank|curve?|bend|steer|swing|lean|tilt|lunge?|pan|merge?)(?:s|es|ed|ing|ning)?"
    r"|stage|camera|screen|hard|sharp"
)
MOVE = _ends(
    r"(?:look|stare?|gaze?|glance?|peer|face?|point|head|go|run|walk|jump|leap|move?|step|hop|ride?"
    r"|drive?|skate?|slide?|fly|roll|jog|sprint|march|sail|surf|ski|swim|dart|dash|dive?|crawl"
    r"|travel|proceed|shift|kick|throw|pass|aim|reach|stretch)(?:s|es|ed|ing|ning|ming|ping|ling)?"
    r"|ran|went|goes|flies|drove|rode|threw|either"
)

# "right behind", "right now": an adverb.
RIGHT_ADVERB = _starts(
    r"now|away|then|there|here|when|where|while|as|once|until|before|after|behind|next|near|beside"
    r"|besides|alongside|along|aside|side[\s-]by[\s-]side|between|among|amid|around|about|above|below"
    r"|under|underneath|beneath|over|atop|against|across|beyond|past|through|throughout|by|at|in|into"
    r"|inside|within|on|onto|up|upon|down|out|outside|off|back|front|ahead|towards?|from|smack|this"
    r"|that|side[\s-]up|to(?!\s+(?:the\s+)?left)|for(?!\s+(?:the\s+)?left)"
)
# "the right way", "right of way", "a right angle", "right-wing": an adjective or another word.
RIGHT_OTHER = re.compile(
    r"\s+(?:ways?|things?|time|moment|place|spot|answers?|choice|amount|kind|sort|person|tools?|size"
    r"|stuff|decision|words?|idea|tracks?|angles?|angled|triangles?|whales?|side[\s-]up"
    r"|to\s+(?:vote|bear|protest|speak|know|choose|life|work|privacy|remain))\b"
    r"|[\s-]of[\s-]way\b|-wing(?:er|ers)?\b|-click|-angled?\b|-side-up\b|\s*\?",
    re.IGNORECASE,
)
RIGHT_ADJECTIVE = _ends(
    r"all|alright|just|not|quite|exactly|(?:do|does|did|done|get|gets|got)(?:\s+it)?"
    r"|is|are|was|were|be|been|being|\w+['’]s|seems?|feels?|sounds?|goes"
)
BARE_TO = _ends("to")
HER = _ends("her")
RIGHT_VERB = _starts(r"the|a|an|it|its|his|her|their|himself|herself|itself|themselves")

# "left behind", "left the room": a form of "leave".
LEFT_VERB = _starts(
    r"behind|over|overs|alone|out|outside|inside|open|ajar|un\w+ed|empty|abandoned|parked|stranded"
    r"|tied|half|\w+ing|on|onto|by|in|into|at|for|with|without|from"
    r"|after|before|when|while|as|against|under|near|beside|next|the|a|an|them|him|it|his|her|their"
    r"|its|my|your|our|some|one|two|three|several|many|no|nothing|only|home|work|school|town|early"
    r"|to(?!\s+(?:the\s+)?right)"
)
LEFT_AUXILIARY = _ends(
    r"(?:has|have|had|having|['’]ve|['’]d|was|were|been|being|be|is|are|gets?|got)(?:\s+(?:been"
    r"|just|already|recently|not|all|being))?|he|she|they|who|which|that|just|i|we|you|it|someone"
    r"|somebody|everyone|nobody|nothing|something|anything|everything"
)
# "what is left of the cake", "one slice left": the remainder.
LEFT_REMAINS = re.compile(
    r"\b(?:what|all that|whatever|nothing|little|much)(?:\s*['’]s|\s+is|\s+was)?\s+$"
    r"|\b(?:only|just|one|two|three|four|five|few|some|any|no|more|last|much|many|piece|bit)"
    r"(?:\s+(?!\w+ing\b)[\w-]+){1,3}\s+$",
    re.IGNORECASE,
)
LEFT_OVER = re.compile(r"[\s-]overs?\b", re.IGNORECASE)
OF = _starts("of")
PAUSE = re.compile(r"\s*(?:$|[.,;!?)]|(?:on|in|at|to|for)\b)", re.IGNORECASE)


BEFORE_AFTER = {"before": "after", "earlier": "later", "之前": "之后", "以前": "以后"}
BEFORE_AFTER |= {after: before for before, after in BEFORE_AFTER.items()}
IN_TIME = re.compile(r"\b(?:before|after|earlier|later)\b|之前|之后|以前|以后", re.IGNORECASE)


def swap_before_after(text: str) -> str:
    """Caption of the reversed clip: before and after are exchanged, earlier and later too.

    Examples:
        >>> from amodal.augment import swap_before_after
        >>> swap_before_after("Before the dog jumps, the cat sits.")
        'After the dog jumps, the cat sits.'
    """
    return IN_TIME.sub(lambda found: _in_case_of(found[0], BEFORE_AFTER[found[0].lower()]), text)


def swap_left_right(text: str) -> str:
    """Caption of the mirrored image: left and right are exchanged.

    "left" and "right" are exchanged where they are a side or a direction, body parts included; not
    where "right" is an adverb ("right behind") or an adjective ("all right"), not where "left" is
    a form of "leave", and not where they are quoted from a sign. In Chinese 左 and 右 are
    exchanged, but not in 左右, which means both sides or "about". Case is kept.

    Applied twice it returns the original text, except for spelling ("anticlockwise" becomes
    "counterclockwise") and for "looks left at him": it becomes "looks to the right at him", as
    "looks right at him" has another meaning, and then "looks to the left at him".

    Examples:
        >>> from amodal.augment import swap_left_right
        >>> swap_left_right("A dog on the left looks right at the door.")
        'A dog on the right looks right at the door.'
        >>> swap_left_right("猫在狗的左边")
        '猫在狗的右边'
    """

    def swap(found: re.Match[str]) -> str:
        word = found.group()
        plain = word.lower().replace("-", "").replace("anti", "counter")
        opposite = OPPOSITE.get(plain)
        if opposite is None:
            return word
        if plain in ("left", "right"):
            before, after = text[max(0, found.start() - 60) : found.start()], text[found.end() :]
            if not is_side(plain, before, after):
                return word
            if plain == "left" and MOVE.search(before) and not is_side("right", before, after):
                opposite = "to the right"
        return _in_case_of(word, opposite)

    return WORD.sub(swap, text)


def is_side(word: str, before: str, after: str) -> bool:
    """Whether `word`, "left" or "right", is a side or a direction between these two texts."""
    if WRITTEN.search(before):
        return False
    return _left_is_side(before, after) if word == "left" else _right_is_side(before, after)


def _right_is_side(before: str, after: str) -> bool:
    if RIGHT_OTHER.match(after):
        return False
    if OF.match(after) or TURN.search(before):
        return True
    if TO_THE.search(before):
        # "to right the boat" is a verb
        return not (BARE_TO.search(before) and RIGHT_VERB.match(after))
    if RIGHT_ADVERB.match(after):
        # "follows her right behind": "her" need not own a side
        return bool(DETERMINED.search(before)) and not HER.search(before)
    return bool(SIDED.match(after)) or not RIGHT_ADJECTIVE.search(before)


def _left_is_side(before: str, after: str) -> bool:
    if TO_THE.search(before):
        return True
    if LEFT_OVER.match(after):
        return bool(MOVE.search(before) or TURN.search(before))
    if LEFT_REMAINS.search(before) and (OF.match(after) or PAUSE.match(after)):
        return bool(MOVE.search(before) or TURN.search(before))
    if OF.match(after) or DETERMINED.search(before) or SIDED.match(after):
        return True
    if LEFT_AUXILIARY.search(before):
        return False
    return bool(TURN.search(before) or MOVE.search(before)) or not LEFT_VERB.match(after)


def _in_case_of(model: str, word: str) -> str:
    if model.isupper() and len(model) > 1:
        return word.upper()
    return word.capitalize() if model[0].isupper() else word


def token_mask(
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    special_ids: Collection[int],
    mask_id: int,
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """Token masking: `mask_id` in place of a random share of the tokens.

    Args:
        input_ids, attention_mask: (B, T).
        special_ids: tokens that are never masked, such as [CLS] and padding.
        rate: probability of each content token; at least one of a row is kept.
        rngs: B generators; row b draws from the b-th only.

    Returns:
        (B, T) ids.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from amodal.augment import token_mask
        >>> ids, rngs = torch.tensor([[1, 10, 11, 12, 13, 2]]), [np.random.default_rng(0)]
        >>> mask = torch.ones_like(ids)
        >>> token_mask(ids, mask, special_ids={1, 2}, mask_id=99, rate=0.5, rngs=rngs)
        tensor([[ 1, 99, 99, 99, 13,  2]])
    """
    chosen = _chosen(input_ids, attention_mask, special_ids, rate, rngs)
    return torch.where(chosen, torch.full_like(input_ids, mask_id), input_ids)


def token_dropout(
    tokens: dict[str, Tensor],
    *,
    special_ids: Collection[int],
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> dict[str, Tensor]:
    """Token dropout: a random share of the tokens is removed and the rows are shortened.

    Args:
        tokens: `input_ids` and `attention_mask`, (B, T); the padding of the result is on the right.
        special_ids, rate, rngs: as for `token_mask`.

    Examples:
        >>> import numpy as np
        >>> import torch
        >>> from amodal.augment import token_dropout
        >>> ids, rngs = torch.tensor([[1, 10, 11, 12, 13, 2]]), [np.random.default_rng(0)]
        >>> tokens = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        >>> shorter = token_dropout(tokens, special_ids={1, 2}, rate=0.5, rngs=rngs)
        >>> shorter["input_ids"]
        tensor([[ 1, 13,  2]])
    """
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    dropped = _chosen(ids, mask, special_ids, rate, rngs)
    kept = mask.masked_fill(dropped, 0)
    order = (kept == 0).long().argsort(dim=1, stable=True)  # kept tokens stay in order
    kept = kept.gather(1, order)
    moved = ids.gather(1, order)
    padding = ids[mask == 0]
    fill = int(padding[0]) if len(padding) else 0
    longest = max(1, int(kept.sum(dim=1).max())) if len(kept) else 1
    moved = torch.where(kept.bool(), moved, torch.full_like(moved, fill))
    return {**tokens, "input_ids": moved[:, :longest], "attention_mask": kept[:, :longest]}


def _chosen(
    ids: Tensor,
    mask: Tensor,
    special_ids: Collection[int],
    rate: float,
    rngs: Sequence[np.random.Generator],
) -> Tensor:
    """(B, T) bool: the content tokens that are masked or dropped, never all of a row."""
    special = torch.tensor(sorted(special_ids), dtype=ids.dtype)
    content = mask.bool() & ~torch.isin(ids, special)
    drawn = torch.ones(ids.shape, dtype=torch.float64)
    for row, (there, rng) in enumerate(zip(mask.bool(), rngs, strict=True)):
        # As many draws as the row has tokens: padding to the batch must not matter.
        drawn[row, there] = torch.from_numpy(rng.random(int(there.sum())))
    chosen = content & (drawn < rate)
    everything = (chosen == content).all(dim=1)
    stays = drawn.masked_fill(~content, -1).argmax(dim=1)  # the token with the largest draw
    rows = torch.arange(len(ids))
    chosen[rows, stays] &= ~everything
    return chosen
