"""Settings: where they come from, which is the strongest, and what is said of wrong ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hanlin.artifacts import HanlinError, UsageError
from hanlin.serving.launch import launch
from hanlin.serving.models import weights_hash
from hanlin.serving.runs import model_directory
from hanlin.serving.settings import ModelSettings, ServeSettings, is_loopback, load_settings, parse_model
from tests.processes import hanlin


def write(folder: Path, text: str) -> Path:
    path = folder / "serve.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_flags_are_stronger_than_the_environment_and_that_than_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, "port: 1\nhost: 127.0.0.2\nqueue: 3\nlimits: {requests_per_minute: 5}\n")
    environment = {"HANLIN_SERVE_PORT": "2", "HANLIN_SERVE_HOST": "127.0.0.3", "HOME": "/", "HANLIN_DB": "x"}
    found = load_settings(file, environment, {"port": 3, "dtype": None})
    assert (found.port, found.host, found.queue, found.dtype) == (3, "127.0.0.3", 3, "float32")
    assert found.limits.requests_per_minute == 5 and found.limits.concurrent_requests == 16
    assert load_settings(None, {"HANLIN_SERVE_MODELS": "[{path: a, name: b}]"}, {}).models[0].name == "b"
    assert load_settings(None, {}, {}) == ServeSettings()


@pytest.mark.parametrize(
    ("text", "environment", "flags", "said"),
    [
        ("port: 1\nprot: 2", {}, {}, "serve.yaml:2: prot: unknown key; did you mean 'port'?"),
        ("models:\n- path: x\n  nmae: y", {}, {}, "serve.yaml:3: models.0.nmae: unknown key; did you mean 'name'?"),
        ("limits:\n  request_per_minute: 1", {}, {}, "did you mean 'requests_per_minute'?"),
        ("port: 99999", {}, {}, "serve.yaml:1: port: Input should be less than or equal to 65535"),
        ("port: eighty", {}, {}, "serve.yaml:1: port: Input should be a valid integer"),
        ("queue: -1", {}, {}, "queue: Input should be greater than or equal to 0"),
        ("- a", {}, {}, "settings are a mapping with the keys models, host"),
        ("port: [", {}, {}, "not valid YAML"),
        ("tls_key: k.pem", {}, {}, "tls_certificate and tls_key belong together"),
        ("models:\n- path: x\n  name: a b", {}, {}, "serve.yaml:3: models.0.name"),
        ("", {"HANLIN_SERVE_PROT": "1"}, {}, "HANLIN_SERVE_PROT is no setting of the service; did you mean 'port'?"),
        ("port: 1", {"HANLIN_SERVE_PORT": "-1"}, {}, "HANLIN_SERVE_PORT: port: Input should be greater"),
        ("port: 1", {}, {"port": -1}, "--port: port: Input should be greater"),
        ("port: 1", {}, {"dtype": "int3"}, "--dtype: dtype: Input should be 'float32'"),
    ],
)
def test_wrong_settings_are_told_by_their_place(
    tmp_path: Path, text: str, environment: dict[str, str], flags: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError) as refused:
        load_settings(write(tmp_path, text) if text else None, environment, flags)
    assert said in str(refused.value)


def test_models_on_the_command_line() -> None:
    assert parse_model("runs/world") == {"path": "runs/world"}
    assert parse_model("mine=runs/world") == {"path": "runs/world", "name": "mine"}
    assert parse_model("mine@2=runs/world") == {"path": "runs/world", "name": "mine", "version": "2"}
    assert parse_model("runs/a=b") == {"path": "runs/a=b"}


@pytest.mark.parametrize(
    ("host", "only_here"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.168.1.2", False), ("example.org", False), ("", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, only_here: bool) -> None:
    assert is_loopback(host) is only_here


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_no_wide_socket_without_keys(host: str, directory: Path, tmp_path: Path) -> None:
    settings = ServeSettings(
        models=[ModelSettings(path=str(directory))],
        host=host,
        database=str(tmp_path / "service.db"),
    )
    with pytest.raises(UsageError, match="hanlin keys create"):
        launch(settings, print, print)


def test_the_command_explains_itself(tmp_path: Path, directory: Path) -> None:
    for words, said in (
        (["serve"], "no model to serve"),
        (["serve", tmp_path / "nothing"], "is not a directory"),
        (["serve", directory, "--host", "0.0.0.0", "--database", tmp_path / "a.db"], "hanlin keys create"),
        (["serve", directory, "--config", tmp_path / "none.yaml"], "can't be read"),
    ):
        done = hanlin(*words, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr, done.stderr


def test_a_run_is_served_by_its_last_chat_model(small_run: Path, tmp_path: Path) -> None:
    assert model_directory(small_run / "base") == small_run / "base"
    assert model_directory(small_run) == small_run / "dpo"
    assert len({weights_hash(small_run / stage) for stage in ("base", "chat", "ppo", "dpo")}) == 4
    # One that failed its exam is passed over.
    import shutil

    failed = tmp_path / "world"
    shutil.copytree(small_run, failed, ignore=shutil.ignore_patterns("world", "corpus", "tokens"))
    manifest = failed / "dpo-exam/manifest.json"
    import json

    data = json.loads(manifest.read_text())
    data["figures"]["gates"] = [{"task": "x", "passed": False}]
    manifest.write_text(json.dumps(data))
    assert model_directory(failed) == failed / "ppo"
    for stage in ("chat", "ppo", "dpo"):
        shutil.rmtree(failed / stage)
    with pytest.raises(HanlinError, match="base cannot chat"):
        model_directory(failed)
    with pytest.raises(UsageError, match="neither a model"):
        model_directory(tmp_path)
