"""`own-text` with one dial: from a folder of text and minutes to a model, and what is decided is decided once."""

import gzip
import json
import shutil

import pytest
import yaml

from hanlin.artifacts import Artifact, HanlinError, StageContext, UsageError
from hanlin.data import rendered
from hanlin.data.rendered import render_conversations
from hanlin.forecasting import dial
from hanlin.recipes import runner
from hanlin.recipes.recipe import load_recipe, steps
from hanlin.recipes.runner import Reporter, run_recipe, write_recipe
from hanlin.training.pretrain import PretrainSettings
from hanlin.training.settings import LoopSettings

MINUTES = 0.5


class Watcher(Reporter):
    def __init__(self):
        self.made = []

    def end(self, name, artifact, reused):
        if not reused:
            self.made.append(name)


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    words = ("boats", "bread", "light", "north", "people", "rain", "river", "sang", "slow", "town", "built", "the")
    for number in range(300):
        lines = (
            " ".join(words[(number * 7 + line * line + step * (1 + number % 4)) % len(words)] for step in range(12))
            for line in range(12)
        )
        (folder / f"{number}.txt").write_text(f"Letter {number}. " + ". ".join(lines), encoding="utf-8")
    rows = [
        {"messages": [{"role": "user", "content": f"Say {n}."}, {"role": "assistant", "content": f"It is {n}."}]}
        for n in range(80)
    ]
    (folder.parent / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return folder


def recipe(texts, *more):
    small = ["tokenizer.vocabulary_size=400", "base.loop.sequence_length=128", "chat.loop.sequence_length=128"]
    chats = texts.parent / "chats.jsonl"
    return load_recipe(
        "own-text", [f"corpus.inputs={texts}", f"chat.data={chats}", f"minutes={MINUTES}", *small, *more]
    )


@pytest.fixture(scope="module")
def run(texts, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "own"
    readings = []

    def render(*arguments):
        readings.append(arguments)
        return render_conversations(*arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered, "render_conversations", render)
        run_recipe(recipe(texts), out)
    assert len(readings) == 1  # what resolving the settings has read is what is trained on
    return out


def test_minutes_decide_everything_and_are_kept(run):
    out = run
    resolved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))
    base = resolved["stages"]["base"]
    assert isinstance(base["model"], dict) and base["model"]["hidden_size"] >= 64
    # The test machine's speed is not known: how well the time is kept is measured in docs/benchmarks.md.
    assert base["loop"]["steps"] >= 10 and base["loop"]["rows"] >= 1
    figures = Artifact.load(out / "base").figures
    assert figures["validation"]["last"]["bits_per_byte"] < figures["validation"]["first"]["bits_per_byte"]
    tasks = Artifact.load(out / "chat-exam").figures["tasks"]
    assert set(tasks) == {"corpus/bits-per-byte", "corpus/cloze"}


def test_the_same_command_or_the_resolved_recipe_makes_nothing_anew(run, texts):
    out = run
    for again in (recipe(texts), load_recipe(str(out / "recipe.yaml"), []), recipe(texts)):
        watcher = Watcher()
        run_recipe(again, out, watcher)
        assert watcher.made == []


def test_the_steps_that_fitted_are_in_the_recipe_and_are_the_same_run_elsewhere(run, tmp_path):
    resolved = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))["stages"]["base"]["loop"]
    base = Artifact.load(run / "base")
    assert resolved["seconds"] is None and base.manifest.begun_as is not None
    assert resolved["steps"] == base.manifest.settings["loop"]["steps"] == base.figures["steps"]
    run_recipe(load_recipe(str(run / "recipe.yaml"), ["exam.base.tasks=[corpus/cloze]"]), tmp_path / "again")
    again = Artifact.load(tmp_path / "again" / "base")
    assert (again.id, again.manifest.content) == (base.id, base.manifest.content)
    assert again.manifest.begun_as is None


