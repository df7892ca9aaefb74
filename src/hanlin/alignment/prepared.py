"""What the stages that learn from preferences share: their data read, rendered, split, and accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from hanlin.artifacts import Artifact, HanlinError, Settings, StageContext, hash_file, write_json

if TYPE_CHECKING:
    from hanlin.data.formats import ReadReport
    from hanlin.data.pairs import Account, RenderedGroups
    from hanlin.data.preferences import Preference, Ranking
    from hanlin.tokenization import Tokenizer

TRAIN = "preferences/train"
VALIDATION = "preferences/validation"
READING = "preferences/reading.json"
PREFERENCES = "preferences.jsonl"
"""The file of a world, and of every stage that makes preferences"""
MAKERS = ("best-of-n", "constitution", "feedback")
"""Kinds of stage that make preferences"""
Form = Literal["pairs", "judged", "rankings"]
"""What a group is: two answers of which one is preferred, one answer judged good or bad, or any number with scores"""


class PreferenceData(Settings):
    """Where preferences come from: what every stage that learns from them asks for."""

    data: str | list[str] | None = None
    """Files or folders of preferences in any known form (`hanlin data preview` shows what is understood)."""
    world: str | None = None
    """A world stage whose preferences are learned, beside or in place of `data`."""
    preferences: str | None = None
    """A stage that made preferences (best-of-n, constitution, feedback), beside or in place of `data`."""
    validation_fraction: float = Field(default=0.05, ge=0, lt=1)
    """Share of the preferences that is held out to measure on; answers to one prompt are never on both sides."""


def data_paths(settings: PreferenceData) -> list[Path]:
    """The user's files and folders."""
    given = [settings.data] if isinstance(settings.data, str) else settings.data or []
    return [Path(path).expanduser() for path in given]


def fingerprint_data(settings: PreferenceData) -> dict[str, str]:
    """Hashes of the data files by their place below the path given."""
    return fingerprint_paths(data_paths(settings))


def fingerprint_paths(paths: list[Path]) -> dict[str, str]:
    """Hashes of all files that `paths` name, by their place below the path given."""
    from hanlin.data.rows import data_files

    found: dict[str, str] = {}
    for number, path in enumerate(paths):
        for file in data_files(path):
            found[f"{number}/{file.relative_to(path) if path.is_dir() else file.name}"] = hash_file(file)
    return found


def look_at_data(settings: PreferenceData, form: Form) -> None:
    """Raise HanlinError for files of another kind, and where nothing that the stage reads is of its form."""
    look_for_preferences(data_paths(settings), form, settings.world is None and settings.preferences is None)


def look_for_preferences(paths: list[Path], form: Form, alone: bool) -> None:
    """The same of any paths; `alone`: there are no other preferences."""
    from hanlin.data.formats import PREFERENCE_FORMS, nothing_usable
    from hanlin.data.preferences import to_rankings

    def usable(one: Ranking) -> bool:
        return form == "judged" or len(one.answers) > 1

    report = nothing_usable(paths, PREFERENCE_FORMS, to_rankings, usable=usable)
    if report and alone:
        raise _nothing(report, report.read, form)


def bytes_to_read(settings: Any, inputs: dict[str, Artifact]) -> float | None:
    """The most text that a stage with such settings and a `loop` reads; None where it can't be known."""
    from hanlin.data.rows import data_files, plain_bytes

    if settings.loop.steps is not None or any(
        getattr(settings, name) is not None and name not in inputs for name in ("world", "preferences")
    ):
        return None
    files = [file for path in data_paths(settings) for file in data_files(path)]
    files += [inputs[name].path / PREFERENCES for name in ("world", "preferences") if name in inputs]
    sizes = [plain_bytes(file) for file in files]
    # Of a pair both answers stand in the file, and its prompt once, though it is read with each of them.
    return None if None in sizes else 1.5 * settings.loop.epochs * sum(size or 0 for size in sizes)


class PreparedGroups:
    """The preferences as tokens, in a training and a validation share: written once in the stage's folder."""

    def __init__(
        self, settings: PreferenceData, context: StageContext, tokenizer: Tokenizer, length: int, form: Form
    ) -> None:
        from hanlin.data.pairs import RenderedGroups
        from hanlin.training.parallel import World

        tokenizer.check_chat()
        reading = context.workdir / READING
        world = World.current()
        if world.first and not reading.is_file():
            _render(settings, context, tokenizer, length, form)
        world.barrier()
        self.reading: dict[str, Any] = json.loads(reading.read_text(encoding="utf-8"))
        """The account: files, rows, quarantined rows, what was dropped and why"""
        self.train = RenderedGroups.load(context.workdir / TRAIN)
        self.validation: RenderedGroups | None = RenderedGroups.load(context.workdir / VALIDATION)
        if not len(self.validation):
            self.validation = None

    def say(self, context: StageContext) -> None:
        """Tell people what of the data is not used."""
        for note in self.reading["notes"]:
            context.progress.say(note)


