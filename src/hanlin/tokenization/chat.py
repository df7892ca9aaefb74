"""Chat templates: rendering in a sandbox by Hugging Face's conventions, and which part of the text each answer is.

Templates come with models and are not trusted: they run in jinja2's immutable sandbox. Contents come from users and are
not trusted either: `Shield` keeps what they write from being read as the template's own special tokens.
"""

from __future__ import annotations

import datetime
import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from hanlin.artifacts import HanlinError

if TYPE_CHECKING:
    import jinja2

Messages = Sequence[Mapping[str, Any]]
Tools = Sequence[Mapping[str, Any]] | None


@functools.lru_cache(maxsize=32)
def compile_template(source: str) -> jinja2.Template:
    """A template made ready to render. Raises HanlinError when its syntax is wrong.

    The environment is that of `transformers`: blocks are trimmed, `tojson` leaves Unicode and HTML signs alone, there
    are loop controls, `raise_exception`, `strftime_now`, and `{% generation %}` around an answer (it changes nothing).
    """
    import jinja2
    from jinja2 import ext, nodes, sandbox

    class Generation(ext.Extension):
        tags = {"generation"}  # noqa: RUF012 (declared so by jinja2)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment: Any = sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, ext.loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise HanlinError(
            f"The chat template is not valid jinja, at its line {error.lineno}: {error.message}."
        ) from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


@dataclass(frozen=True)
class ChatTemplate:
    """A template with the names of the special tokens that it may use (`bos_token`, …)."""

    source: str
    variables: Mapping[str, str]

    def render(self, messages: Messages, tools: Tools = None, add_generation_prompt: bool = False) -> str:
        """The conversation as text. Raises HanlinError with the template's own words when it refuses the messages."""
        import jinja2

        try:
            return compile_template(self.source).render(
                **self.variables,
                messages=list(messages),
                tools=list(tools) if tools else None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
            )
        except (jinja2.TemplateError, TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
            roles = ", ".join(message["role"] for message in messages) or "none"
            raise HanlinError(f"The chat template refuses these messages (roles: {roles}): {error}.") from None

    def answers(
        self, messages: Messages, tools: Tools, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        """The whole text, and for each assistant's message where in it the answer starts and ends (characters).

        An answer is what rendering the conversation up to and with the message adds to the prompt that a model is given
        for it. That is only sound when each of these texts begins with the one before; HanlinError names the first
        message where it does not: what would be trained on is not what would be generated.
        """
        whole = self.render(messages, tools, add_generation_prompt)
        spans: list[tuple[int, int]] = []
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            prompt = self.render(messages[:index], tools, True)
            answered = self.render(messages[: index + 1], tools, False)
            if not answered.startswith(prompt):
                raise _no_round_trip(index, "the prompt for this answer is not how the answered conversation begins")
            if not whole.startswith(answered):
                raise _no_round_trip(index, "the conversation up to this answer is rendered otherwise when it goes on")
            spans.append((len(prompt), len(answered)))
        return whole, spans


def _no_round_trip(index: int, why: str) -> HanlinError:
    return HanlinError(
        f"This chat template does not round-trip at message {index + 1} (assistant): {why}. What is trained on would "
        "not be what is generated. Use a template that only appends, such as hanlin's ChatML."
    )


class Shield:
    """Keeps special tokens that a conversation's contents spell from becoming special tokens.

    A mark, one character that occurs nowhere in the conversation or the template, is put inside each special token that
    a content spells, and where a content ends or begins with a part of one (so that template text beside it cannot
    complete it). The template carries the mark along like any other character; what of the rendered text still reads as
    a special token is then the template's own. `remove` takes the marks out again.

    Control tokens are broken everywhere. Tokens that are markup (`<think>`, `<tool_call>`: added to the vocabulary, but
    not special) are part of what a model says, so an assistant's content may spell them; nobody else's may.
    """

    def __init__(self, control: Iterable[str], markup: Iterable[str]):
        control = [*control]
        self._control, self._all = _Breaker(control), _Breaker([*control, *markup])

    def apply(self, messages: Messages, tools: Tools, template: str) -> tuple[Messages, Tools, str | None]:
        """Messages and tools with marks in them, and the mark; None when nothing had to be marked."""
        strings = [*_strings([*messages, *(tools or [])])]
        if not any(map(self._all.concerns, strings)):
            return messages, tools, None
        text = "\n".join([template, *strings])
        mark = next(sign for sign in map(chr, range(0xE000, 0xF8FF)) if sign not in text and _escaped(sign) not in text)
        marked: list[Mapping[str, Any]] = []
        for message in messages:
            breaker = self._control if message["role"] == "assistant" else self._all
            rest = {key: value for key, value in message.items() if key not in ("role", "content")}
            content = _walk(lambda part, breaker=breaker: breaker.insert(mark, part), message["content"])
            marked.append({"role": message["role"], "content": content, **self._mark_values(rest, mark)})
        return marked, [self._mark_values(tool, mark) for tool in tools] if tools else tools, mark

    def _mark_values(self, value: Mapping[str, Any], mark: str) -> dict[str, Any]:
        return _walk(lambda text: self._all.insert(mark, text), value)

    @staticmethod
    def remove(text: str, mark: str) -> str:
        """`text` without its marks, also where `tojson` wrote them as an escape."""
        return text.replace(mark, "").replace(_escaped(mark), "")


class _Breaker:
    """Puts a mark where one of some tokens is spelled, wholly anywhere or partly at a text's edge."""

    def __init__(self, tokens: Sequence[str]):
        self._tokens = [token for token in tokens if len(token) > 1]
        self._heads = tuple({token[:size] for token in self._tokens for size in range(1, len(token))})
        self._tails = tuple({token[size:] for token in self._tokens for size in range(1, len(token))})

    def concerns(self, text: str) -> bool:
        # Templates trim contents, so the edges are those of the trimmed text.
        edges = text.strip()
        return (
            edges.endswith(self._heads) or edges.startswith(self._tails) or any(token in text for token in self._tokens)
        )

    def insert(self, mark: str, text: str) -> str:
        if not self.concerns(text):
            return text
        start, end = len(text) - len(text.lstrip()), len(text.rstrip())
        at_end, at_start = text[:end].endswith(self._heads), text[start:].startswith(self._tails)
        text = f"{text[:end]}{mark}{text[end:]}" if at_end else text
        text = f"{text[:start]}{mark}{text[start:]}" if at_start else text
        spelled = [token for token in self._tokens if token in text]
        # Looking around instead of matching finds tokens that overlap, too.
        inside = "|".join(f"(?<={re.escape(token[0])})(?={re.escape(token[1:])})" for token in spelled)
        return re.sub(inside, mark, text) if spelled else text


def _escaped(sign: str) -> str:
    return f"\\u{ord(sign):04x}"


def _walk(change: Callable[[str], str], value: Any) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        items = cast(Mapping[str, Any], value).items()
        return {change(key): _walk(change, item) for key, item in items}
    if isinstance(value, list | tuple):
        return [_walk(change, item) for item in cast(Sequence[Any], value)]
    return value


def _strings(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in cast(Mapping[Any, Any], value).items():
            yield from _strings(key)
            yield from _strings(item)
    elif isinstance(value, list | tuple):
        for item in cast(Sequence[Any], value):
            yield from _strings(item)
