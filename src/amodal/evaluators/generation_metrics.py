"""Metrics of generated texts, as their task asks for: exact match, VQA accuracy, CIDEr, ranking."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import torch

from amodal.data.conversation import conversations
from amodal.data.record import Record
from amodal.data.scenes.reading import read_caption, tuples_expected, tuples_of_claims
from amodal.data.scenes.world import Scene
from amodal.data.sources.vqa import annotator_answers, choices_of
from amodal.evaluators.generated_text import GeneratedText, GenerationResult
from amodal.evaluators.interpretation import CONSTANT
from amodal.metrics.bootstrap import flatten, intervals, resampled
from amodal.metrics.caption_tokens import tokenize
from amodal.metrics.captioning import caption_scores, cider, most_typical
from amodal.metrics.dialogue_ranking import dialogue_ranking_metrics
from amodal.metrics.scene_graph import scene_graph_scores
from amodal.metrics.vqa import answer_accuracy, vqa_accuracy

# Metrics of the most frequent answer that a sentence compares with.
COMPARED = ("vqa/accuracy", "vqa/exact_match", "dialogue/exact_match", "single_turn/exact_match")


def generation_metrics(
    generated: GenerationResult, *, bootstrap: int = 1000, seed: int = 0
) -> dict[str, float]:
    """Flat `TASK/…` metrics with 95 % intervals, and `constant/TASK/…` of one text for all."""
    if generated.task == "caption":
        return _caption_metrics(generated, bootstrap, seed)
    found = _answer_metrics(generated, bootstrap, seed)
    answers = Counter(_plain(generated.reference(one)) for one in generated.generations)
    answer = answers.most_common(1)[0][0]
    same = [one._replace(text=answer) for one in generated.generations]
    constant = _answer_metrics(replace(generated, generations=same), 0, seed)
    found |= {f"{CONSTANT}/{name}": constant[name] for name in COMPARED if name in constant}
    if generated.task == "vqa":
        vocabulary = generated.answer_vocabulary
        if vocabulary:
            outside = [generated.reference(o) not in vocabulary for o in generated.generations]
            found["vqa/out_of_vocabulary_answers"] = sum(outside) / len(outside)
        return found | _multiple_choice(generated, bootstrap, seed)
    return found | _relevance(generated, bootstrap, seed) | _ranking(generated, bootstrap, seed)


def _answer_metrics(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Metrics of answers that depend on their texts alone."""
    found = _exact_match(generated, bootstrap, seed)
    if generated.task == "vqa":
        found |= _vqa_accuracy(generated, bootstrap, seed)
    return found


