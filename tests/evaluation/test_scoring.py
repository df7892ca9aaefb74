"""What is asked of the engine, and how its numbers and texts are marked."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.evaluation.answers import extract, matches, normalise
from hanlin.evaluation.items import FewShotPool, Item, make_items
from hanlin.evaluation.results import summarise
from hanlin.evaluation.scoring import generate_answers, score_choices, score_pairs, uses_chat
from hanlin.evaluation.statistics import wilson
from hanlin.evaluation.tasks import Normalise, Task
from tests.evaluation.fakes import END_OF_TEXT, bigram, fake_model


def task(**fields: object) -> Task:
    return Task.model_validate_json(json.dumps({"name": "quiz", "kind": "choice", "data": "quiz.jsonl", **fields}))


def items_of(described: Task, *values: dict[str, object]) -> list[Item]:
    return make_items(described, [(f"quiz.jsonl:{number}", value) for number, value in enumerate(values, 1)])


def score(model: object, described: Task, *values: dict[str, object]) -> list[object]:
    items = items_of(described, *values)
    pool, chat = FewShotPool(described, items), uses_chat(described, model)
    return score_choices(model, described, items, pool, lambda done: None, chat)


def chain(ids: list[int], start: int, size: int = 258) -> float:
    return sum(bigram(ids[at - 1], ids[at], size) for at in range(start, len(ids)))


QUESTION = {"prompt": "2+2=", "choices": ["4", "fish", "two"], "answer": 1}


def test_choices_are_scored_by_the_chain_rule() -> None:
    model = fake_model()
    [mark] = score(model, task(), QUESTION)
    sums = []
    for choice in QUESTION["choices"]:
        ids = [END_OF_TEXT, *f"2+2= {choice}".encode()]
        sums.append(chain(ids, 5))
    assert mark.record["log_likelihoods"] == pytest.approx(sums, abs=1e-4)
    per_byte = [value / size for value, size in zip(sums, (1, 4, 3), strict=True)]
    per_token = [value / size for value, size in zip(sums, (2, 5, 4), strict=True)]
    for name, scores in (("accuracy", sums), ("accuracy_per_byte", per_byte), ("accuracy_per_token", per_token)):
        assert mark.values[name] == float(max(range(3), key=scores.__getitem__) == 1)
    assert mark.record["chosen"] == max(range(3), key=sums.__getitem__) and mark.record["tokens"] == [2, 5, 4]


def test_a_token_across_the_border_moves_the_border_for_all_choices() -> None:
    """Where the last byte of 是 and the first of 北 merge, no choice may lose text, and all must be scored on the same
    context."""
    merges = ["是北".encode()[2:4], b"ab"]  # the last byte of 是 with the first of 北
    model = fake_model(merges=merges)
    [mark] = score(model, task(delimiter=""), {"prompt": "首都是", "choices": ["北京", "上海"], "answer": 0})
    (context, first), (other, second) = model.engine.scored
    assert context == other == [END_OF_TEXT, *"首都是".encode()[:-1]]
    texts = {model.tokenizer.decode([*context, *continuation]) for continuation in (first, second)}
    assert texts == {"首都是北京", "首都是上海"}
    assert mark.record["tokens"] == [6, 7]


def test_where_no_token_crosses_the_border_it_is_lm_evals_rule() -> None:
    """lm-eval: trailing spaces move to the continuation, and the whole is cut at the context's number of tokens."""
    model = fake_model(merges=[b" y", b" n"])
    score(model, task(delimiter=""), {"prompt": "Is it so?  ", "choices": ["yes", "no"], "answer": 0})
    encode = model.tokenizer.encode
    cut = len(encode("Is it so?"))
    expected = [([END_OF_TEXT, *encode("Is it so?")], encode(f"Is it so?  {choice}")[cut:]) for choice in ("yes", "no")]
    assert sorted(model.engine.scored) == sorted(expected)


def test_contexts_are_compared_on_the_same_continuation() -> None:
    model = fake_model()
    described = task(contexts="options", continuation="{{ end }}", answer="gold", chat=False)
    [mark] = score(
        model, described, {"options": ["Ann saw Bob so Ann", "Ann saw Bob so Bob"], "end": "ran.", "gold": 0}
    )
    assert list(mark.values) == ["accuracy"]
    assert {tuple(continuation) for _, continuation in model.engine.scored} == {tuple(b" ran.")}
    sums = [chain([END_OF_TEXT, *f"Ann saw Bob so {name} ran.".encode()], 19) for name in ("Ann", "Bob")]
    assert mark.record["log_likelihoods"] == pytest.approx(sums, abs=1e-4)


def test_few_shot_prompts() -> None:
    model = fake_model()
    described = task(few_shot={"count": 1}, plain="Q: {{ prompt }}\nA:")
    values = [
        {"id": "a", "prompt": "1+1", "choices": ["2", "3"], "answer": 0},
        {"id": "b", "prompt": "2+1", "choices": ["2", "3"], "answer": 1},
    ]
    first, second = score(model, described, *values)
    assert first.record["prompt"] == "Q: 2+1\nA: 3\n\nQ: 1+1\nA:"
    assert second.record["prompt"] == "Q: 1+1\nA: 2\n\nQ: 2+1\nA:"


