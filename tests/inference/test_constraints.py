"""Structured output: answers have the form that was asked for, and hostile forms are refused in bounded time."""

from __future__ import annotations

import functools
import json
import re
import threading
import time
from typing import Any

import jsonschema
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.artifacts import UsageError
from hanlin.inference import Constraint, Engine, Request
from hanlin.inference import constraints as module
from hanlin.inference.constraints import MOST_TOKEN_BYTES, ConstraintCompiler, grammar_of
from hanlin.inference.sampling import SamplingState, choose
from hanlin.inference.tool_calls import parse_tool_calls
from hanlin.models import ModelConfig, Transformer
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import byte_alphabet, chatml_template, tokenizer_config, tokenizer_json

PIECES = ['{"', '":', '", "', '"}', "  ", "\n\n", "true", "null", "12", "ab", "é", '"a', "}}", "call>", "<tool"]


@functools.cache
def tokenizer() -> Tokenizer:
    """Bytes, and tokens that cross the borders of what a grammar knows; two tokens with the same bytes."""
    signs = byte_alphabet()
    pieces = ["".join(signs[byte] for byte in piece.encode()) for piece in PIECES]
    return Tokenizer(tokenizer_json([*signs, *pieces], []), tokenizer_config(), chatml_template())


@functools.cache
def engine(seed: int = 0) -> Engine:
    """A tiny model with random weights and a padded vocabulary."""
    config = ModelConfig(
        family="llama", vocabulary_size=320, hidden_size=16, layers=1, heads=2, max_positions=600, kv_heads=2,
        intermediate_size=32,
    )  # fmt: skip
    model = Transformer(config)
    model.init_weights(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            generator = torch.Generator().manual_seed(seed)
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return Engine(model.eval(), tokenizer(), max_batch=8)


END = tokenizer().end_of_text_id


def request(constraint: Constraint, **given: Any) -> Request:
    """A request whose model likes to end wherever it may."""
    settings: dict[str, Any] = {"prompt_ids": [65], "max_new_tokens": 300, "logit_bias": {END: 30.0}}
    return Request(**{**settings, "constraint": constraint, **given})


def answers(constraint: Constraint, count: int = 6, **given: Any) -> list[str]:
    """Greedy and sampled answers; those that have the form to the end, which must be some."""
    asked = [request(constraint, temperature=1.5 * (seed > 0), seed=seed, **given) for seed in range(count)]
    done = engine().generate(asked)
    assert all(one.finish_reason in ("stop", "length") for one in done), [one.error for one in done]
    assert not any("\ufffd" in one.text for one in done if one.finish_reason == "stop")
    return [one.text for one in done if one.finish_reason == "stop"]


# ---------------------------------------------------------------------- forms

keys = st.text(st.sampled_from('ab "\\é翰'), min_size=1, max_size=4)
values = st.one_of(st.none(), st.booleans(), st.integers(-9, 99), keys)
plain_schemas: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-99, 99),
        st.integers(0, 500),
    ),
    st.builds(
        lambda low, more: {"type": "string", "minLength": low, "maxLength": low + more},
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    st.builds(lambda listed: {"enum": listed}, st.lists(values, min_size=1, max_size=4)),
    st.sampled_from(
        [{"type": "boolean"}, {"type": ["null", "boolean"]}, {"type": "string", "pattern": "^[a-c]{1,3}(é|翰)?$"}]
    ),
)


