"""The command from outside: what it prints, and with which status it ends."""

import json
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import hanlin as package
from hanlin.cli.chat import _fitting
from hanlin.cli.console import ConsoleReporter, _Bar
from tests.conftest import SMALL_WORLD
from tests.processes import hanlin


def test_help_is_there_at_once_and_imports_nothing_heavy():
    def asked(module):
        begun = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", module, "--help"], check=True, capture_output=True, text=True)
        return time.perf_counter() - begun, done.stdout

    took, said = zip(*(asked("hanlin.cli.main") for _ in range(3)))
    assert all("own-text" in text for text in said)
    bare, _ = zip(*(asked("typer") for _ in range(3)))
    # Measured against typer's own help in the same minute: absolute times say more of the machine than of the command.
    assert statistics.median(took) < 2 * statistics.median(bare)
    heavy = "('torch', 'numpy', 'pyarrow', 'transformers', 'yaml', 'pydantic')"
    code = f"import sys, hanlin.cli.main; print([m for m in {heavy} if m in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
    code = "import sys, hanlin.cli.console; print('torch' in sys.modules)"  # what `hanlin results` and `lineage` need
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"


def test_a_service_starts_without_torchs_compiler():
    """Which takes as long to import as torch itself, and is nothing that an engine uses."""
    code = "import sys, hanlin.serving.launch; print(*(name in sys.modules for name in ('torch', 'torch._dynamo')))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["True", "False"]


def test_a_run_has_a_directory_a_stage_and_a_recipe_without_auto(small_run):
    names = {path.name for path in small_run.iterdir()}
    assert {
        "world",
        "corpus",
        "tokenizer",
        "tokens",
        "base",
        "base-exam",
        "chat",
        "chat-exam",
        "reward",
        "ppo",
        "ppo-exam",
        "dpo",
        "dpo-exam",
        "recipe.yaml",
        "report.html",
    } <= names
    for model in ("base", "chat", "ppo", "dpo"):
        held = {path.name for path in (small_run / model).iterdir()}
        assert {"config.json", "model.safetensors", "tokenizer.json", "manifest.json", "generation_config.json"} <= held
        assert "checkpoints" not in held
    resolved = yaml.safe_load((small_run / "recipe.yaml").read_text())
    assert "auto" not in json.dumps(resolved)
    for model in ("base", "chat", "reward", "ppo", "dpo"):
        loop = resolved["stages"][model]["loop"]
        for name in ("steps", "micro_tokens", "evaluate_every", "checkpoint_every"):
            assert loop[name] > 0
        assert all(loop["optimizer"][f"{role}_learning_rate"] > 0 for role in ("embedding", "head", "scalar"))
    assert resolved["stages"]["base"]["model"]["vocabulary_size"] == 700


def test_what_is_done_is_not_done_again(small_run_alone):
    small_run = small_run_alone
    before = {path: path.stat().st_mtime_ns for path in small_run.glob("*/manifest.json")}
    done = hanlin("run", "world", *SMALL_WORLD, "--out", small_run)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("was done already") == 13
    # The end: the last exam's table, five questions with their answers, where the report is, what to type next.
    served = f"hanlin serve {small_run} --open"
    chat = f"hanlin chat {small_run}"
    for words in ("world/facts", "random weights", "questions and answers", "report.html", chat, served):
        assert words in done.stdout
    assert done.stdout.count("✓ ") + done.stdout.count("✗ ") >= 8 + 5
    assert {path: path.stat().st_mtime_ns for path in small_run.glob("*/manifest.json")} == before
    for model in ("chat", "ppo", "dpo"):
        assert f"hanlin chat {small_run}/{model}" in done.stdout.replace("\n", "")


def test_generate_prints_the_answer_alone_and_the_same_for_the_same_seed(small_run):
    words = ["generate", small_run / "chat", "--prompt", "Who wrote it?", "--max-new-tokens", 8]
    first, second = hanlin(*words, "--temperature", 1, "--seed", 5), hanlin(*words, "--temperature", 1, "--seed", 5)
    assert first.returncode == second.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    assert first.stderr == ""
    model = package.load(small_run / "chat")
    expected = model.generate("Who wrote it?", max_new_tokens=8, temperature=1.0, seed=5).text
    assert first.stdout == expected + "\n"
    raw = hanlin(*words, "--raw", "--dtype", "bfloat16")
    assert raw.returncode == 0, raw.stderr