def _render(settings: PreferenceData, context: StageContext, tokenizer: Tokenizer, length: int, form: Form) -> None:
    from hanlin.data.pairs import render_rankings

    rankings, report, unfit = _read(settings, context, form)
    if not rankings:
        raise _nothing(report, unfit, form)
    rendered, account = render_rankings(
        rankings, tokenizer, length, lambda done: context.progress.update(done, len(rankings), "preferences rendered")
    )
    if not len(rendered):
        raise HanlinError(
            f"none of {account.read} preferences can be used; the first: {account.dropped[0]}. Where it is the room, "
            f"raise loop.sequence_length, which is {length}."
        )
    kept, held_out = _split(rendered, settings.validation_fraction)
    rendered.select(kept).save(context.workdir / TRAIN)
    rendered.select(held_out).save(context.workdir / VALIDATION)
    notes = _notes(report, account, length)
    if unfit:
        single = f"{unfit} of {unfit + account.read} preferences are single answers, judged good or bad"
        notes.insert(0, f"{single}: this stage learns from {form}, and leaves them out")
    groups = {**account.figures(), "of_another_form": unfit}
    write_json(
        context.workdir / READING, {**report.figures(), "groups": groups, "validation": len(held_out), "notes": notes}
    )


def _nothing(report: ReadReport, unfit: int, form: Form) -> HanlinError:
    """The error for data in which there are only `unfit` preferences, which are of another form."""
    files = f"the data of this stage ({', '.join(report.files)})"
    if not unfit:
        return HanlinError(f"there is no preference in {files}; the first row: {report.quarantined[0]}")
    return HanlinError(
        f"in {files} all {unfit} preferences are single answers, judged good or bad; it learns from {form}. From such "
        "answers a stage of kind preference learns, with loss: kto."
    )


def _read(settings: PreferenceData, context: StageContext, form: Form) -> tuple[list[Ranking], ReadReport, int]:
    """What fits the form, the account of the reading, and how many preferences do not fit."""
    from hanlin.data.preferences import Ranking, read_preferences, read_rankings

    paths = data_paths(settings)
    paths += [context.inputs[name].path / PREFERENCES for name in ("world", "preferences") if name in context.inputs]
    if not paths:
        raise HanlinError(
            "this stage has nothing to learn from: give it data=PATH, `world:` a world stage, or `preferences:` a "
            "stage that makes them."
        )
    if form == "rankings":
        rankings, report = read_rankings(paths)
        fitting = [one for one in rankings if len(one.answers) > 1]
        return fitting, report, len(rankings) - len(fitting)
    pairs, report = read_preferences(paths)
    if form == "judged":
        return [part for pair in pairs for part in Ranking.of(pair).apart()], report, 0
    whole = [Ranking.of(pair) for pair in pairs if _whole(pair)]
    return whole, report, len(pairs) - len(whole)


def _whole(pair: Preference) -> bool:
    return pair.chosen is not None and pair.rejected is not None


def _split(rendered: RenderedGroups, share: float) -> tuple[list[int], list[int]]:
    """Groups for training and for validation: by prompts, since an answer to a known prompt is no unseen one."""
    from hanlin.data.order import permutation

    of_prompt: dict[bytes, list[int]] = {}
    for group in range(len(rendered)):
        of_prompt.setdefault(rendered.prompt(group).tobytes(), []).append(group)
    prompts = list(of_prompt.values())
    chosen = {int(place) for place in permutation(len(prompts), "validation")[: round(share * len(prompts))]}
    kept = [group for place, groups in enumerate(prompts) for group in groups if place not in chosen]
    held_out = [group for place, groups in enumerate(prompts) for group in groups if place in chosen]
    return sorted(kept), sorted(held_out)


def _notes(report: ReadReport, account: Account, length: int) -> list[str]:
    notes: list[str] = []
    if report.quarantined:
        notes.append(
            f"{len(report.quarantined)} of {report.rows} rows can't be used; the first: {report.quarantined[0]}"
        )
    if account.dropped:
        notes.append(
            f"{len(account.dropped)} of {account.read} preferences are left out; the first: {account.dropped[0]}"
        )
    if account.cut:
        notes.append(f"of {account.cut} preferences an answer is cut, to {length} tokens with its prompt")
    return notes
