"""Each form is recognised and read; each kind of broken row is quarantined with its reason."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from hanlin.artifacts import HanlinError
from hanlin.data.formats import INSTRUCTION_FORMS, PREFERENCE_FORMS, PlainText, detect, read_instructions
from hanlin.data.preferences import Preference, read_preferences
from hanlin.tokenization import Conversation, Message

SHARED = Path(__file__).parents[3] / "shared/data"
TOOL = {"name": "find", "description": "finds", "parameters": {"type": "object", "properties": {}}}
CALL: dict[str, Any] = {"type": "function", "function": {"name": "find", "arguments": {"q": "a"}}}
WRAPPED = {"type": "function", "function": TOOL}


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def said(messages: list[Message] | None) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in messages or []]


INSTRUCTIONS: list[tuple[str, dict[str, Any], list[tuple[str, str]]]] = [
    ("alpaca", {"instruction": "Add.", "input": "1 1", "output": "2"}, [("user", "Add.\n1 1"), ("assistant", "2")]),
    (
        "alpaca",
        {"instruction": "And?", "output": "c", "system": "Be brief.", "history": [["a", "b"]], "input": None},
        [("system", "Be brief."), ("user", "a"), ("assistant", "b"), ("user", "And?"), ("assistant", "c")],
    ),
    (
        "sharegpt",
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s", "id": "x1"},
        [("system", "s"), ("user", "q"), ("assistant", "a")],
    ),
    (
        "sharegpt",
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": json.dumps({"name": "find", "arguments": {"q": "a"}})},
                {"from": "observation", "value": "found"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": json.dumps([TOOL]),
        },
        [("user", "q"), ("assistant", ""), ("tool", "found"), ("assistant", "a")],
    ),
    (
        "messages",
        {
            "messages": [
                {"role": "developer", "content": "s"},
                {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "text", "value": "!"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "1", "type": "function", "function": {"name": "find", "arguments": '{"q": "a"}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "1", "content": "found"},
                {"role": "assistant", "content": "a"},
            ],
            "tools": [WRAPPED],
        },
        [("system", "s"), ("user", "q!"), ("assistant", ""), ("tool", "found"), ("assistant", "a")],
    ),
    (
        "messages",
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
        [("user", "q"), ("assistant", "a")],
    ),
    ("prompt-completion", {"prompt": "q", "completion": "a"}, [("user", "q"), ("assistant", "a")]),
    ("prompt-completion", {"prompt": "q", "response": "a"}, [("user", "q"), ("assistant", "a")]),
    (
        "prompt-completion",
        {"prompt": [{"role": "user", "content": "q"}], "completion": [{"role": "assistant", "content": "a"}]},
        [("user", "q"), ("assistant", "a")],
    ),
]


@pytest.mark.parametrize("form, row, expected", INSTRUCTIONS)
def test_instruction_forms(tmp_path: Path, form: str, row: dict[str, Any], expected: list[tuple[str, str]]):
    assert detect(row) == form and form in INSTRUCTION_FORMS
    examples, report = read_instructions(write(tmp_path / "f.jsonl", [row]))
    (example,) = examples
    assert isinstance(example, Conversation)
    assert said(example.messages) == expected
    assert report.rows == report.read == 1 and report.forms == {form: 1} and not report.quarantined
    assert (example.metadata["file"], example.metadata["row"], example.metadata["line"]) == ("f.jsonl", 1, 1)
    assert example.metadata.get("id") == row.get("id")
    if "tools" in row:
        assert example.tools == [WRAPPED]
        (caller,) = [message for message in example.messages if message.tool_calls]
        assert caller.tool_calls and [{**call, "id": None} for call in caller.tool_calls] == [{**CALL, "id": None}]
    else:
        assert example.tools is None


def test_text_rows(tmp_path: Path):
    examples, _ = read_instructions(write(tmp_path / "f", [{"text": "whole"}]))
    assert isinstance(examples[0], PlainText) and examples[0].text == "whole"


def test_parquet_messages_with_null_fields(tmp_path: Path):
    """Arrow gives every struct all fields: those that a message does not have are None."""
    rows = [
        {
            "messages": [{"role": "user", "content": "q", "tool_calls": None}, {"role": "assistant", "content": "a"}],
            "tools": None,
            "text": None,
        }
    ]
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "f.parquet")
    (example,) = read_instructions(tmp_path / "f.parquet")[0]
    assert isinstance(example, Conversation) and said(example.messages) == [("user", "q"), ("assistant", "a")]


def test_csv_with_messages(tmp_path: Path):
    cell = json.dumps([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]).replace('"', '""')
    (tmp_path / "f.csv").write_text(f'messages,other\n"{cell}",1\n')
    (example,) = read_instructions(tmp_path / "f.csv")[0]
    assert isinstance(example, Conversation) and len(example.messages) == 2


def test_files_of_a_folder_are_told_apart(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "f.jsonl", [{"text": name}, {"text": ""}])
    examples, report = read_instructions(tmp_path)
    assert [example.metadata["file"] for example in examples] == ["a/f.jsonl", "b/f.jsonl"] == list(report.files)
    assert str(report.quarantined[1]) == "b/f.jsonl, row 2 (line 2): text: text is empty: there is nothing to train on"
    examples, report = read_instructions([tmp_path / "a" / "f.jsonl", tmp_path / "b" / "f.jsonl"])
    assert [example.metadata["file"] for example in examples] == ["f.jsonl", str(tmp_path / "b" / "f.jsonl")]


USER, ASSISTANT = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BROKEN: list[tuple[dict[str, Any], str]] = [
    ({"messages": []}, "an empty one"),
    ({"messages": "hello"}, "not a str"),
    ({"messages": [USER]}, "no message is the assistant's"),
    ({"messages": [USER, {"role": "assistant", "content": " "}]}, "the assistant says nothing"),
    ({"messages": [USER, {"role": "robot", "content": "a"}]}, r"messages\[1\] has the role 'robot'; known: system"),
    ({"messages": [USER, {"content": "a"}]}, "has the role None"),
    ({"messages": [USER, {"role": "assistant"}]}, "content should be text, not missing"),
    ({"messages": [USER, {"role": "assistant", "content": 5}]}, "not a int"),
    ({"messages": [USER, "a"]}, "should be an object"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, ASSISTANT]},
        "only text can",
    ),
    ({"messages": [USER, {"role": "assistant", "content": "\ud800"}]}, "half a surrogate"),
    (
        {"messages": [USER, {"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}]},
        "no function name",
    ),
    ({"messages": [USER, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}]}, "are not JSON"),
    ({"messages": [USER, ASSISTANT], "tools": "[{"}, "tools is a string that is no JSON"),
    ({"conversations": [{"from": "function_call", "value": "f(x)"}]}, "a tool call that is no JSON"),
    (
        {"messages": [{"role": "user", "content": "q", "tool_calls": [CALL]}, ASSISTANT]},
        "only the assistant calls tools",
    ),
    ({"messages": [USER, {**ASSISTANT, "weight": 0}]}, "every answer has the weight 0"),
    ({"messages": [USER, {**ASSISTANT, "weight": 0.5}]}, "has the weight 0.5: only 0 and 1"),
    ({"instruction": "a", "output": ""}, "the assistant says nothing"),
    ({"instruction": 3, "output": "a"}, "instruction should be text, not a int"),
    ({"instruction": "a", "output": "b", "history": [["x"]]}, r"history\[0\] should be a pair"),
    ({"text": "  "}, "text is empty"),
    ({"something": 1}, "the keys something are of no known form"),
    ({"prompt": "a", "chosen": "b", "rejected": "c"}, "this is preference data of the form 'preference'"),
]


def test_broken_rows_are_quarantined_with_their_place(tmp_path: Path):
    rows: list[Any] = [{"text": "good"}, *(row for row, _ in BROKEN), {"text": "good"}]
    path = tmp_path / "f.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
    examples, report = read_instructions(path)
    assert len(examples) == report.read == 2
    assert report.rows == len(rows) + 1 == report.read + len(report.quarantined)
    for number, ((row, reason), bad) in enumerate(zip(BROKEN, report.quarantined), start=2):
        assert (bad.file, bad.number, bad.line) == ("f.jsonl", number, number), row
        assert re.search(reason, bad.reason), (row, bad.reason)
    assert "broken JSON" in report.quarantined[-1].reason
    assert report.figures()["quarantined"] == len(BROKEN) + 1


def test_a_file_of_unknown_form_is_refused(tmp_path: Path):
    with pytest.raises(HanlinError, match=r"(?s)the keys question, reply are of no known form.*Known forms:.*alpaca"):
        read_instructions(write(tmp_path / "f", [{"question": "a", "reply": "b"}] * 500))
    with pytest.raises(HanlinError, match="this is preference data"):
        read_instructions(write(tmp_path / "g", [{"prompt": "a", "chosen": "b", "rejected": "c"}]))
    with pytest.raises(HanlinError, match="this is instruction data"):
        read_preferences(write(tmp_path / "h", [{"text": "a"}]))


TALK = {"messages": [USER, ASSISTANT]}


def test_a_folder_as_hugging_face_saves_it(tmp_path: Path):
    """`datasets.save_to_disk` writes Arrow's stream form, and JSON that describes it; the hub has a README.md."""
    table = pa.Table.from_pylist([TALK] * 5)
    with pa.ipc.new_stream(str(tmp_path / "data-00000-of-00001.arrow"), table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "dataset_info.json").write_text(json.dumps({"builder_name": "json", "splits": {}}, indent=2))
    (tmp_path / "README.md").write_text("---\nlicense: mit\n---\n# Questions\n")
    (tmp_path / "_SUCCESS").touch()
    examples, report = read_instructions(tmp_path)
    assert len(examples) == report.read == 5
    assert report.rows == 8 == report.read + len(report.quarantined)
    assert report.files == {
        "README.md": "left out",
        "_SUCCESS": "left out",
        "data-00000-of-00001.arrow": "arrow stream",
        "dataset_info.json": "left out",
    }
    said = report.figures()["quarantined_rows"]
    assert (
        said[0] == r"README.md: the file begins with '---\nlicense: mit\n---\n# Questions\n', which is no row of data"
    )
    assert said[1] == "_SUCCESS: the file is empty"
    assert said[2] == (
        "dataset_info.json: no row of a known form in 1 rows (JSON lines); "
        "the first: the keys builder_name, splits are of no known form"
    )


