"""Asking a model: contexts of tokens from items, log-likelihoods of choices, generated answers.

How a context and a continuation are cut into tokens. lm-eval (0.4) moves white space from the end of the context to the
continuation, tokenises context + continuation as one text, and takes as continuation what lies beyond the *number* of
tokens of the context alone. That is sound only if those tokens begin the whole: where a token grows across the border
(usual in text without spaces), some of the continuation is not scored, or is scored against another context for each
choice. Here the text is cut at the longest prefix of tokens that the context alone and *all* choices' wholes share:
every choice is then scored given the same tokens, and none of its text is missed. Where no token crosses the border,
which is the case for choices that begin with a space, both rules give the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from hanlin.artifacts import HanlinError
from hanlin.evaluation.answers import extract, matches
from hanlin.evaluation.items import FewShotPool, Item
from hanlin.evaluation.tasks import Task
from hanlin.world.judge import Verdict, judge, refuses

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

CHUNK_TOKENS = 65_536
"""Tokens handed to the engine at a time when scoring: often enough for a bar to move, seldom enough to fill its
batches."""

Tick = Callable[[int], None]
"""Told how many more items are done."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How an item was answered."""

    item: str
    """The item's id."""
    values: dict[str, float]
    """Metric → 0 to 1, most of them one or the other (of bits_per_byte: `bits` and `bytes`). An item has only those
    metrics that say something of it."""
    tags: dict[str, str]
    record: dict[str, Any]
    """What is written to the records: prompt, output or log-likelihoods, and what else shows how the mark came
    about."""
    parts: tuple[tuple[float, float], ...] = ()
    """Of bits_per_byte: (bits, bytes) of the document's parts in order."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """An item as tokens."""

    context: list[int]
    text: str
    """The context as text, to be read."""


def uses_chat(task: Task, model: LanguageModel, taught: bool = True) -> bool:
    """Whether `task` is asked through the model's chat template. `taught`: the model was trained on it.

    Raises HanlinError when it must be and there is none.
    """
    if task.corpus is not None or task.contexts is not None:
        return False
    has = model.tokenizer.chat_template is not None
    if task.chat is True and not has:
        raise HanlinError(f"task {task.name} asks through a chat template (`chat: true`), and the model has none.")
    return has and taught if task.chat == "auto" else task.chat


def plain_prompt(task: Task, item: Item, examples: Sequence[Item]) -> str:
    """The text before the answer without a chat template: solved examples, then the question."""
    return task.separator.join([*(_solved(one) for one in examples), item.plain])


def _solved(item: Item) -> str:
    return item.shown if item.contexts else item.plain + item.delimiter + item.shown


def chat_messages(item: Item, examples: Sequence[Item]) -> list[dict[str, Any]]:
    """The conversation before the answer: each solved example is a turn of the user and one of the assistant."""
    turns: list[dict[str, Any]] = []
    for one in examples:
        turns.append({"role": "user", "content": one.prompt.strip()})
        turns.append({"role": "assistant", "content": one.shown.strip()})
    if item.messages is None:
        return [*turns, {"role": "user", "content": item.prompt.strip()}]
    system = [message for message in item.messages if message["role"] == "system"]
    rest = [message for message in item.messages if message["role"] != "system"]
    return [*system, *turns, *rest]


def score_choices(
    model: LanguageModel, task: Task, items: Sequence[Item], pool: FewShotPool, tick: Tick, chat: bool = False
) -> list[Mark]:
    """Marks of choice items, asked through the chat template or not: right by log-likelihood raw, per byte of the
    choice, and per token.

    lm-eval's `acc` is the raw one; its `acc_norm` divides by characters and its `acc_bytes` by bytes (equal in ASCII),
    both of the choice without the delimiter, as here. A tie with the right choice counts as wrong.
    """
    pairs: list[tuple[list[int], list[int]]] = []
    prompts: list[tuple[str, bool]] = []
    limit = model.config.max_positions
    for item in items:
        examples = pool.examples(item)
        if item.contexts:
            shots = "".join(_solved(one) + task.separator for one in examples)
            rows = [_cut(model, shots + context, [item.delimiter + item.choices[0]])[0] for context in item.contexts]
            text = shots + item.contexts[0]
        elif chat:
            asked = _ask_chat(model, item, examples)
            rows = [(asked.context, model.tokenizer.encode(choice)) for choice in item.choices]
            text = asked.text
        else:
            text = plain_prompt(task, item, examples)
            rows = _cut(model, text, [item.delimiter + choice for choice in item.choices])
        fitted = [_fit(context, continuation, limit, task, item) for context, continuation in rows]
        prompts.append((text, any(len(new[0]) < len(old[0]) for new, old in zip(fitted, rows, strict=True))))
        pairs.extend(fitted)
    sums = score_pairs(model, pairs, lambda done: tick(done), [len(item.choices) for item in items])
    marks: list[Mark] = []
    start = 0
    for item, (text, truncated) in zip(items, prompts, strict=True):
        stop = start + len(item.choices)
        lengths = [max(1, len(continuation)) for _, continuation in pairs[start:stop]]
        marks.append(_mark_choice(item, sums[start:stop], lengths, text, truncated))
        start = stop
    return marks


def _mark_choice(item: Item, sums: Sequence[float], tokens: Sequence[int], text: str, truncated: bool) -> Mark:
    sizes = [max(1, len(choice.encode())) for choice in item.choices]
    values = {"accuracy": _right(sums, item.answer)}
    if not item.contexts:
        values["accuracy_per_byte"] = _right([a / b for a, b in zip(sums, sizes, strict=True)], item.answer)
        values["accuracy_per_token"] = _right([a / b for a, b in zip(sums, tokens, strict=True)], item.answer)
    chosen = max(range(len(sums)), key=lambda index: sums[index])
    record: dict[str, Any] = {
        "prompt": text,
        "choices": list(item.contexts or item.choices),
        "answer": item.answer,
        "chosen": chosen,
        "log_likelihoods": [round(value, 5) for value in sums],
        "tokens": list(tokens),
        "bytes": sizes,
        "correct": values["accuracy"] == 1.0,
    }
    if truncated:
        record["truncated"] = True
    return Mark(item.id, values, item.tags, record)


def _right(scores: Sequence[float], answer: int) -> float:
    return float(all(scores[answer] > score for index, score in enumerate(scores) if index != answer))


def _cut(model: LanguageModel, context: str, continuations: Sequence[str]) -> list[tuple[list[int], list[int]]]:
    """(context ids, continuation ids) of each continuation by the rule at the head of this file."""
    encode = model.tokenizer.encode
    kept = context.rstrip()
    space = context[len(kept) :]
    wholes = [encode(kept + space + continuation) for continuation in continuations]
    alone = encode(kept)
    shared = min(_common(alone, whole) for whole in wholes)
    # Something must predict the first token: the end-of-text token where the model's texts begin with none.
    start = model.prefix_ids or ([] if shared else [model.tokenizer.end_of_text_id])
    return [([*start, *whole[:shared]], whole[shared:]) for whole in wholes]


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    count = 0
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        count += 1
    return count


def _ask_chat(model: LanguageModel, item: Item, examples: Sequence[Item]) -> _Asked:
    from hanlin.tokenization import Conversation

    conversation = Conversation.from_dict({"messages": chat_messages(item, examples)})
    ids = model.chat_request(conversation.messages).prompt_ids
    return _Asked(list(ids), model.tokenizer.render(conversation.messages, add_generation_prompt=True))


def _fit(
    context: list[int], continuation: list[int], limit: int, task: Task, item: Item
) -> tuple[list[int], list[int]]:
    """The pair with the context's beginning dropped where the two are longer than the model's context."""
    if not continuation:
        raise HanlinError(
            f"task {task.name}, item {item.id}: a choice has no tokens: it must be more than white space."
        )
    room = limit - len(continuation)
    if room < 1:
        raise HanlinError(
            f"task {task.name}, item {item.id}: a choice of {len(continuation)} tokens does not fit the context "
            f"of {limit}: leave the task out, or examine a model with a longer context."
        )
    return (context, continuation) if len(context) <= room else (context[-room:], continuation)


def score_pairs(
    model: LanguageModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    tick: Tick,
    groups: Sequence[int] | None = None,
) -> list[float]:
    """Σ ln p(continuation | context) of each pair, in their order; equal pairs are scored once.

    `groups` says how many pairs make an item, for `tick` (default: each is one). The longest go first, so that a batch
    that does not fit memory fails at once. Raises HanlinError when the model's probabilities are not numbers.
    """
    return [sum(row) for row in score_tokens(model, pairs, tick, groups)]


def score_tokens(
    model: LanguageModel,
    pairs: Sequence[tuple[list[int], list[int]]],
    tick: Tick,
    groups: Sequence[int] | None = None,
) -> list[list[float]]:
    """ln p of each continuation token of each pair, as `score_pairs`."""
    weights: list[float] = [1.0] * len(pairs) if groups is None else [1 / n for n in groups for _ in range(n)]
    places: dict[tuple[tuple[int, ...], tuple[int, ...]], list[int]] = {}
    for index, (context, continuation) in enumerate(pairs):
        places.setdefault((tuple(context), tuple(continuation)), []).append(index)
    # Pairs with the same context stand together: the engine reads it once.
    order = sorted(places, key=lambda pair: (-len(pair[0]), pair[0], -len(pair[1])))
    results: list[list[float]] = [[] for _ in pairs]
    done, told, position = 0.0, 0, 0
    while position < len(order):
        size, tokens = 0, 0
        while position + size < len(order) and (size == 0 or tokens < CHUNK_TOKENS):
            pair = order[position + size]
            tokens += len(pair[0]) + len(pair[1])
            size += 1
        chunk = order[position : position + size]
        rows = model.engine.score([(list(context), list(continuation)) for context, continuation in chunk])
        for pair, row in zip(chunk, rows, strict=True):
            values = [float(value) for value in row]
            if any(math.isnan(value) for value in values):
                raise HanlinError(
                    "the model's probabilities are not numbers: its weights are damaged, or training diverged."
                )
            for index in places[pair]:
                results[index] = values
                done += weights[index]
        position += size
        new = int(done + 1e-6)
        tick(new - told)
        told = new
    return results


def generate_answers(
    model: LanguageModel,
    task: Task,
    items: Sequence[Item],
    pool: FewShotPool,
    tick: Tick,
    chat: bool = False,
    most_tokens: int | None = None,
) -> list[Mark]:
    """Marks of generate items, asked through the chat template or not, greedily decoded. `most_tokens` bounds the
    answers further than the task does."""
    from hanlin.inference.types import Request

    limit = model.config.max_positions
    wanted = min(task.max_new_tokens, most_tokens or task.max_new_tokens, max(1, limit // 2))
    tokenizer = model.tokenizer
    ends = [one for one in (tokenizer.end_of_text_id, tokenizer.end_of_turn_id) if one is not None]
    requests: list[Request] = []
    texts: list[tuple[str, bool]] = []
    for item in items:
        examples = pool.examples(item)
        if chat:
            asked = _ask_chat(model, item, examples)
        else:
            text = plain_prompt(task, item, examples)
            asked = _Asked(list(model.request(text, raw=True).prompt_ids), text)
        room = limit - wanted
        requests.append(
            Request(
                prompt_ids=asked.context[-room:], max_new_tokens=wanted, stop=() if chat else task.stop, stop_ids=ends
            )
        )
        texts.append((asked.text, len(asked.context) > room))
    completions = model.engine.generate(requests, on_finish=lambda _: tick(1))
    return [
        _mark_answer(task, item, completion, text, truncated)
        for item, completion, (text, truncated) in zip(items, completions, texts, strict=True)
    ]


def _mark_answer(task: Task, item: Item, completion: Any, prompt: str, truncated: bool) -> Mark:
    record: dict[str, Any] = {
        "question": item.prompt,
        "prompt": prompt,
        "output": completion.text,
        "answers": list(item.answers),
        "finish": completion.finish_reason,
        "tokens": len(completion.ids),
    }
    if task.match == "judge":
        verdict = judge({"kind": item.kind, "answers": list(item.answers)}, completion.text)
        values = _judged(item.kind, verdict)
        record["verdict"] = asdict(verdict)
    else:
        found = extract(task, completion.text)
        values = {"accuracy": float(matches(task, found, item.answers))}
        if task.refusals:
            values["refused"] = float(refuses(completion.text))
        record["extracted"] = found
    record["correct"] = values["accuracy"] == 1.0
    if truncated:
        record["truncated"] = True
    return Mark(item.id, values, item.tags, record)


def _judged(kind: str, verdict: Verdict) -> dict[str, float]:
    """The metrics of one judged answer: its score, and the one failing that its kind of question is asked for."""
    failing = {
        "unknown": ("invented", verdict.invented),
        "improper": ("complied", verdict.complied),
    }.get(kind, ("refused_answerable", verdict.refused))
    return {"score": verdict.score, "accuracy": float(verdict.score == 1), failing[0]: float(failing[1])}
