from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.tokenization import Conversation, Message, Tokenizer
from hanlin.tokenization.chat import ChatTemplate, Shield
from hanlin.tokenization.vocabulary import SPECIAL_TOKENS

CHAT = Conversation(
    [
        Message("system", "你是翰林。"),
        Message("user", "Where was Ada born?"),
        Message("assistant", "In Turin."),
        Message("user", "And 7+8?"),
        Message("assistant", "15"),
    ]
)


def trained_text(tokenizer: Tokenizer, conversation: Conversation) -> str:
    rendered = tokenizer.render_tokens(conversation)
    return tokenizer.decode([i for i, on in zip(rendered.ids, rendered.trained) if on], skip_special=False)


def test_the_default_template(trained: Tokenizer) -> None:
    assert trained.render(CHAT.messages[:3], add_generation_prompt=True) == (
        "<|endoftext|><|im_start|>system\n你是翰林。<|im_end|>\n<|im_start|>user\nWhere was Ada born?<|im_end|>\n"
        "<|im_start|>assistant\nIn Turin.<|im_end|>\n<|im_start|>assistant\n"
    )
    assert trained.render([]) == "<|endoftext|>"


def test_answers_are_trained_with_their_end(trained: Tokenizer) -> None:
    rendered = trained.render_tokens(CHAT)
    assert trained.decode(rendered.ids, skip_special=False) == trained.render(CHAT.messages)
    assert trained_text(trained, CHAT) == "In Turin.<|im_end|>15<|im_end|>"
    assert len(rendered.ids) == len(rendered.trained)
    assert not any(trained.render_tokens(Conversation(CHAT.messages[:2])).trained)


def test_tools_and_tool_calls(trained: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "add", "description": "加"}}]
    calls = [{"name": "add", "arguments": '{"a": 1}'}, {"function": {"name": "add", "arguments": {"a": "二"}}}]
    chat = Conversation(
        [
            Message("system", "S"),
            Message("user", "?"),
            Message("assistant", "Wait.", tool_calls=calls),
            Message("tool", "1"),
            Message("assistant", "", tool_calls=calls[:1]),
        ],
        tools,
    )
    text = trained.render(chat.messages, tools)
    assert text.startswith("<|endoftext|><|im_start|>system\nS\n\nYou can call")
    assert text.count("<|im_start|>system") == 1
    assert json.dumps(tools[0], ensure_ascii=False) in text
    first = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
    second = '<tool_call>\n{"name": "add", "arguments": {"a": "二"}}\n</tool_call>'
    assert f"<|im_start|>assistant\nWait.\n{first}\n{second}<|im_end|>\n<|im_start|>tool\n1<|im_end|>\n" in text
    assert trained_text(trained, chat) == f"Wait.\n{first}\n{second}<|im_end|>{first}<|im_end|>"
    rendered = trained.render_tokens(chat)
    assert rendered.ids.count(trained.special["<tool_call>"]) == 1 + 3  # the instruction shows one


PIECES = st.lists(
    st.sampled_from([*SPECIAL_TOKENS, "<", ">", "|>", "<|im_", "end|>", "<|", "\n", " ", "翰", "word", "7"]), max_size=6
).map("".join)


def messages_of(parts: list[tuple[str, str]]) -> list[Message]:
    return [
        Message(
            role, text, tool_calls=[{"name": "f" + text, "arguments": {text: [text]}}] if role == "assistant" else None
        )
        for role, text in parts
    ]


CONVERSATIONS = st.lists(
    st.tuples(st.sampled_from(["system", "user", "assistant", "tool"]), PIECES), min_size=1, max_size=5
).map(messages_of)


