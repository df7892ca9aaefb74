"""What the sft stage makes of its settings and of awkward data: what it refuses, leaves out or cuts, and says of it."""

import json
import re

import pytest
import torch

from hanlin.artifacts import HanlinError, StageContext
from hanlin.artifacts.store import external
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.recipes.schema import describe
from hanlin.tokenization import Tokenizer
from hanlin.training.sft import SFT_STAGE, Prepared, SftLoop, SftOptimizer, SftSchedule, SftSettings
from tests.conftest import Told
from tests.training.toy_stages import loop

torch.set_num_threads(1)


def make_base(directory, tokenizer):
    """A model of random weights as an input."""
    directory.mkdir()
    shape = ModelConfig(vocabulary_size=tokenizer.vocabulary_size, hidden_size=32, layers=1, heads=2, max_positions=64)
    model = Transformer(shape)
    model.init_weights(0)
    save_model(directory, model, tokenizer)
    return {"model": external(directory)}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("sft") / "base", Tokenizer.bytes())


GOOD = {"instruction": "q", "output": "a"}
TOO_LONG = {"instruction": "why? " * 40, "output": "so"}
CUT = {"instruction": "q", "output": "so " * 40}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def settings(data, **changes):
    return SftSettings(model="base", data=data, loop=loop(SftLoop, steps=2), **changes)


def run(given, base, workdir):
    """The figures, and what was said."""
    progress = Told()
    return SFT_STAGE.run(given, StageContext(workdir, base, 0, progress)), progress.lines


def test_naming_one_key_keeps_the_other_defaults():
    recipe = {"model": "m", "loop": {"optimizer": {"learning_rate": 0.003}, "schedule": {"final_fraction": 0.1}}}
    named = SftSettings.model_validate(recipe).loop
    assert named.optimizer == SftOptimizer(learning_rate=0.003)
    assert named.optimizer.weight_decay == 0
    assert named.schedule == SftSchedule(final_fraction=0.1)
    assert (named.schedule.warmup_fraction, named.schedule.decay_shape) == (0.03, "linear")
    # A recipe.yaml that was written with all keys reads as the same settings.
    assert SftSettings.model_validate_json(SftSettings.model_validate(recipe).model_dump_json()).loop == named


def test_the_schema_shows_the_defaults_of_fine_tuning():
    text = describe(SFT_STAGE)
    for line in (
        r"learning_rate: .*0\.001",
        r"weight_decay: .*0\.0",
        "warmup_fraction: .*0.03",
        'decay_shape: .*linear"$',
    ):
        assert re.search(line, text, re.MULTILINE), line


@pytest.mark.parametrize("number", [0, 3, 9])
def test_a_row_with_nothing_to_train_on_is_refused_in_either_share(base, tmp_path, number):
    rows = [GOOD] * 10
    rows[number] = TOO_LONG
    given = settings(write(tmp_path / "f.jsonl", rows), validation_fraction=0.5)
    with pytest.raises(HanlinError, match=rf"(?s)1 of 10 .*f\.jsonl, row {number + 1} \(line {number + 1}\): .*beyond"):
        run(given, base, tmp_path / "work")


def test_a_validation_share_with_nothing_to_train_on_is_none(base, tmp_path):
    from hanlin.data.order import permutation

    rows = [GOOD] * 10
    rows[int(permutation(10, "validation")[0])] = TOO_LONG
    given = settings(write(tmp_path / "f.jsonl", rows), validation_fraction=0.1, on_empty="drop")
    assert Prepared(given, StageContext(tmp_path / "prepared", base)).validation is None
    figures, said = run(given, base, tmp_path / "work")
    assert figures["data"]["validation"] == figures["data"]["dropped"] == 1
    assert "there is no validation data" in figures["warnings"][-1]
    assert any("1 of 10 conversations are left out" in line for line in said)


def test_nothing_held_out(base, tmp_path):
    given = settings(write(tmp_path / "f.jsonl", [GOOD] * 4), validation_fraction=0.0)
    assert Prepared(given, StageContext(tmp_path / "work", base)).validation is None


def test_data_of_which_nothing_is_left_is_refused_with_the_reason(base, tmp_path):
    given = settings(write(tmp_path / "f.jsonl", [TOO_LONG] * 3), on_empty="drop")
    with pytest.raises(HanlinError, match=r"no conversation to train on .*all 3 .*f\.jsonl, row 1 \(line 1\)"):
        run(given, base, tmp_path / "work")


def test_what_is_left_out_or_cut_is_said(base, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "README.md").write_text("---\nlicense: mit\n---\n# Questions\n")
    rows = [GOOD, {"instruction": "q", "output": ""}, GOOD, TOO_LONG, CUT, TOO_LONG, GOOD]
    write(data / "rows.jsonl", rows)
    given = settings(str(data), on_empty="drop", validation_fraction=0.5)
    figures, said = run(given, base, tmp_path / "work")
    notes = said[:4]
    assert notes == figures["data"]["notes"]
    assert notes[0].startswith("1 of 2 files are left out; the first: README.md: the file begins with '---")
    assert notes[1] == (
        "1 of 7 rows can't be used; the first: rows.jsonl, row 2 (line 2): alpaca: the assistant says nothing: "
        "there is nothing to train on"
    )
    assert notes[2].startswith("2 of 6 conversations are left out, with nothing to train on in rows of 64; ")
    assert "the first: rows.jsonl, row 4 (line 4): " in notes[2]
    assert notes[3].startswith("1 of 6 conversations are cut to rows of 64; the first: rows.jsonl, row 5 (line 5): ")
    assert figures["data"]["dropped"] == 2 and figures["data"]["truncated"] == 1
    # A run that goes on where it stopped says it again: its console is a new one.
    assert run(given, base, tmp_path / "work")[1][:4] == notes


def test_whole_data_says_nothing_of_losses(base, tmp_path):
    figures, _ = run(settings(write(tmp_path / "f.jsonl", [GOOD] * 4)), base, tmp_path / "work")
    assert figures["data"]["notes"] == []


def test_a_template_that_does_not_round_trip_is_named_as_such(tmp_path):
    """One whose generation prompt opens a thought that the answered conversation does not have."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    )
    base = make_base(tmp_path / "base", Tokenizer.bytes().with_chat_template(template))
    given = settings(write(tmp_path / "f.jsonl", [GOOD]))
    with pytest.raises(
        HanlinError, match=r"does not round-trip at message 2 \(assistant\): the prompt for this answer"
    ):
        run(given, base, tmp_path / "work")
