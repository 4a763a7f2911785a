"""What a multimodal Transformer says of held-out items, measured as its task asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from amodal.data.conversation import Task, conversations
from amodal.data.record import Record, Source
from amodal.data.scenes.reading import read_caption, tuples_expected, tuples_of_claims
from amodal.data.scenes.world import Scene
from amodal.data.sources.vqa import choices_of, people_of
from amodal.evaluators.candidate_ranking import offered, rank_candidates
from amodal.evaluators.generation import GeneratedText, generate_for
from amodal.metrics.bootstrap import flatten, intervals, resampled
from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.captioning import caption_scores
from amodal.metrics.dialogue_ranking import dialogue_ranking_metrics
from amodal.metrics.scene_graph import scene_graph_scores
from amodal.metrics.vqa import answer_accuracy, vqa_accuracy
from amodal.models.multimodal_transformer.model import MultimodalTransformer


@dataclass(frozen=True)
class GenerationResult:
    """What was said of a source, with the records it was said of.

    Args:
        task: what was asked for.
        utterances: in the order of the source.
        truth: row number -> record, without images.
        scores: row -> round or question -> (C,) log-likelihoods of its candidates.
        listed: the answers that the model chooses from; empty where it says them.
    """

    task: Task
    generations: list[GeneratedText]
    truth: dict[int, Record]
    scores: dict[int, dict[int, torch.Tensor]]
    listed: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls,
        model: MultimodalTransformer,
        source: Source,
        task: Task,
        *,
        items: range | None = None,
        beams: int = 1,
        max_new_tokens: int | None = None,
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        tick: Callable[[int], None] | None = None,
    ) -> GenerationResult:
        """Let the model answer every question, caption every image, or go through dialogues.

        Args:
            items: row numbers; None means all.
            beams: of beam search; 1 is greedy.

        Raises:
            DataError: no record has anything to be said.
        """
        rows = items if items is not None else range(len(source))
        said = generate_for(
            model,
            source,
            task,
            items=rows,
            autocast=autocast,
            tick=tick,
            num_beams=beams,
            do_sample=False,
            max_new_tokens=max_new_tokens,
        )
        kept = dict.fromkeys(one.row for one in said)
        truth = {row: {k: v for k, v in source[row].items() if k != "image"} for row in kept}
        scores = {}
        if task == "dialogue" or task == "single_turn" or task == "vqa":
            rows_of_candidates = [row for row, record in truth.items() if offered(record, task)]
            scores = rank_candidates(model, source, rows_of_candidates, task, autocast=autocast)
        head = model.answer_head if task == "vqa" else None
        return cls(task, said, truth, scores, frozenset(head.answers if head is not None else ()))

    def true(self, one: GeneratedText) -> str:
        """The true answer that an utterance is compared with."""
        turns = conversations(self.truth[one.row], self.task)[one.conversation]
        return turns[len(one.prompt) - 1].text


def generation_metrics(
    generated: GenerationResult, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Flat `TASK/…` figures with 95 % intervals."""
    if generated.task == "caption":
        return _of_captions(generated, bootstrap, seed)
    found = _exact(generated, bootstrap, seed)
    if generated.task == "vqa":
        if generated.listed:
            lost = [generated.true(one) not in generated.listed for one in generated.generations]
            found["vqa/answers_outside_list"] = sum(lost) / len(lost)
        return (
            found | _of_people(generated, bootstrap, seed) | _of_choices(generated, bootstrap, seed)
        )
    return (
        found
        | _of_relevances(generated, bootstrap, seed)
        | _of_rankings(generated, bootstrap, seed)
    )


