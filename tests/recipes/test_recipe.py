import json

import pytest
import yaml

from hanlin.artifacts import HanlinError, UsageError
from hanlin.recipes.recipe import library, load_recipe, parse_value, steps
from hanlin.recipes.report.build import write_report
from hanlin.recipes.runner import run_recipe, write_recipe
from hanlin.tokenization import Tokenizer


def write(tmp_path, text):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    return str(file)


GOOD = """\
name: small
seed: 3
stages:
  world: {kind: world, entities: 60}
  corpus: {kind: corpus, world: world}
  tokenizer: {kind: tokenizer, corpus: corpus, vocabulary_size: 600}
  tokens: {kind: tokens, corpus: corpus, tokenizer: tokenizer}
  base: {kind: pretrain, data: tokens}
exam:
  base: {tasks: [corpus/bits-per-byte]}
"""


def test_stages_run_in_the_order_of_their_references_with_each_exam_behind_its_model(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD))
    assert [step.name for step in steps(recipe)] == ["world", "corpus", "tokenizer", "tokens", "base", "base-exam"]
    lines = GOOD.splitlines()
    shuffled = "\n".join([*lines[:3], *reversed(lines[3:8]), *lines[8:]])
    order = [step.name for step in steps(load_recipe(write(tmp_path, shuffled)))]
    assert order.index("corpus") < order.index("tokenizer") < order.index("tokens") < order.index("base")


