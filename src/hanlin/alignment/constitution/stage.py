"""The stage `constitution`: a model's answers revised, and compared, by written principles."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator

from hanlin.alignment.asked import look_for_prompts
from hanlin.alignment.constitution.principles import source_of
from hanlin.alignment.instructions.pieces import FOLDER
from hanlin.alignment.instructions.reader import Chat
from hanlin.alignment.prepared import PREFERENCES, fingerprint_paths, look_for_preferences
from hanlin.artifacts import (
    POLICY_KINDS,
    HanlinError,
    Settings,
    Stage,
    StageContext,
    atomic_path,
    hash_file,
    write_json,
)

if TYPE_CHECKING:
    from hanlin.alignment.constitution.label import Verdict
    from hanlin.alignment.constitution.questions import Group, Question
    from hanlin.alignment.constitution.speaker import Speaker
    from hanlin.alignment.constitution.work import Work
    from hanlin.alignment.instructions.account import Account

LABELS = "labels.jsonl"
CARD = "card.json"


class ConstitutionSettings(Settings):
    """Makes instructions by critique and revision, and preferences by a judge's choice, both by written principles
    (Bai et al. 2022; Lee et al. 2023), with the judge's reliability card."""

    model: str | None = None
    """Who answers: a stage or a Hugging Face directory. Only with `pairs` and a `judge` it may be left out."""
    judge: str | None = None
    """Who criticises and chooses: a stage or a Hugging Face directory, such as a teacher's; left out: the model
    itself."""
    reviser: Literal["model", "judge"] = "model"
    """Who writes the answer anew after a critique."""
    do: list[Literal["revise", "label"]] = Field(default=["revise", "label"])
    """revise: critique and revision, written to instructions.jsonl for an sft stage. label: comparison of answers,
    written to preferences.jsonl for a preference, rrhf or reward stage, with the card."""
    principles: list[str] = Field(default=["general"], min_length=1)
    """Files of principles, one a paragraph: names of the library (general, harmless) or paths."""
    data: str | list[str] | None = None
    """Files or folders of prompts: rows with `prompt`, or any instruction or preference form, whose answers are then
    not read."""
    world: str | None = None
    """A world stage whose prompts are asked, beside or in place of `data`; its exact judge then checks the labels."""
    pairs: str | list[str] | None = None
    """label: files or folders of preferences in any known form, whose answers are compared anew, beside those that the
    model gives or in place of them."""
    check: str | list[str] | None = None
    """label: files or folders of preferences by people, with which the judge's choices are compared on the card."""
    samples: int = Field(default=2, ge=2, le=16)
    """label: answers to each prompt; of more than two, all pairs are compared, and a ranking is written."""
    rounds: int = Field(default=1, ge=1, le=16)
    """revise: critiques, each with a revision, one after the other; each by a principle of its own."""
    by: Literal["comparisons", "ratings"] = "comparisons"
    """label: answers are compared two by two, each pair in both orders; or each is rated by itself, which costs less
    for many samples and gives rankings without soft labels."""
    average: Literal["probabilities", "log-odds"] = "probabilities"
    """comparisons: what is averaged over the two orders. log-odds removes a constant liking for the first answer
    altogether; probabilities gives less weight to an order in which the judge is very sure."""
    least_mass: float = Field(default=0.5, ge=0, le=1)
    """label: what the letters (or ratings) must hold together, as the judge's reply, for the reply to count."""
    least_confidence: float = Field(default=0.5, ge=0.5, lt=1)
    """comparisons: a preference of which the judge is less sure is dropped (of a ranking: that the first is better than
    the last)."""
    highest: int = Field(default=5, ge=2, le=9)
    """ratings: the best; 1 is the worst."""
    temperature: float = Field(default=1.0, ge=0)
    """Of the answers."""
    judge_temperature: float = Field(default=0.7, ge=0)
    """Of critiques and revisions."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Of all that is written."""
    max_new_tokens: int = Field(default=256, ge=1)
    """Longest answer, critique and revision, in tokens. An answer that is cut there is not labelled, nor a cut revision
    learned."""
    most_prompts: int | None = Field(default=None, ge=1)
    """Most prompts that are asked, drawn by hash; left out: all."""
    most_pairs: int | None = Field(default=None, ge=1)
    """Most rows of `pairs` that are used, drawn by hash; left out: all."""
    most_checks: int | None = Field(default=1_000, ge=1)
    """Most rows of `check` that are used, drawn by hash; null: all."""
    batch: int = Field(default=64, ge=1)
    """Rows that are done together; what was begun of them is done again after an interruption."""
    prompts: str | None = None
    """Folder with text files that replace some of the templates that come with hanlin, under the same names (critique,
    revise, choose, rate, and each with -zh for prompts in Chinese)."""
    chat: Chat = "auto"
    """Whether the model is asked through its chat template; auto: if it was trained on one."""
    judge_chat: Chat = "auto"
    """The same for `judge`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Number format in which the models compute."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the models compute."""

    @field_validator("do")
    @classmethod
    def _something_once(cls, value: list[str]) -> list[str]:
        if not value or len(set(value)) < len(value):
            raise ValueError("do has revise, label, or both, each once")
        return value

    @model_validator(mode="after")
    def _complete(self) -> ConstitutionSettings:
        asks = self.data is not None or self.world is not None
        labels = "label" in self.do
        if "revise" in self.do and not asks:
            raise ValueError("there is nothing to answer and revise: give `data` or `world`, or leave revise out of do")
        if labels and not asks and self.pairs is None:
            raise ValueError("there is nothing to label: give `data` or `world`, or `pairs`")
        if not labels and (self.pairs is not None or self.check is not None):
            raise ValueError("`pairs` and `check` are for labels: add label to do, or leave them out")
        if asks and self.model is None:
            raise ValueError("`data` and `world` need a `model` that answers: a stage, or a Hugging Face directory")
        if self.model is None and self.judge is None:
            raise ValueError("there is nobody to choose: give a `judge`, or a `model` that judges itself")
        if asks and labels and self.temperature == 0:
            raise ValueError("at temperature 0 all answers to a prompt are the same: there is nothing to choose")
        if self.by == "ratings" and self.least_confidence > 0.5:
            raise ValueError("ratings have no confidence: leave least_confidence out")
        return self


