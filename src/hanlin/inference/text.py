"""From tokens to text while they come: whole characters only, and nothing that a stop string could still take back."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence


def find_stop(text: str, stops: Sequence[str], start: int = 0) -> int | None:
    """Where `text` is cut by the stop string that is complete first (of several that end there, the longest); None:
    nowhere.

    "Complete first", not "begins first": the answer is then the same however the text was split into tokens. `start`
    says that no stop string begins before it.
    """
    best: tuple[int, int] | None = None
    for stop in stops:
        begin = text.find(stop, start)
        if begin >= 0 and (best is None or (begin + len(stop), begin) < best):
            best = (begin + len(stop), begin)
    return None if best is None else best[1]


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` with which some stop string begins (but is not complete)."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


class TextStream:
    """Turns tokens into text piece by piece; the pieces, joined, do not depend on when the tokens came.

    `token_bytes` gives a token's raw bytes (none for a special token). Bytes that are not UTF-8 become U+FFFD, as in
    `bytes.decode(errors="replace")`; an unfinished character is kept back until it is whole or the answer ends.
    """

    def __init__(self, token_bytes: Callable[[int], bytes], stops: Sequence[str] = ()) -> None:
        self._token_bytes, self._stops = token_bytes, tuple(stops)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._pending = ""
        self.stopped = False
        """A stop string has come: nothing more is to be pushed."""

    def push(self, token: int) -> str:
        """The text that is certain after this token and was not before."""
        return self._emit(self._decoder.decode(self._token_bytes(token)), last=False)

    def finish(self) -> str:
        """What was kept back, when no further token comes."""
        return self._emit(self._decoder.decode(b"", final=True), last=True)

    def _emit(self, text: str, last: bool) -> str:
        if self.stopped:
            return ""
        self._pending += text
        cut = find_stop(self._pending, self._stops) if self._stops and text else None
        if cut is not None:
            self.stopped = True
        elif last or not self._stops:
            cut = len(self._pending)
        else:
            cut = len(self._pending) - held_back(self._pending, self._stops)
        ready, self._pending = self._pending[:cut], self._pending[cut:]
        return ready
