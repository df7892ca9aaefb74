"""What made an artifact besides its settings and inputs: the code's version, the libraries, the machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from hanlin import __version__


def code_version() -> dict[str, str]:
    """hanlin's version and, when it runs from a git checkout, the commit and whether files were changed since."""
    version = {"hanlin": __version__}
    here = Path(__file__).resolve().parent

    def git(*words: str) -> str:
        command = ["git", "-C", str(here), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        # Fails where hanlin is installed inside another project's checkout.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        version["commit"] = git("rev-parse", "HEAD")
        version["changed"] = "yes" if git("status", "--porcelain", "--", str(here.parent)) else "no"
    except (OSError, subprocess.SubprocessError):
        pass
    return version


def environment() -> dict[str, Any]:
    """What the machine and the libraries were, as far as results or speed can depend on them."""
    libraries = {}
    for name in ("torch", "tokenizers", "numpy", "pyarrow", "safetensors"):
        try:
            libraries[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "libraries": libraries,
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
