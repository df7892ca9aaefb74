"""Memory does not grow with the input."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest

BUILD = """
import sys
from pathlib import Path
from hanlin.artifacts import StageContext
from hanlin.corpus.build import STAGE, CorpusSettings
settings = CorpusSettings(inputs=sys.argv[1], validation_max_bytes=1 << 20)
figures = STAGE.run(settings, StageContext(Path(sys.argv[2]), {}))
# The peak of this program's own memory: ru_maxrss would count what the parent held before exec.
memory = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(figures["ledger"]["records"]["kept"], int(memory.split()[1]) // 1024)
"""


def peak(source: Path, workdir: Path) -> tuple[int, int]:
    """Documents kept, and the peak of resident memory in MiB, in a process of its own."""
    workdir.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, str(source), str(workdir)], capture_output=True, text=True, check=True
    )
    kept, memory = done.stdout.split()
    return int(kept), int(memory)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
@pytest.mark.parametrize("form", ["jsonl", pytest.param("json.gz", marks=pytest.mark.slow)])
def test_300_megabytes_more_take_no_more_memory(tmp_path: Path, form: str) -> None:
    def write(path: Path, count: int) -> Path:
        texts = (f"{number} " + "The river was wide and slow. " * 330 for number in range(count))
        rows = (json.dumps({"text": text, "language": "en"}) for text in texts)
        if form == "jsonl":
            path.write_text("\n".join(rows))
        else:
            path.write_bytes(gzip.compress(("[" + ",".join(rows) + "]").encode(), 1))
        return path

    small_kept, small = peak(write(tmp_path / f"small.{form}", 12_000), tmp_path / "1")
    large_kept, large = peak(write(tmp_path / f"large.{form}", 44_000), tmp_path / "2")
    assert (small_kept, large_kept) == (12_000, 44_000)
    # Both have filled all that is filled but once (row groups, what allocators keep); runs differ by 15.
    assert large - small < 40, (small, large)
