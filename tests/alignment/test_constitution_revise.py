"""Principles and templates read or refused; critique and revision by a script; stopped runs; real, if tiny, models."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from hanlin.alignment.constitution.principles import (
    Principle,
    draw_principle,
    library,
    load_principles,
    parse_principles,
)
from hanlin.alignment.constitution.revise import parse_revision
from hanlin.alignment.constitution.speaker import Ask, Choice, ModelSpeaker, Said
from hanlin.alignment.constitution.stage import CONSTITUTION_STAGE, ConstitutionSettings, fingerprint, make
from hanlin.alignment.constitution.texts import FIELDS, NAMES, Texts
from hanlin.alignment.preference import PREFERENCE_STAGE, AlignmentLoop, PreferenceSettings
from hanlin.alignment.prepared import PreferenceData, PreparedGroups
from hanlin.artifacts import HanlinError, StageContext, UsageError
from hanlin.artifacts.store import external
from hanlin.data import read_instructions
from hanlin.data.pairs import GroupsSource, RenderedGroups, render_rankings
from hanlin.data.preferences import Ranking, read_preferences, read_rankings
from hanlin.inference import load
from hanlin.recipes.registry import get_stage
from hanlin.recipes.schema import describe, with_absolute_files
from hanlin.tokenization import Tokenizer
from hanlin.training.sft import SFT_STAGE, SftLoop, SftSettings
from tests.alignment.test_constitution import Killed, Script, rows_of, write
from tests.alignment.toy import loop, make_model

# ---------------------------------------------------------------- principles


def test_principles_are_paragraphs():
    text = "# a file\nBe kind\nto all.\n\n  # between\n不要\n说谎。\n# inside\n也不要骂人。\n\n\nBe brief.\n"
    found = parse_principles(text, "own.txt")
    assert [one.text for one in found] == ["Be kind to all.", "不要说谎。也不要骂人。", "Be brief."]
    assert [one.place for one in found] == ["own.txt:2", "own.txt:6", "own.txt:12"]
    assert [one.language for one in found] == ["en", "zh", "en"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "holds no principle"),
        (b"# only\n# comments\n", "holds no principle"),
        (b"Be kind.\n\n1. 2. 3.\n", r"own\.txt:3: '1\. 2\. 3\.' has no letters"),
        (b"Be kind.\n\n" + b"long " * 500, r"own\.txt:3: this paragraph has 2,499 characters"),
        (b"Be kind.\n\nBe brief.\n\nBe kind.\n", r"own\.txt:5: this principle stands already at own\.txt:1"),
        (b"Be \xff kind.\n", "no UTF-8 text at byte 3"),
        (b"Be kind.\nBe\x00brief.\n", r"own\.txt:2: the character '\\x00'"),
    ],
)
def test_what_is_no_file_of_principles_is_refused(tmp_path, data, reason):
    (tmp_path / "own.txt").write_bytes(data)
    with pytest.raises(HanlinError, match=reason):
        load_principles([str(tmp_path / "own.txt")])


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(UsageError, match="'genral'; did you mean 'general'"):
        load_principles(["genral"])


def test_the_library_is_read_in_both_languages():
    assert library() == ["general", "harmless"]
    for name in library():
        languages = [one.language for one in load_principles([name])]
        assert languages.count("en") == languages.count("zh") >= 7
    assert len(load_principles(library())) == 34


def test_principles_are_drawn_by_hash_in_the_questions_language():
    principles = [Principle(f"English {number}", "f") for number in range(4)] + [Principle("要简短。", "f")]
    drawn = [draw_principle(principles, "en", 1, f"prompt {number}", 0) for number in range(400)]
    assert drawn == [draw_principle(principles, "en", 1, f"prompt {number}", 0) for number in range(400)]
    counts = [sum(one is principle for one in drawn) for principle in principles]
    assert counts[4] == 0 and all(70 < count < 130 for count in counts[:4])
    assert draw_principle(principles, "zh", 1).text == "要简短。"
    assert draw_principle(principles[:4], "zh", 1) in principles
    # Another seed and another round draw otherwise.
    assert drawn != [draw_principle(principles, "en", 2, f"prompt {number}", 0) for number in range(400)]
    assert drawn != [draw_principle(principles, "en", 1, f"prompt {number}", 1) for number in range(400)]


# ---------------------------------------------------------------- templates


def test_templates_of_both_languages_show_all_they_are_given():
    texts = Texts()
    for kind, fields in FIELDS.items():
        for language in ("en", "zh"):
            shown = texts.fill(kind, language, **{name: f"<{name}>" for name in fields})
            assert all(f"<{name}>" in shown for name in fields) and shown.endswith((":", "："))
    assert len(NAMES) == 8


def test_a_template_that_leaves_something_out_is_refused(tmp_path):
    (tmp_path / "choose.txt").write_text("{{ conversation }} {{ first }} {{ principle }} A or B?")
    with pytest.raises(HanlinError, match="does not show the second"):
        Texts(str(tmp_path))
    (tmp_path / "choose.txt").write_text("{{ conversation }} {{ fist }}")
    with pytest.raises(HanlinError, match="fist"):
        Texts(str(tmp_path))
    (tmp_path / "choose.txt").write_text("{{ conversation")
    with pytest.raises(HanlinError, match="is not a template"):
        Texts(str(tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="replaces no prompt"):
        Texts(str(tmp_path / "empty"))


# ---------------------------------------------------------------- critique and revision


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "Yes."),
        ("New answer: Yes.", "Yes."),
        ("**Revised response:** Yes.\nAnd no.", "Yes.\nAnd no."),
        ("修改后的回答：好的。", "好的。"),
        ("New answer:", None),
        ("Yes.\n\nCritique:\nIt is short.", None),
        ("好。\n批评：太短。", None),
        ("New answer: Revision: Yes.", None),
        ("The answer is: yes.", "The answer is: yes."),
    ],
)
def test_what_counts_as_a_revision(text, expected):
    assert parse_revision(text) == expected


def prompts(path: Path, count: int) -> str:
    return write(path, [{"prompt": f"How much is {number}?"} for number in range(count)])


def revise(folder: Path, speaker: Any, data: str, judge: Any = None, **settings: Any) -> dict[str, Any]:
    known = {"do": ["revise"], "model": "m", "data": data, **settings}
    folder.mkdir(exist_ok=True)
    return make(ConstitutionSettings(**known), StageContext(folder, {}, 7), speaker, judge or speaker)


def test_a_revision_is_written_with_all_its_way(tmp_path):
    found = revise(tmp_path / "out", Script(), prompts(tmp_path / "p.jsonl", 6), rounds=3)
    rows = rows_of(tmp_path / "out/instructions.jsonl")
    assert len(rows) == 6 and found["revise"]["account"]["kept"] == 6
    texts = {one.text for one in load_principles(["general"]) if one.language == "en"}
    drawn = []
    for number, row in enumerate(rows):
        about = row["metadata"]
        first = float(about["initial"].split()[1])
        assert [one["answer"] for one in about["rounds"]] == [f"worth {first + turn:g}" for turn in range(3)]
        assert row["messages"] == [
            {"role": "user", "content": f"How much is {number}?"},
            {"role": "assistant", "content": f"worth {first + 3:g}"},
        ]
        assert all(one["critique"] == "It is too small." and one["principle"] in texts for one in about["rounds"])
        assert all(one["place"].startswith("general.txt:") for one in about["rounds"])
        assert about["row"] == number + 1 and about["file"] == "p.jsonl" and not about["unchanged"]
        drawn += [one["principle"] for one in about["rounds"]]
    assert len(set(drawn)) > 3
    assert found["cost"]["critiques"]["asks"] == 18 and found["cost"]["revisions"]["asks"] == 18
    conversations, report = read_instructions(tmp_path / "out/instructions.jsonl")
    assert report.read == 6 and not report.quarantined and len(conversations) == 6


def test_a_row_does_not_depend_on_its_neighbours(tmp_path):
    few, many = prompts(tmp_path / "few.jsonl", 3), prompts(tmp_path / "many.jsonl", 9)
    revise(tmp_path / "a", Script(), few, rounds=2)
    revise(tmp_path / "b", Script(), many, rounds=2, batch=2)
    ours, theirs = rows_of(tmp_path / "a/instructions.jsonl"), rows_of(tmp_path / "b/instructions.jsonl")[:3]
    for one, other in zip(ours, theirs):
        assert one["messages"] == other["messages"] and one["metadata"]["rounds"] == other["metadata"]["rounds"]


def test_what_cannot_be_revised_is_dropped_and_counted(tmp_path):
    class Bad(Script):
        """Answer, critique or revision, by the number in the question, is of no use."""

        def say(self, asks: Any) -> list[Said]:
            found = []
            for ask in asks:
                text = ask.messages[-1]["content"]
                number = int(text.split("How much is ")[1].split("?")[0])
                kind = "critique" if text.endswith("Critique:") else "revise" if text.endswith("answer:") else "answer"
                bad = {
                    ("answer", 0): Said("", fits=False),
                    ("answer", 1): Said(" "),
                    ("critique", 2): Said("\n"),
                    ("revise", 3): Said(""),
                    ("revise", 4): Said("and so on", whole=False),
                    ("revise", 5): Said("New answer:"),
                    ("revise", 6): Said("", fits=False),
                }
                found.append(bad.get((kind, number), Said("fine")))
            return found

    found = revise(tmp_path / "out", Bad(), prompts(tmp_path / "p.jsonl", 8))
    account = found["revise"]["account"]
    assert account["in"] == 8 and account["kept"] == 1 and account["balanced"]
    assert account["reasons"] == {
        "empty_answer": 1,
        "empty_critique": 1,
        "empty_revision": 1,
        "prompt_too_long": 1,
        "revision_too_long": 1,
        "unfinished": 1,
        "unparsable": 1,
    }
    assert found["revise"]["unchanged"] == 1
    dropped = rows_of(tmp_path / "out/revise/dropped.jsonl")
    assert len(dropped) == 7 and all("initial" in one["row"] for one in dropped if one["reason"] == "unparsable")


def test_the_judge_criticises_and_the_model_revises(tmp_path):
    model, judge = Script(), Script()
    revise(tmp_path / "out", model, prompts(tmp_path / "p.jsonl", 2), judge=judge)
    assert len(judge.asked) == 2 and all(text.endswith("Critique:") for text in judge.asked)
    assert sum(text.endswith("New answer:") for text in model.asked) == 2
    model, judge = Script(), Script()
    revise(tmp_path / "other", model, prompts(tmp_path / "p.jsonl", 2), judge=judge, reviser="judge")
    assert len(judge.asked) == 4 and len(model.asked) == 2


def test_earlier_answers_of_a_conversation_are_not_learned(tmp_path):
    asked = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "How much is 1?"},
    ]
    revise(tmp_path / "out", Script(), write(tmp_path / "p.jsonl", [{"prompt": asked}]))
    messages = rows_of(tmp_path / "out/instructions.jsonl")[0]["messages"]
    assert [one.get("weight") for one in messages] == [None, 0, None, None]
    conversation = read_instructions(tmp_path / "out/instructions.jsonl")[0][0]
    assert conversation.metadata["untrained_answers"] == [0]


def test_prompts_are_accounted_for(tmp_path):
    rows: list[dict[str, Any]] = [{"prompt": f"How much is {number % 5}?"} for number in range(10)]
    found = revise(tmp_path / "out", Script(), write(tmp_path / "p.jsonl", [*rows, {"foo": 1}]), most_prompts=3)
    reading = found["reading"]
    assert reading["in"] == 11 and reading["kept"] == 3 and reading["balanced"]
    assert reading["reasons"] == {"duplicate": 5, "surplus": 2, "unreadable": 1}


# ---------------------------------------------------------------- stopped and begun again


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and "pieces" not in path.parts
    }


def test_a_killed_run_ends_with_the_same_bytes(tmp_path):
    data = prompts(tmp_path / "p.jsonl", 9)
    pairs = write(tmp_path / "c.jsonl", [{"prompt": "q", "chosen": "worth 2", "rejected": "worth 1"}])
    settings = {"do": ["revise", "label"], "rounds": 2, "samples": 3, "batch": 4, "check": pairs}
    whole = Script()
    expected = revise(tmp_path / "whole", whole, data, **settings)
    assert whole.calls > 20
    speaker = Script()
    for dies_at in range(1, whole.calls + 1):
        # It dies in one call after the other; what was done before is not done again.
        speaker.calls, speaker.dies_at = 0, 2 if dies_at > 1 else 1
        with pytest.raises(Killed):
            revise(tmp_path / "stopped", speaker, data, **settings)
        assert speaker.calls == speaker.dies_at
        if len(list((tmp_path / "stopped/pieces").rglob("*.json"))) == whole.calls - 1:
            break
    speaker.calls, speaker.dies_at = 0, None
    found = revise(tmp_path / "stopped", speaker, data, **settings)
    assert speaker.calls == 1
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "stopped")
    assert json.dumps(found) == json.dumps(expected)
    assert {"instructions.jsonl", "preferences.jsonl", "labels.jsonl", "card.json"} <= set(files_of(tmp_path / "whole"))


# ---------------------------------------------------------------- models


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of random weights, but with room for the templates and an end of turn that comes soon."""
    from hanlin.models import Transformer
    from hanlin.models.hub import save_model
    from tests.alignment.toy import tiny_config

    folder = tmp_path_factory.mktemp("model")
    tokenizer = Tokenizer.bytes()
    module = Transformer(tiny_config(tokenizer, max_positions=4096))
    module.init_weights(5)
    save_model(folder, module, tokenizer)
    return external(folder)