def test_chat_answers_each_line(small_run):
    done = hanlin("chat", small_run / "chat", "--max-new-tokens", 4, stdin="hello\n/undo\n/new\nhello\n/quit\n")
    assert done.returncode == 0, done.stderr


def test_chat_leaves_out_the_oldest_turns_of_a_long_conversation():
    class Model:
        config = SimpleNamespace(max_positions=100)

        def chat_request(self, messages):
            return SimpleNamespace(prompt_ids=range(sum(len(one["content"]) for one in messages)))

    roles = ("system", "user", "assistant", "user", "assistant", "user")
    turns = [{"role": role, "content": "x" * 20} for role in roles]
    assert _fitting(Model(), turns[1:3], 0, 30) == turns[1:3]
    assert _fitting(Model(), turns, 1, 30) == [turns[0], turns[5]]
    assert _fitting(Model(), turns, 1, 20) == [turns[0], *turns[3:]]
    assert _fitting(Model(), [*turns[:1], {"role": "user", "content": "x" * 500}], 1, 30)[-1]["content"] == "x" * 500


def test_eval_writes_every_figure_with_its_interval(small_run, tmp_path):
    file = tmp_path / "figures.json"
    done = hanlin("eval", small_run / "chat", "--tasks", "world/facts", "world/addition", "--json", file)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())["tasks"]
    assert set(figures) == {"world/facts", "world/addition"}
    for metrics in figures.values():
        for entry in metrics.values():
            assert entry["low"] <= entry["value"] <= entry["high"]
            assert entry["n"] > 0


def test_results_have_the_form_that_programs_rely_on(small_run):
    found = json.loads(hanlin("results", small_run, "--json").stdout)
    facts = found["stages"]["chat"]["exams"]["world/facts"]["accuracy"]
    assert set(facts) >= {"value", "low", "high", "n"}
    assert found["stages"]["chat"]["before"]["world/facts"]["accuracy"]["n"] > 0
    assert found["stages"]["chat"]["how"]["world/facts"]["chat"] is True
    assert found["stages"]["base"]["figures"]["tokens_per_second"] > 0
    assert found["stages"]["corpus"]["figures"]["ledger"]["balanced"] is True
    assert found["figures"]["seconds"] > 0
    base, corpus = found["figures"]["base"], found["figures"]["corpus"]
    for name in ("steps", "tokens", "tokens_per_second", "flops_per_second", "seconds", "loss", "validation_loss"):
        assert base[name] > 0
    assert base["validation_bits_per_byte"] == found["stages"]["base"]["figures"]["validation"]["last"]["bits_per_byte"]
    assert corpus["ledger"]["records"] == found["stages"]["corpus"]["figures"]["ledger"]["records"]
    printed = " ".join(hanlin("results", small_run).stdout.split())
    for words in ("world/facts", "12 steps", "tokens/s", "bits/byte", f"{corpus['ledger']['records']['kept']:,} kept"):
        assert words in printed


def test_trace_leads_back_to_the_files(small_run):
    found = json.loads(hanlin("trace", small_run, "--step", 3, "--json").stdout)
    assert found["stage"] == "base"
    assert found["documents"]
    for piece in found["documents"]:
        file = small_run / "world/documents" / Path(piece["file"]).name
        with file.open("rb") as stream:
            stream.seek(piece["offset"])
            row = json.loads(stream.readline())
        assert row["source"] == piece["source"] or piece["source"] == file.stem
    taught = json.loads(hanlin("trace", small_run, "--step", 3, "--stage", "chat", "--json").stdout)["documents"][0]
    table = hanlin("trace", small_run, "--step", 3, "--stage", "chat").stdout
    assert "pieces of documents" in table and "record" in table
    assert taught["file"] in table and str(taught["record"]) in table
    outside = hanlin("trace", small_run, "--step", 999)
    assert outside.returncode == 1
    assert "there is no step 999" in outside.stderr