def objects(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def build(properties: dict[str, Any], required: int, closed: bool) -> dict[str, Any]:
        # An open object may end at once, and the model likes to end: extras are few.
        extras: Any = False if closed else {"type": "boolean"}
        names = list(properties)[:required]
        return {"type": "object", "properties": properties, "required": names, "additionalProperties": extras}

    return st.builds(build, st.dictionaries(keys, inner, max_size=3), st.integers(0, 3), st.booleans())


def arrays(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    def build(items: dict[str, Any], least: int) -> dict[str, Any]:
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + 1}

    return st.builds(build, inner, st.integers(0, 2))


schemas = st.recursive(
    plain_schemas,
    lambda inner: st.one_of(
        objects(inner), arrays(inner), st.builds(lambda one, other: {"anyOf": [one, other]}, inner, inner)
    ),
    max_leaves=4,
)


def test_answers_after_a_schema_parse_and_validate() -> None:
    finished, begun = 0, 0

    @given(schemas, st.integers(0, 3))
    @settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def check(schema: dict[str, Any], whitespace: int) -> None:
        nonlocal finished, begun
        texts = answers(Constraint(json_schema=schema, whitespace=whitespace), 4, max_new_tokens=120)
        begun, finished = begun + 4, finished + len(texts)
        for text in texts:
            jsonschema.validate(json.loads(text), schema)
            outside = re.sub(r'"(?:[^"\\]|\\.)*"', '""', text)
            assert not re.search(rf"\s{{{whitespace + 1}}}", outside)

    check()
    assert begun >= 48 and finished > 0.7 * begun


def test_any_object_and_recursive_schemas() -> None:
    texts = answers(Constraint(json_object=True), 12)
    assert texts and all(isinstance(json.loads(text), dict) for text in texts)
    tree = {
        "$defs": {"tree": {"type": "object", "properties": {"a": {"$ref": "#/$defs/tree"}}, "required": [],
                           "additionalProperties": False}},
        "$ref": "#/$defs/tree",
    }  # fmt: skip
    for text in answers(Constraint(json_schema=json.dumps(tree))):
        jsonschema.validate(json.loads(text), tree)


@pytest.mark.parametrize("pattern", [r"[a-f]{2,5}-\d+", r"(é|翰){1,3}/", r"^a?b?$", r"[^a-z]{3}", r"(\{\"\}|null){4}"])
def test_regular_expressions(pattern: str) -> None:
    texts = answers(Constraint(regex=pattern))
    assert texts and all(re.fullmatch(pattern, text) for text in texts)


def test_choices_and_grammars() -> None:
    choices = ["ab", "abab", 'say "é"\n', "<tool_call>", "\u0001"]
    found = {text for seed in range(3) for text in answers(Constraint(choices=choices), 8, prompt_ids=[65 + seed])}
    assert found <= set(choices) and len(found) >= 2
    sums = 'start: term ("+" term){0,3}\nterm: /[0-9]{1,2}/ | "(" start ")"'
    texts = answers(Constraint(grammar=sums))
    assert texts and all(re.fullmatch(r"[\d+()]+", text) and text.count("(") == text.count(")") for text in texts)


def test_a_trigger_sets_in() -> None:
    constraint = Constraint(json_schema={"type": "boolean"}, trigger="</think>")
    compiler = ConstraintCompiler(tokenizer(), 320)
    for free in ("", "so {[ <", "</thin", "é"):
        matcher = compiler.compile(constraint, [END])
        for token in tokenizer().encode(free):
            mask = matcher.mask()
            assert mask is not None and bool(mask[token]) and not bool(mask[END])
            matcher.advance(token)
        for token in tokenizer().encode("</think>true"):
            mask = matcher.mask()
            assert mask is not None and bool(mask[token])
            matcher.advance(token)
        assert matcher.stopped
    matcher = compiler.compile(constraint, [END])
    for token in tokenizer().encode("</think>"):
        matcher.advance(token)
    mask = matcher.mask()
    assert mask is not None and {chr(token) for token in mask.nonzero()[:, 0].tolist() if token < 256} == {"t", "f"}


def test_masks_equal_brute_force() -> None:
    """At every place of an answer a token is allowed exactly if some answer goes on with its bytes."""
    words = ["ab", "aab12", "é", '{"a":true}', "abtrue", "{}}"]
    compiler = ConstraintCompiler(tokenizer(), 320)
    for word in words:
        matcher, said = compiler.compile(Constraint(choices=words), [END]), b""
        for byte in word.encode():
            mask = matcher.mask()
            assert mask is not None
            # Where only one text can follow, its own tokens must.
            left = {one.encode()[len(said) :] for one in words if one.encode().startswith(said)}
            allowed = {token for token in range(320) if bool(mask[token])}
            possible = {
                token
                for token in range(tokenizer().vocabulary_size)
                if tokenizer().token_bytes(token)
                and any(rest.startswith(tokenizer().token_bytes(token)) for rest in left)
            } | ({END} if b"" in left else set())
            if len(left) > 1:
                assert allowed == possible
            else:
                assert allowed <= possible and allowed
            if byte not in allowed:
                break
            matcher.advance(byte)
            said += bytes([byte])


# ---------------------------------------------------------------------- the engine


def test_end_tokens_come_only_where_the_answer_may_end() -> None:
    """A model that wants nothing but to end, or nothing but white space or a control token."""
    constraint = Constraint(json_schema={"type": "array", "items": {"type": "boolean"}, "minItems": 3, "maxItems": 5})
    for loved in (END, 32, tokenizer().special["<|im_start|>"], 319):
        answer = engine().generate([request(constraint, logit_bias={loved: 100.0}, stop_ids=[END])])[0]
        assert answer.finish_reason == "stop" and len(json.loads(answer.text)) in (3, 4, 5)
    digits = engine().generate([request(Constraint(regex="[0-9]{2,}"))])[0]
    assert len(digits.text) == 2 and digits.ids[-1] == END and digits.finish_reason == "stop"


@pytest.mark.parametrize("space", [" ", "\n", "\t", "  ", "\n\n"])
def test_white_space_is_never_endless(space: str) -> None:
    loved = tokenizer().encode(space) if len(space) == 1 else [256 + PIECES.index(space)]
    biases = dict.fromkeys(loved, 100.0)
    for whitespace, most in ((0, 0), (2, 2)):
        constraint = Constraint(
            json_schema={"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"],
                         "additionalProperties": False, "x-guidance": {"whitespace_flexible": True}},
            whitespace=whitespace,
        )  # fmt: skip
        answer = engine().generate([request(constraint, logit_bias=biases)])[0]
        assert answer.finish_reason == "stop" and json.loads(answer.text).keys() == {"a"}
        assert max(map(len, re.findall(r"\s+", answer.text)), default=0) == most


