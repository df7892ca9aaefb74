"""Faults that services of this kind were found to have, each tried over HTTP; those of single parts stand with them."""

from __future__ import annotations

import ast
import hmac
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

import hanlin
from hanlin.artifacts import HanlinError
from hanlin.artifacts.written import Loader
from hanlin.inference import scoring
from hanlin.serving.keys import Keys
from hanlin.serving.settings import ModelSettings
from hanlin.serving.store import Database
from hanlin.tokenization import Message
from tests.inference.models import tokenizer
from tests.serving.live import Live, serving
from tests.serving.test_answers import chunks
from tests.serving.test_refusals import CHAT, CHAT_PATH
from tests.serving.test_structure import TOOLS


class Script:
    """What the tokens of the next answer stand for, whatever the model says."""

    def __init__(self, live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
        self._live = live
        self._parts: Iterator[bytes] = iter(())
        model = live.service.models.choose("long", str).model
        assert model is not None
        monkeypatch.setattr(model.engine, "_token_bytes", lambda token: next(self._parts))

    def _body(self, parts: list[bytes], **fields: Any) -> dict[str, Any]:
        self._parts = iter(parts)
        return {**CHAT, "model": "long", "max_tokens": len(parts), "ignore_eos": True, **fields}

    def whole(self, parts: list[bytes], **fields: Any) -> dict[str, Any]:
        return self._live.post(CHAT_PATH, self._body(parts, **fields)).json()["choices"][0]

    def streamed(self, parts: list[bytes], **fields: Any) -> tuple[list[str], str]:
        """The pieces of content, and the reason of the end."""
        body = self._body(parts, **fields)
        told = [one for chunk in chunks(self._live, CHAT_PATH, **body) for one in chunk["choices"]]
        return [one["delta"].get("content", "") for one in told], told[-1]["finish_reason"]


@pytest.fixture
def script(live: Live, monkeypatch: pytest.MonkeyPatch) -> Script:
    return Script(live, monkeypatch)


def cuts(data: bytes) -> list[list[bytes]]:
    """All ways to cut it into three tokens, empty ones too."""
    places = range(len(data) + 1)
    return [[data[:a], data[a:b], data[b:]] for a in places for b in places if a <= b]


def test_a_stop_string_at_every_split_of_the_stream(script: Script) -> None:
    text, stop = "é<<END>b", "<END>"
    for parts in cuts(text.encode()):
        pieces, reason = script.streamed(parts, stop=stop)
        whole = script.whole(parts, stop=stop)
        assert "".join(pieces) == whole["message"]["content"] == "é<", parts
        assert reason == whole["finish_reason"] == "stop"


def test_characters_at_every_split_of_the_stream(script: Script) -> None:
    text = "é翰😀"
    for parts in cuts(text.encode()):
        pieces, reason = script.streamed(parts)
        assert "".join(pieces) == text and reason == "length" and all(piece in text for piece in pieces), parts


@pytest.mark.parametrize(
    "text",
    [
        '<tool_call>\n{"name": "weather", "arguments": {"city": \n</tool_call>',
        '<tool_call>\n{"name": "rain", "arguments": {}}\n</tool_call>',
        "<tool_call>\nweather(city=Oslo)\n</tool_call>",
        "<tool_call>\n" + "[" * 500,
        '<tool_call>\n{"name": "weather", "arg',
        "</tool_call><tool_call></tool_call>",
    ],
)
def test_malformed_calls_are_text(script: Script, text: str) -> None:
    data = text.encode()
    parts = [data[start : start + 7] for start in range(0, len(data), 7)]
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "auto", "max_tokens": len(parts)}
    whole = script.whole(parts, **fields)
    assert whole["message"] == {"role": "assistant", "content": text, "refusal": None}
    assert whole["finish_reason"] == "length"
    pieces, reason = script.streamed(parts, **fields)
    assert "".join(pieces) == text and reason == "length"