def test_lineage_names_every_input_and_notices_damage(small_run, tmp_path):
    tree = json.loads(hanlin("lineage", small_run / "chat", "--json").stdout)
    assert tree["inputs"]["model"]["inputs"]["data"]["inputs"]["corpus"]["inputs"]["world"]["kind"] == "world"
    printed = hanlin("lineage", small_run / "chat", "--check")
    assert printed.returncode == 0, printed.stderr
    for name in ("chat", "base", "tokens", "tokenizer", "corpus", "world"):
        assert name in printed.stdout
    missing = hanlin("lineage", tmp_path)
    assert missing.returncode == 1
    assert "not a finished artifact" in missing.stderr


def test_preview_shows_what_is_trained_on(small_run):
    done = hanlin("data", "preview", small_run / "world/instructions.jsonl", "--tokenizer", small_run / "tokenizer")
    assert done.returncode == 0, done.stderr
    assert "<|im_start|>" in done.stdout


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["run", "no-such-recipe"], 2, "no recipe"),
        (["run", "world", "world.entitis=60"], 2, "did you mean 'entities'"),
        (["run", "world", "nope=1"], 2, "no such key"),
        (["recipe", "show", "world", "exam.base=corpus/cloze"], 2, "`base: {tasks: [corpus/cloze]}`"),
        (["run", "world", "nonsense.key=1"], 2, "no stage 'nonsense'"),
        (["run", "own-text", "corpus.inputs=/no/such/folder"], 2, "/no/such/folder"),
        (["generate", "/no/such/model", "--prompt", "x"], 1, "/no/such/model"),
        (["generate"], 2, ""),
        (["nonsense"], 2, ""),
        (["eval", "/no/such/model", "--tasks", "world/facts"], 1, "/no/such/model"),
        (["results", "/no/such/run"], 1, "not a run directory"),
        (["data", "preview", "/no/such/file"], 1, "/no/such/file"),
    ],
)
def test_errors_are_explained_without_a_traceback(words, status, message, tmp_path):
    done = hanlin(*words, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert message in done.stderr.replace("\n", " ")


def test_recipe_show_says_where_each_value_comes_from():
    shown = hanlin("recipe", "show", "world", "seed=4", "base.loop.rows=8").stdout
    assert any("seed: 4" in line and "command line" in line for line in shown.splitlines())
    assert any("rows: 8" in line and "command line" in line for line in shown.splitlines())
    assert any("vocabulary_size" in line and "world.yaml:" in line for line in shown.splitlines())
    assert any("max_token_bytes" in line and "default" in line for line in shown.splitlines())
    schema = hanlin("recipe", "schema", "sft").stdout
    assert "learning_rate" in schema
    assert json.loads(hanlin("recipe", "schema", "corpus", "--json").stdout)["corpus"]["properties"]["inputs"]


def test_debug_shows_the_traceback(tmp_path):
    done = hanlin("--debug", "results", tmp_path)
    assert done.returncode == 1 and "Traceback" in done.stderr and "not a run directory" in done.stderr


def test_ctrl_c_ends_with_130_and_says_how_to_go_on(tmp_path):
    command = [sys.executable, "-m", "hanlin.cli.main", "run", "world", *SMALL_WORLD, "--out", str(tmp_path / "run")]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        # Tests that run in the background have Ctrl-C switched off, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 120
    while not (tmp_path / "run/world/manifest.json").is_file():
        assert time.monotonic() < deadline and running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == 130 and "Traceback" not in said
    assert "The same command goes on from where it was" in said


def test_the_time_left_is_that_of_the_present_rate(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    bar = _Bar(ConsoleReporter(), "base")
    assert bar.seconds_left() is None
    for second in range(200):
        now = 100.0 + second
        bar.update(second * 10 if second < 100 else 1000 + (second - 100) * 5, 2000)
    # 1,495 of 2,000 are done, the latest at 5 a second.
    assert bar.seconds_left() == pytest.approx(505 / 5, rel=0.25)
    now += 10
    assert bar.seconds_left() == pytest.approx(505 / 5 - 10, rel=0.25)
    bar.update(3, None)
    assert bar.seconds_left() is None
