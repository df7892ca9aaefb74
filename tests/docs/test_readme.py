"""Every command of the README and of the guides is run, in its order, in a folder like a newcomer's."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SMALL_WORLD
from tests.processes import hanlin

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


PAGES = ("README.md", "docs/guides.md")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module", params=PAGES)
def page(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folder(page, tmp_path_factory, small_run):
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


def write_files(page: str, folder: Path) -> None:
    """The files that a page shows, each named by a comment in its first line."""
    for block in [*blocks(page, "yaml"), *blocks(page, "json")]:
        name, _, content = block.partition("\n")
        (folder / name.removeprefix("# ")).write_text(content, encoding="utf-8")


def test_the_readme_begins_with_the_demo():
    assert commands("README.md")[0] == "make demo"
    assert all(len(commands(page)) >= 8 for page in PAGES)


def test_every_command_runs_and_then_the_python(page, folder, monkeypatch, capsys):
    """One test a page: the Python works on what the commands have made."""
    write_files(page, folder)
    for command in commands(page):
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

    monkeypatch.chdir(folder)
    assert blocks(page, "python")
    for block in blocks(page, "python"):
        exec(compile(block, page, "exec"), {})
    assert capsys.readouterr().out
