"""self-instruct and evol-instruct: their logic with a scripted generator, resuming, provenance, and a real model."""

import json
import re
from collections import Counter

import pytest
import torch

from hanlin.alignment.instructions.bootstrap import input_first, labelled_pairs, new_tasks, yes_or_no
from hanlin.alignment.instructions.evolve import OPERATIONS, Evolution, clean, equal_or_not
from hanlin.alignment.instructions.generator import Said
from hanlin.alignment.instructions.near_duplicates import rouge_l
from hanlin.alignment.instructions.seeds import Pair, read_seeds
from hanlin.alignment.instructions.self_instruct import SELF_INSTRUCT_STAGE, SelfInstructSettings, fingerprint, generate
from hanlin.alignment.instructions.text import units
from hanlin.artifacts import HanlinError, StageContext, UsageError, read_jsonl
from hanlin.tokenization import Tokenizer
from tests.training.test_sft import make_base

torch.set_num_threads(1)

SEEDS = [
    {
        "id": f"seed_{n}",
        "instruction": text,
        "instances": [{"input": given, "output": output}],
        "is_classification": label,
    }
    for n, (text, given, output, label) in enumerate(
        [
            ("Name three fruits that grow in cold places.", "", "Apples, pears, plums.", False),
            ("Say whether the sentence is a question.", "Where is it?", "Yes", True),
            ("Write a greeting for a letter to an aunt.", "", "Dear aunt,", False),
            ("Put the words into alphabetical order.", "pear apple", "apple pear", False),
            ("Decide if the review is kind or unkind.", "A lovely day.", "kind", True),
            ("Explain why the sky looks blue at noon.", "", "Air scatters blue light most.", False),
            ("Count the vowels of the given word.", "banana", "3", False),
        ]
    )
]


def seed_file(folder, rows=SEEDS):
    path = folder / "seeds.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


VERBS = ["Describe", "Compare", "Invent", "Praise", "Measure", "Collect", "Imagine", "Defend"]


def words(seed):
    """Six words that hardly any other seed has."""
    return " ".join(f"w{seed // 7**place % 997}" for place in range(6))


class Writer:
    """A generator that answers each of our prompts in its form, a function of the prompt and its seed alone."""

    chat = False

    def __init__(self, stop_after=None):
        self.asked, self.stop_after = [], stop_after

    def generate(self, asks):
        if self.stop_after is not None and len(self.asked) >= self.stop_after:
            raise KeyboardInterrupt
        self.asked += asks
        return [self.answer(ask) for ask in asks]

    def answer(self, ask):
        last = ask.prompt.rsplit("\n", 1)[1]
        if match := re.fullmatch(r"Task (\d+):", last):
            assert ask.temperature > 0
            number, count = int(match[1]), ask.seed
            tasks = [
                f"{VERBS[count % 8]} {words(count)}.",
                "Draw a picture of a horse in a field.",
                "Short.",
                SEEDS[count % 7]["instruction"].replace(".", " now."),
            ]
            text = " " + "".join(f"{task}\nTask {number + place + 1}: " for place, task in enumerate(tasks))
            return Said(text + "Cut in the", whole=False)
        if last == "Fixed labels:":
            task = ask.prompt.rsplit("Task: ", 1)[1].split("\n")[0]
            return Said(" Yes" if task.startswith("Compare") else " perhaps" if task.startswith("Invent") else " No")
        if last == "Input:":
            task = ask.prompt.rsplit("Task: ", 1)[1].split("\n")[0]
            if task.startswith("Praise"):
                return Said(" none\nOutput:")
            return Said(f" none\nOutput: It was done: {task.lower()}")
        assert last == "Label:"
        return Said(" better\nInput: the first\nLabel: worse\nInput: the second\nLabel: worse\nInput: the first")


def run(folder, generator, name="work", seed=4, **changes):
    settings = SelfInstructSettings(**{"model": "m", "seeds": seed_file(folder), "rows": 24, "batch": 4, **changes})
    workdir = folder / name
    workdir.mkdir(exist_ok=True)
    return generate(settings, StageContext(workdir, {}, seed), generator)