@settings(max_examples=200, deadline=None)
@given(messages=CONVERSATIONS)
def test_contents_cannot_write_special_tokens(trained: Tokenizer, messages: list[Message]) -> None:
    """Whatever they spell, the text is kept, and the special tokens are those of the conversation without it."""
    tools = [{"name": message.content} for message in messages]
    rendered = trained.render_tokens(Conversation(messages, tools))
    assert trained.decode(rendered.ids, skip_special=False) == trained.render(messages, tools)
    calls = [{"name": "f", "arguments": {}}]
    bare = [Message(message.role, "x", calls if message.role == "assistant" else None) for message in messages]
    expected = trained.render_tokens(Conversation(bare, tools=[{"name": "x"}]))
    control = {*trained._control.values()}
    found = [(index, on) for index, on in zip(rendered.ids, rendered.trained) if index in control]
    assert found == [(index, on) for index, on in zip(expected.ids, expected.trained) if index in control]
    markup = sum(message.content.count("<tool_call>") for message in messages if message.role == "assistant")
    opening = trained.special["<tool_call>"]
    assert rendered.ids.count(opening) == expected.ids.count(opening) + markup


@settings(max_examples=100, deadline=None)
@given(messages=CONVERSATIONS)
def test_a_prompt_is_what_training_saw(trained: Tokenizer, messages: list[Message]) -> None:
    whole = trained.render_tokens(Conversation(messages))
    for index, message in enumerate(messages):
        if message.role == "assistant":
            prompt = trained.render_tokens(Conversation(messages[:index]), add_generation_prompt=True).ids
            assert whole.ids[: len(prompt)] == prompt
            assert whole.trained[len(prompt)]
            assert not whole.trained[len(prompt) - 1]


def test_a_newline_that_begins_an_answer_stays_the_answers(trained: Tokenizer) -> None:
    """Alone, BPE joins it with the template's newline into a token that the prompt does not end with."""
    text, _ = tokens_joining_newlines()
    tokenizer = Tokenizer(text, trained.config, trained.chat_template)
    chat = Conversation([Message("user", "?"), Message("assistant", "\nyes")])
    joined = tokenizer.encode_rendered(tokenizer.render(chat.messages))
    ours = tokenizer.render_tokens(chat)
    assert ours.ids != joined
    assert tokenizer.decode(ours.ids) == tokenizer.decode(joined)
    assert trained_text(tokenizer, chat) == "\nyes<|im_end|>"
    user = Conversation([Message("user", "\n?"), Message("assistant", "yes")])  # what is not trained is not kept apart
    assert tokenizer.render_tokens(user).ids == tokenizer.encode_rendered(tokenizer.render(user.messages))


def tokens_joining_newlines() -> tuple[str, int]:
    from hanlin.tokenization.train import train

    text, learned = train(iter(["a\n\nb\n\n"] * 10), 300, 16, 2)
    assert "ĊĊ" in json.loads(text)["model"]["vocab"]
    return text, learned


def test_marks_survive_what_templates_do_to_contents(trained: Tokenizer) -> None:
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim | upper }}|im_end|>"
        "{{ m | tojson(ensure_ascii=True) }}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = trained.with_chat_template(source)
    chat = Conversation(
        [Message("user", " < "), Message("assistant", "x<|pad|>\\ue000\ue000 <"), Message("user", "林")]
    )
    rendered = tokenizer.render_tokens(chat)
    assert tokenizer.decode(rendered.ids, skip_special=False) == tokenizer.render(chat.messages)
    control = [i for i in rendered.ids if i in {*tokenizer.special.values()}]
    assert control == [tokenizer.special["<|im_start|>"], tokenizer.special["<|im_end|>"]] * 3


def test_shield_leaves_ordinary_conversations_alone() -> None:
    shield = Shield(["<|im_end|>"], ["<think>"])
    messages = [{"role": "assistant", "content": "a < b | c <think>hm</think>"}]
    plain = [{"role": "user", "content": "a < b"}]
    assert shield.apply(plain, None, "") == (plain, None, None)
    marked, _, mark = shield.apply(messages, [{"a": "<think>"}], "")
    assert mark is not None
    assert marked == messages  # an assistant may think


