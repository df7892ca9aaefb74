"""Streamed text is the whole text, whatever the tokens and the stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.inference import Request
from hanlin.inference.text import TextStream, find_stop, held_back
from tests.inference.models import engine, tokenizer

alphabet = st.sampled_from("ab 翰é😀\n")
texts = st.text(alphabet, max_size=30)
stops = st.lists(st.text(alphabet, min_size=1, max_size=4), max_size=3)


def run(parts: list[bytes], stop: list[str]) -> tuple[list[str], bool]:
    stream = TextStream(lambda number: parts[number], stop)
    pieces: list[str] = []
    for number in range(len(parts)):
        pieces.append(stream.push(number))
        if stream.stopped:
            break
    pieces.append(stream.finish())
    return pieces, stream.stopped


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({cut % (len(data) + 1) for cut in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)])]


@given(texts, stops, st.lists(st.integers(0, 200), max_size=12))
@settings(max_examples=400, deadline=None)
def test_any_split_gives_the_same_text(text: str, stop: list[str], cuts: list[int]) -> None:
    data = text.encode()
    pieces, stopped = run(split(data, cuts), stop)
    whole, whole_stopped = run([data], stop)
    bytewise, _ = run([bytes([byte]) for byte in data], stop)
    assert "".join(pieces) == "".join(whole) == "".join(bytewise) and stopped == whole_stopped
    result = "".join(pieces)
    assert text.startswith(result) and "\ufffd" not in result
    assert stopped == any(one in text for one in stop)
    if not stopped:
        assert result == text
    else:
        assert not any(one in result for one in stop)
        assert any(text[len(result) :].startswith(one) for one in stop)


@given(st.binary(max_size=24), st.lists(st.integers(0, 200), max_size=8))
@settings(max_examples=300, deadline=None)
def test_bytes_that_are_no_text(data: bytes, cuts: list[int]) -> None:
    pieces, _ = run(split(data, cuts), [])
    assert "".join(pieces) == data.decode("utf-8", errors="replace")
    assert "".join(pieces) == tokenizer().decode(list(data))


def test_what_a_stop_string_could_take_back_is_kept() -> None:
    stream = TextStream(lambda token: b"x<en" if token == 0 else b"d>", ["<end>"])
    assert stream.push(0) == "x" and stream.push(0) == "<enx" and stream.push(1) == "" and stream.stopped
    stream = TextStream(lambda token: b"x<en", ["<end>"])
    assert stream.push(0) == "x" and stream.finish() == "<en"


def test_the_stop_that_is_complete_first_counts() -> None:
    assert find_stop("xaby", ["xaby", "ab"]) == 1
    assert find_stop("xab", ["ab", "xab"]) == 0  # both end there: the longest
    assert find_stop("abc", ["z"]) is None
    assert held_back("aab", ["abc", "bq"]) == 2 and held_back("abc", ["abc"]) == 0


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_stream_equals_generate_at_every_stop(temperature: float) -> None:
    one = engine("qwen3")
    base = {"prompt_ids": [72, 105], "max_new_tokens": 24, "temperature": temperature, "ignore_eos": True, "seed": 4}
    free = one.generate([Request(**base)])[0]
    assert free.text == tokenizer().decode(free.ids)
    tried = 0
    for begin in range(len(free.text)):
        for size in (1, 2, 5):
            stop = free.text[begin : begin + size]
            request = Request(**base, stop=[stop, "never said"])
            whole = one.generate([request])[0]
            deltas = list(one.iterate(request))
            assert "".join(delta.text for delta in deltas) == whole.text == free.text[: free.text.index(stop)]
            assert [token for delta in deltas for token in delta.ids] == whole.ids == free.ids[: len(whole.ids)]
            assert [value for delta in deltas for value in delta.logprobs] == whole.logprobs
            assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
            assert deltas[-1].finish_reason == whole.finish_reason == "stop"
            assert deltas[-1].completion == whole
            tried += 1
        if tried > 30:
            break
    assert tried > 10


def test_every_split_of_a_stop_string_and_of_every_character() -> None:
    """All ways to cut one text into three tokens, inside of characters and of the stop string."""
    text, stop = "aé翰😀<EN<END>b", ["<END>", "never"]
    data = text.encode()
    for first in range(len(data) + 1):
        for second in range(first, len(data) + 1):
            pieces, stopped = run([data[:first], data[first:second], data[second:]], stop)
            assert "".join(pieces) == "aé翰😀<EN" and stopped
            assert not any("\ufffd" in piece for piece in pieces)
            free, stopped = run([data[:first], data[first:second], data[second:]], ["never"])
            assert "".join(free) == text and not stopped
