"""What may be asked and said: a hook for the service, and a default that knows forbidden phrases.

A list of phrases finds words, not meaning: it stops what is plain, and is no judge of the rest. Whoever has a better
judge gives the service another `Moderator`.
"""

from __future__ import annotations

import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, Protocol

from pydantic import Field, StringConstraints

from hanlin.artifacts import HanlinError, Settings
from hanlin.artifacts.written import read_settings

Where = Literal["input", "output"]


@dataclass(frozen=True)
class Verdict:
    """Whether a text may pass."""

    allowed: bool
    categories: tuple[str, ...] = ()
    """What it is refused for"""
    message: str = ""
    """What its author, or reader, is told"""


ALLOWED = Verdict(True)


class ModeratedStream(Protocol):
    """An answer that is checked while it comes."""

    verdict: Verdict
    """As far as is known; once it is not allowed, nothing more comes out"""

    def push(self, text: str) -> str:
        """What may be sent after this piece of the answer and was not before."""
        ...

    def finish(self) -> str:
        """What was held back, when no more comes."""
        ...


class Moderator(Protocol):
    """Decides on texts. Called from several threads."""

    def check(self, text: str, where: Where) -> Verdict:
        """The verdict on a whole text: what is asked, or what is answered."""
        ...

    def stream(self) -> ModeratedStream:
        """For an answer that is sent while it comes."""
        ...


class Category(Settings):
    """Phrases that are refused for one reason."""

    phrases: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=200)]], Field(min_length=1, max_length=100_000)
    ]
    """Matched as they stand but for case, width, accents, kinds and number of spaces, and invisible characters. In
    scripts with words, whole words: `cat` is not in `category`."""
    message: Annotated[str, StringConstraints(max_length=2000)] = ""
    """What is said instead."""
    where: list[Where] = Field(default=["input", "output"], min_length=1)
    """Whether it is looked for in what is asked, in what is answered, or in both."""


class Rules(Settings):
    """A file of rules."""

    categories: dict[str, Category]
    """Each by its name."""


class RuleModerator:
    """The default: refuses texts with a phrase of a list, in time linear in the text, however long the list."""

    def __init__(self, path: Path | None = None) -> None:
        """Rules from a YAML file; None: those of the package. Raises HanlinError, naming file and line."""
        if path is None:
            file = resources.files("hanlin.serving") / "moderation.yaml"
            text, label = file.read_text(encoding="utf-8"), "moderation.yaml"
        else:
            try:
                text, label = path.read_text(encoding="utf-8"), str(path)
            except (OSError, UnicodeDecodeError) as error:
                raise HanlinError(f"{path}: the moderation's rules can't be read: {error}.") from None
        self._categories = read_settings(text, label, Rules, "a file of moderation rules").categories
        self._phrases: dict[Where, _Phrases] = {}
        sides: tuple[Where, Where] = ("input", "output")
        for where in sides:
            self._phrases[where] = _Phrases(
                (phrase, name, label)
                for name, category in self._categories.items()
                if where in category.where
                for phrase in category.phrases
            )

    def check(self, text: str, where: Where) -> Verdict:
        """The verdict on a whole text, with every category that it is refused for."""
        scan = _Scan(self._phrases[where])
        return self.refuse([found for character in text for found in scan.step(character)] + scan.end())

    def stream(self) -> PhraseStream:
        """For an answer that is sent while it comes."""
        return PhraseStream(self, _Scan(self._phrases["output"]))

    def refuse(self, found: Iterable[_Found]) -> Verdict:
        """The verdict on a text in which these phrases stand."""
        names = tuple(dict.fromkeys(one.category for one in found))
        if not names:
            return ALLOWED
        messages = dict.fromkeys(self._categories[name].message for name in names)
        return Verdict(False, names, " ".join(message for message in messages if message))


class PhraseStream:
    """Holds back what could be the beginning of a phrase. What comes out is the same however the answer was cut into
    pieces, and holds no phrase nor a part of the one that ended it."""

    def __init__(self, moderator: RuleModerator, scan: _Scan) -> None:
        self._moderator, self._scan = moderator, scan
        self._held, self._sent = "", 0
        self.verdict = ALLOWED
        """As in `ModeratedStream`"""

    def push(self, text: str) -> str:
        """As in `ModeratedStream`."""
        if not self.verdict.allowed:
            return ""
        self._held += text
        for character in text:
            if found := self._scan.step(character):
                return self._stop(found)
        return self._send(self._scan.open_from())

    def finish(self) -> str:
        """As in `ModeratedStream`."""
        if not self.verdict.allowed:
            return ""
        found = self._scan.end()
        return self._stop(found) if found else self._send(self._scan.read)

    def _stop(self, found: list[_Found]) -> str:
        self.verdict = self._moderator.refuse(found)
        return self._send(min(one.start for one in found))

    def _send(self, until: int) -> str:
        """What is held of the text up to a place in the whole answer."""
        ready, self._held = self._held[: until - self._sent], self._held[until - self._sent :]
        self._sent += len(ready)
        return ready