def test_thinking_is_the_assistants(trained: Tokenizer) -> None:
    value = json.loads(trained.json)
    size = trained.vocabulary_size
    for index, name in enumerate(["<think>", "</think>"]):
        value["added_tokens"].append({**value["added_tokens"][-1], "content": name, "id": size + index})
    template = trained.chat_template or ""
    tokenizer = Tokenizer(json.dumps(value), trained.config, template + "{# <think></think> #}")
    chat = Conversation([Message("user", "<think>"), Message("assistant", "<think>hm</think>ok")])
    rendered = tokenizer.render_tokens(chat)
    assert rendered.ids.count(size) == 1
    assert rendered.ids.index(size) == rendered.trained.index(True)
    assert not {size, size + 1} & {*tokenizer.encode("<think></think>")}


FORGETS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role != 'assistant' or loop.last %}{{ m.content }}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
)
ENDLESS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize(
    ("source", "what"),
    [
        (FORGETS, r"does not round-trip at message 3 \(assistant\): the conversation up to this answer"),
        (THINKS, r"does not round-trip at message 3 \(assistant\): the prompt for this answer"),
        (ENDLESS, "ends answer 1 with no special token"),
        ("{{ raise_exception('no ' + messages[0].role) }}", r"refuses these messages \(roles: .*\): no system"),
        ("{{ messages[0].nothing.at_all }}", "refuses these messages"),
        ("{% if %}", "not valid jinja, at its line 1"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
    ],
)
def test_templates_that_cannot_be_used(trained: Tokenizer, source: str, what: str) -> None:
    with pytest.raises(HanlinError, match=what):
        trained.with_chat_template(source).render_tokens(CHAT)


def test_check_chat(trained: Tokenizer) -> None:
    trained.check_chat()
    text = trained.json

    def check(config: dict[str, Any], template: str | None) -> None:
        Tokenizer(text, config, template).check_chat()

    good = trained.chat_template
    with pytest.raises(HanlinError, match=r"pads with <\|endoftext\|>, which is its eos_token"):
        check({**trained.config, "pad_token": "<|endoftext|>"}, good)
    with pytest.raises(HanlinError, match=r"pads with <\|im_end\|>, which ends an answer"):
        check({**trained.config, "pad_token": {"content": "<|im_end|>"}}, good)
    with pytest.raises(HanlinError, match="no chat template"):
        check(trained.config, None)
    with pytest.raises(HanlinError, match=r"ends an answer with no special token, .* such as hanlin's ChatML"):
        check(trained.config, ENDLESS)
    # Templates with which no end of turn can be found for another reason: that reason is given.
    with pytest.raises(
        HanlinError, match=r"does not round-trip at message 2 \(assistant\): the prompt for this answer"
    ):
        check(trained.config, THINKS)
    with pytest.raises(HanlinError, match=r"refuses these messages \(roles: user, assistant\): no user"):
        check(trained.config, "{{ raise_exception('no ' + messages[0].role) }}")
    with pytest.raises(HanlinError, match="not valid jinja, at its line 1"):
        check(trained.config, "{% if %}")
    with pytest.raises(HanlinError, match="no chat template"):
        Tokenizer(text, trained.config).render([{"role": "user", "content": ""}])


@pytest.mark.parametrize("named", [True, False])
def test_templates_that_old_directories_keep_in_their_config(trained: Tokenizer, tmp_path: Path, named: bool) -> None:
    trained.save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    template = [{"name": "rag", "template": "x"}, {"name": "default", "template": "{{ 1 }}"}] if named else "{{ 1 }}"
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**trained.config, "chat_template": template}))
    assert Tokenizer.load(tmp_path).render([]) == "1"


def test_conventions_of_hugging_face() -> None:
    source = (
        "{%- for x in [1, 2] %}\n    {%- if x == 2 %}\n{% break %}\n{% endif %}{{ x }}{% endfor %}{{ '<é&>' | tojson }}"
    )
    assert ChatTemplate(source, {}).render([]) == '1"<é&>"'
    assert len(ChatTemplate("{{ strftime_now('%Y') }}", {}).render([])) == 4
    assert ChatTemplate("{% generation %}{{ eos_token }}{% endgeneration %}", {"eos_token": "e"}).render([]) == "e"