def test_new_instructions_are_made_filtered_and_traced(tmp_path):
    writer = Writer()
    figures = run(tmp_path, writer)
    rows = read_jsonl(tmp_path / "work/instructions.jsonl")
    assert len(rows) == 24 == figures["written"] and figures["account"]["balanced"]
    dropped = read_jsonl(tmp_path / "work/dropped.jsonl")
    assert Counter(one["reason"] for one in dropped) == Counter(figures["account"]["reasons"])
    reasons = figures["account"]["reasons"]
    requests = figures["rounds"] * 4
    assert reasons["not_text"] == reasons["short"] == requests
    assert set(reasons) >= {"not_text", "short", "similar", "unclassified", "empty_output"}
    assert figures["account"]["in"] == 24 + len(dropped)
    similar = [one for one in dropped if one["reason"] == "similar"]
    assert all(one["measured"] >= 0.7 == one["threshold"] for one in similar)
    assert all(one["detail"].startswith(("seed_", "self-", "in the same round")) for one in similar)
    # No two instructions, seeds included, are alike.
    texts = [units(seed["instruction"]) for seed in SEEDS]
    for row in rows:
        text = units(row["messages"][0]["content"].split("\n")[0])
        assert all(rouge_l(text, other) < 0.7 for other in texts)
        texts.append(text)
    names = {row["metadata"]["task"] for row in rows}
    for row in rows:
        meta = row["metadata"]
        assert meta["source"] == meta["method"] == "self-instruct"
        assert len(meta["shown"]) == len(set(meta["shown"])) == (8 if meta["round"] else 7)  # there are seven seeds
        assert all(one.startswith(("seed_", "self-")) for one in meta["shown"])
        assert meta["task"] == f"self-{meta['round']}-{meta['request']}-0"
        assert meta.get("rouge_l", 0.0) < 0.7
    assert sum("nearest" in row["metadata"] for row in rows) > 6
    # Two of eight examples are generated ones, once there are any.
    late = [row for row in rows if row["metadata"]["round"] > 1]
    assert late and all(sum(one in names for one in row["metadata"]["shown"]) <= 2 for row in late)
    assert any(sum(one.startswith("self-") for one in row["metadata"]["shown"]) == 2 for row in late)


def test_a_task_with_labels_is_done_label_first(tmp_path):
    run(tmp_path, Writer(), rows=40)
    rows = read_jsonl(tmp_path / "work/instructions.jsonl")
    labelled = [row for row in rows if row["messages"][0]["content"].startswith("Compare")]
    # `the first` has two labels, which is no instance: only the other input is left.
    assert labelled and all(
        row["messages"][0]["content"].endswith("\nthe second") and row["messages"][1]["content"] == "worse"
        for row in labelled
    )
    assert {row["messages"][0]["content"].split()[0] for row in rows} <= set(VERBS) - {"Invent", "Praise"}


def test_what_the_model_is_shown(tmp_path):
    writer = Writer()
    run(tmp_path, writer)
    listed = [ask.prompt for ask in writer.asked if ask.prompt.endswith("Task 8:") or ask.prompt.endswith("Task 9:")]
    assert "Task 1: " in listed[0] and listed[0].count("\nTask ") >= 7
    first = next(ask.prompt for ask in writer.asked if ask.prompt.endswith("Fixed labels:"))
    assert first.count("Fixed labels: Yes") == 2 and first.count("Fixed labels: No") == 4
    done = next(ask.prompt for ask in writer.asked if ask.prompt.endswith("Input:"))
    assert "Input: none\nOutput: Apples, pears, plums." in done or "Input: banana\nOutput: 3" in done
    assert "Say whether" not in done  # tasks with labels are shown to tasks with labels alone


