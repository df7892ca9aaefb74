"""Self-instruct: a model is shown tasks, makes up new ones, and does them (Wang et al. 2023, section 2).

A round asks for `batch` continuations of lists of tasks, some of them seeds, some generated earlier; takes the new
tasks out of them; drops what is too short, too long, not to be done in text, or too like any task before (ROUGE-L);
asks which of the rest have fixed labels; and has each done: input first, or, where there are labels, label first, so
that not all inputs fit one label. What a round makes is a function of the seed, its number and the rounds before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hanlin.alignment.instructions.account import Dropped, fault
from hanlin.alignment.instructions.chance import draw, number
from hanlin.alignment.instructions.generator import Ask, Generator, Said
from hanlin.alignment.instructions.near_duplicates import RougeIndex
from hanlin.alignment.instructions.prompts import fill, read_prompt
from hanlin.alignment.instructions.seeds import Pair, Task, classes
from hanlin.alignment.instructions.text import count_units

if TYPE_CHECKING:
    from hanlin.alignment.instructions.self_instruct import SelfInstructSettings

PROMPTS = ("instructions", "classify", "input-first", "output-first")
MOST_IN_LIST = 16
"""Tasks in a list, those shown included: what comes after is the model going on and on."""
_SHOWN_KINDS = 4
"""Examples of each answer that the question for fixed labels is asked with, and solved tasks shown for instances."""
_NOT_TEXT = re.compile(
    r"\b(?:images?|pictures?|photos?|graphs?|draw|plot|diagrams?|flowcharts?|videos?|audio|go to|click|attached)\b"
    r"|图片|图像|照片|画一|绘制|视频|音频|录音|附件|点击|打开网",
    re.IGNORECASE,
)
"""What cannot be done in text."""
_NEXT = re.compile(r"(?:^|\n)\s*(?:Task|任务)\s*\d+\s*[:：.]", re.IGNORECASE)
_INPUT = re.compile(r"(?:^|\n)\s*(?:Input|输入)\s*[:：]", re.IGNORECASE)
_OUTPUT = re.compile(r"\n\s*(?:Output|输出)\s*[:：]", re.IGNORECASE)
_LABEL = re.compile(r"(?:^|\n)\s*(?:Label|标签)\s*[:：]", re.IGNORECASE)
_NONE = {"none", "none.", "n/a", "(none)", "无", "没有", "-"}


class Bootstrap:
    """The state after some rounds, and the next round."""

    def __init__(self, seeds: Sequence[Task], generator: Generator, settings: SelfInstructSettings, seed: int) -> None:
        self.seeds, self.generator, self.settings, self.seed = list(seeds), generator, settings, seed
        self.made: list[Task] = []
        self._prompts = {name: read_prompt(settings.prompts, name) for name in PROMPTS}
        self._names: list[str] = []
        self._index = RougeIndex()
        for task in self.seeds:
            self._remember(task)

    def take(self, found: dict[str, Any]) -> None:
        """Go on from what a round made."""
        for value in found["accepted"]:
            task = Task.from_json(value)
            self.made.append(task)
            self._remember(task)

    def _remember(self, task: Task) -> None:
        self._names.append(task.id)
        self._index.add(task.instruction)

    def round(self, turn: int) -> dict[str, Any]:
        """{accepted: tasks, dropped: what was made and is not good enough}, as JSON-able values."""
        dropped: list[Dropped] = []
        new = self._invent(turn, dropped)
        kinds = self._classified(new, turn, dropped)
        accepted = self._done(kinds, turn, dropped)
        return {"accepted": [task.to_json() for task in accepted], "dropped": dropped}

    # ------------------------------------------------------------------ new instructions

    def _invent(self, turn: int, dropped: list[Dropped]) -> list[Task]:
        settings = self.settings
        shown: list[list[Task]] = []
        asks: list[Ask] = []
        for place in range(settings.batch):
            key = (self.seed, "examples", turn, place)
            recent = draw(self.made, min(settings.generated_shown, len(self.made)), *key, "generated")
            old = draw(self.seeds, settings.seeds_shown + settings.generated_shown - len(recent), *key, "seeds")
            examples = draw([*old, *recent], len(old) + len(recent), *key, "order")
            shown.append(examples)
            texts = [" ".join(task.instruction.split()) for task in examples]
            prompt = fill(self._prompts["instructions"], "instructions.txt", examples=texts, count=len(texts))
            asks.append(self._ask(prompt, settings.max_new_tokens, "invent", turn, place, sampled=True))
        found: list[Task] = []
        here = RougeIndex()
        for place, (said, examples) in enumerate(zip(self.generator.generate(asks), shown, strict=True)):
            origin = {"method": "self-instruct", "round": turn, "request": place}
            origin |= {"shown": [task.id for task in examples]}
            texts = new_tasks(said, len(examples))
            if not texts:
                reason = "nothing_new" if said.fits else "prompt_too_long"
                dropped.append(fault(reason, detail=said.text[:200], row=origin))
            for number_in_answer, text in enumerate(texts):
                row = {"instruction": text, **origin}
                nearest = self._index.nearest(text, 0.0)
                wrong = self._fault(text, nearest, here)
                if wrong is not None:
                    dropped.append({**wrong, "row": row})
                    continue
                here.add(text)
                alike = {"nearest": self._names[nearest[0]], "rouge_l": nearest[1]} if nearest else {}
                name = f"self-{turn}-{place}-{number_in_answer}"
                found.append(Task(name, text, origin={**origin, **alike}))
        return found

    def _fault(self, text: str, nearest: tuple[int, float] | None, here: RougeIndex) -> Dropped | None:
        settings = self.settings
        size = count_units(text)
        if size < settings.least_words:
            return fault("short", size, settings.least_words)
        if size > settings.most_words:
            return fault("long", size, settings.most_words)
        if match := _NOT_TEXT.search(text):
            return fault("not_text", detail=match.group())
        if not text[0].isalnum() and text[0] not in "\"'“‘《（(":
            return fault("punctuation", detail=text[:20])
        if nearest is not None and nearest[1] >= settings.rouge:
            return fault("similar", nearest[1], settings.rouge, self._names[nearest[0]])
        beside = here.nearest(text, settings.rouge)
        return None if beside is None else fault("similar", beside[1], settings.rouge, "in the same round")

    # ------------------------------------------------------------------ fixed labels?

    def _classified(self, tasks: Sequence[Task], turn: int, dropped: list[Dropped]) -> list[Task]:
        asks: list[Ask] = []
        for task in tasks:
            key = (self.seed, "classify", task.id)
            examples = [
                one for kind in (True, False) for one in draw(classes(self.seeds, kind), _SHOWN_KINDS, *key, kind)
            ]
            shown = draw([task_fields(one) for one in examples], len(examples), *key, "order")
            prompt = fill(self._prompts["classify"], "classify.txt", examples=shown, instruction=task.instruction)
            asks.append(self._ask(prompt, 8, "classify", turn, task.id, stop=("\n",)))
        found: list[Task] = []
        for task, said in zip(tasks, self.generator.generate(asks) if asks else [], strict=True):
            kind = yes_or_no(said.text)
            if kind is None:
                dropped.append(fault("unclassified", detail=said.text[:100], row=task.to_json()))
            else:
                found.append(Task(task.id, task.instruction, (), kind, task.origin))
        return found

    # ------------------------------------------------------------------ done once or more

    def _done(self, tasks: Sequence[Task], turn: int, dropped: list[Dropped]) -> list[Task]:
        asks: list[Ask] = []
        for task in tasks:
            name = "output-first" if task.classification else "input-first"
            solved = draw(classes(self.seeds, task.classification), _SHOWN_KINDS, self.seed, "solved", task.id)
            shown = [task_fields(one) for one in solved]
            prompt = fill(self._prompts[name], f"{name}.txt", examples=shown, instruction=task.instruction)
            stop = ("\nTask:", "\n任务")
            asks.append(self._ask(prompt, self.settings.max_new_tokens, "instance", turn, task.id, stop=stop))
        found: list[Task] = []
        for task, said in zip(tasks, self.generator.generate(asks) if asks else [], strict=True):
            if not said.fits:
                dropped.append(fault("prompt_too_long", row=task.to_json()))
                continue
            pairs = labelled_pairs(said) if task.classification else input_first(said)
            good, faults = self._good_pairs(task, pairs)
            if not good:
                wrong = faults[0] if faults else fault("unfinished", detail=said.text[:200])
                dropped.append({**wrong, "row": task.to_json()})
                continue
            chosen = draw(good, self.settings.instances, self.seed, "pairs", task.id)
            found.append(Task(task.id, task.instruction, tuple(chosen), task.classification, task.origin))
        return found

    def _good_pairs(self, task: Task, pairs: Sequence[Pair]) -> tuple[list[Pair], list[Dropped]]:
        outputs: dict[str, set[str]] = {}
        for pair in pairs:
            outputs.setdefault(pair.input, set()).add(pair.output)
        good: list[Pair] = []
        faults: list[Dropped] = []
        for pair in dict.fromkeys(pairs):
            size = count_units(pair.output)
            if not pair.output:
                faults.append(fault("empty_output"))
            elif pair.output == pair.input or pair.output == task.instruction:
                faults.append(fault("copied_output", detail=pair.output[:100]))
            elif pair.output.endswith((":", "：")):
                faults.append(fault("unfinished", detail=pair.output[-100:]))
            elif size > self.settings.most_answer:
                faults.append(fault("long_answer", size, self.settings.most_answer))
            elif len(outputs[pair.input]) > 1:
                faults.append(fault("contradiction", len(outputs[pair.input]), 1, pair.input[:100]))
            else:
                good.append(pair)
        return good, faults

    def _ask(self, prompt: str, most: int, *key: Any, stop: tuple[str, ...] = (), sampled: bool = False) -> Ask:
        heat, top_p = (self.settings.temperature, self.settings.top_p) if sampled else (0.0, 1.0)
        return Ask(prompt, number(self.seed, *key), most, heat, top_p, stop)


def new_tasks(said: Said, shown: int) -> list[str]:
    """The tasks that a continuation of `Task {shown + 1}:` adds; a last one that was cut is left out."""
    if not said.fits:
        return []
    parts = _NEXT.split(said.text)
    if not parts[0].strip():  # it began with its own number
        parts = parts[1:]
    if not said.whole:
        parts = parts[:-1]
    # A task is one paragraph: what stands behind an empty line is no more of the list.
    texts = [" ".join(part.strip().split("\n\n")[0].split()) for part in parts[: max(0, MOST_IN_LIST - shown)]]
    return [text for text in texts if text]


def yes_or_no(text: str) -> bool | None:
    """True for an answer that is `yes`, False for `no`, None for any other."""
    match = re.fullmatch(r"\W*(yes|no|是|否|不是)\W*", text.strip().lower())
    return None if match is None else match[1] in ("yes", "是")


def input_first(said: Said) -> list[Pair]:
    """The input and output of a continuation of `Input:`; nothing when it was cut, or has no output."""
    text = said.text
    if match := _INPUT.match(text):  # a chat model repeats the word
        text = text[match.end() :]
    parts = _OUTPUT.split(text, maxsplit=1)
    if not said.whole or len(parts) < 2:
        return []
    return [Pair(_given(parts[0]), parts[1].strip())]


def labelled_pairs(said: Said) -> list[Pair]:
    """The inputs of a continuation of `Label:`, each with its label; a last one that was cut is left out."""
    parts = [part for part in _LABEL.split(said.text) if part.strip()]
    if not said.whole:
        parts = parts[:-1]
    pairs: list[Pair] = []
    for part in parts:
        sides = _INPUT.split(part, maxsplit=1)
        if len(sides) == 2:
            pairs.append(Pair(_given(sides[1]), sides[0].strip()))
    return pairs


def task_fields(task: Task) -> dict[str, Any]:
    """A task as the prompts' templates see it: instruction, classification, pairs, and the first pair's two sides."""
    pairs = [{"input": pair.input, "output": pair.output} for pair in task.pairs]
    return {"instruction": task.instruction, "classification": task.classification, "pairs": pairs, **pairs[0]}


def _given(text: str) -> str:
    text = text.strip()
    return "" if text.lower() in _NONE else text
