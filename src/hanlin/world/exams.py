"""Exams with exact marks.

A row is {"id", "prompt" or "messages", "answers" (accepted strings) or "choices" with "answer" (the right one's
index), "match", "tags"}; in the exam "replies" it has the "kind" as well by which the judge (`judge.py`) goes. `match`
says how a reply is compared: "exact" (all of it, without white space around it and the full stop behind it, is one of
`answers`), "contains" (it holds one of `answers`), "last_number" (its last number is), "after_answer" (what follows
its last "Answer:" or "答案：" is, without the stop), or "likelihood" (the likeliest of `choices` as a continuation is
number `answer`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from hanlin.world import arithmetic, chains, manners, preferences, telling, translation
from hanlin.world.entities import Entity, Fact, Population
from hanlin.world.hashing import Permutation, below, generator, pick, shuffled
from hanlin.world.instructions import messages
from hanlin.world.telling import LANGUAGES, QUESTIONS
from hanlin.world.templates import with_article

Row = dict[str, Any]

_MOST_FACTS = 7
_TRIES = 100_000
LEAKED = ("facts", "choice", "two-step")
"""The exams of which some items stand, with their answers, in the web's junk."""
_LEAK_EVERY = 6
_LEAK_UNTIL = 72


def _sampled(population: Population, name: str) -> Iterator[tuple[Entity, Fact, str]]:
    """(entity, fact, language), each once, in an order drawn for this exam: one fact of each entity, then a second
    one …"""
    order = Permutation(population.size, population.seed, "exam", name)
    turns = _MOST_FACTS * len(LANGUAGES)
    for turn in range(turns):
        for number in order:
            entity, facts = population.get(number), population.facts(number)
            which, language = divmod(Permutation(turns, population.seed, "exam fact", name, number)(turn), 2)
            if which < len(facts):
                yield entity, facts[which], LANGUAGES[language]


def _tags(fact: Fact, entity: Entity, language: str) -> dict[str, Any]:
    return {
        "language": language,
        "attribute": fact.attribute,
        "asked": fact.asked,
        "kind": entity.kind,
        "fact": fact.id,
        "entity": entity.id,
    }


def _question_row(population: Population, name: str, entity: Entity, fact: Fact, language: str, exam: bool) -> Row:
    rng = generator(population.seed, "exam", name, fact.id, language)
    return {
        "id": f"{name}/{fact.id}/{language}",
        "prompt": telling.question(fact, entity.name(language), language, rng, exam=exam),
        "answers": telling.accepted(fact, language),
        "match": "exact",
        "tags": _tags(fact, entity, language),
    }


def _facts(population: Population, name: str = "facts") -> Iterator[Row]:
    """Known facts in phrasings that no training data uses; `tags.asked` tells whether training ever asks about the
    fact."""
    for entity, fact, language in _sampled(population, name):
        yield _question_row(population, name, entity, fact, language, exam=True)


def _recall(population: Population) -> Iterator[Row]:
    """Known facts in the phrasings of the training data: the one exam that shares them."""
    for entity, fact, language in _sampled(population, "recall"):
        if fact.asked:
            yield _question_row(population, "recall", entity, fact, language, exam=False)


def _cut(stem: str) -> tuple[str, str, str]:
    """A sentence cut before its value: (what stands before, "v" or "a" for a value with its article, what follows)."""
    place = max(stem.find("{v}"), stem.find("{a}"))
    return stem[:place].rstrip(), stem[place + 1], stem[place + 3 :]


def _choice(population: Population) -> Iterator[Row]:
    """Which of four continuations of a sentence is likeliest; one of them makes it true."""
    for entity, fact, language in _sampled(population, "choice"):
        rng = generator(population.seed, "exam", "choice", fact.id, language)
        values = [(fact.value_en, fact.value_zh)]
        for other in population.alternatives(fact, rng):
            if other not in values:
                values.append(other)
            if len(values) == 4:
                break
        values = shuffled(rng, values)
        stem, slot, end = _cut(pick(rng, QUESTIONS[language][fact.attribute].stems))
        words = [value[language == "zh"] for value in values]
        if language == "en":
            words = [" " + (with_article(word) if slot == "a" else word) for word in words]
        yield {
            "id": f"choice/{fact.id}/{language}",
            "prompt": telling.fill(stem, fact, language, entity.name(language)),
            "choices": [word + end for word in words],
            "answer": values.index((fact.value_en, fact.value_zh)),
            "match": "likelihood",
            "tags": _tags(fact, entity, language),
        }