def test_the_same_seed_makes_the_same_and_another_does_not(tmp_path):
    run(tmp_path, Writer(), "a")
    run(tmp_path, Writer(), "b")
    run(tmp_path, Writer(), "c", seed=5)
    texts = [(tmp_path / name / "instructions.jsonl").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("method", ["self-instruct", "evol"])
def test_a_killed_run_makes_what_a_whole_one_makes(tmp_path, method):
    make = Writer if method == "self-instruct" else Evolver
    whole = make()
    run(tmp_path, whole, "whole", method=method)
    tries = asked = 0
    while True:  # stopped after ever so few answers, at any place of a round
        tries += 1
        part = make(stop_after=9 + tries % 3)
        try:
            run(tmp_path, part, "killed", method=method)
        except KeyboardInterrupt:
            asked += len(part.asked)
            continue
        asked += len(part.asked)
        break
    assert tries > 3 and asked > len(whole.asked)  # the round that was cut off is asked again
    for name in ("instructions.jsonl", "dropped.jsonl", "style.jsonl"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    # Started once more, it asks nothing.
    again = make(stop_after=0)
    run(tmp_path, again, "killed", method=method)
    assert again.asked == []


def test_rows_beyond_those_asked_for_are_surplus(tmp_path):
    figures = run(tmp_path, Writer(), rows=5, batch=16)
    assert figures["written"] == 5 and figures["account"]["reasons"]["surplus"] > 0
    with_seeds = run(tmp_path, Writer(), "with", rows=5, with_seeds=True)
    rows = read_jsonl(tmp_path / "with/instructions.jsonl")
    assert with_seeds["written"] == 12 == len(rows)
    assert rows[1]["messages"][0]["content"] == "Say whether the sentence is a question.\nWhere is it?"
    assert rows[1]["metadata"]["source"] == "seed"


def test_it_ends_when_nothing_new_comes(tmp_path):
    class Tired(Writer):
        def answer(self, ask):
            said = super().answer(ask)
            return Said(" the same again and again") if ask.prompt.endswith(("Task 8:", "Task 9:")) else said

    figures = run(tmp_path, Tired(), rows=100, patience=3)
    # The one new task comes in the first round.
    assert figures["written"] == 1 and figures["rounds"] == 1 + 3


def test_own_prompts_replace_those_of_the_same_name(tmp_path):
    own = tmp_path / "prompts"
    own.mkdir()
    (own / "instructions.txt").write_text(
        "Go on!\n{% for one in examples %}* {{ one }}\n{% endfor %}Task {{ count + 1 }}:\n"
    )
    writer = Writer()
    run(tmp_path, writer, prompts=str(own))
    assert writer.asked[0].prompt.startswith("Go on!\n* ")
    settings = SelfInstructSettings(model="m", seeds=seed_file(tmp_path), prompts=str(own))
    before = fingerprint(settings)
    (own / "instructions.txt").write_text("Go on! {{ count }}")
    assert fingerprint(settings) != before
    (own / "instructions.txt").rename(own / "instruction.txt")
    with pytest.raises(UsageError, match="replaces no prompt"):
        fingerprint(settings)


# ---------------------------------------------------------------------- what the model wrote, read


def test_tasks_are_taken_from_a_list():
    text = " One thing.\nTask 10: Two\nlines.\n\nA note.\nTask 11: Cut"
    assert new_tasks(Said(text), 8) == ["One thing.", "Two lines.", "Cut"]
    assert new_tasks(Said(text, whole=False), 8) == ["One thing.", "Two lines."]
    assert new_tasks(Said("Task 9: One.\nTask 10: Two."), 8) == ["One.", "Two."]  # a chat model repeats the number
    assert new_tasks(Said("\n".join(f"Task {n}: t{n}" for n in range(9, 40))), 8) == [f"t{n}" for n in range(9, 17)]
    assert new_tasks(Said("", fits=False), 8) == []


def test_instances_are_read_in_both_orders():
    assert input_first(Said(" a b\nOutput: c\nd")) == [Pair("a b", "c\nd")]
    assert input_first(Said("Input: None.\nOutput: c")) == [Pair("", "c")]
    assert input_first(Said(" a b")) == input_first(Said(" a\nOutput: b", whole=False)) == []
    assert labelled_pairs(Said(" yes\nInput: a\nLabel: no\nInput: b")) == [Pair("a", "yes"), Pair("b", "no")]
    assert labelled_pairs(Said(" yes\nInput: a\nLabel: no\nInput: b", whole=False)) == [Pair("a", "yes")]
    assert labelled_pairs(Said(" yes\nno input")) == []


def test_short_answers_are_parsed_strictly():
    assert [yes_or_no(text) for text in (" Yes", "no.", "是", "Yes, it is", "", "maybe")] == [
        True,
        False,
        True,
        None,
        None,
        None,
    ]
    assert [equal_or_not(text) for text in ("Equal", "Not equal.", "不相等", "They are equal", "")] == [
        True,
        False,
        False,
        None,
        None,
    ]
    assert clean('New instruction: "Say it."') == "Say it." and clean('"a" and "b"') == '"a" and "b"'


# ---------------------------------------------------------------------- seeds


def test_seeds_are_read_in_several_forms(tmp_path):
    path = tmp_path / "seeds.jsonl"
    rows = [
        SEEDS[1],
        {"instruction": "Say hello.", "input": "to Bo", "output": "Hello, Bo."},
        {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    seeds = read_seeds(path)
    assert [(one.id, one.instruction, one.classification) for one in seeds] == [
        ("seed_1", "Say whether the sentence is a question.", True),
        ("seed-1", "Say hello.", False),
        ("seed-2", "Hi", False),
    ]
    assert seeds[1].pairs == (Pair("to Bo", "Hello, Bo."),)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"instruction": "x", "instances": [{"input": "y"}]}, "row 2: an instance has an input"),
        ({"instruction": "x", "instances": []}, "row 2: a seed task needs an instruction, and an output"),
        ({"question": "x"}, "row 2: a seed task has instruction and instances"),
        ({"id": "seed_0", "instruction": "x", "output": "y"}, "two seed tasks have the id 'seed_0'"),
    ],
)
def test_a_wrong_seed_is_refused_with_its_place(tmp_path, row, message):
    with pytest.raises(HanlinError, match=message):
        read_seeds(tmp_path / "seeds.jsonl" if seed_file(tmp_path, [SEEDS[0], row]) else tmp_path)


