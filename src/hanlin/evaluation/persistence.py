"""Over how many turns an instruction that was given once is obeyed: the exam of Ghost Attention (Touvron et al. 2023).

A script is what a user says, turn by turn; the model's own answers stand between. Each script is played under each of
the task's rules (`constraints.py`), and once with no rule at all: what is obeyed by chance, because the model writes so
in any case, shows there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

from hanlin.artifacts import HanlinError
from hanlin.corpus.language import han_share
from hanlin.evaluation import templates
from hanlin.evaluation.constraints import constraint
from hanlin.evaluation.items import Item, tags_of
from hanlin.evaluation.scoring import Mark, Tick
from hanlin.evaluation.tasks import Task

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel
    from hanlin.inference.types import Completion

PLAIN = (
    "{% for one in messages %}{% if one.role == 'user' %}{{ '问：' if language == 'zh' else 'Q: ' }}"
    "{% elif one.role == 'assistant' %}{{ '答：' if language == 'zh' else 'A: ' }}{% endif %}"
    "{{ one.content }}\n{% endfor %}{{ '答：' if language == 'zh' else 'A:' }}"
)
"""How a conversation is put to a model without a chat template, where the task does not say."""


def script_items(task: Task, row: dict[str, Any], where: str, identity: str) -> list[Item]:
    """A row's script under each of the task's rules: `turns`, a list of what the user says, or a conversation in the
    task's `messages` field, of which the user's turns are taken. Raises HanlinError for a row that has neither."""
    at = f"{where}: task {task.name}, item {identity}"
    given: Any = row.get("turns")
    if given is None:
        messages: Any = row.get(task.messages or "messages")
        users = messages if isinstance(messages, list) else []
        given = [one.get("content") for one in users if isinstance(one, dict) and one.get("role") == "user"]
    turns = cast(list[Any], given) if isinstance(given, list) else []
    if not turns or not all(isinstance(one, str) and one.strip() for one in turns):
        raise HanlinError(
            f"{at}: it needs `turns`, a list of what the user says turn by turn, or a conversation in "
            f"`{task.messages or 'messages'}`."
        )
    tags = tags_of(row.get("tags"))
    language = tags.get("language") or ("zh" if (han_share("\n".join(turns)) or 0) > 0.5 else "en")
    found: list[Item] = []
    for place, name in enumerate(task.rules):
        # Which of a rule's words is asked for depends on the item alone.
        rule = constraint(name, language, sum(identity.encode()) + place)
        labels = {**tags, "rule": name, "language": language}
        found.append(Item(f"{identity}/{name}", str(turns[0]), tags=labels, turns=tuple(turns), rule=rule))
    return found


@dataclass
class _Talk:
    """A script as it is played."""

    turns: tuple[str, ...]
    language: str
    messages: list[dict[str, Any]] = field(default_factory=lambda: list[dict[str, Any]]())
    answers: list[str] = field(default_factory=lambda: list[str]())
    finish: list[str] = field(default_factory=lambda: list[str]())
    first: str = ""
    """What stands before the first question, if the rule is the user's to say"""
    full: bool = False
    """The model can't take a longer conversation: it ends here"""


def play_scripts(
    model: LanguageModel, task: Task, items: Sequence[Item], tick: Tick, chat: bool, most_tokens: int | None = None
) -> list[Mark]:
    """Marks of `kind: persistence` items, greedily answered: `held`, the share of the turns before the first answer
    that does not obey; `first` and `last`, whether the first and the last answer obeys; `chance`, the share of answers
    that would obey with nothing asked for. `most_tokens` bounds the answers further than the task does.

    A conversation that outgrows the model's positions ends there (its record is `truncated`), and counts by the turns
    that it has; one whose first turn does not fit has no marks.
    """
    plain: dict[tuple[tuple[str, ...], str], _Talk] = {}
    told: list[_Talk] = []
    for item in items:
        assert item.rule is not None
        language = item.tags["language"]
        plain.setdefault((item.turns, language), _Talk(item.turns, language))
        talk = _Talk(item.turns, language)
        if task.place == "system":
            talk.messages.append({"role": "system", "content": item.rule.text})
        else:
            talk.first = f"{item.rule.text}\n"
        told.append(talk)
    every = [*plain.values(), *told]
    longest = max(len(item.turns) for item in items)
    wanted = min(task.max_new_tokens, most_tokens or task.max_new_tokens)
    wanted = max(1, min(wanted, model.config.max_positions // (longest + 1)))
    asked = 0
    for turn in range(longest):
        playing = [talk for talk in every if turn < len(talk.turns) and not talk.full]
        for talk in playing:
            said = (talk.first if turn == 0 else "") + talk.turns[turn]
            talk.messages.append({"role": "user", "content": said})
        _answer(model, task, playing, chat, wanted)
        tick(len(items) * (turn + 1) // longest - asked)
        asked = len(items) * (turn + 1) // longest
    return [_mark(item, talk, plain[item.turns, talk.language]) for item, talk in zip(items, told, strict=True)]


def _answer(model: LanguageModel, task: Task, talks: Sequence[_Talk], chat: bool, wanted: int) -> None:
    """The next answer of each talk; one for which there is no room is `full`, and loses its question."""
    room = model.config.max_positions - wanted
    requests: list[Any] = []
    asked: list[_Talk] = []
    for talk in talks:
        if chat:
            request = model.chat_request(talk.messages, max_new_tokens=wanted)
        else:
            fields = {"messages": talk.messages, "language": talk.language}
            text = templates.render(task.plain or PLAIN, fields, f"task {task.name}")
            request = model.request(text, raw=True, max_new_tokens=wanted, stop=task.stop or ("\n",))
        if len(request.prompt_ids) > room:
            talk.full = True
            talk.messages.pop()
            continue
        requests.append(request)
        asked.append(talk)
    completions: list[Completion] = model.engine.generate(requests) if requests else []
    for talk, completion in zip(asked, completions, strict=True):
        answer = completion.text.strip()
        talk.answers.append(answer)
        talk.finish.append(completion.finish_reason)
        talk.messages.append({"role": "assistant", "content": answer})


def _mark(item: Item, talk: _Talk, plain: _Talk) -> Mark:
    assert item.rule is not None
    obeyed = _obeyed(item.rule.holds, talk.answers)
    chance = _obeyed(item.rule.holds, plain.answers)
    held = next((turn for turn, good in enumerate(obeyed) if not good), len(obeyed))
    values: dict[str, float] = {}
    if obeyed:
        values = {"held": held / len(obeyed), "first": float(obeyed[0]), "last": float(obeyed[-1])}
    if chance:
        values["chance"] = sum(chance) / len(chance)
    record: dict[str, Any] = {
        "question": f"{item.rule.text} {' … '.join(talk.turns)}",
        "output": " … ".join(talk.answers),
        "correct": bool(obeyed) and all(obeyed),
        "rule": item.rule.name,
        "messages": talk.messages,
        "obeyed": obeyed,
        "by_chance": chance,
        "finish": talk.finish,
    }
    if talk.full:
        record["truncated"] = True
    return Mark(item.id, values, item.tags, record)


def _obeyed(holds: Callable[[str], bool], answers: Sequence[str]) -> list[bool]:
    return [holds(answer) for answer in answers]
