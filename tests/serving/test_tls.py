"""HTTPS by settings."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import httpx
import pytest
from pydantic import ValidationError

from hanlin.artifacts import UsageError
from hanlin.serving.launch import launch
from hanlin.serving.settings import ModelSettings, ServeSettings
from tests.serving.live import serving


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to make a certificate with")
def test_the_service_speaks_https(directory: Path, tmp_path: Path) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    trusted = ssl.create_default_context(cafile=str(certificate))
    with serving(directory, tls_certificate=str(certificate), tls_key=str(key)) as live:
        assert live.url.startswith("https://")
        with httpx.Client(base_url=live.url, verify=trusted, timeout=60) as client:
            body = {"model": "tiny", "prompt": "hello", "max_tokens": 5, "stream": True}
            with client.stream("POST", "/v1/completions", json=body) as answer:
                lines = [line for line in answer.iter_lines() if line]
            assert answer.status_code == 200 and len(lines) > 1 and lines[-1] == "data: [DONE]"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get(f"{live.url}/health")
        with pytest.raises(httpx.TransportError):
            httpx.get(f"http://127.0.0.1:{live.port}/health")
        assert live.quiet()


def test_halves_and_missing_files_are_refused(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="belong together"):
        ServeSettings(tls_certificate="certificate.pem")
    settings = ServeSettings(
        models=[ModelSettings(path=str(directory), name="tiny")],
        tls_certificate=str(tmp_path / "none.pem"),
        tls_key="k",
    )
    with pytest.raises(UsageError, match=r"none\.pem is not a file"):
        launch(settings, print, print)
