"""Evol-instruct: instructions are made harder, or rarer, generation by generation (Xu et al. 2023, WizardLM).

In each generation every instruction of the population is put into one of six prompts, drawn by hash: five in depth (add
a condition, deepen, make specific, more reasoning, add material) and one in breadth (another, rarer instruction of the
field). The result is answered. It is eliminated, and its parent tried again in the next generation, when it (1) adds
nothing: the model finds it equal to its parent; (2) can't be answered: the answer says sorry and is short; (3) has an
answer of nothing but stop words and punctuation; (4) copies words of the evolving prompt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hanlin.alignment.instructions.account import Dropped, fault
from hanlin.alignment.instructions.chance import number
from hanlin.alignment.instructions.generator import Ask, Generator, Said
from hanlin.alignment.instructions.near_duplicates import RougeIndex
from hanlin.alignment.instructions.prompts import fill, read_prompt
from hanlin.alignment.instructions.seeds import Pair, Task, question_of
from hanlin.alignment.instructions.text import count_units, units

if TYPE_CHECKING:
    from hanlin.alignment.instructions.self_instruct import SelfInstructSettings

IN_DEPTH = ("constraints", "deepen", "concretise", "reasoning", "input")
OPERATIONS = (*IN_DEPTH, "breadth")
PROMPTS = (*(f"evolve-{name}" for name in OPERATIONS), "equal", "answer")
SHORT_APOLOGY = 80
"""Units below which an answer with an apology counts as none."""
_SORRY = re.compile(r"\bsorry\b|\bapologi[sz]e\b|抱歉|对不起|很遗憾", re.IGNORECASE)
_COPIED = re.compile(
    r"\b(?:old|new|given|rewritten) (?:instruction|prompt)s?\b|(?:旧|新|给定的?|改写后的?)指令", re.IGNORECASE
)
_STOP_WORDS = frozenset({
    "a", "an", "the", "and", "or", "but", "of", "to", "in", "on", "at", "for", "with", "by", "from", "as", "is", "are",
    "was", "were", "be", "been", "it", "its", "this", "that", "these", "those", "i", "you", "he", "she", "we", "they",
    "my", "your", "his", "her", "our", "their", "me", "him", "us", "them", "not", "no", "yes", "so", "if", "then",
    "than", "too", "very", "can", "will", "just", "do", "does", "did", "have", "has", "had", "there", "here", "what",
    "which", "who", "的", "了", "是", "在", "我", "你", "他", "她", "它", "们", "这", "那", "和", "与", "也", "都",
    "就", "不", "吗", "呢", "啊", "吧", "有", "个", "一",
})  # fmt: skip


class Evolution:
    """The population after some pieces of work, and the next piece: `batch` members of a generation."""

    def __init__(self, seeds: Sequence[Task], generator: Generator, settings: SelfInstructSettings, seed: int) -> None:
        self.generator, self.settings, self.seed = generator, settings, seed
        self.made: list[Task] = []
        self._prompts = {name: read_prompt(settings.prompts, name) for name in PROMPTS}
        self._size = len(seeds)
        self._pieces = -(-len(seeds) // settings.batch)
        self._now = [_flat(task) for task in seeds]
        """The generation that is evolved"""
        self._next = list(self._now)
        """The one that comes of it"""
        self._seen = {task.instruction for task in self._now}
        self._index = RougeIndex()
        for task in self._now:
            self._index.add(task.instruction)
        self._taken = 0

    @property
    def pieces(self) -> int:
        """How many pieces of work all generations are."""
        return self._pieces * self.settings.generations

    def take(self, found: dict[str, Any]) -> None:
        """Go on from what a piece of work made."""
        for value in found["accepted"]:
            task = Task.from_json(value)
            self.made.append(task)
            self._seen.add(task.instruction)
            self._index.add(task.instruction)
            self._next[task.origin["place"]] = task
        self._taken += 1
        if self._taken % self._pieces == 0:
            self._now = list(self._next)

    def round(self, turn: int) -> dict[str, Any]:
        """{accepted, dropped} of piece `turn`, which must be the next."""
        generation, piece = divmod(turn, self._pieces)
        places = range(piece * self.settings.batch, min(self._size, (piece + 1) * self.settings.batch))
        parents = [self._now[place] for place in places]
        operations = [
            OPERATIONS[number(self.seed, "operation", generation, place) % len(OPERATIONS)] for place in places
        ]
        evolved = self._evolve(parents, operations, generation)
        dropped: list[Dropped] = []
        alive: list[tuple[int, str]] = []
        """Of the new instructions: which parent's, and the text"""
        here: set[str] = set()
        for which, (said, parent, operation) in enumerate(zip(evolved, parents, operations)):
            text = clean(said.text)
            wrong = self._fault(said, text, operation, here)
            if wrong is not None:
                dropped.append({**wrong, "row": {"instruction": text, "parent": parent.id, "operation": operation}})
            else:
                here.add(text)
                alive.append((which, text))
        equal = self._equal([(parents[which].instruction, text) for which, text in alive], generation)
        answers = self._answer([text for _, text in alive], generation)
        accepted: list[Task] = []
        for (which, text), verdict, said in zip(alive, equal, answers, strict=True):
            parent, operation = parents[which], operations[which]
            wrong = self._eliminated(verdict, said)
            if wrong is not None:
                row = {"instruction": text, "parent": parent.id, "operation": operation, "answer": said.text[:500]}
                dropped.append({**wrong, "row": row})
                continue
            origin = {"method": "evol", "generation": generation + 1, "operation": operation, "parent": parent.id}
            origin |= {"seed": parent.origin.get("seed", parent.id), "place": places[which]}
            name = f"evol-{generation + 1}-{places[which]}"
            accepted.append(Task(name, text, (Pair("", said.text.strip()),), False, origin))
        return {"accepted": [task.to_json() for task in accepted], "dropped": dropped}

    def _evolve(self, parents: Sequence[Task], operations: Sequence[str], generation: int) -> list[Said]:
        asks = [
            Ask(
                fill(self._prompts[f"evolve-{name}"], f"evolve-{name}.txt", instruction=parent.instruction),
                number(self.seed, "evolve", generation, parent.id),
                self.settings.max_new_tokens,
                self.settings.temperature,
                self.settings.top_p,
            )
            for parent, name in zip(parents, operations)
        ]
        return self.generator.generate(asks)

    def _fault(self, said: Said, text: str, operation: str, here: set[str]) -> Dropped | None:
        size = count_units(text)
        if not said.fits:
            return fault("prompt_too_long")
        if not said.whole:
            return fault("unfinished", detail=text[-100:])
        if size < self.settings.least_words:
            return fault("short", size, self.settings.least_words)
        if size > self.settings.most_words:
            return fault("long", size, self.settings.most_words)
        if match := _COPIED.search(text):
            return fault("copied_prompt", detail=match.group())
        if text in self._seen or text in here:
            return fault("repeated")
        # A harder version is like its parent on purpose; a new instruction must be new.
        if operation == "breadth" and (nearest := self._index.nearest(text, self.settings.rouge)) is not None:
            return fault("similar", nearest[1], self.settings.rouge)
        return None

    def _equal(self, pairs: Sequence[tuple[str, str]], generation: int) -> list[bool | None]:
        """Whether the model finds the two instructions equal; None where it does not say."""
        asks = [
            Ask(fill(self._prompts["equal"], "equal.txt", first=first, second=second), number(self.seed, generation), 8)
            for first, second in pairs
        ]
        return [equal_or_not(said.text) for said in self.generator.generate(asks)] if asks else []

    def _answer(self, texts: Sequence[str], generation: int) -> list[Said]:
        prompts = texts
        if not self.generator.chat:
            prompts = [fill(self._prompts["answer"], "answer.txt", instruction=text) for text in texts]
        asks = [Ask(text, number(self.seed, generation), self.settings.max_new_tokens) for text in prompts]
        return self.generator.generate(asks) if asks else []

    def _eliminated(self, equal: bool | None, said: Said) -> Dropped | None:
        if equal is None:
            return fault("equality_unparsable")
        if equal:
            return fault("no_gain")
        if not said.fits or not said.whole:
            return fault("answer_cut", detail=said.text[-100:])
        size = count_units(said.text)
        if _SORRY.search(said.text) and size < SHORT_APOLOGY:
            return fault("sorry", size, SHORT_APOLOGY)
        if all(unit in _STOP_WORDS for unit in units(said.text)):
            return fault("stop_words", size)
        if size > self.settings.most_answer:
            return fault("long_answer", size, self.settings.most_answer)
        return None


def clean(text: str) -> str:
    """An instruction as the model wrote it, without the heading and the quotation marks that models put around it."""
    text = re.sub(r"^\s*(?:new instruction|新指令)\s*[:：]\s*", "", text.strip(), flags=re.IGNORECASE)
    return (
        text[1:-1].strip() if len(text) > 2 and text[0] == text[-1] == '"' and '"' not in text[1:-1] else text.strip()
    )


def equal_or_not(text: str) -> bool | None:
    """True for `Equal`, False for `Not equal`, None for any other answer."""
    match = re.fullmatch(r"\W*(not equal|equal|不相等|不相同|相等|相同)\W*", text.strip().lower())
    return None if match is None else match[1] in ("equal", "相等", "相同")


def _flat(task: Task) -> Task:
    """A seed as one instruction, its first input in it: what is evolved is all that the user says."""
    pair = task.pairs[0]
    return Task(task.id, question_of(task.instruction, pair.input), (Pair("", pair.output),), False, task.origin)