def _exact(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Share of answers that are the true one to the letter, and by kind of question."""
    right = torch.tensor(
        [_plain(one.text) == _plain(generated.true(one)) for one in generated.generations]
    ).double()
    item = torch.tensor([one.row for one in generated.generations])
    kinds = [_kind(generated, one) for one in generated.generations]
    named = {"": torch.ones(len(right), dtype=torch.bool)}
    for kind in sorted({k for k in kinds if k}):
        named[f"/{kind}"] = torch.tensor([k == kind for k in kinds])
    found: dict[str, float] = {}
    for suffix, rows in named.items():
        generator = torch.Generator().manual_seed(seed)
        drawn = resampled(right[rows, None], item[rows], bootstrap, generator)
        name = f"{generated.task}/exact{suffix}"
        found |= flatten(intervals([name], *drawn))
    found[f"{generated.task}/answers"] = len(right)
    return found


def relevance_at_1(generated: GenerationResult) -> torch.Tensor | None:
    """(U,) float64 relevance of the likeliest candidate; None where no relevances are known.

    Unlike what is said, which can be true and still not what was expected, candidates tell the
    wordings of one meaning apart from those of others. Of several that are equal, the mean.
    """
    values = []
    for one in generated.generations:
        graded = _round_of(generated, one).get("relevance")
        scores = generated.scores.get(one.row, {}).get(_number(generated, one))
        if not graded or scores is None:
            return None
        values.append(torch.tensor(graded, dtype=torch.float64)[scores == scores.max()].mean())
    return torch.stack(values)


def refer_back(generated: GenerationResult) -> torch.Tensor:
    """(U,) bool: which questions need the rounds before them, as far as the source says so."""
    return torch.tensor(
        [bool(_round_of(generated, o).get("refers_back")) for o in generated.generations]
    )


def _number(generated: GenerationResult, one: GeneratedText) -> int:
    """Which round of its dialogue was answered, from 0 on."""
    return one.conversation if generated.task == "single_turn" else len(one.prompt) // 2 - 1


def _round_of(generated: GenerationResult, one: GeneratedText) -> Record:
    found: Record = generated.truth[one.row]["dialog"][_number(generated, one)]
    return found


def _of_relevances(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Mean relevance of the likeliest candidate, of all rounds and of those that refer back."""
    worth = relevance_at_1(generated)
    if worth is None:
        return {}
    row = torch.tensor([one.row for one in generated.generations])
    kinds = {"": torch.ones(len(worth), dtype=torch.bool), "/refers_back": refer_back(generated)}
    found: dict[str, float] = {}
    for suffix, chosen in kinds.items():
        if not chosen.any():
            continue
        generator = torch.Generator().manual_seed(seed)
        drawn = resampled(worth[chosen, None], row[chosen], bootstrap, generator)
        found |= flatten(intervals([f"{generated.task}/relevance@1{suffix}"], *drawn))
    return found


def _kind(generated: GenerationResult, one: GeneratedText) -> str:
    if generated.task in ("dialogue", "single_turn"):
        return f"round_{_number(generated, one) + 1}"
    record = generated.truth[one.row]
    family = record.get("question_family") or record.get("question_type")
    if isinstance(family, list | tuple):
        family = family[one.conversation]
    return str(family or "").replace("/", "_")


def _of_people(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """The official accuracy, where several people answered."""
    people = [
        people_of(generated.truth[one.row], one.conversation) for one in generated.generations
    ]
    if not people or any(len(answers) < 2 for answers in people):
        return {}
    texts = [one.text for one in generated.generations]
    found: dict[str, float] = {}
    for mode in ("official", "fixed"):
        result = vqa_accuracy(
            texts,
            people,
            images=[one.row for one in generated.generations],
            mode=mode,
            bootstrap=bootstrap,
            seed=seed,
        )
        name = "vqa/accuracy" if mode == "official" else "vqa/accuracy_fixed"
        found |= flatten({name: result.overall})
    return found


def _of_choices(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """What the most likely candidate is worth; of several that are equal, the mean."""
    values, rows = [], []
    graded = True
    for row, of_record in generated.scores.items():
        record = generated.truth[row]
        about = conversations(record, "vqa")
        choices = choices_of(record, len(about))
        for number, scores in of_record.items():
            best = [choices[number][i] for i in (scores == scores.max()).nonzero()[:, 0].tolist()]
            true = _plain(about[number][-1].text)
            people = people_of(record, number)
            graded &= len(people) > 1
            exact = sum(_plain(text) == true for text in best) / len(best)
            worth = sum(answer_accuracy(text, people or [true]) for text in best) / len(best)
            values.append((exact, worth))
            rows.append(row)
    if not values:
        return {}
    generator = torch.Generator().manual_seed(seed)
    drawn = resampled(
        torch.tensor(values, dtype=torch.float64), torch.tensor(rows), bootstrap, generator
    )
    names = [f"vqa/multiple_choice/{name}" for name in ("exact", "accuracy")]
    found = intervals(names, *drawn)
    if not graded:
        del found[names[1]]
    return flatten(found) | {"vqa/multiple_choice/questions": len(values)}


def _of_captions(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    captions = [tokenize(one.text) for one in generated.generations]
    references = [
        [tokenize(t) for t in generated.truth[one.row]["text"]] for one in generated.generations
    ]
    result = caption_scores(captions, references, bootstrap=bootstrap, seed=seed)
    found = {f"caption/{name}": value for name, value in result.to_dict().items()}
    if all("objects" in record for record in generated.truth.values()):
        predicted, true = [], []
        for one in generated.generations:
            record = generated.truth[one.row]
            scene = Scene.from_json({k: record[k] for k in ("background", "objects")})
            claims = read_caption(one.text)
            predicted.append(tuples_of_claims(claims) if claims is not None else [])
            true.append(tuples_expected(scene, claims))
        graph = scene_graph_scores(predicted, true, bootstrap=bootstrap, seed=seed)
        found |= {f"caption/scene_graph/{n}": v for n, v in flatten(graph).items() if v == v}
    return found


def _of_rankings(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    rows, places, scores, relevance, number = [], [], [], [], []
    for row, found in generated.scores.items():
        rounds = generated.truth[row]["dialog"]
        # Ranks of different lengths do not compare.
        if len(found) < len(rounds) or len({len(one) for one in found.values()}) > 1:
            continue
        for at, one in enumerate(rounds):
            if one["answer"] not in one["candidates"]:
                continue
            rows.append(row)
            number.append(at)
            places.append(one["candidates"].index(one["answer"]))
            scores.append(found[at])
            relevance.append(torch.tensor(one.get("relevance") or [], dtype=torch.float64))
    if not rows:
        return {}
    graded = all(len(r) == len(s) for r, s in zip(relevance, scores, strict=True))
    result = dialogue_ranking_metrics(
        torch.stack(scores),
        torch.tensor(places),
        relevance=torch.stack(relevance) if graded else None,
        dialogue=torch.tensor(rows),
        number=torch.tensor(number),
        bootstrap=bootstrap,
        seed=seed,
    )
    return {f"{generated.task}/{n}": v for n, v in flatten(result.metrics).items() if v == v}


def _plain(text: str) -> str:
    return " ".join(text.lower().split())
