"""Structured output: which tokens may come next so that the answer has the form that was asked for.

`types.Constraint` says the form, `grammar_of` turns it into llguidance's grammar, `ConstraintCompiler.compile` into a
`Matcher` that follows one answer. What clients give is bounded three times: here by size and depth, then in a process
of its own (constraint_check.py), and at each token by llguidance's limits.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
import threading
from collections.abc import Collection, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import llguidance
import torch
from torch import Tensor

from hanlin.artifacts import HanlinError, UsageError
from hanlin.inference import constraint_check
from hanlin.inference.tool_calls import tool_grammar
from hanlin.inference.types import Constraint
from hanlin.tokenization import Tokenizer

MOST_GRAMMAR_BYTES = 1 << 14
"""Of a grammar in text: what stands nested or chained in it is bounded thereby."""
MOST_SCHEMA_BYTES = 1 << 16
MOST_DEPTH = 64
MOST_TEXT = 4096
"""Characters of a regular expression, a choice, or a text in a schema (descriptions apart). A text that must come is
made tokens anew at every step."""
MOST_CHOICES = 1000
MOST_TOKEN_BYTES = 1024
"""llguidance panics for longer tokens of the vocabulary: they are never allowed in constrained answers."""
WALL_SECONDS = 20
"""For a check; its processor time is bounded far below, so that only an overloaded machine comes so far."""
NO_SPACE = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}


class ConstraintCompiler:
    """Makes matchers for the vocabulary of one tokenizer; may be used by several threads at once.

    `vocabulary_size` is the model's, which may be larger than the tokenizer's.
    """

    def __init__(self, tokenizer: Tokenizer, vocabulary_size: int) -> None:
        self.tokenizer, self.vocabulary_size = tokenizer, vocabulary_size
        self._vocabulary: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile(self, constraint: Constraint, end_ids: Collection[int]) -> Matcher:
        """A matcher at the beginning of an answer, which the tokens `end_ids` end.

        Takes a tenth of a second for a constraint not seen before and a millisecond or so for one seen, without the
        interpreter's lock: a service calls it off its event loop. Raises UsageError for a constraint that is wrong,
        not supported, too large, or too much work.
        """
        if constraint.tools is not None and "<tool_call>" not in (self.tokenizer.chat_template or ""):
            raise UsageError(
                "this model's chat template has no <tool_call>, so it was not taught to call tools in a form that is "
                "known here: ask without tools"
            )
        grammar = grammar_of(constraint)
        problem = _fault(grammar)
        # Not a copy of one that is kept: copies share their lexer's states, so that one answer could exhaust them for
        # all others.
        if problem is None:
            with _panics_as_errors():
                matcher = llguidance.LLMatcher(
                    self._llguidance_tokenizer(), grammar, log_level=0, limits=constraint_check.LIMITS
                )
                if not matcher.is_error():
                    return Matcher(matcher, self.vocabulary_size, self._ends(end_ids))
                problem = constraint_check.message(matcher)
        raise UsageError(f"the {constraint.kind} of the constraint can't be used: {problem}")

    def _llguidance_tokenizer(self) -> llguidance.LLTokenizer:
        with self._lock:
            if self._vocabulary is None:
                self._vocabulary = _Vocabulary(self.tokenizer, self.vocabulary_size).llguidance_tokenizer()
            return self._vocabulary

    def _ends(self, end_ids: Collection[int]) -> list[int]:
        """Those that are no text: where text ends an answer, it must also be allowed as text."""
        known = self.tokenizer.vocabulary_size
        return [token for token in end_ids if token >= known or not self.tokenizer.token_bytes(token)]


class Matcher:
    """Follows one answer: what may come next, and whether it is complete."""

    def __init__(self, matcher: llguidance.LLMatcher, vocabulary_size: int, end_ids: list[int]) -> None:
        self._matcher, self._size, self._end_ids = matcher, vocabulary_size, end_ids
        self.error = ""
        """Why nothing can be said any more (a limit was reached)."""

    @property
    def stopped(self) -> bool:
        """Whether the answer is complete and nothing can follow."""
        return not self.error and self._matcher.is_stopped()

    def mask(self) -> Tensor | None:
        """bool [vocabulary]: the tokens that may come next, end tokens only where the answer may end. None after an
        error."""
        if self.error:
            return None
        try:
            with _panics_as_errors():
                allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        except HanlinError as error:
            self.error = str(error)
            return None
        if self._matcher.is_error():
            self.error = constraint_check.message(self._matcher)
            return None
        mask, may_end = allowed[: self._size], allowed[self._size]
        if self._end_ids and bool(may_end):
            mask[self._end_ids] = True
        return mask

    def advance(self, token: int) -> None:
        """Take note of a chosen token."""
        if self.error or token in self._end_ids:
            return
        try:
            with _panics_as_errors():
                self._matcher.consume_token(token)
        except HanlinError as error:
            self.error = str(error)
        if self._matcher.is_error():
            self.error = constraint_check.message(self._matcher)


class _Vocabulary:
    """A tokenizer as llguidance takes one; the token behind the last stands for the end of the answer.

    Control tokens have no bytes, so that no grammar lets them come. Markup (`<tool_call>`) is text that has a token of
    its own.
    """

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, size: int) -> None:
        self._tokenizer = tokenizer
        known = tokenizer.vocabulary_size
        tokens = [tokenizer.token_bytes(token) if token < known else b"" for token in range(size)]
        self._markup = {name: token for name, token in tokenizer.special.items() if tokens[token]}
        self._splitter = re.compile("|".join(map(re.escape, self._markup)) or "(?!)")
        self.tokens = [*(token if len(token) <= MOST_TOKEN_BYTES else b"" for token in tokens), b"<end of the answer>"]
        self.eos_token_id = size
        self.special_token_ids = [size]
        self._made: llguidance.LLTokenizer | None = None

    def llguidance_tokenizer(self) -> llguidance.LLTokenizer:
        with _panics_as_errors():
            self._made = llguidance.LLTokenizer(
                cast(Any, self),
                n_vocab=len(self.tokens),
                eos_token=self.eos_token_id,
                slices=llguidance.LLTokenizer.json_slices(),
            )
            return self._made

    def __call__(self, text: str) -> list[int]:
        """The tokens of a text that must come, markup by its own."""
        ids: list[int] = []
        start = 0
        for match in self._splitter.finditer(text):
            ids += [*self._tokenizer.encode(text[start : match.start()]), self._markup[match.group()]]
            start = match.end()
        ids += self._tokenizer.encode(text[start:])
        if self._made is not None and self._tokenizer.decode_bytes(ids) != text.encode():
            # A tokenizer that normalises, or puts a space before a text.
            return self._made.greedy_tokenize(text)
        return ids


def grammar_of(constraint: Constraint) -> str:
    """The constraint as llguidance's grammar. Raises UsageError where it is too large or no JSON."""
    body = _body(constraint)
    if constraint.trigger is None:
        return json.dumps({"grammars": [body]})
    _check_text("trigger", constraint.trigger)
    head = f"start: head @body\nhead[lazy]: /(.|\\n)*/ {json.dumps(constraint.trigger)}"
    return json.dumps({"grammars": [{"name": "main", "lark_grammar": head}, {"name": "body", **body}]})