@dataclass(frozen=True, slots=True)
class _Found:
    start: int
    """Where the phrase begins in the text"""
    category: str


@dataclass(frozen=True, slots=True)
class _Phrase:
    length: int
    """In plain characters"""
    category: str
    word_before: bool
    """It begins with a letter that must begin a word"""
    word_after: bool


class _Phrases:
    """Phrases as an automaton (Aho & Corasick 1975): state 0 is the beginning; a state is the longest end of the text
    with which a phrase begins."""

    def __init__(self, phrases: Iterable[tuple[str, str, str]]) -> None:
        self.next: list[dict[str, int]] = [{}]
        self.depth = [0]
        self.ends: list[list[_Phrase]] = [[]]
        for phrase, category, label in phrases:
            plain = "".join(_plain_text(phrase)).strip(" ")
            if not plain:
                raise HanlinError(f"{label}: {category}: the phrase {phrase!r} has no character that counts.")
            state = 0
            for character in plain:
                if character not in self.next[state]:
                    self.next[state][character] = len(self.next)
                    self.next.append({})
                    self.depth.append(self.depth[state] + 1)
                    self.ends.append([])
                state = self.next[state][character]
            self.ends[state].append(_Phrase(len(plain), category, _in_word(plain[0]), _in_word(plain[-1])))
        self.fallback = [0] * len(self.next)
        queue = deque(self.next[0].values())
        while queue:
            state = queue.popleft()
            for character, child in self.next[state].items():
                self.fallback[child] = self.step(self.fallback[state], character)
                self.ends[child] += self.ends[self.fallback[child]]
                queue.append(child)

    def step(self, state: int, character: str) -> int:
        """The state after one more character."""
        while state and character not in self.next[state]:
            state = self.fallback[state]
        return self.next[state].get(character, 0)


class _Scan:
    """Reads a text character by character."""

    def __init__(self, phrases: _Phrases) -> None:
        self._phrases, self._state = phrases, 0
        self.read = 0
        """Characters of the text so far"""
        self._last = ""
        """The last plain character"""
        self._places: deque[tuple[int, str]] = deque(maxlen=max(phrases.depth) + 1)
        """Of the last plain characters: where they stand in the text, and which stood before each"""
        self._pending: list[tuple[_Phrase, int]] = []
        """Phrases that are there if no word goes on after them"""

    def step(self, character: str) -> list[_Found]:
        """The phrases that are certain with this character and were not before."""
        found: list[_Found] = []
        for plain in _plain(character):
            if _says_nothing(plain, self._last):
                continue
            if self._pending:
                if not _in_word(plain):
                    found += self.end()
                self._pending = []
            self._places.append((self.read, self._last))
            self._last = plain
            self._state = self._phrases.step(self._state, plain)
            for phrase in self._phrases.ends[self._state]:
                place, before = self._places[-phrase.length]
                if phrase.word_before and _in_word(before):
                    continue
                if phrase.word_after:
                    self._pending.append((phrase, place))
                else:
                    found.append(_Found(place, phrase.category))
        self.read += 1
        return found

    def end(self) -> list[_Found]:
        """The phrases that are there if the text ends here."""
        return [_Found(place, phrase.category) for phrase, place in self._pending]

    def open_from(self) -> int:
        """The place in the text from which on a phrase may have begun."""
        depth = self._phrases.depth[self._state]
        return self._places[-depth][0] if depth else self.read


def _plain_text(text: str) -> Iterator[str]:
    last = ""
    for character in text:
        for plain in _plain(character):
            if _says_nothing(plain, last):
                continue
            last = plain
            yield plain


@lru_cache(maxsize=8192)
def _plain(character: str) -> str:
    """A character as it is compared: compatibility forms (full width, ligatures) and cases as one, no accents, nothing
    invisible, every kind of space as a space. It depends on no other character, so pieces can be read one by one."""
    if character.isspace():
        return " "
    kept = (one for one in unicodedata.normalize("NFKD", character) if unicodedata.category(one) not in _UNSEEN)
    folded = unicodedata.normalize("NFKD", "".join(kept).casefold())
    return "".join(" " if one.isspace() else one for one in folded if unicodedata.category(one) not in _UNSEEN)


_UNSEEN = frozenset({"Mn", "Me", "Cf", "Cc", "Cn", "Co"})
"""Categories of Unicode: marks that are drawn on others, and characters that are not drawn"""


def _says_nothing(plain: str, last: str) -> bool:
    """Whether a plain character is one space too many after the last one."""
    return plain == " " and (last in ("", " ") or not _spaced(last))


def _spaced(character: str) -> bool:
    """Whether a space after it means anything: not between Chinese characters."""
    return not "\u2e80" <= character <= "\u9fff" and not "\U00020000" <= character <= "\U0003ffff"


def _in_word(character: str) -> bool:
    """Whether it is a letter or digit of a script that writes words apart."""
    return character.isalnum() and _spaced(character)