def test_a_models_choice_is_the_probability_of_the_letter(model):
    speaker = ModelSpeaker(model, "auto", "float32", "cpu")
    questions = ["Which? A or B", "哪一个？"]
    found = speaker.choose(questions, ("A", "B"))
    language = load(model.path, device="cpu")
    for question, choice in zip(questions, found):
        ids = language.request(question).prompt_ids
        with torch.inference_mode():
            module = language.engine.model

            def after(tokens: list[int]) -> torch.Tensor:
                return module.logits(module.hidden(torch.tensor([tokens])))[0].float().log_softmax(-1)  # noqa: B023 (called before the loop goes on)

            plain = after(list(ids))[-1]
            spaced = after([*ids, 32])[-1]
        for letter, log in zip("AB", choice.logs):
            expected = plain[ord(letter)].exp() + plain[32].exp() * spaced[ord(letter)].exp()
            assert math.exp(log) == pytest.approx(float(expected), rel=1e-4)
        assert choice.read == len(ids) and choice.mass == pytest.approx(sum(map(math.exp, choice.logs)))


def test_a_model_that_is_no_chat_model_goes_on_from_the_text(model):
    plain = ModelSpeaker(model, False, "float32", "cpu")
    language = load(model.path, device="cpu")
    text = "Better answer:"
    expected = language.engine.score([(language.request(text, raw=True).prompt_ids, [ord("A")])])[0][0]
    spaced = language.engine.score([(language.request(text, raw=True).prompt_ids, list(b" A"))])[0]
    log = plain.choose([text], ("A", "B"))[0].logs[0]
    assert math.exp(log) == pytest.approx(math.exp(expected) + math.exp(sum(spaced)), rel=1e-4)


