import pytest
import yaml

from hanlin.artifacts import HanlinError, UsageError
from hanlin.recipes.recipe import library, load_recipe, parse_value, steps


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
    ],
)
def test_a_wrong_recipe_is_refused_with_the_place_and_the_nearest_word(tmp_path, old, new, message):
    assert old in GOOD
    with pytest.raises(HanlinError, match=message):
        steps(load_recipe(write(tmp_path, GOOD.replace(old, new, 1))))


def test_a_recipe_without_an_exam_is_refused(tmp_path):
    without = GOOD[: GOOD.index("exam:")]
    with pytest.raises(HanlinError, match="no `exam:`"):
        load_recipe(write(tmp_path, without))
    other = GOOD.replace("  base: {tasks", "  corpus: {tasks")
    with pytest.raises(HanlinError, match="'base' trains a model, but `exam:` has no entry"):
        steps(load_recipe(write(tmp_path, other)))


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


def test_a_stage_with_when_is_left_out_until_its_key_is_given():
    without = load_recipe("own-text", ["corpus.inputs=texts"])
    assert "chat" not in [step.name for step in steps(without)]
    given = load_recipe("own-text", ["corpus.inputs=texts", "chat.data=chats.jsonl"])
    assert [step.name for step in steps(given)][-2:] == ["chat", "chat-exam"]
    exam = steps(given)[-1]
    assert exam.inputs["before"] == "base"


@pytest.mark.parametrize("name", library())
def test_every_recipe_of_the_library_reads(name):
    recipe = load_recipe(name, ["corpus.inputs=x"])
    assert steps(recipe)
    assert yaml.safe_dump(recipe.as_dict())
