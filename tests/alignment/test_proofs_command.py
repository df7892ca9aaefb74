"""`hanlin prove`: its table, its file, and how it ends."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from hanlin.alignment.proofs.proofs import PROOFS
from hanlin.cli.prove import show
from tests.processes import hanlin


def test_it_prints_the_table_and_writes_it(tmp_path: Path) -> None:
    ended = hanlin("prove", "--only", "rrhf", "--only", "reward", "--seeds", "2", "--json", tmp_path / "table.json")
    assert ended.returncode == 0, ended.stderr
    assert "RRHF" in ended.stdout and "reward model, all pairs" in ended.stdout
    assert "3 of 4: reward, seed 0" in ended.stderr
    rows = json.loads((tmp_path / "table.json").read_text())["proofs"]
    assert [(row["proof"], row["seed"]) for row in rows] == [("rrhf", 0), ("rrhf", 1), ("reward", 0), ("reward", 1)]
    assert all(row["holds"] and 0 <= row["distance"] <= row["bound"] < row["control"] for row in rows)


def test_a_name_that_is_not_there_is_refused_with_the_list() -> None:
    ended = hanlin("prove", "--only", "rrhf", "--only", "nothing")
    assert ended.returncode == 2
    assert "'nothing'" in ended.stderr and all(name in ended.stderr for name in PROOFS)
    assert not ended.stdout


def test_ctrl_c_ends_it_with_what_is_known(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [sys.executable, "-m", "hanlin.cli.main", "prove", "--only", "rrhf", "--only", "ppo", "--seeds", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(tmp_path)},
        # A parent that ignores the signal (a shell's background job) passes that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("2 of 2: ppo"):
            break
    running.send_signal(signal.SIGINT)
    out, rest = running.communicate(timeout=120)
    assert running.returncode == 130
    assert rest.splitlines()[-1] == "hanlin: stopped." and "Traceback" not in rest
    assert "RRHF" in out and "PPO" not in out


def test_the_table_is_readable_at_80_columns() -> None:
    """No cell is cut or broken, whatever the proof's name."""
    text = io.StringIO()
    names = ["robust DPO, 20 % flipped", "reward model, all pairs", "best of 4, 781 answers"]
    rows: list[dict[str, Any]] = [
        {
            "proof": name,
            "name": name,
            "seed": 12,
            "distance": 1.23e-15,
            "bound": 1.2e-4,
            "control": 0.0123,
            "least_control": 0.0012,
            "holds": name != names[1],
            "what": "a long explanation of E[sign(r - r')], what is measured " * 4,
            "note": "slope -1.01",
        }
        for name in names
    ]
    show(rows, Console(file=text, width=80))
    lines = text.getvalue().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert "E[sign(r - r')]" in text.getvalue() and "  seed 12: slope -1.01" in lines
    for name in names:
        assert any(f"{'✗' if name == names[1] else '✓'} {name} " in line and "≥ 0.0012" in line for line in lines)