def test_what_is_too_long_for_a_model_is_said_to_be(tmp_path):
    speaker = ModelSpeaker(make_model(tmp_path / "small"), "auto", "float32", "cpu")  # 256 positions
    long = "x" * 300
    assert speaker.choose([long, "short"], ("A", "B"))[0] == Choice(fits=False)
    said = speaker.say([Ask([{"role": "user", "content": long}], 0, 4), Ask([{"role": "user", "content": "y"}], 0, 4)])
    assert not said[0].fits and said[1].fits and said[1].written > 0
    # And its labels are dropped under that name.
    pairs = write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": long, "rejected": "no"}])
    settings = ConstitutionSettings(do=["label"], judge="j", pairs=pairs)
    (tmp_path / "out").mkdir()
    with pytest.raises(HanlinError, match="1 too_long_for_judge"):
        make(settings, StageContext(tmp_path / "out", {}, 0), None, speaker)


def test_words_that_begin_alike_are_refused(model):
    with pytest.raises(HanlinError, match="can't be told apart"):
        ModelSpeaker(model, "auto", "float32", "cpu").choose(["q"], ("1", "10"))


@pytest.fixture(scope="module")
def made(model, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(what the stage made, its figures) with a tiny random model as everything."""
    folder = tmp_path_factory.mktemp("made")
    data = write(folder / "p.jsonl", [{"prompt": f"{number}?"} for number in range(40)])
    check = write(folder / "c.jsonl", [{"prompt": "q", "chosen": f"yes {n}", "rejected": "no"} for n in range(5)])
    settings = ConstitutionSettings(
        model="m", data=data, check=check, least_mass=0.0, max_new_tokens=200, batch=16, device="cpu"
    )
    context = StageContext(folder / "out", {"model": model}, 1)
    (folder / "out").mkdir()
    return folder / "out", CONSTITUTION_STAGE.run(settings, context)


def test_a_whole_run_with_a_model(made):
    out, figures = made
    assert figures["reading"]["kept"] == 40
    for part in ("revise", "label"):
        assert figures[part]["account"]["balanced"] and figures[part]["account"]["kept"] > 0
    instructions, report = read_instructions(out / "instructions.jsonl")
    assert len(instructions) == figures["revise"]["written"] and not report.quarantined
    preferences, report = read_preferences(out / "preferences.jsonl")
    assert len(preferences) == figures["label"]["account"]["kept"] and not report.quarantined
    for one in preferences:
        assert one.confidence is not None and one.margin is not None
        assert one.confidence == pytest.approx(1 / (1 + math.exp(-one.margin)))
    card = figures["card"]
    assert card["labels"]["comparisons"] == len(preferences) + card["labels"]["ties"]
    assert card["people"]["comparisons"] == 5 and card["agreement"]["people"]["kappa"]["n"] == 5
    assert figures["cost"]["answers"]["asks"] == 80 and figures["cost"]["labels"]["read"] > 0


def test_what_is_made_can_be_learned(made, tmp_path):
    out, _ = made
    base = make_model(tmp_path / "base")
    for name in ("preference", "sft"):
        (tmp_path / name).mkdir()
    inputs = {"model": base, "preferences": external(out)}
    settings = PreferenceSettings(model="b", preferences="c", loop=loop(AlignmentLoop, steps=2, sequence_length=256))
    figures = PREFERENCE_STAGE.run(settings, StageContext(tmp_path / "preference", inputs, 1))
    assert figures["steps"] == 2
    inputs = {"model": base, "instructions": external(out)}
    given = SftSettings(model="b", instructions="c", loop=loop(SftLoop, steps=2, sequence_length=256))
    assert SFT_STAGE.run(given, StageContext(tmp_path / "sft", inputs, 1))["steps"] == 2


# ---------------------------------------------------------------- soft labels on their way to the loss


def test_confidence_comes_with_the_batch(tmp_path):
    rows: list[dict[str, Any]] = [
        {"prompt": f"q {n}", "chosen": "yes", "rejected": "no", "metadata": {"confidence": 0.5 + n / 20}}
        for n in range(8)
    ]
    rows.append({"prompt": "q 8", "chosen": "yes", "rejected": "no", "confidence": "high"})
    preferences, report = read_preferences(Path(write(tmp_path / "p.jsonl", rows)))
    assert not report.quarantined
    given = [0.5 + n / 20 for n in range(8)]
    assert [one.confidence for one in preferences] == [*given, None]
    rankings = [Ranking.of(one) for one in preferences]
    rendered, _ = render_rankings(rankings, Tokenizer.bytes(), 64)
    rendered.save(tmp_path / "groups")
    for groups in (rendered, RenderedGroups.load(tmp_path / "groups")):
        source = GroupsSource(groups, 9, 0)
        batch = source.step(0)
        expected = torch.tensor([*given, 1.0], dtype=torch.float64)[source.indices(0)].repeat_interleave(2)
        assert torch.equal(batch.of_sequence["confidence"], expected)
        # Also of a batch in which none is in doubt, so that all steps are alike.
        assert groups.sequences([8]).of_sequence["confidence"].tolist() == [1.0, 1.0]
        assert groups.select([3, 8]).sequences([0]).of_sequence["confidence"].tolist() == pytest.approx([0.65] * 2)
        assert "confidence" not in groups.select([8]).sequences([0]).of_sequence


def test_without_soft_labels_nothing_is_added(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "q", "chosen": "yes", "rejected": "no"}])
    rendered, _ = render_rankings([Ranking.of(one) for one in read_preferences(Path(path))[0]], Tokenizer.bytes(), 64)
    rendered.save(tmp_path / "groups")
    assert not (tmp_path / "groups/groups.confidence.npy").exists()
    assert set(RenderedGroups.load(tmp_path / "groups").sequences([0]).of_sequence) == {"scores"}


@pytest.mark.parametrize("confidence", [0.3, 1.5, 4, "high", True])
def test_a_confidence_that_is_no_probability_is_refused(tmp_path, confidence):
    good = {"prompt": "q", "chosen": "yes", "rejected": "no"}
    path = write(tmp_path / "p.jsonl", [good, {**good, "metadata": {"confidence": confidence}}])
    found, report = read_preferences(Path(path))
    assert len(found) == 1 and "metadata.confidence" in report.quarantined[0].reason


def test_judged_answers_have_no_confidence(tmp_path):
    path = write(tmp_path / "p.jsonl", [{"prompt": "q", "completion": "yes", "label": True}])
    assert read_rankings(Path(path))[0][0].confidence is None


def test_the_prepared_data_of_a_stage_has_it(tmp_path):
    rows = [{"prompt": f"q {n}", "chosen": "yes", "rejected": "no", "metadata": {"confidence": 0.75}} for n in range(4)]
    settings = PreferenceData(data=write(tmp_path / "p.jsonl", rows), validation_fraction=0.0)
    (tmp_path / "out").mkdir()
    prepared = PreparedGroups(settings, StageContext(tmp_path / "out", {}, 0), Tokenizer.bytes(), 64, "pairs")
    assert prepared.train.confidence.tolist() == [0.75] * 8


# ---------------------------------------------------------------- in a recipe


def test_it_is_a_kind_of_stage_with_described_settings(tmp_path, monkeypatch):
    assert get_stage("constitution") is CONSTITUTION_STAGE
    text = describe(CONSTITUTION_STAGE)
    assert all(f"  {name}: " in text for name in ConstitutionSettings.model_fields)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text("Be kind.\n")
    own = with_absolute_files("constitution", {"principles": ["general", "own.txt"]})
    assert own["principles"] == ["general", str(tmp_path / "own.txt")]


def test_what_is_in_the_files_counts(tmp_path):
    data = prompts(tmp_path / "p.jsonl", 2)
    own = tmp_path / "own.txt"
    own.write_text("Be kind.\n")
    settings = ConstitutionSettings(do=["revise"], model="m", data=data, principles=[str(own)])
    before = fingerprint(settings)
    assert before == fingerprint(settings)
    own.write_text("Be brief.\n")
    assert fingerprint(settings)["principles"] != before["principles"]
    prompts(tmp_path / "p.jsonl", 3)
    assert fingerprint(settings)["data"] != before["data"]