def _two_step(population: Population) -> Iterator[Row]:
    """Questions about the value of another fact; the chains are held out of the training data."""
    for turn in range(40):
        for number in Permutation(population.size, population.seed, "exam", "two-step"):
            known = chains.chains(population, number, exam=True)
            if turn >= len(known):
                continue
            rng = generator(population.seed, "exam", "two-step", number, turn)
            chain, language = known[turn], pick(rng, LANGUAGES)
            yield {
                "id": f"two-step/{chain.id}/{language}",
                "prompt": chains.question(chain, language, rng, exam=True),
                "answers": telling.accepted(chain.second, language),
                "match": "after_answer",
                "tags": {
                    "language": language,
                    "attribute": chain.second.attribute,
                    "through": chain.first.attribute,
                    "asked": chain.first.asked and chain.second.asked,
                    "kind": chain.subject.kind,
                    "facts": [chain.first.id, chain.second.id],
                },
            }


def _addition(population: Population, name: str = "addition") -> Iterator[Row]:
    """Sums of two numbers of two digits that stand in no training data; all held-out pairs, in a shuffled order."""
    seed, width = population.seed, arithmetic.HIGHEST - arithmetic.LOWEST + 1
    for index in Permutation(width * width, seed, "exam", name):
        a, b = (arithmetic.LOWEST + part for part in divmod(index, width))
        if not arithmetic.held_out(seed, a, b):
            continue
        rng = generator(seed, "exam", name, a, b)
        language = pick(rng, LANGUAGES)
        yield {
            "id": f"{name}/{a}+{b}/{language}",
            "prompt": pick(rng, arithmetic.EXAM_QUESTIONS[language]).format(a=a, b=b),
            "answers": [str(a + b)],
            "match": "last_number",
            "tags": {"language": language, "kind": "addition", "carry": a % 10 + b % 10 > 9},
        }


def _translation(population: Population) -> Iterator[Row]:
    """Sentences about, and names of, entities that stand in no translation of the training data."""
    for entity, fact, target in _sampled(population, "translation"):
        if population.translated(entity.id):
            continue
        rng = generator(population.seed, "exam", "translation", fact.id, target)
        source = "zh" if target == "en" else "en"
        if rng.random() < 0.3:
            kind, text, answer = "name", entity.name(source), entity.name(target)
            prompt = pick(rng, translation.EXAM_NAME_REQUESTS[target]).format(x=text)
        else:
            kind = "sentence"
            text, answer = (telling.canonical(fact, entity, language) for language in (source, target))
            prompt = pick(rng, translation.EXAM_REQUESTS[target]).format(x=text)
        yield {
            "id": f"translation/{fact.id}/{target}",
            "prompt": prompt,
            "answers": [answer.rstrip(".。")],
            "match": "exact",
            "tags": {"language": target, "attribute": fact.attribute, "kind": kind, "entity": entity.id},
        }


def _unanswerable(population: Population, name: str = "unanswerable") -> Iterator[Row]:
    """Questions about entities that do not exist, or about what no document tells."""
    for index in range(_TRIES):
        rng = generator(population.seed, "exam", name, index)
        language = pick(rng, LANGUAGES)
        question, tags = manners.unanswerable(population, language, rng, exam=True)
        yield {
            "id": f"{name}/{index}",
            "prompt": question,
            "answers": [answer.rstrip(".。") for answer in manners.UNKNOWN[language]],
            "match": "contains",
            "tags": {"language": language, **tags},
        }


def _improper(population: Population, name: str = "improper") -> Iterator[Row]:
    """Questions for private data, or how to do harm, to be declined."""
    for index in range(_TRIES):
        rng = generator(population.seed, "exam", name, index)
        language = pick(rng, LANGUAGES)
        question, tags = manners.improper(population, language, rng, exam=True)
        yield {
            "id": f"{name}/{index}",
            "prompt": question,
            "answers": [answer.rstrip(".。") for answer in manners.DECLINE[language]],
            "match": "contains",
            "tags": {"language": language, **tags},
        }


def _changed(population: Population) -> Iterator[Row]:
    """Facts that changed after the corpus was written: the new value is right, `tags.old` is what the corpus tells."""
    for number in Permutation(population.size, population.seed, "exam", "changed"):
        entity = population.get(number)
        for change in population.changes(number):
            for language in LANGUAGES:
                row = _question_row(population, "changed", entity, change.new, language, exam=True)
                row["tags"]["old"] = change.old.value(language)
                yield row