def test_constrained_rows_and_free_ones_do_not_touch_each_other() -> None:
    asked = [
        request(Constraint(json_object=True), temperature=1.0, seed=1, max_new_tokens=40),
        Request(prompt_ids=[70, 71], max_new_tokens=40, temperature=1.0, ignore_eos=True),
        request(Constraint(choices=["ab", "ba"]), prompt_ids=[9]),
        Request(prompt_ids=[70], max_new_tokens=20, ignore_eos=True),
    ]
    together = engine().generate(asked)
    for one, beside in zip(asked, together, strict=True):
        alone = engine().generate([one])[0]
        assert (alone.ids, alone.text, alone.finish_reason) == (beside.ids, beside.text, beside.finish_reason)
        assert alone.logprobs == pytest.approx(beside.logprobs, abs=1e-5)


def test_raw_and_processed_logprobs_of_a_constrained_answer() -> None:
    constraint = Constraint(choices=["true", "null"])
    answer = engine().generate([request(constraint, logit_bias={}, processed_logprobs=True, temperature=1.0)])[0]
    assert answer.processed_logprobs is not None and answer.text in ("true", "null")
    with torch.no_grad():
        raw = engine().model(torch.tensor([[65, *answer.ids]]))[0].log_softmax(-1)
    assert answer.logprobs == pytest.approx([float(raw[n, token]) for n, token in enumerate(answer.ids)], abs=1e-5)
    assert all(processed > raw for processed, raw in zip(answer.processed_logprobs, answer.logprobs, strict=True))
    assert answer.processed_logprobs[1:] == [pytest.approx(0)] * (len(answer.ids) - 1)


