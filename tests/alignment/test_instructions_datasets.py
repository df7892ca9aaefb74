"""Labelled sets through prompt templates: the library's forms, which template a row gets, what is left out."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hanlin.alignment.instructions.account import Account
from hanlin.alignment.instructions.datasets import LIBRARY, library, parse_set, plan_set
from hanlin.alignment.instructions.render import read_set
from hanlin.artifacts import HanlinError, UsageError

ROWS = {
    "sentiment": [{"sentence": "a joy to watch", "label": 1}, {"sentence": "dull and long", "label": 0}],
    "sentiment-zh": [{"text": "房间很干净，服务也好。", "label": 1}, {"text": "太吵了。", "label": 0}],
    "nli": [{"premise": "A dog runs.", "hypothesis": "An animal moves.", "label": 0}],
    "nli-zh": [{"sentence1": "他在跑步。", "sentence2": "他没有动。", "label": "contradiction"}],
    "topic": [{"text": "The bank raised its rates.", "label": 2}],
    "paraphrase": [{"question1": "How old are you?", "question2": "What is your age?", "label": 1}],
    "reading": [
        {"context": "Ada lives in Rome.", "question": "Where does Ada live?", "answers": {"text": ["Rome"]}},
        {"context": "Ada lives in Rome.", "question": "How old is Ada?", "answers": {"text": []}},
    ],
    "reading-zh": [{"context": "小明住在北京。", "question": "小明住在哪里？", "answers": {"text": ["北京"]}}],
    "summary": [{"article": "It rained all day. The river rose.", "highlights": "Rain raised the river."}],
    "summary-zh": [{"text": "整天下雨，河水上涨。", "summary": "大雨使河水上涨"}],
    "translation": [{"translation": {"en": "Good morning.", "zh": "早上好。"}}],
    "word-problems": [
        {"question": "Tom has 2 bags of 3 apples. How many?", "answer": "2*3=<<2*3=6>>6 apples.\n#### 6"}
    ],
}
"""Rows in the form of each set of the library."""


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def made(spec, per_row=100, seed=0, most_rows=None, split="train"):
    account = Account()
    rows = read_set(plan_set(spec, split), account, seed, per_row, most_rows)
    return rows, account, account.figures(len(rows))


def test_the_tests_know_every_set_of_the_library():
    assert sorted(ROWS) == library()


@pytest.mark.parametrize("name", sorted(ROWS))
def test_every_template_of_the_library_renders(name, tmp_path):
    rows, _, figures = made(f"{name}={write(tmp_path / 'rows.jsonl', ROWS[name])}")
    templates = parse_set((LIBRARY / f"{name}.yaml").read_text(encoding="utf-8"), name).templates
    assert len(rows) == len(ROWS[name]) * len(templates)
    assert {row.metadata["template"] for row in rows} == {template.name for template in templates}
    assert figures["dropped"] == 0 and figures["sources"] == {name: len(rows)}
    for row in rows:
        roles = [message["role"] for message in row.messages]
        assert roles in (["user", "assistant"], ["system", "user", "assistant"])
        text = row.question + row.answer
        assert text and "{{" not in text and "Undefined" not in text and "<<" not in text


def test_what_a_template_says(tmp_path):
    rows, _, _ = made(f"sentiment={write(tmp_path / 'rows.jsonl', ROWS['sentiment'])}")
    by_name = {(row.metadata["template"], row.metadata["row"]): row for row in rows}
    assert by_name["which", 1].messages == [
        {"role": "user", "content": "Is the sentiment of this sentence negative or positive?\n\na joy to watch"},
        {"role": "assistant", "content": "Positive."},
    ]
    assert by_name["liked", 2].answer == "No."
    assert by_name["write", 1].metadata["type"] == "writing"
    assert by_name["which", 1].metadata == {
        "source": "sentiment",
        "template": "which",
        "file": "rows.jsonl",
        "row": 1,
        "line": 1,
        "type": "classification",
        "language": "en",
    }
    unanswered, _, _ = made(f"reading={write(tmp_path / 'rows.jsonl', ROWS['reading'])}")
    assert {row.answer for row in unanswered if row.metadata["row"] == 2} == {"The text does not say."}
    sums, _, _ = made(f"word-problems={write(tmp_path / 'rows.jsonl', ROWS['word-problems'])}")
    assert next(one for one in sums if one.metadata["template"] == "plain").answer == "2*3=6 apples.\nThe answer is 6."


def test_the_templates_of_a_row_depend_on_the_row_and_the_seed_alone(tmp_path):
    data = [{"sentence": f"film number {n}", "label": n % 2} for n in range(200)]
    first, _, _ = made(f"sentiment={write(tmp_path / 'a.jsonl', data)}", per_row=1)
    turned, _, _ = made(f"sentiment={write(tmp_path / 'b.jsonl', data[::-1])}", per_row=1)
    of = {row.own_text: row.metadata["template"] for row in first}
    assert of == {row.own_text: row.metadata["template"] for row in turned}
    counts = [list(of.values()).count(name) for name in set(of.values())]
    assert len(counts) == 5 and min(counts) > 20  # 40 each on average
    other, _, _ = made(f"sentiment={tmp_path / 'a.jsonl'}", per_row=1, seed=1)
    assert sum(of[row.own_text] != row.metadata["template"] for row in other) > 100
    # One template more of a row keeps the one before.
    two, _, _ = made(f"sentiment={tmp_path / 'a.jsonl'}", per_row=2)
    assert len(two) == 400 and {(row.own_text, row.metadata["template"]) for row in first} <= {
        (row.own_text, row.metadata["template"]) for row in two
    }


def test_fewer_rows_are_among_more(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"sentence": f"film {n}", "label": 1} for n in range(50)])
    chosen = {}
    for most in (10, 20):
        rows, account, figures = made(f"sentiment={path}", per_row=1, most_rows=most)
        chosen[most] = {row.own_text for row in rows}
        assert figures["in"] == 50 and account.reasons == {"most_rows": 50 - most}
    assert len(chosen[10]) == 10 and chosen[10] < chosen[20]


def test_rows_that_do_not_fit_are_dropped_with_the_reason(tmp_path):
    data = [
        {"premise": "p", "hypothesis": "h", "label": 0},
        {"premise": "p", "hypothesis": "h", "label": -1},  # SNLI's mark for no agreement
        {"premise": "p", "label": 1},
        {"premise": "p", "hypothesis": "h", "label": 2},
    ]
    path = write(tmp_path / "a.jsonl", data)
    path.write_text(path.read_text() + "{broken\n")
    rows, account, figures = made(f"nli={path}", per_row=1)
    assert len(rows) == 2 and figures["in"] == 5
    assert account.reasons == {"label": 1, "template": 1, "unreadable": 1}
    account.write(tmp_path)
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert [one["reason"] for one in dropped] == ["label", "unreadable", "template"]
    assert dropped[0]["row"]["row"] == 2 and "-1" in dropped[0]["detail"]
    assert "hypothesis" in dropped[2]["detail"]


def test_half_a_surrogate_pair_is_dropped_and_written_down(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"sentence": "so \\ud83d good", "label": 1}\n{"sentence": "fine", "label": 1}\n')
    rows, account, _ = made(f"sentiment={path}", per_row=1)
    assert len(rows) == 1 and account.reasons == {"surrogate": 1}
    account.write(tmp_path)
    (dropped,) = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert dropped["row"]["fields"]["sentence"] == "so \ud83d good"


def test_a_set_of_which_nothing_can_be_made_is_refused(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"text": "x", "label": 1}])
    with pytest.raises(HanlinError, match=r"the set sentiment makes no instruction of .*a\.jsonl"):
        made(f"sentiment={path}")


def test_own_sets_with_fields_where_and_tab_separated_files(tmp_path):
    (tmp_path / "train.tsv").write_text('5\ta "quoted" word\n1\tbad\n\n9\ttoo\tmany\n', encoding="utf-8")
    own = tmp_path / "own.yaml"
    own.write_text(
        "name: own\ntype: rewriting\ndata: train.tsv\nformat: tsv\ncolumns: [stars, text]\n"
        "fields: {high: stars | int > 3}\nwhere: high\n"
        "templates:\n  - {name: one, prompt: 'Shout: {{ text }}', answer: '{{ text | upper }}', system: Be loud.}\n"
    )
    rows, account, figures = made(str(own))
    assert [row.messages for row in rows] == [
        [
            {"role": "system", "content": "Be loud."},
            {"role": "user", "content": 'Shout: a "quoted" word'},
            {"role": "assistant", "content": 'A "QUOTED" WORD'},
        ]
    ]
    assert account.reasons == {"unreadable": 1, "where": 1} and figures["in"] == 3


def test_parquet_and_the_files_of_a_split(tmp_path):
    folder = tmp_path / "sst"
    folder.mkdir()
    pq.write_table(pa.table({"sentence": ["good"], "label": [1]}), folder / "train-00000.parquet")
    pq.write_table(pa.table({"sentence": ["bad"], "label": [0]}), folder / "validation-00000.parquet")
    assert [row.own_text for row in made(f"sentiment={folder}", per_row=1)[0]] == ["good"]
    assert [row.own_text for row in made(f"sentiment={folder}", per_row=1, split="validation")[0]] == ["bad"]
    with pytest.raises(UsageError, match=r"no split 'test'.*train, validation"):
        plan_set(f"sentiment={folder}", "test")
    with pytest.raises(UsageError, match=r"no file in .* is called \*test\*.*holds train-00000"):
        plan_set(f"topic={folder}", "validation")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("typ: maths", r"own\.yaml:2: typ: unknown key; did you mean 'type'"),
        ("type: math", r"own\.yaml:2: type: 'math' is no kind of task; did you mean 'maths'"),
        ("type: maths\ncolumns: [a]", r"own\.yaml:1: `columns` names the columns"),
        ("type: maths\nwhere: 'a +'", r"own\.yaml:3: where: 'a \+' is not an expression"),
    ],
)
def test_a_wrong_yaml_is_refused_with_its_line(change, message):
    text = f"name: own\n{change}\ntemplates:\n  - {{name: a, prompt: x, answer: y}}\n"
    with pytest.raises(HanlinError, match=message):
        parse_set(text, "own.yaml")


def test_a_wrong_template_is_refused_with_its_line():
    text = "name: own\ntype: maths\ntemplates:\n  - name: a\n    prompt: x\n    answr: y\n"
    with pytest.raises(HanlinError, match=r"own\.yaml:6: templates\.0\.answr: unknown key; did you mean 'answer'"):
        parse_set(text, "own.yaml")
    text = "name: own\ntype: maths\ntemplates:\n  - {name: a, prompt: '{{ x', answer: y}\n"
    with pytest.raises(HanlinError, match=r"own\.yaml:4: templates\.0\.prompt: '\{\{ x' is not a template"):
        parse_set(text, "own.yaml")
    text = "name: own\ntype: maths\ntemplates:\n" + "  - {name: a, prompt: x, answer: y}\n" * 2
    with pytest.raises(HanlinError, match="two templates are called 'a'"):
        parse_set(text, "own.yaml")


def test_unknown_sets_and_missing_files_are_named():
    with pytest.raises(UsageError, match="no labelled set 'sentimnt'; did you mean 'sentiment"):
        plan_set("sentimnt=x.jsonl")
    with pytest.raises(UsageError, match="give sentiment=PATH"):
        plan_set("sentiment")
    with pytest.raises(UsageError, match="no file or folder nowhere"):
        plan_set("sentiment=nowhere.jsonl")