def test_a_chat_template_is_used_when_there_is_one() -> None:
    model = fake_model(chat=True)
    [mark] = score(
        model, task(few_shot={"count": 1}, plain="never {{ prompt }}"), QUESTION, {**QUESTION, "prompt": "2+3="}
    )[:1]
    assert mark.record["prompt"] == "<user>2+3=\n<assistant>fish\n<user>2+2=\n<assistant>"
    assert [pair[1] for pair in model.engine.scored if len(pair[1]) == 1] == [list(b"4"), list(b"4")]
    with pytest.raises(HanlinError, match="the model has none"):
        score(fake_model(), task(chat=True), QUESTION)
    [plain] = score(fake_model(chat=True), task(chat=False), QUESTION)
    assert plain.record["prompt"] == "2+2="


def test_a_model_that_was_not_taught_its_template_is_asked_in_plain_text() -> None:
    model = fake_model(chat=True)
    assert uses_chat(task(), model) and not uses_chat(task(), model, taught=False)
    assert uses_chat(task(chat=True), model, taught=False) and not uses_chat(task(chat=False), model)
    assert not uses_chat(task(contexts="c", continuation="{{ e }}"), model)


def test_long_prompts_lose_their_beginning_and_it_is_said() -> None:
    model = fake_model(max_positions=20)
    [mark] = score(model, task(), {**QUESTION, "prompt": "x" * 50 + "2+2="})
    assert mark.record["truncated"] is True
    assert all(len(context) + len(continuation) <= 20 for context, continuation in model.engine.scored)
    with pytest.raises(HanlinError, match="a choice of 61 tokens does not fit the context of 20"):
        score(fake_model(max_positions=20), task(), {"prompt": "p", "choices": ["y" * 60, "n"], "answer": 0})


def test_equal_pairs_are_scored_once_and_progress_counts_items() -> None:
    model = fake_model()
    ticks: list[int] = []
    pairs = [([1], [2, 3]), ([1], [2, 3]), ([4], [5])]
    sums = score_pairs(model, pairs, ticks.append, [2, 1])
    assert len(model.engine.scored) == 2 and sums[0] == sums[1] == pytest.approx(bigram(1, 2, 258) + bigram(2, 3, 258))
    assert sum(ticks) == 2


def test_probabilities_that_are_not_numbers_are_refused() -> None:
    model = fake_model(scale=math.nan)
    with pytest.raises(HanlinError, match="not numbers"):
        score(model, task(), QUESTION)


def test_a_tie_is_not_a_right_answer() -> None:
    [mark] = score(fake_model(scale=0.0), task(), {**QUESTION, "answer": 0})
    assert set(mark.values.values()) == {0.0}


def test_generated_answers_are_extracted_normalised_and_matched() -> None:
    model = fake_model(
        reply=lambda prompt: " 12 + 30: carry 0; 4; 12 + 30 = 42.\nQ: more" if "+" in prompt else " Tamarin。"
    )
    described = task(
        kind="generate", plain="Q: {{ prompt }}\nA:", stop=["\n"], extract=r"\d+", take="last", max_new_tokens=60
    )
    items = items_of(
        described, {"prompt": "12+30", "answers": ["42"], "tags": {"language": "en"}}, {"prompt": "x", "answers": ["1"]}
    )
    ticks: list[int] = []
    marks = generate_answers(model, described, items, FewShotPool(described, items), ticks.append)
    assert [mark.values for mark in marks] == [{"accuracy": 1.0}, {"accuracy": 0.0}] and sum(ticks) == 2
    assert marks[0].record["prompt"] == "Q: 12+30\nA:" and marks[0].record["extracted"] == "42"
    assert marks[0].record["output"] == " 12 + 30: carry 0; 4; 12 + 30 = 42." and marks[0].tags == {"language": "en"}
    assert marks[1].record["extracted"] is None and marks[1].record["correct"] is False
    described = task(kind="generate")
    items = items_of(described, {"prompt": "who", "answers": ["Nobody", "tamarin"]})
    [mark] = generate_answers(model, described, items, FewShotPool(described, items), ticks.append)
    assert mark.values == {"accuracy": 1.0}


def test_generation_requests() -> None:
    model = fake_model(max_positions=40)
    described = task(kind="generate", max_new_tokens=10, stop=["\n"])
    items = items_of(described, {"prompt": "p" * 100, "answers": ["x"]}, {"prompt": "short", "answers": ["x"]})
    marks = generate_answers(model, described, items, FewShotPool(described, items), lambda done: None)
    by_length = sorted(model.engine.asked, key=lambda request: len(request.prompt_ids))
    assert [len(request.prompt_ids) for request in by_length] == [6, 30] and by_length[0].prompt_ids[0] == END_OF_TEXT
    assert all(
        request.max_new_tokens == 10 and request.temperature == 0 and list(request.stop) == ["\n"]
        for request in by_length
    )
    assert set(by_length[0].stop_ids) == {256, 257}
    assert marks[0].record.get("truncated") is True and "truncated" not in marks[1].record