def test_log_probabilities_of_prompts_need_little_memory(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores of the whole vocabulary are made for few positions at a time, and of one prompt at a time."""
    rows: list[int] = []
    reading = 0
    honest, logits = scoring.score_with_top, type(live.model.engine.model).logits

    def counted(model: Any, hidden: Any) -> Any:
        rows.append(hidden.shape[0])
        return logits(model, hidden)

    def alone(*arguments: Any) -> Any:
        nonlocal reading
        reading += 1
        assert reading == 1
        try:
            return honest(*arguments)
        finally:
            reading -= 1

    version = live.service.models.choose("long", str)
    assert version.model is not None
    size = version.model.config.vocabulary_size
    monkeypatch.setattr(scoring, "LOGIT_BYTES", 4 * size * 50)
    monkeypatch.setattr(type(live.model.engine.model), "logits", counted)
    monkeypatch.setattr("hanlin.serving.api.service.score_with_top", alone)
    body = {"model": "long", "prompt": [[97] * 700] * 3, "max_tokens": 1, "prompt_logprobs": 2, "temperature": 0}
    answer = live.post("/v1/completions", body).json()
    for choice in answer["choices"]:
        assert len(choice["prompt_logprobs"]) == 700
    assert rows.count(50) >= 3 * (699 // 50) and max(rows) <= 50
    assert live.quiet()


def test_another_keys_prompts_are_not_in_anybodys_cache(keyed_live: tuple[Live, list[str]]) -> None:
    """How soon an answer comes tells nothing about what another key asked."""
    live, secrets = keyed_live
    version = live.service.models.choose("long", str)
    assert version.model is not None
    body = {"model": "long", "prompt": [98] * 2000, "max_tokens": 2}

    def hits(secret: str) -> int:
        assert version.model is not None
        before = version.model.engine.load.prefix_hits
        answer = live.post("/v1/completions", body, headers={"authorization": f"Bearer {secret}"})
        assert answer.status_code == 200, answer.text
        return version.model.engine.load.prefix_hits - before

    first, second = secrets
    assert hits(first) == 0
    assert hits(second) == 0, "another key has asked it"
    assert hits(first) > 1900 and hits(second) > 1900


@pytest.fixture
def keyed_live(long_directory: Path, tmp_path: Path) -> Iterator[tuple[Live, list[str]]]:
    database = Database(str(tmp_path / "service.db"))
    keys = Keys(database)
    secrets = [keys.create(name)[1] for name in ("ann", "bob")]
    models = [ModelSettings(path=str(long_directory), name="long")]
    with serving(long_directory, keys=keys, store=database, models=models) as live:
        yield live, secrets


def test_keys_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is shown, two hashes of one length are compared, by the function that takes as long for all."""
    compared: list[tuple[str, str]] = []
    honest = hmac.compare_digest

    def watched(one: str, other: str) -> bool:
        compared.append((one, other))
        return honest(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    keys = Keys(Database(str(tmp_path / "service.db")))
    _, secret = keys.create("ann")
    shown = [secret, secret[:-1] + ("0" if secret[-1] != "0" else "1"), "hk-" + "0" * 64, "", "x" * 10_000, "hk-é"]
    assert [keys.authenticate(one) is not None for one in shown] == [True] + [False] * 5
    assert len(compared) == len(shown)
    assert all(len(one) == len(other) == 64 and secret not in (one, other) for one, other in compared)


SOURCES = sorted(Path(hanlin.__file__).parent.rglob("*.py"))
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "jsonpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "__import__", "compile"}


def unsafe(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Lines on which data could become code."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, one.name) for one in node.names if one.name.split(".")[0] in FORBIDDEN_MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in FORBIDDEN_MODULES:
            yield node.lineno, node.module or ""
        elif isinstance(node, ast.Call):
            yield from unsafe_call(node)


def unsafe_call(node: ast.Call) -> Iterator[tuple[int, str]]:
    name = ast.unparse(node.func)
    given = {one.arg: ast.unparse(one.value) for one in node.keywords}
    if isinstance(node.func, ast.Name) and name in FORBIDDEN_CALLS:
        yield node.lineno, name
    if name in ("yaml.unsafe_load", "yaml.full_load") or (name == "yaml.load" and given.get("Loader") != "Loader"):
        yield node.lineno, name
    if name == "torch.load" and given.get("weights_only") != "True":
        yield node.lineno, name
    if name.endswith(("np.load", "numpy.load")) and given.get("allow_pickle", "False") != "False":
        yield node.lineno, name
    if name in ("os.system", "os.popen") or given.get("shell") == "True":
        yield node.lineno, name
    if given.get("trust_remote_code", "False") != "False":
        yield node.lineno, "trust_remote_code"


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from pickle import loads", "eval(x)", "torch.load(f)", "torch.load(f, weights_only=False)",
        "yaml.load(f)", "np.load(f, allow_pickle=True)", "f(trust_remote_code=True)", "run(x, shell=True)",
        "os.system(x)",
    ],
)  # fmt: skip
def test_what_is_unsafe_is_seen(line: str) -> None:
    assert list(unsafe(ast.parse(line)))


def test_no_data_becomes_code() -> None:
    assert len(SOURCES) > 100
    found = {str(path): list(unsafe(ast.parse(path.read_text(encoding="utf-8")))) for path in SOURCES}
    assert {path: lines for path, lines in found.items() if lines} == {}
    assert issubclass(Loader, yaml.SafeLoader)  # which is what `yaml.load` may be given


def test_loops_of_templates_are_bounded() -> None:
    """Those in each other too are, by the time for preparing (`test_a_preparation_that_hangs`)."""
    endless = "{% for a in range(10**9) %}{{ a }}{% endfor %}"
    with pytest.raises(HanlinError, match="template"):
        tokenizer().with_chat_template(endless).render([Message("user", "x")])