def test_streamed_constrained_answers_are_the_whole() -> None:
    one = request(Constraint(json_object=True), temperature=1.0, seed=3)
    whole = engine().generate([one])[0]
    deltas = list(engine().stream(one))
    assert "".join(delta.text for delta in deltas) == whole.text and deltas[-1].completion == whole


# ---------------------------------------------------------------------- tools

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"enum": ["Paris", "翰林"]},
                    "days": {"type": "integer", "minimum": 1, "maximum": 9},
                },
                "required": ["city", "days"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "now"}},
]
SCHEMAS = {tool["function"]["name"]: tool["function"].get("parameters", {"maxProperties": 0}) for tool in TOOLS}


@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls(parallel: bool) -> None:
    constraint = Constraint(tools=TOOLS, tool_choice="required", parallel_tool_calls=parallel)
    most = 0
    for seed in range(6):
        # Without the love of ending, so that some call again.
        bias = {END: 30.0} if seed < 3 else {END: -30.0}
        answer = engine().generate([request(constraint, temperature=1.0, seed=seed, logit_bias=bias)])[0]
        if answer.finish_reason == "length":
            answer.text = answer.text[: answer.text.rindex("</tool_call>") + len("</tool_call>")]
        content, made = parse_tool_calls(answer.text, TOOLS)
        assert content == "" and made
        for call in made:
            jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])
        # As the template writes it: with its own tokens.
        assert answer.ids[0] == tokenizer().special["<tool_call>"]
        most = max(most, len(made))
    assert most > 1 if parallel else most == 1


def test_a_named_tool() -> None:
    constraint = Constraint(tools=TOOLS[1:], tool_choice="required", parallel_tool_calls=False)
    answer = engine().generate([request(constraint)])[0]
    assert answer.text == '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>'
    assert answer.finish_reason == "stop"


def test_free_text_until_a_call_is_opened() -> None:
    opening, constraint = tokenizer().special["<tool_call>"], Constraint(tools=TOOLS)
    free = {"prompt_ids": [70], "max_new_tokens": 30, "temperature": 1.0, "ignore_eos": True}
    shy = {opening: -100.0}
    for seed in range(3):
        asked = [
            Request(**free, seed=seed, logit_bias=shy),
            Request(**free, seed=seed, logit_bias=shy, constraint=constraint),
        ]
        plain, guarded = engine().generate(asked)
        if "\ufffd" not in plain.text and not any(token in tokenizer().special.values() for token in plain.ids):
            assert plain.ids == guarded.ids
    answer = engine().generate([request(constraint, logit_bias={opening: 100.0, END: 30.0})])[0]
    content, made = parse_tool_calls(answer.text, TOOLS)
    assert content == "" and made and answer.finish_reason == "stop"
    # Spelled sign by sign it is a call as well.
    matcher = ConstraintCompiler(tokenizer(), 320).compile(constraint, [END])
    for sign in b"Well.\n<tool_call>":
        mask = matcher.mask()
        assert mask is not None and bool(mask[sign])
        matcher.advance(sign)
    mask = matcher.mask()
    assert mask is not None and mask.nonzero()[:, 0].tolist() == [10]


def test_tools_need_a_template_that_has_them() -> None:
    bare = Tokenizer(tokenizer().json, tokenizer().config, None)
    with pytest.raises(UsageError, match="chat template"):
        ConstraintCompiler(bare, 320).compile(Constraint(tools=TOOLS), [END])


# ---------------------------------------------------------------------- what is hostile, and what breaks


def nested(depth: int, inner: Any = True) -> Any:
    for _ in range(depth):
        inner = {"type": "array", "items": inner}
    return inner


def chain(length: int) -> dict[str, Any]:
    links = {f"d{n}": {"type": "array", "items": {"$ref": f"#/$defs/d{n + 1}"}} for n in range(length)}
    return {"$defs": {**links, f"d{length}": {"type": "integer"}}, "$ref": "#/$defs/d0"}


