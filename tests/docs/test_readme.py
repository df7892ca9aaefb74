"""Every command of the README is run, in the README's order, in a folder like a newcomer's."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SMALL_WORLD, hanlin

ROOT = Path(__file__).parents[2]
SMALL_TEXT = [
    "tokenizer.vocabulary_size=500",
    "base.loop.steps=6",
    "base.loop.rows=4",
    "base.loop.sequence_length=64",
    "base.loop.compile=false",
    "chat.loop.steps=3",
    "chat.loop.compile=false",
    "chat.loop.sequence_length=128",
    "base.model={hidden_size: 32, layers: 1, heads: 1}",
]
"""What makes the runs of the README take seconds; everything else is as the README has it."""


def commands() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def python_blocks() -> list[str]:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_run):
    """A working folder with texts, instructions, and the demo's run where the README has it."""
    here = tmp_path_factory.mktemp("newcomer")
    texts = here / "texts"
    texts.mkdir()
    words = "the history of a small town beside the river where people bake bread and sing"
    words = re.findall(r"\w+", words)
    for number in range(40):
        line = " ".join(words[(number + step * (number % 5 + 1)) % len(words)] for step in range(120))
        (texts / f"{number}.txt").write_text(f"The history of {number}. {line}.\n", encoding="utf-8")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n}?"},
                {"role": "assistant", "content": f"A number: {n}."},
            ]
        }
        for n in range(60)
    ]
    (here / "chats.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    (here / "runs").mkdir()
    (here / "runs/world").symlink_to(small_run)
    return here


def test_the_readme_has_commands():
    assert len(commands()) >= 12
    assert commands()[0] == "make demo"


def test_every_command_of_the_readme_runs(folder):
    for command in commands():
        words = shlex.split(command)
        if words[0] == "make":
            plan = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True)
            assert plan.returncode == 0, plan.stderr
            assert "hanlin run world" in plan.stdout
            continue
        assert words[0] in ("hanlin", ".venv/bin/hanlin"), command
        arguments = words[1:]
        if arguments[:2] == ["run", "own-text"]:
            arguments += [one for one in SMALL_TEXT if "chat" not in one or "chat.data" in command]
        elif arguments[:2] == ["run", "world"]:
            arguments += SMALL_WORLD
        done = hanlin(*arguments, cwd=folder, stdin="hello\n")
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
        assert done.stdout, command


def test_the_python_of_the_readme_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    assert python_blocks()
    for block in python_blocks():
        exec(compile(block, "README.md", "exec"), {})
    capsys.readouterr()