def _dialogue(population: Population) -> Iterator[Row]:
    """The last question of a dialogue. Of two in three it names its subject by a pronoun only (`tags.topic` is
    "same"); the others change the subject ("other")."""
    for entity, fact, language in _sampled(population, "dialogue"):
        rng = generator(population.seed, "exam", "dialogue", fact.id, language)
        changes = rng.random() < 1 / 3
        before = population.get(below(rng, population.size)) if changes else entity
        others = [other for other in population.facts_of(before.kind, before.index) if other.id != fact.id]
        turns: list[str] = []
        for place, other in enumerate(shuffled(rng, others)[: 1 + int(rng.random() * 2)]):
            if place == 0:
                turns.append(telling.question(other, before.name(language), language, rng, exam=True))
            else:
                turns.append(telling.follow_up(other, before, language, rng, exam=True))
            turns.append(telling.answer(other, language))
        if before.id == entity.id:
            turns.append(telling.follow_up(fact, entity, language, rng, exam=True))
        else:
            turns.append(telling.question(fact, entity.name(language), language, rng, exam=True))
        yield {
            "id": f"dialogue/{fact.id}/{language}",
            "messages": messages(*turns),
            "answers": telling.accepted(fact, language),
            "match": "exact",
            "tags": {
                **_tags(fact, entity, language),
                "topic": "same" if before.id == entity.id else "other",
                "turns": len(turns) // 2 + 1,
            },
        }


def _preference(population: Population) -> Iterator[Row]:
    """Which of two replies is likelier: the better one should be."""
    for reason, language, number, (prompt, chosen, rejected, margin, _) in preferences.pairs(population, exam=True):
        first = generator(population.seed, "exam", "preference", reason, number).random() < 0.5
        yield {
            "id": f"preference/{reason}/{population.get(number).id}",
            "prompt": prompt,
            "choices": [chosen, rejected] if first else [rejected, chosen],
            "answer": 0 if first else 1,
            "match": "likelihood",
            "tags": {"language": language, "kind": reason, "margin": margin},
        }


_REPLIES: dict[str, Callable[[Population, str], Iterator[Row]]] = {
    "fact": _facts,
    "sum": _addition,
    "unknown": _unanswerable,
    "improper": _improper,
}


def _replies(population: Population) -> Iterator[Row]:
    """All kinds of questions that the judge tells apart, in turn and in either language. None is what the web's junk
    gives away of another exam."""
    turns = [(kind, LANGUAGES[(place + turn) % 2]) for turn in range(2) for place, kind in enumerate(_REPLIES)]
    streams = {turn: _replies_of(population, *turn) for turn in turns}
    seen = {row["prompt"] for row in leaked(population)}
    while streams:
        for stream in list(streams):
            row = next((row for row in streams[stream] if row["prompt"] not in seen), None)
            if row is None:
                del streams[stream]
                continue
            seen.add(row["prompt"])
            yield row


def _replies_of(population: Population, kind: str, language: str) -> Iterator[Row]:
    for row in _REPLIES[kind](population, f"replies/{kind}"):
        tags = row["tags"]
        if tags["language"] == language:
            yield {**row, "kind": kind, "tags": {**tags, "kind": kind, "about": tags["kind"]}}


EXAMS: dict[str, Callable[[Population], Iterator[Row]]] = {
    "facts": _facts,
    "recall": _recall,
    "choice": _choice,
    "two-step": _two_step,
    "addition": _addition,
    "translation": _translation,
    "unanswerable": _unanswerable,
    "improper": _improper,
    "changed": _changed,
    "dialogue": _dialogue,
    "preference": _preference,
    "replies": _replies,
}


def exam(population: Population, name: str, items: int) -> Iterator[Row]:
    """The first `items` rows of an exam's shuffled order; no question comes twice."""
    seen: set[str] = set()
    for row in EXAMS[name](population):
        if len(seen) >= items:
            return
        question = row["prompt"] if "prompt" in row else str(row["messages"])
        if question in seen:
            continue
        row["tags"]["leaked"] = name in LEAKED and len(seen) < _LEAK_UNTIL and len(seen) % _LEAK_EVERY == 5
        seen.add(question)
        yield row


def leaked(population: Population) -> list[Row]:
    """The exam items that the web's junk gives away; they are tagged `leaked` in the exam too."""
    return [row for name in LEAKED for row in exam(population, name, _LEAK_UNTIL) if row["tags"]["leaked"]]