def test_what_is_given_on_the_command_line_is_laid_over_the_file_and_remembered(tmp_path):
    recipe = load_recipe(write(tmp_path, GOOD), ["seed=7", "corpus.validation_fraction=0.1", "minutes=2.5"])
    assert (recipe.seed, recipe.minutes) == (7, 2.5)
    assert recipe.where("seed") == "command line"
    assert recipe.where("stages.corpus.validation_fraction") == "command line"
    assert recipe.where("stages.world.entities").endswith("r.yaml:4")
    corpus = next(step for step in steps(recipe) if step.name == "corpus")
    assert corpus.settings.validation_fraction == 0.1
    assert corpus.seed == 7


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("[a, b]", ["a", "b"]),
        ("null", None),
        ("{a: 1}", {"a": 1}),
        ("a: b", "a: b"),
        ("/x/y:z", "/x/y:z"),
        ("", ""),
        ("2024-01-01", "2024-01-01"),
        ("2024-13-45", "2024-13-45"),
        ("1e-3", 0.001),
        ("-2.5E+4", -25000.0),
        ("e5", "e5"),
        ("my dir #1", "my dir #1"),
        ("#1", "#1"),
        ("'my dir #1'", "my dir #1"),
        ("[a, b]  # both", ["a", "b"]),
    ],
)
def test_values_on_the_command_line(raw, value):
    assert parse_value(raw) == value


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("entities: 60", "entitys: 60", r"r\.yaml:4: world\.entitys: unknown key; did you mean 'entities'"),
        ("entities: 60", "entities: many", r"r\.yaml:4: world\.entities: .*integer"),
        ("kind: tokens,", "kind: token,", "did you mean 'tokens'"),
        ("world: world}", "world: wrld}", "did you mean 'world'"),
        ("data: tokens}", "data: corpus}", "is a stage of kind corpus, not tokens"),
        ("seed: 3", "sed: 3", r"r\.yaml:2: unknown key 'sed'; did you mean 'seed'"),
        ("seed: 3", "seed: 3\nseed: 4", r"r\.yaml:3: the key 'seed' stands twice"),
        ("seed: 3", "seed: -1", "seed must be"),
        ("seed: 3", "seed: 3\nminutes: 0", "minutes must be"),
        ("  base: {tasks", "  bse: {tasks", "names 'bse', which is no stage; did you mean 'base'"),
        ("stages:", "stages: [", "not valid YAML"),
        (
            "base: {tasks: [corpus/bits-per-byte]}",
            "base: [corpus/cloze]",
            r"r\.yaml:10: .*`base: {tasks: \[corpus/cloze\]}`",
        ),
        ("base: {tasks: [corpus/bits-per-byte]}", "base:", r"r\.yaml:10: `exam\.base:` maps to tasks and gates"),
        ("base: {tasks", "base: {kind: exam, tasks", r"r\.yaml:10: exam\.base\.kind: unknown key"),
        ("base: {tasks", "base: {seed: x, tasks", r"r\.yaml:10: exam\.base\.seed must be a whole number"),
        (
            "data: tokens}",
            "data: tokens, seed: foo}",
            r"r\.yaml:8: base\.seed must be a whole number from 0, not 'foo'",
        ),
        ("data: tokens}", "data: tokens, seed: 1.5}", r"base\.seed must be .* not 1\.5"),
        ("data: tokens}", "data: tokens, seed: }", r"base\.seed must be .* not None"),
        ("data: tokens}", "data: tokens, when: [a]}", r"base\.when names one setting"),
        (
            "world: world}",
            "inputs: 123}",
            r"^\S*r\.yaml:5: corpus\.inputs: Input should be .*string or .*array \(it is 123\)\.$",
        ),
        (
            "world: world}",
            "inputs: [1]}",
            r"^\S*r\.yaml:5: corpus\.inputs\.0: Input should be a valid string \(it is 1\)\.$",
        ),
        (
            "data: tokens}",
            "data: tokens, model: otto}",
            r"^\S*r\.yaml:8: base\.model: Input .* or 'auto' \(it is 'otto'\)\.$",
        ),
        (
            "data: tokens}",
            "data: tokens, model: {hidden_size: 64, layers: 2, heads: 2, gatd: true}}",
            r"^\S*r\.yaml:8: base\.model\.gatd: unknown key; did you mean 'gated'",
        ),
        (
            "data: tokens}",
            "data: tokens, model: {hidden_size: 64, layers: 2, heads: 3}}",
            r"r\.yaml:8: base: .*not a multiple of heads 3",
        ),
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place_and_the_nearest_word(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(HanlinError, match=message) as raised:
        steps(load_recipe(write(tmp_path, GOOD.replace(old, new, 1))))
    assert not isinstance(raised.value, UsageError)


def test_a_recipe_without_an_exam_is_refused(tmp_path):
    without = GOOD[: GOOD.index("exam:")]
    with pytest.raises(HanlinError, match="no `exam:`"):
        load_recipe(write(tmp_path, without))
    # Nor is it enough that the stage which trains is left out of this run.
    left_out = without.replace("{kind: pretrain, data: tokens}", "{kind: sft, model: m, when: data}")
    with pytest.raises(HanlinError, match=r"no `exam:`.*\n.*\n  base:"):
        load_recipe(write(tmp_path, left_out))
    other = GOOD.replace("  base: {tasks", "  corpus: {tasks")
    with pytest.raises(HanlinError, match="'base' trains a model, but `exam:` has no entry"):
        steps(load_recipe(write(tmp_path, other)))


def test_a_recipe_that_trains_nothing_needs_no_exam(tmp_path):
    (tmp_path / "text.txt").write_text("One town lies by the river. " * 20)
    data_only = f"name: data\nstages:\n  corpus: {{kind: corpus, inputs: {tmp_path / 'text.txt'}}}\n"
    for end in ("exam:\n", "exam: {}\n", ""):
        recipe = load_recipe(write(tmp_path, data_only + end))
        assert [step.name for step in steps(recipe)] == ["corpus"]
    run_recipe(recipe, tmp_path / "run")
    # What was resolved can be run again, and the page be written.
    again = load_recipe(str(tmp_path / "run" / "recipe.yaml"))
    assert [step.name for step in steps(again)] == ["corpus"]
    assert "documents" in write_report(tmp_path / "run").read_text(encoding="utf-8")


def test_a_circle_is_refused(tmp_path):
    text = GOOD.replace("{kind: world, entities: 60}", "{kind: sft, model: chat, world: world}")
    text = text.replace("base: {kind: pretrain, data: tokens}", "chat: {kind: sft, model: world, world: world}")
    with pytest.raises(HanlinError):
        steps(load_recipe(write(tmp_path, text)))


def test_unknown_names_on_the_command_line_are_bad_usage(tmp_path):
    for assignment in ("nothing=3", "nowhere.x=3", "=3", "seed"):
        with pytest.raises(UsageError):
            load_recipe(write(tmp_path, GOOD), [assignment])
    with pytest.raises(UsageError, match="did you mean 'world'"):
        load_recipe("wrld")
    with pytest.raises(UsageError, match="no recipe file"):
        load_recipe("missing.yaml")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("world.entitis=60", r"^command line: world\.entitis: unknown key; did you mean 'entities'"),
        ("base.seed=foo", r"^command line: base\.seed must be"),
        ("seed=-1", "^command line: seed must be"),
        ("minutes=soon", "^command line: minutes must be"),
        ("name=", "a recipe needs a name"),
        ("base.kind=pretain", r"^command line: base\.kind: .*did you mean 'pretrain'"),
        ("base.data=corpus", r"^command line: base\.data: .* is a stage of kind corpus"),
        ("corpus.inputs=123", r"^command line: corpus\.inputs: [^\n]*\(it is 123\)\.$"),
        ("base.model={hidden_size: 64, layers: 2, heads: 2, gatd: 1}", r"^command line: base\.model\.gatd: "),
        ("exam.base=corpus/cloze", r"^command line: .*`base: {tasks: \[corpus/cloze\]}`"),
        ("exam.bse.tasks=[corpus/cloze]", "^command line: .*'bse', which is no stage; did you mean 'base'"),
        # What a check of all settings together refuses is theirs and the file's.
        ("exam.base.tasks=[corpus/clozed]", r"r\.yaml:10 and command line: exam\.base: .*did you mean 'corpus/cloze'"),
    ],
)
def test_what_the_command_line_got_wrong_is_bad_usage(tmp_path, assignment, message):
    with pytest.raises(UsageError, match=message):
        steps(load_recipe(write(tmp_path, GOOD), [assignment]))