def paths_of(given: str | list[str] | None) -> list[Path]:
    """The user's files and folders."""
    return [Path(path).expanduser() for path in ([given] if isinstance(given, str) else given or [])]


def _look_at_prompts(settings: ConstitutionSettings) -> None:
    look_for_prompts(paths_of(settings.data), alone=settings.world is None)


def _look_at_pairs(given: str | list[str] | None, alone: bool) -> None:
    look_for_preferences(paths_of(given), "rankings", alone)


def fingerprint(settings: ConstitutionSettings) -> dict[str, Any]:
    """Hashes of all files: the prompts', the pairs', the principles', the templates'."""
    from hanlin.alignment.constitution.texts import own_files

    principles = [hashlib.sha256(source_of(name)[1]).hexdigest() for name in settings.principles]
    return {
        **{key: fingerprint_paths(paths_of(getattr(settings, key))) for key in ("data", "pairs", "check")},
        "principles": principles,
        "prompts": {name: hash_file(path) for name, path in own_files(settings.prompts).items()},
    }


def resolve(settings: ConstitutionSettings, context: StageContext) -> ConstitutionSettings:
    """With the device that `auto` means on this machine."""
    from hanlin.models.device import choose_device

    return settings.model_copy(update={"device": choose_device(settings.device).type})


def run(settings: ConstitutionSettings, context: StageContext) -> dict[str, Any]:
    """Write `instructions.jsonl` and `preferences.jsonl`, with what was dropped of each and why, into
    `context.workdir`; with the latter `labels.jsonl`, every single verdict, and the card.

    What models say is kept in pieces while the work goes on: killed and started again, it goes on after the last whole
    piece, and ends with the same files.
    """
    from hanlin.alignment.constitution.speaker import ModelSpeaker

    inputs, given = context.inputs, (settings.dtype, settings.device)
    model = ModelSpeaker(inputs["model"], settings.chat, *given) if "model" in inputs else None
    judge = ModelSpeaker(inputs["judge"], settings.judge_chat, *given) if "judge" in inputs else model
    assert judge is not None
    return make(settings, context, model, judge)