def _exact_match(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Share of answers that equal the reference, case and spaces aside; by kind of question too."""
    correct = torch.tensor(
        [_plain(one.text) == _plain(generated.reference(one)) for one in generated.generations]
    ).double()
    item = torch.tensor([one.row for one in generated.generations])
    kinds = [_kind(generated, one) for one in generated.generations]
    named = {"": torch.ones(len(correct), dtype=torch.bool)}
    for kind in sorted({k for k in kinds if k}):
        named[f"/{kind}"] = torch.tensor([k == kind for k in kinds])
    found: dict[str, float] = {}
    for suffix, rows in named.items():
        generator = torch.Generator().manual_seed(seed)
        drawn = resampled(correct[rows, None], item[rows], bootstrap, generator)
        name = f"{generated.task}/exact_match{suffix}"
        found |= flatten(intervals([name], *drawn))
    found[f"{generated.task}/num_answers"] = len(correct)
    return found


def relevance_at_1(generated: GenerationResult) -> torch.Tensor | None:
    """(U,) float64 relevance of the most likely candidate; None where relevances are not annotated.

    A generated answer can be true and still differ from the reference; the relevances say which
    candidates mean the same. Equally likely candidates count by their mean.
    """
    values = []
    for one in generated.generations:
        graded = _round_of(generated, one).get("relevance")
        scores = generated.scores.get(one.row, {}).get(_number(generated, one))
        if not graded or scores is None:
            return None
        values.append(torch.tensor(graded, dtype=torch.float64)[scores == scores.max()].mean())
    return torch.stack(values)


def history_dependent(generated: GenerationResult) -> torch.Tensor:
    """(U,) bool: questions that need the rounds before them, where the source annotates that."""
    return torch.tensor(
        [bool(_round_of(generated, one).get("history_dependent")) for one in generated.generations]
    )


def _number(generated: GenerationResult, one: GeneratedText) -> int:
    """Number of the answered round of its dialogue, from 0 on."""
    return one.conversation if generated.task == "single_turn" else len(one.prompt) // 2 - 1


def _round_of(generated: GenerationResult, one: GeneratedText) -> Record:
    found: Record = generated.records[one.row]["dialog"][_number(generated, one)]
    return found


def _relevance(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Mean relevance of the most likely candidate, over all rounds and those that refer back."""
    relevance = relevance_at_1(generated)
    if relevance is None:
        return {}
    row = torch.tensor([one.row for one in generated.generations])
    kinds = {
        "": torch.ones(len(relevance), dtype=torch.bool),
        "/history_dependent": history_dependent(generated),
    }
    found: dict[str, float] = {}
    for suffix, chosen in kinds.items():
        if not chosen.any():
            continue
        generator = torch.Generator().manual_seed(seed)
        drawn = resampled(relevance[chosen, None], row[chosen], bootstrap, generator)
        found |= flatten(intervals([f"{generated.task}/relevance@1{suffix}"], *drawn))
    return found


def _kind(generated: GenerationResult, one: GeneratedText) -> str:
    if generated.task in ("dialogue", "single_turn"):
        return f"round_{_number(generated, one) + 1}"
    record = generated.records[one.row]
    family = record.get("question_family") or record.get("question_type")
    if isinstance(family, list | tuple):
        family = family[one.conversation]
    return str(family or "").replace("/", "_")


def _vqa_accuracy(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """The official accuracy, where several annotators answered."""
    annotators = [
        annotator_answers(generated.records[one.row], one.conversation)
        for one in generated.generations
    ]
    if not annotators or any(len(answers) < 2 for answers in annotators):
        return {}
    texts = [one.text for one in generated.generations]
    found: dict[str, float] = {}
    for mode in ("official", "fixed"):
        result = vqa_accuracy(
            texts,
            annotators,
            images=[one.row for one in generated.generations],
            mode=mode,
            bootstrap=bootstrap,
            seed=seed,
        )
        name = "vqa/accuracy" if mode == "official" else "vqa/accuracy_fixed"
        found |= flatten({name: result.overall})
    return found


def _multiple_choice(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    """Accuracy of the most likely candidate; equally likely ones count by their mean."""
    values, rows = [], []
    graded = True
    for row, of_record in generated.scores.items():
        record = generated.records[row]
        about = conversations(record, "vqa")
        choices = choices_of(record, len(about))
        for number, scores in of_record.items():
            best = [choices[number][i] for i in (scores == scores.max()).nonzero()[:, 0].tolist()]
            reference = _plain(about[number][-1].text)
            annotators = annotator_answers(record, number)
            graded &= len(annotators) > 1
            exact = sum(_plain(text) == reference for text in best) / len(best)
            accuracy = sum(answer_accuracy(text, annotators or [reference]) for text in best) / len(
                best
            )
            values.append((exact, accuracy))
            rows.append(row)
    if not values:
        return {}
    generator = torch.Generator().manual_seed(seed)
    drawn = resampled(
        torch.tensor(values, dtype=torch.float64), torch.tensor(rows), bootstrap, generator
    )
    names = [f"vqa/multiple_choice/{name}" for name in ("exact_match", "accuracy")]
    found = intervals(names, *drawn)
    if not graded:
        del found[names[1]]
    return flatten(found) | {"vqa/multiple_choice/questions": len(values)}


def _caption_metrics(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    captions = [tokenize(one.text) for one in generated.generations]
    references = [
        [tokenize(t) for t in generated.records[one.row]["text"]] for one in generated.generations
    ]
    result = caption_scores(captions, references, bootstrap=bootstrap, seed=seed)
    found = {f"caption/{name}": value for name, value in result.to_dict().items()}
    constant = [most_typical(references)] * len(references)
    found[f"{CONSTANT}/caption/cider_d"] = float(cider(constant, references).mean())
    if all("objects" in record for record in generated.records.values()):
        predicted, expected = [], []
        for one in generated.generations:
            record = generated.records[one.row]
            scene = Scene.from_json({k: record[k] for k in ("background", "objects")})
            claims = read_caption(one.text)
            predicted.append(tuples_of_claims(claims) if claims is not None else [])
            expected.append(tuples_expected(scene, claims))
        graph = scene_graph_scores(predicted, expected, bootstrap=bootstrap, seed=seed)
        found |= {f"caption/scene_graph/{n}": v for n, v in flatten(graph).items() if v == v}
    return found


def _ranking(generated: GenerationResult, bootstrap: int, seed: int) -> dict[str, float]:
    rows, places, scores, relevance, number = [], [], [], [], []
    for row, found in generated.scores.items():
        rounds = generated.records[row]["dialog"]
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