def rules(count: int, rule: str) -> str:
    """A grammar of `count` rules, each made of the next."""
    name = "a" if rule.islower() else "A"
    lines = [f"{name}{n}: {rule.format(n + 1)}" for n in range(count)]
    return "\n".join([f"start: {name}0", *lines, f'{name}{count}: "x"'])


ALTERNATIVES = [{"anyOf": [{"type": "object", "required": [f"{i}_{j}"]} for j in range(4)]} for i in range(12)]
PATTERNS = [{"type": "string", "pattern": f".*{chr(97 + n)}.{{20}}"} for n in range(20)]
PROPERTIES = {f"p{n}": {"type": "integer"} for n in range(1500)}
circle: dict[str, Any] = {"type": "object"}
circle["properties"] = {"a": circle}
HOSTILE: dict[str, Constraint] = {
    "deep": Constraint(json_schema=nested(500)),
    "deep text": Constraint(json_schema="[" * 60_000),
    "deep object in text": Constraint(json_schema='{"a":' * 10_000 + "1" + "}" * 10_000),
    "circle": Constraint(json_schema=circle),
    "huge": Constraint(json_schema={"enum": [f"value {n}" for n in range(200_000)]}),
    "long text": Constraint(json_schema={"const": "x" * 5000}),
    "chained references": Constraint(json_schema=chain(1200)),
    "reference to itself": Constraint(json_schema={"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "remote reference": Constraint(json_schema={"$ref": "http://127.0.0.1:9/x.json"}),
    "product": Constraint(json_schema={"allOf": ALTERNATIVES}),
    "intersection": Constraint(json_schema={"allOf": PATTERNS}),
    "remainder": Constraint(json_schema={"type": "integer", "multipleOf": 999999937}),
    "keyword that can't be kept": Constraint(json_schema={"type": "array", "uniqueItems": True}),
    "nothing satisfies it": Constraint(json_schema={"type": "string", "minLength": 5, "maxLength": 2}),
    "properties": Constraint(json_schema={"type": "object", "properties": PROPERTIES}),
    "not a number": Constraint(json_schema={"minimum": float("nan")}),
    "no object": Constraint(json_schema="[]"),
    "no JSON": Constraint(json_schema="{"),
    "not even JSON's types": Constraint(json_schema={"const": {1, 2}}),
    "repetition": Constraint(regex="a{4000000}"),
    "long expression": Constraint(regex="a" * 5000),
    "parentheses": Constraint(regex="(" * 2000 + "a" + ")" * 2000),
    "look-around": Constraint(regex="(?=a)b"),
    "no expression": Constraint(regex="("),
    "chained rules": Constraint(grammar=rules(1400, "a{}")),
    "doubling": Constraint(grammar=rules(40, "A{0} A{0}")),
    "long grammar": Constraint(grammar='start: "a"\n' + "# \n" * 10_000),
    "a token by its name": Constraint(grammar="start: <|im_end|>"),
    "many repetitions": Constraint(grammar='start: "a"{1000000000}'),
    "no grammar": Constraint(grammar="{{{"),
    "many choices": Constraint(choices=[str(n) for n in range(5000)]),
    "an empty choice": Constraint(choices=["a", ""]),
    "a choice that is no text": Constraint(choices=["\ud800"]),
    "tools": Constraint(tools=[{"name": f"t{n}", "parameters": {"const": "y" * 3000}} for n in range(40)]),
    "tool's parameters": Constraint(tools=[{"name": "t", "parameters": {"type": "nonsense"}}]),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_forms_are_refused_in_bounded_time(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(UsageError) as error:
        engine().constraints.compile(HOSTILE[name], [END])
    assert time.monotonic() - start < 15 and len(str(error.value)) < 500


def test_constraints_that_say_nothing_or_too_much_are_refused() -> None:
    wrong: list[dict[str, Any]] = [{}, {"regex": "a", "json_object": True}, {"choices": []}, {"choices": "ab"}]
    for fields in wrong:
        with pytest.raises(UsageError):
            Constraint(**fields)
    with pytest.raises(UsageError, match="whitespace"):
        Constraint(json_object=True, whitespace=1000)
    with pytest.raises(UsageError, match="beam"):
        request(Constraint(json_object=True), beams=2)


def test_very_long_tokens_of_the_vocabulary() -> None:
    signs = byte_alphabet()
    long = ["a" * length for length in (MOST_TOKEN_BYTES, MOST_TOKEN_BYTES + 1, 70_000)]
    wide = Tokenizer(tokenizer_json([*signs, *long], []), tokenizer_config(), chatml_template())
    matcher = ConstraintCompiler(wide, 400).compile(Constraint(regex="a{1,100000}b"), [wide.end_of_text_id])
    mask = matcher.mask()
    assert mask is not None and [bool(mask[token]) for token in (97, 256, 257, 258)] == [True, True, False, False]
    matcher.advance(256)
    mask = matcher.mask()
    assert mask is not None and mask.nonzero()[:, 0].tolist() == [97, 98, 256]


def test_a_limit_reached_on_the_way_fails_that_request_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Panic(BaseException):
        pass

    Panic.__name__ = "PanicException"

    class Broken:
        def compute_logit_bias(self) -> bytes:
            raise Panic("index out of bounds")

    asked = [request(Constraint(json_object=True)), Request(prompt_ids=[65], max_new_tokens=5, ignore_eos=True)]
    states = [SamplingState.start(one) for one in asked]
    states[0].constraint = engine().constraints.compile(Constraint(json_object=True), [END])
    monkeypatch.setattr(states[0].constraint, "_matcher", Broken())
    logits = torch.randn(2, 320, generator=torch.Generator().manual_seed(0))
    choice = choose(logits, states)
    assert choice.tokens[0] == -1 and "index out of bounds" in states[0].error
    assert choice.tokens[1] == choose(logits[1:], states[1:]).tokens[0] >= 0
    # And through the engine, with a limit that the checking process does not know.
    tight = module.llguidance.LLParserLimits(max_lexer_states=6, verbose_errors=False)
    monkeypatch.setattr(module.constraint_check, "LIMITS", tight)
    broken, whole = engine().generate([request(Constraint(regex="(a|b)*a(a|b){12}"), temperature=1.0), asked[1]])
    assert broken.finish_reason == "error" and "states" in broken.error
    assert whole.finish_reason == "length" and whole.error == ""


def test_one_answer_does_not_use_up_the_limits_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = module.llguidance.LLParserLimits(max_lexer_states=2000, verbose_errors=False)
    monkeypatch.setattr(module.constraint_check, "LIMITS", limits)
    constraint = Constraint(regex="(a|b)*a(a|b){12}c")
    asked = [
        request(constraint, temperature=1.0, seed=seed, max_new_tokens=200, logit_bias={99: -100.0, END: -100.0})
        for seed in range(12)
    ]
    assert {one.finish_reason for one in engine().generate(asked)} == {"length"}


def test_threads_may_compile_at_once() -> None:
    compiler, found = ConstraintCompiler(tokenizer(), 320), list[bool]()

    def work(number: int) -> None:
        matcher = compiler.compile(Constraint(choices=[f"{number}", "x"]), [END])
        mask = matcher.mask()
        found.append(mask is not None and bool(mask[48 + number]) and bool(mask[ord("x")]))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_the_check_is_made_once() -> None:
    constraint = Constraint(regex="checked once: [0-9]+")
    engine().constraints.compile(constraint, [END])
    hits = module._fault.cache_info().hits
    start = time.monotonic()
    engine().constraints.compile(constraint, [END])
    assert module._fault.cache_info().hits == hits + 1 and time.monotonic() - start < 0.1
    assert grammar_of(constraint) != grammar_of(Constraint(regex="checked once: [0-9]*"))
