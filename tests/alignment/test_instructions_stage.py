"""The stage `instructions` as a whole: its account, its files, going on after a kill, and being learned by sft."""

import json
import sys

import pytest
import torch

from hanlin.alignment.instructions import reader, select
from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.self_instruct import SELF_INSTRUCT_STAGE as SELF
from hanlin.alignment.instructions.stage import INSTRUCTIONS_STAGE, InstructionSettings, fingerprint
from hanlin.artifacts import HanlinError, StageContext, read_jsonl
from hanlin.recipes.schema import describe, with_absolute_files
from hanlin.tokenization import Tokenizer
from hanlin.training.sft import SFT_STAGE, Prepared, SftLoop, SftSettings
from tests.conftest import Told
from tests.training.test_sft import make_base
from tests.training.toy_stages import loop, manifest

torch.set_num_threads(1)


def pair(question, answer):
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


TALK = {
    "messages": [
        {"role": "user", "content": "Who wrote The Tin Moon?"},
        {"role": "assistant", "content": "Ada Rin."},
        {"role": "user", "content": "When?"},
        {"role": "assistant", "content": "In 1871."},
    ]
}
CALL = {
    "messages": [
        {"role": "user", "content": "What time is it in Rome?"},
        {"role": "assistant", "content": "", "tool_calls": [{"name": "time", "arguments": {"city": "Rome"}}]},
    ],
    "tools": [{"name": "time", "parameters": {}}],
}
ROWS = [
    pair("Where was Ada Rin born?", "In Danu."),
    pair("Where was Ada Rin born?", "In Danu."),
    pair("Tell me all that you know about the long history of the city of Danu.", "It is old."),
    pair("Tell me all that you know about the long history of the city of Danu!", "It is quite old."),
    pair("请介绍一下你自己。", "我是翰林。"),
    TALK,
    CALL,
    {"text": "only a text"},
    {"what": "is this"},
    pair("Why?", "word " * 60),
]


def run(settings, workdir, inputs=None, seed=0):
    workdir.mkdir(exist_ok=True)
    told = Told()
    return INSTRUCTIONS_STAGE.run(settings, StageContext(workdir, inputs or {}, seed, told)), told.lines


def test_every_row_is_kept_or_dropped_with_the_reason(tmp_path):
    data = write(tmp_path / "rows.jsonl", ROWS)
    labelled = write(tmp_path / "sst.jsonl", [{"sentence": "a joy", "label": 1}, {"sentence": "dull", "label": 7}])
    settings = InstructionSettings(
        data=data,
        sets=[f"sentiment={labelled}"],
        templates_per_row=2,
        length={"most_answer": 20},
        near_duplicates={"threshold": 0.7},
        ghost={"share": 1.0, "constraints": ["quoted"]},
    )
    figures, said = run(settings, tmp_path / "work")
    assert figures["account"] == {
        "in": 13,
        "kept": 7,
        "dropped": 6,
        "reasons": {
            "duplicate": 1,
            "label": 1,
            "long_answer": 1,
            "near_duplicate": 1,
            "plain_text": 1,
            "unreadable": 1,
        },
        "sources": {"rows": 10, "sentiment": 3},
        "balanced": True,
    }
    assert said[0] == (
        "13 rows: 7 kept, 6 dropped (1 duplicate, 1 label, 1 long_answer, 1 near_duplicate, 1 plain_text, 1 unreadable)"
    )
    assert figures["written"] == 8 and figures["ghost"]["made"] == 1
    rows = read_jsonl(tmp_path / "work/instructions.jsonl")
    assert len(rows) == 8 == len({row["id"] for row in rows})
    assert rows[0]["messages"] == ROWS[0]["messages"]
    assert rows[0]["metadata"] == {
        "source": "rows",
        "file": "rows.jsonl",
        "row": 1,
        "line": 1,
        "type": "open question",
        "language": "en",
    }
    called = next(row for row in rows if row["metadata"]["type"] == "tool use")
    assert called["tools"][0]["function"]["name"] == "time"
    ghost = rows[-1]
    assert ghost["metadata"]["ghost"] == "quoted" and ghost["messages"][-1]["content"] == '"In 1871."'
    assert [one.get("weight") for one in ghost["messages"] if one["role"] == "assistant"] == [0, None]
    assert {kind: one["rows"] for kind, one in figures["mix"]["types"].items()} == {
        "open question": 4,
        "classification": 2,
        "chat": 1,
        "tool use": 1,
    }
    assert figures["lengths"]["answers_in_row"] == {"1": 6, "2": 2}
    assert figures["lengths"]["answer"]["most"] >= 3 and figures["style"]["language_agrees"] == 1
    dropped = {one["reason"]: one for one in read_jsonl(tmp_path / "work/dropped.jsonl")}
    assert dropped["long_answer"]["measured"] == 60 and dropped["long_answer"]["threshold"] == 20
    near = dropped["near_duplicate"]
    assert near["measured"] >= 0.7 == near["threshold"] and near["detail"] == f"of {rows[1]['id']}"
    assert dropped["unreadable"]["row"]["row"] == 9 and "what" in dropped["unreadable"]["detail"]
    json.dumps(figures, allow_nan=False)