# ---------------------------------------------------------------------- evol-instruct


class Evolver(Writer):
    """Evolves by adding a word for the operation; some of what it writes is to be eliminated."""

    chat = True
    faults = ("equal", "sorry", "stop", "copied", "cut", "vague")

    def answer(self, ask):
        if "Old instruction: " in ask.prompt:
            old = ask.prompt.rsplit("Old instruction: ", 1)[1].split("\n\nWrite")[0]
            place = ask.seed % 14
            if place < 6:
                word = self.faults[place]
                text = f"The new instruction is {old}" if word == "copied" else f"{old} With a {word} in it."
                return Said(text, whole=word != "cut")
            return Said(f"New instruction: {old} And mind number {ask.seed % 1_000}.")
        if ask.prompt.startswith("Compare two instructions"):
            second = ask.prompt.rsplit("Second: ", 1)[1].split("\n\nSay")[0]
            return Said("Equal" if "equal in it" in second else "hm" if "vague in it" in second else "Not equal")
        if "sorry in it" in ask.prompt.rsplit(".", 2)[-2]:
            return Said("I am sorry, I can't.")
        return Said(
            "And so it is." if "stop in it" in ask.prompt.rsplit(".", 2)[-2] else f"Done: {len(ask.prompt)} signs."
        )