def _body(constraint: Constraint) -> dict[str, Any]:
    if constraint.json_object:
        return {"json_schema": {"type": "object", "x-guidance": _spacing(constraint.whitespace)}}
    if constraint.json_schema is not None:
        schema = checked_schema(constraint.json_schema)
        return {"json_schema": {**schema, "x-guidance": _spacing(constraint.whitespace)}}
    if constraint.regex is not None:
        _check_text("regex", constraint.regex)
        return {"lark_grammar": f"start: /{llguidance.regex_to_lark(constraint.regex, '')}/"}
    if constraint.grammar is not None:
        if len(constraint.grammar.encode(errors="replace")) > MOST_GRAMMAR_BYTES:
            raise UsageError(f"the grammar has more than {MOST_GRAMMAR_BYTES} bytes: shorten it")
        return {"lark_grammar": constraint.grammar}
    if constraint.choices is not None:
        if len(constraint.choices) > MOST_CHOICES:
            raise UsageError(f"there are {len(constraint.choices)} choices: at most {MOST_CHOICES} are allowed")
        for choice in constraint.choices:
            _check_text("choice", choice)
        return {"lark_grammar": "start: " + " | ".join(map(json.dumps, constraint.choices))}
    assert constraint.tools is not None
    tools: list[dict[str, Any]] = [checked_schema(tool, "tool") for tool in constraint.tools]
    if sum(len(json.dumps(tool)) for tool in tools) > MOST_SCHEMA_BYTES:
        raise UsageError(f"the tools have more than {MOST_SCHEMA_BYTES} bytes together: give fewer or shorter ones")
    return {
        "lark_grammar": tool_grammar(
            tools, required=constraint.tool_choice == "required", parallel=constraint.parallel_tool_calls
        )
    }


