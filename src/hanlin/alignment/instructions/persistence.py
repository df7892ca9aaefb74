"""Over how many turns an instruction that was given once is obeyed: the exam of Ghost Attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hanlin.alignment.instructions.constraints import Constraint
from hanlin.artifacts import UsageError

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

Chat = Callable[[list[list[dict[str, Any]]]], list[str]]
"""Conversations that end with the user's turn -> the answers."""


def measure_persistence(
    chat: Chat,
    scripts: Sequence[Sequence[str]],
    rules: Sequence[Constraint],
    place: Literal["system", "user"] = "system",
) -> dict[str, Any]:
    """Play each script (what a user says, turn by turn) under each rule, the model's own answers in between.

    Returns {rule: {obeyed: [share of scripts whose answer obeyed at turn 1, 2, …], chance: [the same when nothing was
    asked for], held: mean number of turns until the first that is not obeyed, turns: mean number of turns played}}.
    What is obeyed by chance, because the model writes so in any case, shows in `chance`. Raises UsageError for a script
    without turns.
    """
    if not scripts or not all(scripts):
        raise UsageError("persistence is measured on scripts of at least one turn each")
    plain = _play(chat, [(script, None) for script in scripts], place)
    found: dict[str, Any] = {}
    for rule in rules:
        told = _play(chat, [(script, rule) for script in scripts], place)
        obeyed = [[rule.holds(answer) for answer in answers] for answers in told]
        chance = [[rule.holds(answer) for answer in answers] for answers in plain]
        held = [next((turn for turn, good in enumerate(one) if not good), len(one)) for one in obeyed]
        found[rule.name] = {
            "obeyed": _by_turn(obeyed),
            "chance": _by_turn(chance),
            "held": sum(held) / len(held),
            "turns": sum(map(len, scripts)) / len(scripts),
        }
    return found


def chat_by(model: LanguageModel, max_new_tokens: int = 128) -> Chat:
    """A model's greedy answers."""

    def chat(conversations: list[list[dict[str, Any]]]) -> list[str]:
        requests = [model.chat_request(messages, max_new_tokens=max_new_tokens) for messages in conversations]
        return [one.text.strip() for one in model.engine.generate(requests)]

    return chat


def _play(
    chat: Chat, parts: Sequence[tuple[Sequence[str], Constraint | None]], place: Literal["system", "user"]
) -> list[list[str]]:
    """The answers to each script, all scripts together turn by turn."""
    talks: list[list[dict[str, Any]]] = [
        [{"role": "system", "content": rule.text}] if rule is not None and place == "system" else []
        for _, rule in parts
    ]
    answers: list[list[str]] = [[] for _ in parts]
    for turn in range(max(len(script) for script, _ in parts)):
        playing = [number for number, (script, _) in enumerate(parts) if turn < len(script)]
        for number in playing:
            script, rule = parts[number]
            first = rule is not None and place == "user" and turn == 0
            said = f"{rule.text}\n{script[turn]}" if first and rule is not None else script[turn]
            talks[number].append({"role": "user", "content": said})
        for number, text in zip(playing, chat([talks[number] for number in playing]), strict=True):
            answers[number].append(text)
            talks[number].append({"role": "assistant", "content": text})
    return answers


def _by_turn(results: Sequence[Sequence[bool]]) -> list[float]:
    turns = max(map(len, results))
    columns = [[one[turn] for one in results if turn < len(one)] for turn in range(turns)]
    return [sum(column) / len(column) for column in columns]