def test_rows_of_a_file_that_is_left_out_are_not_counted(tmp_path: Path):
    write(tmp_path / "a.jsonl", [{"question": "a"}] * 500)
    write(tmp_path / "b.jsonl", [TALK, {"question": "a"}])
    examples, report = read_instructions(tmp_path)
    assert len(examples) == report.read == 1 and report.rows == 3
    assert [(bad.file, bad.number) for bad in report.quarantined] == [("a.jsonl", None), ("b.jsonl", 2)]


def test_what_is_refused_by_itself_is_refused_by_its_path(tmp_path: Path):
    good, readme = write(tmp_path / "good.jsonl", [TALK]), tmp_path / "README.md"
    readme.write_text("# Questions\n")
    with pytest.raises(HanlinError, match=r"README\.md: the file begins with '# Questions"):
        read_instructions([good, readme])


def test_a_folder_with_no_file_of_a_known_form_is_refused(tmp_path: Path):
    write(tmp_path / "pairs.jsonl", [{"prompt": "a", "chosen": "b", "rejected": "c"}])
    with pytest.raises(HanlinError, match=r"(?s)pairs\.jsonl: .*this is preference data.*Known forms:.*alpaca"):
        read_instructions(tmp_path)
    (tmp_path / "README.md").write_text("# Questions\n")
    expected = r"(?s)none of its 2 files .*README\.md: the file begins.*pairs\.jsonl: .*this is preference data.*Known"
    with pytest.raises(HanlinError, match=expected):
        read_instructions(tmp_path)