def make(
    settings: ConstitutionSettings, context: StageContext, model: Speaker | None, judge: Speaker
) -> dict[str, Any]:
    """`run` with any speakers."""
    from hanlin.alignment.constitution.principles import load_principles
    from hanlin.alignment.constitution.questions import read_questions
    from hanlin.alignment.constitution.texts import Texts
    from hanlin.alignment.constitution.work import Work
    from hanlin.alignment.instructions.account import Account

    principles, texts = load_principles(settings.principles), Texts(settings.prompts)
    world = context.inputs["world"].path if "world" in context.inputs else None
    account = Account()
    questions, reports = read_questions(paths_of(settings.data), world, settings.most_prompts, context.seed, account)
    if (settings.data is not None or world is not None) and not questions:
        raise HanlinError("there is no prompt in the data of this stage.")
    labels = "label" in settings.do
    phases = bool(questions) + ("revise" in settings.do) * 2 * settings.rounds + labels * (1 + bool(settings.check))
    progress, workdir = context.progress, context.workdir
    work = Work(settings, workdir, context.seed, progress, principles, texts, model, judge, phases)
    figures: dict[str, Any] = {
        "prompts": len(questions),
        "reading": {**account.figures(len(questions)), "reports": [one.figures() for one in reports]},
    }
    account.write(workdir / "reading")
    samples = _answered(work, questions, settings.samples if labels else 1) if questions else []
    if "revise" in settings.do:
        figures["revise"] = _revise(work, questions, samples)
        figures["instructions"] = figures["revise"]["account"]["kept"]
    if labels:
        figures |= _label(work, questions, samples)
        figures["preferences"] = figures["label"]["account"]["kept"]
    figures |= {"principles": len(principles), "cost": work.cost}
    if labels:
        from hanlin.alignment.constitution.card import lines

        figures["card"]["cost"] = work.cost
        write_json(workdir / CARD, figures["card"])
        for line in lines(figures["card"]):
            progress.say(line)
    return figures


def _answered(work: Work, questions: Sequence[Question], samples: int) -> list[list[dict[str, Any]]]:
    """Of each question the model's answers."""
    from hanlin.alignment.constitution.speaker import Ask
    from hanlin.alignment.constitution.work import spoken
    from hanlin.alignment.instructions.chance import number

    settings, model = work.settings, work.model
    assert model is not None

    def measure(part: Sequence[Question]) -> list[dict[str, Any]]:
        asks = [
            Ask(
                one.messages,
                number(work.seed, "answer", one.id, sample),
                settings.max_new_tokens,
                settings.temperature,
                settings.top_p,
                one.tools,
            )
            for one in part
            for sample in range(samples)
        ]
        said = [spoken(one) for one in model.say(asks)]
        rows = [said[place : place + samples] for place in range(0, len(said), samples)]
        return [
            {"samples": row, **{key: sum(one[key] for one in row) for key in ("asks", "read", "written")}}
            for row in rows
        ]

    return [one["samples"] for one in work.in_phase("answers", questions, measure, "answers")]