def test_killed_before_it_is_noted_what_was_settled_nothing_is_made_anew(run, texts, tmp_path, monkeypatch):
    out = shutil.copytree(run, tmp_path / "run", symlinks=True)
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))
    planned = []
    settle = runner._Ledger.settle

    def killed(ledger, name, before, after):
        planned.append(before)
        raise KeyboardInterrupt

    monkeypatch.setattr(runner._Ledger, "settle", killed)
    shutil.rmtree(out / "base")
    request["decisions"] = {
        key: decision for key, decision in request["decisions"].items() if decision["stage"] != "base"
    }
    (out / "request.json").write_text(json.dumps(request), encoding="utf-8")
    with pytest.raises(KeyboardInterrupt):
        run_recipe(recipe(texts), out)
    assert planned[0]["loop"]["seconds"] is not None
    made = Artifact.load(out / "base").id
    monkeypatch.setattr(runner._Ledger, "settle", settle)
    for _ in range(2):
        watcher = Watcher()
        run_recipe(recipe(texts), out, watcher)
        assert "base" not in watcher.made and Artifact.load(out / "base").id == made
    resolved = yaml.safe_load((out / "recipe.yaml").read_text(encoding="utf-8"))["stages"]["base"]["loop"]
    assert resolved["seconds"] is None and resolved["steps"] == Artifact.load(out / "base").figures["steps"]


def test_how_much_fine_tuning_will_read_is_known_before_pretraining_is_planned(texts, tmp_path):
    given = recipe(texts, "minutes=2")
    ordered = steps(given)
    plan = runner._Plan(given, ordered, tmp_path, Reporter(), runner._Ledger.open(tmp_path))
    base = next(step for step in ordered if step.name == "base")
    chats = texts.parent / "chats.jsonl"
    assert plan.bytes_to_come(base) == 3 * chats.stat().st_size
    packed = texts.parent / "chats.jsonl.gz"
    packed.write_bytes(gzip.compress(chats.read_bytes()))
    for words in ((f"chat.data={packed}",), ("chat.pack=false",), ("chat.loop.steps=3",), (f"chat.world={tmp_path}",)):
        ordered = steps(recipe(texts, *words))
        plan = runner._Plan(given, ordered, tmp_path, Reporter(), runner._Ledger.open(tmp_path))
        assert plan.bytes_to_come(next(step for step in ordered if step.name == "base")) is None


def test_fine_tuning_keeps_half_of_its_share_when_pretraining_took_all_the_time(run, texts, tmp_path):
    given = recipe(texts, "minutes=10")
    ordered = steps(given)
    plan = runner._Plan(given, ordered, tmp_path, Reporter(), runner._Ledger.open(tmp_path))
    base, chat = (next(step for step in ordered if step.name == name) for name in ("base", "chat"))
    made = {step.name: Artifact.load(run / step.name) for step in ordered[: ordered.index(chat)]}
    plan.made = {name: artifact for name, artifact in made.items() if name not in ("base", "base-exam")}
    whole = plan.seconds_left(base)
    assert 0.8 * 540 * 0.9 < whole <= 0.8 * 540
    plan.made = made
    slow = made["base"].manifest.model_copy(update={"seconds": 700.0})
    plan.made["base"] = Artifact(made["base"].path, slow)
    assert plan.seconds_left(chat) == pytest.approx(0.5 * 0.2 * 600)
    quick = made["base"].manifest.model_copy(update={"seconds": 300.0})
    plan.made["base"] = Artifact(made["base"].path, quick)
    assert plan.seconds_left(chat) > 200