PREFERENCES: list[tuple[str, dict[str, Any], list[Any]]] = [
    ("preference", {"prompt": "q", "chosen": "a", "rejected": "b", "margin": 2}, [("q", "a", "b", 2.0)]),
    (
        "preference",
        {"prompt": [USER], "chosen": [ASSISTANT], "rejected": [{"role": "assistant", "content": "b"}]},
        [("q", "a", "b", None)],
    ),
    (
        "preference",
        {"chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "b"}]},
        [("q", "a", "b", None)],
    ),
    (
        "preference",
        {"prompt": "q", "chosen": [USER, ASSISTANT], "rejected": [USER, {"role": "assistant", "content": "b"}]},
        [("q", "a", "b", None)],
    ),
    ("preference", {"instruction": "q", "input": "", "chosen": "a", "rejected": "b"}, [("q", "a", "b", None)]),
    (
        "sharegpt-preference",
        {
            "conversations": [{"from": "human", "value": "q"}],
            "chosen": {"from": "gpt", "value": "a"},
            "rejected": {"from": "gpt", "value": "b"},
        },
        [("q", "a", "b", None)],
    ),
    (
        "hh-rlhf",
        {"chosen": "\n\nHuman: q\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"},
        [("q", "a", "b", None)],
    ),
    ("kto", {"prompt": "q", "completion": "a", "label": True}, [("q", "a", None, None)]),
    ("kto", {"messages": [USER, ASSISTANT], "label": False}, [("q", None, "a", None)]),
    ("kto", {"instruction": "q", "output": "a", "kto_tag": "false"}, [("q", None, "a", None)]),
    (
        "ranked",
        {"query": "q", "responses": ["a", "b", "c"], "scores": [3, 1, 1]},
        [("q", "a", "b", 2.0), ("q", "a", "c", 2.0)],
    ),
]


@pytest.mark.parametrize("form, row, expected", PREFERENCES)
def test_preference_forms(tmp_path: Path, form: str, row: dict[str, Any], expected: list[Any]):
    assert detect(row) == form and form in PREFERENCE_FORMS
    preferences, report = read_preferences(write(tmp_path / "f.jsonl", [row]))
    assert [summary(preference) for preference in preferences] == expected
    assert report.read == 1 and preferences[0].metadata["row"] == 1


def summary(preference: Preference) -> tuple[Any, ...]:
    (prompt,) = preference.prompt
    assert prompt.role == "user"
    answers: list[str | None] = []
    for answer in (preference.chosen, preference.rejected):
        assert answer is None or [message.role for message in answer] == ["assistant"]
        answers.append(answer[0].content if answer else None)
    return (prompt.content, *answers, preference.margin)


@pytest.mark.parametrize(
    "row, reason",
    [
        ({"chosen": "a", "rejected": "b"}, "texts, and there is no prompt"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen and rejected are the same"),
        ({"prompt": "q", "chosen": "a", "rejected": "b", "margin": "much"}, "margin should be a number"),
        ({"query": "q", "responses": ["a"], "scores": [1]}, "two or more"),
        ({"query": "q", "responses": ["a", "b"], "scores": [1, 1]}, "all scores are equal"),
        ({"prompt": "q", "chosen": [USER], "rejected": [ASSISTANT]}, "chosen is not an assistant's answer"),
        ({"chosen": "x\n\nAssistant: a", "rejected": "\n\nHuman: q\n\nAssistant: b"}, "does not begin with"),
    ],
)
def test_broken_preferences(tmp_path: Path, row: dict[str, Any], reason: str):
    good = {"prompt": "q", "chosen": "a", "rejected": "b"}
    preferences, report = read_preferences(write(tmp_path / "f.jsonl", [good, row]))
    assert len(preferences) == 1 and report.rows == 2
    assert reason in report.quarantined[0].reason


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared data is not here")
@pytest.mark.parametrize(
    "file, form, rows",
    [
        ("instruct/alpaca_en_demo.json", "alpaca", 999),
        ("instruct/alpaca_zh_demo.json", "alpaca", 1000),
        ("instruct/glaive_toolcall_en_demo.json", "sharegpt", 300),
        ("instruct/glaive_toolcall_zh_demo.json", "sharegpt", 300),
        ("instruct/v1_sft_demo.jsonl", "messages", 500),
        ("preference/dpo_en_demo.json", "sharegpt-preference", 300),
        ("preference/dpo_zh_demo.json", "sharegpt-preference", 300),
        ("preference/kto_en_demo.json", "kto", 300),
        ("preference/hh_rlhf_harmless_base_test.jsonl.gz", "hh-rlhf", 2312),
    ],
)
def test_shared_data(file: str, form: str, rows: int):
    read = read_preferences if form in PREFERENCE_FORMS else read_instructions
    examples, report = read(SHARED / file)
    assert report.rows == rows and report.read + len(report.quarantined) == rows
    assert report.forms == {form: report.read} and len(examples) == report.read
    # What is quarantined in these files: a few rows without an answer, or with two equal ones.
    assert len(report.quarantined) <= 0.01 * rows, report.figures()
