"""From a file of instructions to tokens with marks, and what the preview shows of it."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError
from hanlin.data.conversations import PackedConversations
from hanlin.data.formats import PlainText, read_instructions
from hanlin.data.preview import Preview, preview_file, render_preview
from hanlin.data.rendered import RenderedConversations, render_conversations
from hanlin.tokenization import Conversation, Message, Tokenizer

TOKENIZER = Tokenizer.bytes()


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def marked(rendered: RenderedConversations, number: int = 0) -> tuple[str, str]:
    """The whole text of a conversation, and what of it is trained on."""
    start, stop = rendered.offsets[number : number + 2]
    ids, marks = rendered.ids[start:stop].tolist(), rendered.trained[start:stop].tolist()
    chosen = [index for index, mark in zip(ids, marks) if mark]
    return TOKENIZER.decode(ids, skip_special=False), TOKENIZER.decode(chosen, skip_special=False)


def talk(*turns: tuple[str, str], **metadata: Any) -> Conversation:
    return Conversation([Message(role, content) for role, content in turns], None, metadata)


def test_only_answers_are_trained_on():
    turns = [("system", "s"), ("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "二")]
    text, trained = marked(render_conversations([talk(*turns)], TOKENIZER))
    assert trained == "a1<|im_end|>二<|im_end|>"
    assert text.startswith("<|endoftext|><|im_start|>system\ns<|im_end|>")


def test_what_follows_the_last_answer_is_left_off():
    text, trained = marked(render_conversations([talk(("assistant", "a"), ("user", "unanswered"))], TOKENIZER))
    assert text.endswith("a<|im_end|>") and trained == "a<|im_end|>"


def test_text_is_trained_on_whole():
    text, trained = marked(render_conversations([PlainText("whole")], TOKENIZER))
    assert text == trained == "<|endoftext|>whole<|endoftext|>"
    batch = PackedConversations(render_conversations([PlainText("whole")], TOKENIZER), 16, 1, 0).step(0)
    assert batch.labels[0, :7].tolist() == [*b"whole", TOKENIZER.end_of_text_id, -100]


def test_answers_of_weight_zero_are_not_trained_on(tmp_path: Path):
    messages = [
        {"role": "user", "content": "q1"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "q2"},
        {"role": "assistant", "content": "good", "weight": 1},
    ]
    examples, _ = read_instructions(write(tmp_path / "f", [{"messages": messages}]))
    assert marked(render_conversations(examples, TOKENIZER))[1] == "good<|im_end|>"


def test_a_spelt_special_token_ends_nothing():
    rendered = render_conversations([talk(("user", "<|im_end|>"), ("assistant", "<|endoftext|>"))], TOKENIZER)
    assert rendered.ids.tolist().count(TOKENIZER.end_of_text_id) == 1
    assert rendered.trained.sum() == len("<|endoftext|>") + 1


def test_a_tokenizer_that_pads_with_its_end_is_refused(tmp_path: Path):
    TOKENIZER.save(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"pad_token": config["eos_token"]}))
    with pytest.raises(HanlinError, match="pads with"):
        render_conversations([talk(("assistant", "a"))], Tokenizer.load(tmp_path))


def test_a_template_that_does_not_round_trip_is_refused():
    """One that leaves earlier answers out, as templates of models that think aloud do."""
    source = (
        "{% for m in messages %}<|im_start|>{{ m.role }}:"
        "{% if loop.last or m.role != 'assistant' %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
    )
    tokenizer = TOKENIZER.with_chat_template(source)
    turns = [("user", "q"), ("assistant", "a")]
    render_conversations([talk(*turns)], tokenizer)
    with pytest.raises(HanlinError, match=r"data.jsonl, row 7 \(line 8\): .*does not round-trip"):
        render_conversations([talk(*turns, *turns, file="data.jsonl", row=7, line=8)], tokenizer)


def shown(preview: Preview) -> str:
    from rich.console import Console

    text = io.StringIO()
    render_preview(preview, Console(file=text, width=200, color_system=None))
    return text.getvalue()


def test_preview_of_instructions(tmp_path: Path):
    rows: list[Any] = [
        {"instruction": "Translate.", "input": "水", "output": "water"},
        {"instruction": "No answer", "output": ""},
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a[b]"}]},
    ]
    preview = preview_file(write(tmp_path / "f.jsonl", rows), rows=2)
    assert (preview.rows, preview.read, preview.quarantined) == (3, 2, 1)
    assert preview.forms == {"alpaca": 1, "messages": 1} and preview.roles == {"user": 2, "assistant": 2}
    first = preview.shown[0]
    assert "".join(token.text for token in first.tokens if token.trained) == "water<|im_end|>"
    assert first.trained_tokens == len("water") + 1
    assert "".join(token.text for token in first.tokens).startswith(
        "<|endoftext|><|im_start|>user\nTranslate.\n水<|im_end|>"
    )
    text = shown(preview)
    assert "3 = 2 read + 1 quarantined" in text
    assert "row 2 (line 2): alpaca: the assistant says nothing" in text
    assert "⟦w·a·t·e·r·<|im_end|>⟧" in text and "⟦a·[·b·]·<|im_end|>⟧" in text
    json.dumps(preview.__dict__, default=lambda value: value.__dict__)


def test_preview_of_preferences(tmp_path: Path):
    prompt = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "so?"},
        {"role": "user", "content": "q2"},
    ]
    rows = [{"prompt": prompt, "chosen": "yes", "rejected": "no", "margin": 1.5}]
    preview = preview_file(write(tmp_path / "f.jsonl", rows))
    trained = ["".join(token.text for token in row.tokens if token.trained) for row in preview.shown]
    assert [row.part for row in preview.shown] == ["chosen", "rejected"]
    assert trained == ["yes<|im_end|>", "no<|im_end|>"]
    assert preview.shown[0].notes == ["margin: 1.5"] and "margin: 1.5" in shown(preview)


def test_preview_with_a_tokenizer(tmp_path: Path):
    TOKENIZER.save(tmp_path / "tokenizer")
    preview = preview_file(write(tmp_path / "f", [{"text": "水"}]), tmp_path / "tokenizer")
    assert [token.text for token in preview.shown[0].tokens] == ["<|endoftext|>", "", "", "水", "<|endoftext|>"]
    assert preview.tokenizer == str(tmp_path / "tokenizer")


def test_preview_of_an_unknown_file(tmp_path: Path):
    with pytest.raises(HanlinError, match=r"(?s)no row of a known form.*alpaca.*hh-rlhf"):
        preview_file(write(tmp_path / "f", [{"x": 1}]))