def test_what_fine_tuning_will_not_need_of_its_time_is_pretrainings(run, monkeypatch):
    monkeypatch.setattr(dial, "MEASURE_SECONDS", 0.1)
    monkeypatch.setattr(dial, "MEASURE_SHARE", 0.0)
    context = StageContext(run, {"data": Artifact.load(run / "tokens")}, seconds_left=8.0, later_seconds=30.0)
    settings = PretrainSettings(data="tokens", model="auto", loop=LoopSettings(sequence_length=128))
    kept = {}
    for later_bytes in (None, 1e9, 1000.0):
        context.later_bytes = later_bytes
        kept[later_bytes] = dial.resolve_with_dial(settings, context).loop.seconds
    # Measuring the machine takes from 8 seconds what it takes; what is not known, or is long, is given its whole time.
    assert 0 < kept[None] < 8 and 0 < kept[1e9] < 8
    # Of 30 seconds, ten are kept for reading.
    assert 20 * dial.MARGIN <= kept[1000.0] < 28


def test_another_exam_is_held_without_training_again(run, texts):
    watcher = Watcher()
    run_recipe(recipe(texts, "exam.base.tasks=[corpus/cloze]"), run, watcher)
    assert "base" not in watcher.made and "chat" not in watcher.made and "base-exam" in watcher.made


def test_more_instructions_are_all_learned_from(run, texts):
    out = run
    before = Artifact.load(out / "chat").manifest.settings["loop"]["steps"]
    chats = texts.parent / "chats.jsonl"
    kept = chats.read_text(encoding="utf-8")
    try:
        chats.write_text(kept + "\n" + kept.replace("Say", "Tell") + "\n" + kept.replace("Say", "Name"))
        watcher = Watcher()
        run_recipe(recipe(texts), out, watcher)
    finally:
        chats.write_text(kept, encoding="utf-8")
    assert "base" not in watcher.made and "chat" in watcher.made
    assert Artifact.load(out / "chat").manifest.settings["loop"]["steps"] > before


def test_steps_and_minutes_together_are_refused(run, texts):
    with pytest.raises(HanlinError, match="leave it out, or give a shape"):
        run_recipe(recipe(texts, "base.loop.steps=5"), run)


def test_a_file_that_is_not_there_is_named_before_anything_is_made(texts, tmp_path):
    with pytest.raises(UsageError, match=r"chat\.data: there is no file or folder"):
        run_recipe(recipe(texts, "chat.data=nowhere.jsonl"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_changed_while_it_is_read_is_read_again_by_the_next_run(run, texts, tmp_path, monkeypatch):
    out = shutil.copytree(run, tmp_path / "run", symlinks=True)
    chats = tmp_path / "chats.jsonl"
    old = (texts.parent / "chats.jsonl").read_text(encoding="utf-8")
    chats.write_text(old.replace("It is 1.", "It is one."), encoding="utf-8")
    added = '\n{"messages": [{"role": "user", "content": "Say 99."}, {"role": "assistant", "content": "It is 99."}]}'

    def render(*arguments):
        chats.write_text(chats.read_text(encoding="utf-8") + added, encoding="utf-8")
        monkeypatch.undo()
        return render_conversations(*arguments)

    monkeypatch.setattr(rendered, "render_conversations", render)
    words = recipe(texts, f"chat.data={chats}")
    run_recipe(words, out)
    first = Artifact.load(out / "chat")
    assert first.figures["data"]["rows"] == 80
    run_recipe(recipe(texts, f"chat.data={chats}"), out)
    second = Artifact.load(out / "chat")
    assert second.figures["data"]["rows"] == 81 and second.id != first.id


def test_an_exams_own_seed_is_in_the_resolved_recipe(texts, tmp_path):
    given = recipe(texts, "exam.base.seed=7")
    write_recipe(given, steps(given), tmp_path / "recipe.yaml")
    again = {step.name: step.seed for step in steps(load_recipe(str(tmp_path / "recipe.yaml")))}
    assert again["base-exam"] == 7 and again["base"] == 1


def test_a_device_that_is_not_there_is_named_before_anything_is_made(texts, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for key in ("chat.loop.device", "exam.chat.device"):
        with pytest.raises(UsageError, match="sees no GPU here"):
            run_recipe(recipe(texts, f"{key}=cuda"), tmp_path / "run")
    assert not (tmp_path / "run" / "corpus").exists()