def test_evolution_eliminates_by_the_papers_rules(tmp_path):
    figures = run(tmp_path, Evolver(), method="evol", rows=1_000, generations=12, batch=3, most_words=10_000)
    reasons = figures["account"]["reasons"]
    assert set(reasons) >= {"no_gain", "sorry", "stop_words", "copied_prompt", "unfinished", "equality_unparsable"}
    assert figures["account"]["balanced"] and figures["rounds"] == 12 * 3
    rows = read_jsonl(tmp_path / "work/instructions.jsonl")
    by_task = {row["metadata"]["task"]: row for row in rows}
    assert {row["metadata"]["operation"] for row in rows} <= set(OPERATIONS)
    for row in rows:
        meta, text = row["metadata"], row["messages"][0]["content"]
        assert meta["method"] == "evol" and meta["seed"] == f"seed_{meta['place']}"
        assert not re.search(r"(equal|sorry|stop|copied|cut|vague) in it\.$", text) and "New instruction" not in text
        # A child is its parent with one more sentence; what was eliminated left its parent to be tried again.
        if meta["parent"] in by_task:
            parent = by_task[meta["parent"]]
            assert text.startswith(parent["messages"][0]["content"])
            assert meta["generation"] > parent["metadata"]["generation"]
        else:
            assert meta["parent"] == meta["seed"]
    generations = Counter(row["metadata"]["generation"] for row in rows)
    assert len(generations) == 12 and max(generations.values()) <= 7


def test_breadth_must_be_new_and_depth_may_be_alike(tmp_path):
    class Echo(Evolver):
        def answer(self, ask):
            if "Old instruction: " in ask.prompt:
                old = ask.prompt.rsplit("Old instruction: ", 1)[1].split("\n\nWrite")[0]
                return Said(old + " Please.")
            return super().answer(ask)

    figures = run(tmp_path, Echo(), method="evol", rows=100, generations=3)
    dropped = read_jsonl(tmp_path / "work/dropped.jsonl")
    kept = read_jsonl(tmp_path / "work/instructions.jsonl")
    assert {one["row"]["operation"] for one in dropped if one["reason"] == "similar"} == {"breadth"}
    assert "breadth" not in {row["metadata"]["operation"] for row in kept} and figures["written"] == len(kept) > 5


def test_seeds_with_inputs_evolve_as_one_text(tmp_path):
    settings = SelfInstructSettings(model="m", seeds=seed_file(tmp_path))
    evolver = Evolver()
    Evolution(read_seeds(tmp_path / "seeds.jsonl"), evolver, settings, 0).round(0)
    assert any("Old instruction: Count the vowels of the given word.\nbanana\n" in ask.prompt for ask in evolver.asked)


# ---------------------------------------------------------------------- a real model


@pytest.mark.parametrize("method", ["self-instruct", "evol"])
def test_random_weights_make_nothing_and_say_so(tmp_path, method):
    inputs = make_base(tmp_path / "base", Tokenizer.bytes())
    settings = SelfInstructSettings(
        model="base",
        seeds=seed_file(tmp_path, [{**SEEDS[0], "instruction": "Say hi."}]),
        method=method,
        most_rounds=2,
        generations=1,
        batch=2,
        seeds_shown=1,
        max_new_tokens=8,
        prompts=None,
        chat=False,
    )
    (tmp_path / "work").mkdir()
    with pytest.raises(HanlinError, match=r"made no instruction that can be used in . rounds \(. prompt_too_long\)"):
        SELF_INSTRUCT_STAGE.run(settings, StageContext(tmp_path / "work", inputs, 0))
    own = tmp_path / "prompts"
    own.mkdir()
    for name in ("instructions", *(f"evolve-{one}" for one in OPERATIONS)):
        (own / f"{name}.txt").write_text("Go on:")
    (tmp_path / "again").mkdir()
    with pytest.raises(HanlinError, match=r"made no instruction .*(nothing_new|unfinished|short)"):
        SELF_INSTRUCT_STAGE.run(
            settings.model_copy(update={"prompts": str(own)}), StageContext(tmp_path / "again", inputs, 0)
        )
