"""The guide names every field and every setting, and what is deployed starts what there is."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from hanlin.serving.api.protocol import KNOWN
from hanlin.serving.settings import ServeSettings, load_settings

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/serving.md").read_text(encoding="utf-8")


def test_every_field_is_explained() -> None:
    assert [name for name in KNOWN if f"`{name}`" not in GUIDE] == []


def test_every_setting_is_explained() -> None:
    assert [name for name in ServeSettings.model_fields if f"`{name}`" not in GUIDE] == []


def test_settings_in_the_guide_are_right(tmp_path: Path) -> None:
    (block,) = re.findall(r"^```yaml\n(.*?)^```", GUIDE, re.DOTALL | re.MULTILINE)
    (tmp_path / "serve.yaml").write_text(block, encoding="utf-8")
    assert load_settings(tmp_path / "serve.yaml", {}, {}).models[0].name == "mine"


def test_the_unit_is_one() -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not here")
    done = subprocess.run(
        ["systemd-analyze", "verify", ROOT / "deploy/hanlin.service"], capture_output=True, text=True, check=False
    )
    # The command and the documents are where the unit will be installed, not here.
    problems = [line for line in done.stderr.splitlines() if "/opt/hanlin" not in line and "hanlin.service" in line]
    assert problems == []


def test_what_stops_the_service_waits_for_its_drain() -> None:
    drain = ServeSettings().drain_seconds
    unit = (ROOT / "deploy/hanlin.service").read_text(encoding="utf-8")
    assert float(re.findall(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)[0]) > drain
    composed = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text(encoding="utf-8"))
    assert float(composed["services"]["hanlin"]["stop_grace_period"].removesuffix("s")) > drain