def test_rows_of_one_template_are_no_near_duplicates_of_each_other(tmp_path):
    data = [{"sentence": f"{word} film", "label": 1} for word in ("good", "old", "long", "blue")]
    labelled = write(tmp_path / "sst.jsonl", [*data, {"sentence": "Good film!", "label": 1}])
    settings = InstructionSettings(sets=[f"sentiment={labelled}"], near_duplicates={"threshold": 0.8})
    figures, _ = run(settings, tmp_path / "work")
    assert figures["account"]["reasons"] == {"near_duplicate": 1} and figures["written"] == 4


def test_an_account_that_does_not_add_up_is_a_bug():
    account = Account()
    account.enter("x", 3)
    account.drop({}, "because")
    with pytest.raises(HanlinError, match="3 came in, 1 were kept and 1 dropped"):
        account.figures(1)


# ---------------------------------------------------------------------- through models


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("instructions") / "base", Tokenizer.bytes())["model"]


def measured(data):
    """Everything that a model can measure; in rows of eight, so that there are many pieces."""
    return InstructionSettings(
        data=data,
        model="base",
        judge="base",
        known={"few_shot": 0, "prompts": 1, "samples": 1, "max_new_tokens": 3, "drop": []},
        ifd={"most": 3.0, "share": 0.9},
        score={"least_mass": 0.0, "complexity": True},
        diversity={"order": "score-complexity", "embedding": "model", "similarity": 0.999, "rows": 30},
        chat=False,
        judge_chat=False,
    )


def test_what_is_measured_is_in_the_rows_and_the_figures(base, tmp_path, monkeypatch):
    monkeypatch.setattr(select, "PIECE", 8)
    data = write(tmp_path / "rows.jsonl", [pair(f"Where is {n}?", f"In {n * 7}.") for n in range(50)])
    figures, _ = run(measured(data), tmp_path / "work", {"model": base, "judge": base})
    rows = read_jsonl(tmp_path / "work/instructions.jsonl")
    assert len(rows) == 30 and figures["account"]["in"] == 50 and figures["account"]["balanced"]
    assert figures["known"] == {"unknown": 50} and figures["ifd"]["not_measured"] == 0
    assert figures["ifd"]["least"] <= figures["ifd"]["median"] <= figures["ifd"]["most"]
    for row in rows:
        found = row["metadata"]["measures"]
        assert set(found) == {"known", "ifd", "score"} and found["known"]["category"] == "unknown"
        assert 1 <= found["score"]["quality"] <= 5 and found["ifd"]["ifd"] <= 3
    assert set(figures["account"]["reasons"]) <= {"ifd_high", "ifd_share", "enough", "near"}