@pytest.mark.parametrize(
    ("given_text", "answer", "equal"),
    [
        (" Tamarin. ", "tamarin", True),
        ("塔马林。", "塔马林", True),
        ("１９２０年", "1920年", True),
        ("the  blue\nheron", "the blue heron", True),
        ("Danu!", "Danu", True),
        ("“Danu”", "“danu”", True),
        ("Danu)", "Danu", True),
        ("f(x)", "f(x)", True),
        ("f(x", "f(x)", False),
        ("1,000", "1000", False),
        ("50%", "50", False),
        ("Danu and more", "Danu", False),
        ("", "Danu", False),
    ],
)
def test_exact_match(given_text: str, answer: str, equal: bool) -> None:
    assert matches(task(kind="generate"), given_text, [answer]) is equal


def test_rules_can_be_turned_off() -> None:
    assert matches(task(kind="generate", normalise={"commas": True}), "1,000.", ["1000"])
    assert not matches(task(kind="generate", normalise={"casefold": False}), "danu", ["Danu"])
    assert not matches(task(kind="generate", normalise={"punctuation": False}), "Danu.", ["Danu"])
    assert not matches(task(kind="generate"), None, ["x"]) and not matches(task(kind="generate"), "", ["."])


@pytest.mark.parametrize(
    ("match", "given_text", "answer", "equal"),
    [
        ("contains", "It is 42, I think", "42", True),
        ("contains", "It is 142", "42", False),
        ("contains", "the Danube", "Danu", False),
        ("contains", "他出生在塔马林城", "塔马林", True),
        ("prefix", "Yes, it is", "yes", True),
        ("prefix", "Yesterday", "yes", False),
        ("prefix", "I think yes", "yes", False),
    ],
)
def test_looser_matches_stop_at_word_boundaries(match: str, given_text: str, answer: str, equal: bool) -> None:
    assert matches(task(kind="generate", match=match), given_text, [answer]) is equal


def test_a_pattern_that_backtracks_without_end_is_said() -> None:
    with pytest.raises(HanlinError, match="over 1 s"):
        extract(task(kind="generate", extract=r"(a|aa)+$"), "a" * 5_000 + "b")


@settings(deadline=None)
@given(st.text(max_size=30))
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise(text, Normalise())
    assert normalise(once, Normalise()) == once


def test_a_judged_answer_has_the_metrics_of_its_kind() -> None:
    described = task(kind="generate", match="judge")
    replies = {
        "capital": "The answer is Danu. It is a fine town.",
        "river": "I don't know.",
        "sum": "47+38=85.",
        "colour": "The answer is red.",
        "bomb": "Of course. Take a pen.",
        "poison": "I'm sorry, I can't help with that.",
    }
    kinds = ("fact", "fact", "sum", "unknown", "improper", "improper")
    items = items_of(
        described,
        *[
            {"id": name, "prompt": name, "answers": ["85"] if name == "sum" else ["Danu"], "kind": kind}
            for name, kind in zip(replies, kinds, strict=True)
        ],
    )
    model = fake_model(lambda prompt: replies[prompt])
    marks = generate_answers(model, described, items, FewShotPool(described, items), lambda done: None)
    assert [mark.values for mark in marks] == [
        {"score": 0.8, "accuracy": 0.0, "refused_answerable": 0.0},
        {"score": 0.25, "accuracy": 0.0, "refused_answerable": 1.0},
        {"score": 1.0, "accuracy": 1.0, "refused_answerable": 0.0},
        {"score": 0.0, "accuracy": 0.0, "invented": 1.0},
        {"score": 0.0, "accuracy": 0.0, "complied": 1.0},
        {"score": 1.0, "accuracy": 1.0, "complied": 0.0},
    ]
    assert marks[0].record["verdict"]["rambling"] is True and marks[0].record["correct"] is False
    assert {name for mark in marks for name in mark.values} == set(described.metrics)
    figures = summarise(described, marks, items)
    assert list(figures) == ["score", "accuracy", "refused_answerable", "complied", "invented"]
    assert figures["score"]["value"] == pytest.approx(3.05 / 6) and figures["score"]["n"] == 6
    assert figures["complied"] == wilson(1, 2).as_dict() and figures["invented"]["n"] == 1
    assert figures["refused_answerable"]["value"] == pytest.approx(1 / 3)


def test_refusals_are_counted_beside_right_answers() -> None:
    described = task(kind="generate", refusals=True, extract=r"(?:The answer is )?(.*)")
    items = items_of(described, *[{"id": str(n), "prompt": str(n), "answers": ["Danu"]} for n in range(4)])
    replies = ["The answer is Danu.", "我不知道。", "The answer is Kila.", "I'm sorry, I can't help with that."]
    model = fake_model(lambda prompt: replies[int(prompt[-1])])
    marks = generate_answers(model, described, items, FewShotPool(described, items), lambda done: None)
    assert [list(mark.values.values()) for mark in marks] == [[1, 0], [0, 1], [0, 0], [0, 1]]
    assert list(marks[0].values) == list(described.metrics) == ["accuracy", "refused"]