def test_a_float_needs_no_point_and_a_date_is_text(tmp_path):
    text = GOOD.replace("data: tokens}", "data: tokens, loop: {optimizer: {learning_rate: 2e-3}}}")
    text = text.replace("world: world}", "inputs: 2024-01-01}")
    by_file = {step.name: step.settings for step in steps(load_recipe(write(tmp_path, text)))}
    assert by_file["base"].loop.optimizer.learning_rate == 0.002
    assert by_file["corpus"].inputs == "2024-01-01"
    given = steps(load_recipe(write(tmp_path, GOOD), ["base.loop.optimizer.learning_rate=1e-3", "name=7"]))
    assert next(step for step in given if step.name == "base").settings.loop.optimizer.learning_rate == 0.001
    assert yaml.safe_load("1e-3") == "1e-3"  # YAML itself is left as it is


def test_a_value_of_the_command_line_covers_what_was_below_it(tmp_path):
    text = GOOD.replace("data: tokens}", "data: tokens, loop: {rows: 8, steps: 5}}")
    recipe = load_recipe(write(tmp_path, text), ["base.loop={rows: 4}"])
    assert recipe.where("stages.base.loop.rows") == "command line"
    assert "stages.base.loop.steps" not in recipe.origin


def test_the_recipe_of_a_run_names_its_files_so_that_they_are_found_from_everywhere(tmp_path, monkeypatch):
    home, away = tmp_path / "home", tmp_path / "away"
    away.mkdir()
    Tokenizer.bytes().save(home / "reference")
    (home / "items.jsonl").write_text(json.dumps({"prompt": "a", "choices": ["b", "c"], "answer": 0}) + "\n")
    (home / "mine.yaml").write_text("name: mine\nkind: choice\ndata: items.jsonl\n")
    monkeypatch.chdir(home)
    text = GOOD.replace("vocabulary_size: 600", "references: [reference/tokenizer.json, gpt2]")
    text = text.replace("[corpus/bits-per-byte]", "[corpus/bits-per-byte, mine.yaml, arc_easy=items.jsonl]")
    recipe = load_recipe(write(tmp_path, text))
    made = {step.name: step for step in steps(recipe)}
    assert made["tokenizer"].settings.references == [str(home / "reference/tokenizer.json"), "gpt2"]
    tasks = ["corpus/bits-per-byte", str(home / "mine.yaml"), f"arc_easy={home / 'items.jsonl'}"]
    assert made["base-exam"].settings.tasks == tasks
    write_recipe(recipe, list(made.values()), tmp_path / "recipe.yaml")
    monkeypatch.chdir(away)
    again = {step.name: step for step in steps(load_recipe(str(tmp_path / "recipe.yaml")))}
    assert {name: step.settings for name, step in again.items()} == {name: one.settings for name, one in made.items()}


def test_a_stage_with_when_is_left_out_until_its_key_is_given():
    without = load_recipe("own-text", ["corpus.inputs=texts"])
    assert "chat" not in [step.name for step in steps(without)]
    given = load_recipe("own-text", ["corpus.inputs=texts", "chat.data=chats.jsonl"])
    assert [step.name for step in steps(given)][-2:] == ["chat", "chat-exam"]
    exam = steps(given)[-1]
    assert exam.inputs["before"] == "base"


@pytest.mark.parametrize("name", library())
def test_every_recipe_of_the_library_reads(name):
    recipe = load_recipe(name, ["dpo.model=."] if name == "flywheel" else ["corpus.inputs=x"])
    assert steps(recipe)
    assert yaml.safe_dump(recipe.as_dict())