def _revise(work: Work, questions: Sequence[Question], samples: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    from hanlin.alignment.constitution.revise import figures, revise
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.describe import write_rows

    account = Account()
    account.enter("answers", len(questions))
    rows = revise(work, [(one, given[0]) for one, given in zip(questions, samples, strict=True)], account)
    table = {"account": account.figures(len(rows)), **figures(rows)}
    account.write(work.workdir / "revise")
    _say(work, "revised", table["account"], f"; {table['unchanged']:,} came out as they were")
    if not rows:
        raise HanlinError(
            f"no answer could be revised ({_reasons(account)}). Use a model that follows instructions, or raise "
            "max_new_tokens."
        )
    return table | write_rows(rows, work.workdir)


def _label(work: Work, questions: Sequence[Question], samples: Sequence[list[dict[str, Any]]]) -> dict[str, Any]:
    from hanlin.alignment.constitution.card import agreement, reliability
    from hanlin.alignment.constitution.label import judged, preference_row
    from hanlin.alignment.constitution.questions import read_groups
    from hanlin.alignment.instructions.account import Account

    settings = work.settings
    account, checking = Account(), Account()
    given, reports = read_groups(paths_of(settings.pairs), settings.most_pairs, work.seed, account)
    check, check_reports = read_groups(paths_of(settings.check), settings.most_checks, work.seed, checking)
    if settings.check is not None and not check:
        raise HanlinError(f"no pair of `check` can be used ({_reasons(checking)}).")
    account.enter("answers", len(questions))
    own = _groups(questions, samples, account)
    verdicts = judged(work, [*own, *given], "labels", "labels")
    rows = [preference_row(*one, work, account) for one in zip([*own, *given], verdicts, strict=True)]
    kept = [row for row in rows if row is not None]
    checked = judged(work, check, "check", "checks") if check else []
    table: dict[str, Any] = {"account": account.figures(len(kept)), "reports": [one.figures() for one in reports]}
    account.write(work.workdir / "label")
    if settings.check is not None:
        table["check"] = {**checking.figures(len(check)), "reports": [one.figures() for one in check_reports]}
        checking.write(work.workdir / "check")
    _say(work, "labelled", table["account"])
    if not kept:
        raise HanlinError(
            f"the judge has no preference that can be used ({_reasons(account)}). Where it is unfinished, raise "
            "max_new_tokens; too_long_for_judge, use a judge of more positions; unparsable, one that replies with a "
            "letter alone, or lower least_mass."
        )
    _write(work.workdir / PREFERENCES, kept)
    named = {"label": verdicts, "check": checked}
    _write(
        work.workdir / LABELS,
        ({"of": name, **one.figures()} for name, groups in named.items() for group in groups for one in group),
    )
    card: dict[str, Any] = {"labels": reliability(verdicts), "agreement": {}}
    if checked:
        card["people"] = reliability(checked)
    for name, groups in (("people", checked), ("the world", verdicts[: len(own)]), ("the pairs", verdicts[len(own) :])):
        flat: list[Verdict] = [one for group in groups for one in group]
        if any(one.reference for one in flat):
            card["agreement"][name] = agreement(flat)
    return {"label": table, "card": card}


def _groups(questions: Sequence[Question], samples: Sequence[list[dict[str, Any]]], account: Account) -> list[Group]:
    """The different whole answers to each question, where there are two or more; with the exact judge's marks."""
    from hanlin.alignment.constitution.label import different
    from hanlin.alignment.constitution.questions import Group

    found: list[Group] = []
    for question, given in zip(questions, samples, strict=True):
        whole = [one["text"].strip() for one in given if one["fits"] and one["whole"] and one["text"].strip()]
        if not any(one["fits"] for one in given):
            account.drop(question.origin(), "prompt_too_long")
        elif len(whole) < 2:
            account.drop(question.origin(), "unfinished", len(whole), 2)
        elif len(places := different(whole)) < 2:
            account.drop(question.origin(), "same_answers", detail=whole[0][:200])
        else:
            texts = [whole[place] for place in places]
            answers = [[{"role": "assistant", "content": text}] for text in texts]
            found.append(Group(question, answers, _marks(question, texts)))
    return found


def _marks(question: Question, texts: Sequence[str]) -> list[float] | None:
    """What the world's exact judge gives each answer; None for questions that are not a world's."""
    from hanlin.world.judge import judge

    if question.row is None:
        return None
    try:
        return [judge(question.row, text).score for text in texts]
    except ValueError as error:
        raise HanlinError(f"the world's judge cannot mark a prompt: {error}.") from None


def _write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    with atomic_path(path) as part, part.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)


def _say(work: Work, what: str, figures: dict[str, Any], more: str = "") -> None:
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in figures["reasons"].items())
    dropped = f", {figures['dropped']:,} dropped ({reasons})" if figures["dropped"] else ""
    work.progress.say(f"{what}: {figures['kept']:,} of {figures['in']:,}{dropped}{more}")


def _reasons(account: Account) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in account.reasons.items()) or "nothing was read"


CONSTITUTION_STAGE = Stage(
    kind="constitution",
    settings=ConstitutionSettings,
    run=run,
    inputs={"model": POLICY_KINDS, "judge": POLICY_KINDS, "world": ("world",)},
    paths=("data", "pairs", "check", "prompts"),
    fingerprint=fingerprint,
    looks={
        "data": _look_at_prompts,
        "pairs": lambda given: _look_at_pairs(given.pairs, alone=given.data is None and given.world is None),
        "check": lambda given: _look_at_pairs(given.check, alone=True),
    },
    resolve=resolve,
    transient=(FOLDER,),
)
