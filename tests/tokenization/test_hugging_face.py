"""The files are read by `transformers` as they are meant."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.tokenization import Conversation, Message, Tokenizer
from tests.tokenization.corpora import documents

transformers = pytest.importorskip("transformers")

CONFIGS: list[dict[str, Any] | None] = [
    None,
    {"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"]},
    {"model_type": "llama", "architectures": ["LlamaForCausalLM"]},
    {"model_type": "mistral", "architectures": ["MistralForCausalLM"]},
    {"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]},
]
TOOLS = [{"type": "function", "function": {"name": "天气", "parameters": {"type": "object", "properties": {}}}}]
CALL = {"type": "function", "function": {"name": "天气", "arguments": {"城": "北京 <b>", "n": 1.5}}}


@pytest.fixture(scope="module")
def theirs(directory: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config["model_type"] if config else "none")
def test_auto_tokenizer_beside_a_models_config(
    trained: Tokenizer, tmp_path: Path, config: dict[str, Any] | None
) -> None:
    trained.save(tmp_path)
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for row in documents(20, seed=5):
        text = f" {row['text']}\n\n\u3000x  y"
        assert loaded(text)["input_ids"] == trained.encode(text)
        assert loaded.decode(trained.encode(text), clean_up_tokenization_spaces=False) == text
    spelled = "".join(trained.special)
    assert loaded(spelled)["input_ids"] == trained.encode_rendered(spelled) == [*trained.special.values()]
    assert len(loaded) == trained.vocabulary_size
    assert (loaded.bos_token_id, loaded.eos_token_id) == (trained.end_of_text_id, trained.end_of_text_id)
    assert loaded.pad_token_id == trained.pad_id
    assert {*loaded.all_special_ids} == {*trained._control.values()}
    assert loaded.chat_template == trained.chat_template
    ids = [*trained.special.values()]
    assert loaded.decode(ids, skip_special_tokens=True) == trained.decode(ids)


MESSAGES = st.lists(
    st.builds(
        lambda role, text, call: (
            {"role": role, "content": text} | ({"tool_calls": [CALL]} if call and role == "assistant" else {})
        ),
        st.sampled_from(["system", "user", "assistant", "tool"]),
        # An answer that begins with a newline is the case that differs: see test_chat.
        st.text(st.sampled_from("ab翰 7.,<>|{}\n")).map(lambda text: text.lstrip("\n ")),
        st.booleans(),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=150, deadline=None)
@given(messages=MESSAGES, tools=st.booleans(), prompt=st.booleans())
def test_chat_ids_and_mask_equal(
    trained: Tokenizer, theirs: Any, messages: list[Any], tools: bool, prompt: bool
) -> None:
    conversation = Conversation.from_dict({"messages": messages, "tools": TOOLS if tools else None})
    ours = trained.render_tokens(conversation, add_generation_prompt=prompt)
    theirs_out = theirs.apply_chat_template(
        messages,
        tools=TOOLS if tools else None,
        add_generation_prompt=prompt,
        return_assistant_tokens_mask=True,
        return_dict=True,
    )
    assert ours.ids == theirs_out["input_ids"]
    assert [int(on) for on in ours.trained] == theirs_out["assistant_masks"]
    text = theirs.apply_chat_template(
        messages, tools=TOOLS if tools else None, add_generation_prompt=prompt, tokenize=False
    )
    assert trained.render(conversation.messages, conversation.tools, prompt) == text


def test_openai_arguments_as_text_render_alike(trained: Tokenizer, theirs: Any) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = [{"role": "assistant", "content": None, "tool_calls": [call]}]
    assert theirs.apply_chat_template(messages, tokenize=False) == trained.render(messages)


FOREIGN = {
    "llama3": (
        "{{ bos_token }}{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n\n' }}"
        "{{ message['content'] | trim }}{{ '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n\n' }}{% endif %}"
    ),
    "mistral": (
        "{{- bos_token }}{%- for message in messages %}{%- if message.role == 'user' %}"
        "{{- '[INST] ' + message.content + ' [/INST]' }}{%- elif message.role == 'assistant' %}"
        "{{- message.content + eos_token }}{%- endif %}{%- endfor %}"
    ),
    "controls": (
        "{%- set ns = namespace(n=0) -%}{%- for message in messages -%}{%- if message.role == 'tool' -%}"
        "{%- continue -%}{%- endif -%}"
        "{%- set ns.n = ns.n + 1 -%}<|im_start|>{{ ns.n }}{{ message | tojson }}<|im_end|>{%- endfor -%}"
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_templates_render_alike(trained: Tokenizer, theirs: Any, name: str) -> None:
    random_ = random.Random(1)
    tokenizer = trained.with_chat_template(FOREIGN[name])
    for _ in range(20):
        roles = [random_.choice(["user", "assistant", "tool"]) for _ in range(random_.randrange(1, 5))]
        messages = [{"role": role, "content": f' 翰<林> & "{random_.random()}" '} for role in roles]
        expected = theirs.apply_chat_template(messages, chat_template=FOREIGN[name], tokenize=False)
        assert tokenizer.render([Message.from_dict(message) for message in messages]) == expected