def _spacing(most: int) -> dict[str, Any]:
    """How JSON is spaced. The client's own wishes for it ("x-guidance") are replaced: they could allow endless white
    space."""
    return NO_SPACE if most == 0 else {"whitespace_pattern": f"[ \\t\\n\\r]{{1,{most}}}"}


def checked_schema(schema: Mapping[str, Any] | str, what: str = "JSON schema") -> dict[str, Any]:
    """A JSON object from one or its text, copied. Raises UsageError for what is none, or too large or deep."""
    try:
        # Depth first: Python's own JSON functions are recursive.
        _check_depth(schema, what)
        text = schema if isinstance(schema, str) else json.dumps(schema, allow_nan=False)
        if len(text.encode()) > MOST_SCHEMA_BYTES:
            raise UsageError(f"the {what} has more than {MOST_SCHEMA_BYTES} bytes: shorten it")
        value: Any = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f"the {what} is no JSON: {error}") from None
    _check_depth(value, what)
    if not isinstance(value, dict):
        raise UsageError(f"the {what} is {type(value).__name__}: it must be a JSON object")
    return cast("dict[str, Any]", value)


def _check_depth(value: Any, what: str) -> None:
    """Breadth first over a JSON value: its depth, the number of its parts, and the length of its texts."""
    level, parts = [value], 0
    for _ in range(MOST_DEPTH):
        below: list[Any] = []
        for one in level:
            if isinstance(one, Mapping):
                for key, child in cast("Mapping[Any, Any]", one).items():
                    if not (key == "description" and isinstance(child, str)):
                        below += (key, child)
            elif isinstance(one, list | tuple):
                below += cast("list[Any]", one)
            elif isinstance(one, str) and one is not value and len(one) > MOST_TEXT:
                raise UsageError(f"the {what} holds a text of {len(one)} characters: at most {MOST_TEXT} are allowed")
        parts += len(below)
        if parts > MOST_SCHEMA_BYTES:
            raise UsageError(f"the {what} has more than {MOST_SCHEMA_BYTES} parts: shorten it")
        if not below:
            return
        level = below
    raise UsageError(f"the {what} is nested more than {MOST_DEPTH} levels deep: flatten it")


def _check_text(what: str, text: str) -> None:
    if not text or len(text) > MOST_TEXT:
        raise UsageError(f"a {what} has {len(text)} characters: it must have 1 to {MOST_TEXT}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"a {what} is no text: {error}") from None


@functools.lru_cache(maxsize=256)
def _fault(grammar: str) -> str | None:
    """What is wrong with a grammar; None: nothing. Raises HanlinError where the machine is too busy to tell."""
    script = [sys.executable, "-P", str(Path(constraint_check.__file__))]
    try:
        done = subprocess.run(script, input=grammar.encode(), capture_output=True, timeout=WALL_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise HanlinError(f"a constraint could not be checked within {WALL_SECONDS} s: ask again later") from None
    if done.returncode != 0 or not done.stdout:
        return "it is too much work or too deep: simplify it"
    return cast("dict[str, str | None]", json.loads(done.stdout))["fault"]


@contextmanager
def _panics_as_errors() -> Generator[None]:
    """A panic of llguidance's as HanlinError: it comes as a BaseException, which would end the whole server."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise HanlinError(f"llguidance failed: {error}") from None
