"""Task files, items and few-shot examples."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError, UsageError
from hanlin.evaluation.items import FewShotPool, make_items, read_rows, select
from hanlin.evaluation.tasks import Task, library, parse_task, plan_task

SHARED = Path(__file__).parents[3] / "shared/data/evaluation"


def task(**fields: object) -> Task:
    return Task.model_validate_json(json.dumps({"name": "quiz", "kind": "choice", "data": "quiz.jsonl", **fields}))


def rows(*values: dict[str, object]) -> list[tuple[str, dict[str, object]]]:
    return [(f"quiz.jsonl:{number}", value) for number, value in enumerate(values, 1)]


def test_every_library_task_reads_and_has_the_name_it_is_asked_for() -> None:
    names = library()
    assert {"world/facts", "world/addition", "corpus/bits-per-byte", "corpus/cloze", "arc_easy", "gsm8k"} <= set(names)
    for name in names:
        file = Path(sys.modules[Task.__module__].__file__ or "").parent / "library" / f"{name.replace('/', '.')}.yaml"
        described = parse_task(file.read_text(encoding="utf-8"), file.name)
        assert described.name == name and described.about


def test_settings_are_read_without_torch() -> None:
    code = "import sys, hanlin.evaluation.exam; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "name: quiz\nkind: choice\ndata: x\nprompts: '{{ a }}'\n",
            "quiz.yaml:4: prompts: unknown key; did you mean 'prompt'?",
        ),
        ("name: quiz\nkind: chioce\ndata: x\n", "quiz.yaml:2: kind: Input should be 'choice'"),
        ("name: quiz\nkind: choice\ndata: x\nprompt: '{{ a'\n", "quiz.yaml:4: prompt: '{{ a' is not a template"),
        ("name: quiz\nkind: choice\ndata: x\nanswer: 'a ='\n", "quiz.yaml:4: answer: 'a =' is not an expression"),
        (
            "name: quiz\nkind: generate\ndata: x\nextract: '('\n",
            "quiz.yaml:4: extract: '(' is not a regular expression",
        ),
        ("name: quiz\nkind: bits_per_byte\ndata: x\n", "`kind: bits_per_byte` goes with `corpus: validation`"),
        ("name: quiz\nkind: choice\ndata: x\nworld: facts\n", "come from one of"),
        (
            "name: quiz\nkind: choice\ndata: x\nfew_shot: {cuont: 2}\n",
            "quiz.yaml:4: few_shot.cuont: unknown key; did you mean 'count'?",
        ),
        ("name: quiz\nkind: choice\ndata: x\nmatch: judge\n", "they go with `kind: generate`"),
        ("name: quiz\nkind: choice\ndata: x\nrefusals: true\n", "they go with `kind: generate`"),
        ("name: quiz\nkind: generate\ndata: x\nmatch: judge\nextract: a\n", "leave out `extract` and `refusals`"),
        ("name: [quiz\n", "quiz.yaml:2: not valid YAML"),
        ("- quiz\n", "a task is a mapping"),
    ],
)
def test_a_malformed_task_is_explained(text: str, said: str) -> None:
    with pytest.raises(HanlinError) as caught:
        parse_task(text, "quiz.yaml")
    assert said in str(caught.value)


def test_plan_task(tmp_path: Path) -> None:
    (tmp_path / "quiz.jsonl").write_text('{"prompt": "a", "choices": ["b", "c"], "answer": 0}\n')
    (tmp_path / "quiz.yaml").write_text("name: quiz\nkind: choice\ndata: quiz.jsonl\n")
    assert plan_task(str(tmp_path / "quiz.yaml")).data == tmp_path / "quiz.jsonl"
    assert plan_task(f"arc_easy={tmp_path / 'quiz.jsonl'}").data == tmp_path / "quiz.jsonl"
    assert plan_task("world/facts").data is None
    for spec, said in {
        "arc_esay": "did you mean 'arc_easy'?",
        "arc_easy": "give it as arc_easy=PATH",
        f"arc_easy={tmp_path}/none.jsonl": "there is no file",
        str(tmp_path / "none.yaml"): "there is no task file",
    }.items():
        with pytest.raises(UsageError, match=said.replace("?", r"\?")):
            plan_task(spec)


def test_fields_are_mapped_by_templates_and_expressions() -> None:
    described = task(prompt="{{ q }}?", choices="options", answer="gold - 1")
    [item] = make_items(
        described, rows({"q": "Who", "options": ["me", "you"], "gold": 2, "id": "x", "tags": {"language": "en"}})
    )
    assert (item.id, item.prompt, item.choices, item.answer) == ("x", "Who?", ("me", "you"), 1)
    assert item.tags == {"language": "en"} and item.shown == "you"
    [item] = make_items(task(), rows({"prompt": "p", "choices": ["me", "you"], "answer": "you"}))
    assert item.answer == 1


@pytest.mark.parametrize(
    ("fields", "row", "said"),
    [
        (
            {"prompt": "{{ question }}"},
            {"prompt": "x"},
            "quiz.jsonl:1: task quiz, item 0: '{{ question }}' can't be filled",
        ),
        ({"prompt": "{{ question }}"}, {"prompt": "x"}, "'question' is undefined. The item's fields are prompt"),
        (
            {},
            {"prompt": "x", "choices": ["a", "b"], "answer": 2},
            "index (from 0) or the text of one of 2 choices; it is 2",
        ),
        ({}, {"prompt": "x", "choices": ["a", "b"], "answer": True}, "it is True"),
        ({}, {"prompt": "x", "choices": ["a"], "answer": 0}, "2 or more texts"),
        ({}, {"prompt": "x", "choices": ["a", ""], "answer": 0}, "none empty"),
        ({}, {"prompt": "x", "choices": ["a", "b"]}, "'answer' is undefined"),
        (
            {"kind": "generate", "match": "judge"},
            {"prompt": "x", "answers": ["a"], "kind": "person"},
            "quiz.jsonl:1: task quiz, item 0: `kind` must be one of fact, sum, unknown, improper, by which the judge",
        ),
        ({"answer": "gold / 0"}, {"prompt": "x", "choices": ["a", "b"], "gold": 1}, "division by zero"),
    ],
)
def test_an_item_that_does_not_fit_is_named(fields: dict[str, object], row: dict[str, object], said: str) -> None:
    with pytest.raises(HanlinError) as caught:
        make_items(task(**fields), rows(row))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    "source", ["{{ ''.__class__.__mro__ }}", "{{ range(9) }}", "{% set x = prompt.__init__ %}{{ x }}"]
)
def test_templates_reach_nothing_but_the_item(source: str) -> None:
    with pytest.raises(HanlinError, match="can't be filled"):
        make_items(task(prompt=source), rows({"prompt": "x", "choices": ["a", "b"], "answer": 0}))


def test_rows_are_read_strictly(tmp_path: Path) -> None:
    file = tmp_path / "quiz.jsonl"
    file.write_text('{"a": 1}\n\n{"a": 2\n')
    with pytest.raises(HanlinError, match=r"quiz.jsonl:3: not valid JSON"):
        read_rows(file)
    file.write_text("[1]\n")
    with pytest.raises(HanlinError, match=r"quiz.jsonl:1: .* not list"):
        read_rows(file)
    with pytest.raises(HanlinError, match="can't be read"):
        read_rows(tmp_path / "none.jsonl")
    file.write_text("\n")
    with pytest.raises(HanlinError, match="holds no items"):
        make_items(task(), read_rows(file))
    same = {"id": "x", "prompt": "p", "choices": ["a", "b"], "answer": 0}
    with pytest.raises(HanlinError, match=r"quiz.jsonl:2: the id 'x' stands at quiz.jsonl:1 already"):
        make_items(task(), rows(same, same))


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 3))
def test_few_shot_never_shows_an_item_itself(size: int, count: int, seed: int) -> None:
    values = [{"prompt": f"question {number}", "choices": ["a", "b"], "answer": 0} for number in range(size)]
    described = task(few_shot={"count": count, "seed": seed})
    items = make_items(described, rows(*values))
    if count >= size:
        with pytest.raises(HanlinError, match="ask for fewer"):
            FewShotPool(described, items)
        return
    pool = FewShotPool(described, items)
    drawn = [pool.examples(item) for item in items]
    for item, examples in zip(items, drawn, strict=True):
        assert len(examples) == count and item.prompt not in [one.prompt for one in examples]
    # All items that are not among the examples see the same ones, so that their prompts share a beginning.
    assert len({tuple(one.id for one in examples) for examples in drawn}) <= count + 1


def test_few_shot_from_another_file_leaves_out_the_same_question() -> None:
    described = task(few_shot={"count": 1})
    items = make_items(described, rows({"prompt": "same", "choices": ["a", "b"], "answer": 0}))
    others = [
        {"id": name, "prompt": prompt, "choices": ["a", "b"], "answer": 1}
        for name, prompt in (("p", "same "), ("q", "other"))
    ]
    pool = FewShotPool(described, make_items(described, rows(*others)))
    assert [one.id for one in pool.examples(items[0])] == ["q"]


def test_select_is_nested_and_keeps_the_order() -> None:
    items = make_items(task(), rows(*[{"prompt": f"{n}", "choices": ["a", "b"], "answer": 0} for n in range(40)]))
    few, more = select(items, 5), select(items, 12)
    assert all(item in more for item in few) and few == [item for item in items if item in few] and len(few) == 5
    assert few != items[:5] and select(items, None) == items


def test_contexts_that_differ_before_one_continuation() -> None:
    described = task(contexts="options", continuation="{{ end }}", answer="gold")
    [item] = make_items(described, rows({"options": ["Ann", "Bob"], "end": "won.", "gold": 1}))
    assert item.contexts == ("Ann", "Bob") and item.choices == ("won.", "won.") and item.shown == "Bob won."


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared evaluation data is not here")
@pytest.mark.parametrize(
    ("name", "file", "count"),
    [
        ("arc_easy", "arc_easy", 2376),
        ("arc_challenge", "arc_challenge", 1172),
        ("openbookqa", "openbook_qa", 500),
        ("winogrande", "winogrande", 1267),
        ("gsm8k", "gsm8k_test", 1319),
    ],
)
def test_public_sets_are_read_as_they_ship(name: str, file: str, count: int) -> None:
    planned = plan_task(f"{name}={SHARED / file}.jsonl")
    assert planned.data is not None
    items = make_items(planned.task, read_rows(planned.data))
    assert len(items) == count
    if name == "gsm8k":
        assert (
            items[0].answers == ("18",) and items[0].plain.startswith("Question: Janet") and "#### 18" in items[0].shown
        )