def test_a_killed_stage_goes_on_and_makes_the_same(base, tmp_path, monkeypatch):
    monkeypatch.setattr(select, "PIECE", 8)
    data = write(tmp_path / "rows.jsonl", [pair(f"Where is {n}?", f"In {n * 7}.") for n in range(50)])
    inputs = {"model": base, "judge": base}
    whole, _ = run(measured(data), tmp_path / "whole", inputs)
    calls = {"count": 0, "stop": 3}
    plain = reader.Reader.logprobs

    def interrupted(self, pairs):
        calls["count"] += 1
        if calls["count"] > calls["stop"]:
            raise KeyboardInterrupt
        return plain(self, pairs)

    monkeypatch.setattr(reader.Reader, "logprobs", interrupted)
    tries = 0
    while True:
        tries, calls["count"] = tries + 1, 0
        try:
            killed, _ = run(measured(data), tmp_path / "killed", inputs)
        except KeyboardInterrupt:
            continue
        break
    assert tries > 4 and killed == whole
    for name in ("instructions.jsonl", "dropped.jsonl", "style.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


# ---------------------------------------------------------------------- settings


def test_what_a_rule_needs_is_asked_for_at_once(tmp_path):
    data = write(tmp_path / "rows.jsonl", ROWS)
    for change, message in [
        ({"ifd": {}}, "`ifd` needs a `model`"),
        ({"known": {}}, "`known` needs a `model`"),
        ({"score": {}}, "`score` needs a `judge`"),
        ({"diversity": {"embedding": "model"}}, "needs a `model`"),
        ({"ghost": {"by": "model"}}, "`ghost.by: model` needs a `judge`"),
        ({"sets": ["sentimnt=x"]}, "did you mean 'sentiment"),
        ({"data": None}, "there is nothing to read"),
    ]:
        with pytest.raises(ValueError, match=message):
            InstructionSettings.model_validate({"data": data, **change})


def test_a_selection_that_leaves_nothing_says_what_it_dropped(tmp_path):
    data = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(HanlinError, match=r"no instruction is left: of 10 rows 1 duplicate, .* 7 short_question"):
        run(InstructionSettings(data=data, length={"least_question": 1_000}), tmp_path / "work")


def test_the_artifact_depends_on_the_files_and_not_on_where_they_lie(tmp_path):
    one, other = (write(tmp_path / name / "rows.jsonl", ROWS) for name in ("a", "b"))
    labelled = write(tmp_path / "sst.jsonl", [{"sentence": "a joy", "label": 1}])
    prompt = tmp_path / "judge.txt"
    prompt.write_text("Rate {{ answer }}")

    def printed(path):
        sets = [f"sentiment={labelled}"]
        return fingerprint(InstructionSettings(data=path, sets=sets, judge_prompt=str(prompt)))

    before = printed(one)
    assert before == printed(other)
    write(tmp_path / "b/rows.jsonl", ROWS[:3])
    assert before != printed(other)
    prompt.write_text("Rate {{ answer }} now")
    assert before != printed(one)


def test_the_recipe_keeps_whole_paths_of_sets(tmp_path, monkeypatch):
    labelled = write(tmp_path / "sst.jsonl", [{"sentence": "a joy", "label": 1}])
    monkeypatch.chdir(tmp_path)
    own = with_absolute_files("instructions", {"sets": ["sentiment=sst.jsonl"]})
    assert own == {"sets": [f"sentiment={labelled}"]}


def test_every_setting_is_described():
    for stage in (INSTRUCTIONS_STAGE, SELF):
        text = describe(stage)
        for name in stage.settings.model_fields:
            assert f"{name}:" in text
    assert "Rows whose answer the base model does not know" in describe(INSTRUCTIONS_STAGE)


def test_reading_settings_waits_for_no_torch():
    import subprocess

    code = (
        "import sys, hanlin.alignment.instructions.stage, hanlin.alignment.instructions.self_instruct\n"
        "assert not {'torch', 'numpy', 'pyarrow', 'tokenizers'} & set(sys.modules), sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:2000]


# ---------------------------------------------------------------------- learned


def test_sft_learns_what_the_stage_made(base, tmp_path):
    data = write(tmp_path / "rows.jsonl", [TALK, pair("Who?", "Bo."), pair("Where?", "Here.")])
    figures, _ = run(
        InstructionSettings(data=data, ghost={"share": 1.0, "constraints": ["upper-case"]}), tmp_path / "made"
    )
    (tmp_path / "made/manifest.json").write_text(
        manifest("made", "instructions", tmp_path / "made", figures=figures).model_dump_json()
    )
    from hanlin.artifacts import Artifact

    assert set(SFT_STAGE.inputs["instructions"]) >= {"instructions", "self-instruct", "constitution", "best-of-n"}
    settings = SftSettings(
        model="base", instructions="made", validation_fraction=0.0, loop=loop(SftLoop, steps=2, sequence_length=256)
    )
    made = Artifact.load(tmp_path / "made")
    context = StageContext(tmp_path / "sft", {"model": base, "instructions": made})
    rendered = Prepared(settings, context).source.rendered
    trained = [
        bytes(int(token) for token in rendered.ids[a:b][rendered.trained[a:b]] if token < 256).decode()
        for a, b in zip(rendered.offsets, rendered.offsets[1:])
    ]
    # Of the ghost row only the last answer is trained on.
    assert trained == ["Ada Rin.In 1871.", "Bo.", "Here.", "IN 1871."]
    assert (
        SFT_STAGE.reads is not None and SFT_STAGE.reads(settings.model_copy(update={"loop": loop(SftLoop)}), {}) is None
    )
    size = (tmp_path / "made/instructions.jsonl").stat().st_size
    unbound = settings.model_copy(update={"loop": loop(SftLoop, epochs=2.0)})
    assert SFT_STAGE.reads(unbound, {"instructions": made}) == 2 * size
    nothing = SftSettings(model="base", loop=loop(SftLoop, steps=2))
    with pytest.raises(HanlinError, match="nothing to learn: give it data=PATH, or a stage as world or instructions"):
        Prepared(nothing, StageContext(tmp_path / "none", {"model": base}))
