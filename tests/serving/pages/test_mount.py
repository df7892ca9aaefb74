"""The pages as files: how they are served, and what in them can be checked without a browser."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from hanlin.serving.pages import CONTENT_SECURITY_POLICY, mount

FILES = {
    file.name: file.read_text(encoding="utf-8") for file in files("hanlin.serving.pages").iterdir() if file.is_file()
}
SINKS = r"\w+HTML\b|document\.write|\beval\(|new Function|createContextualFragment|DOMParser"
"""What makes HTML or script of a string."""


@pytest.fixture(scope="module")
def client() -> TestClient:
    app = FastAPI()
    mount(app)
    return TestClient(app)


def test_every_file_is_served_with_its_type_and_a_strict_policy(client: TestClient) -> None:
    paths = {"/": "text/html", "/annotate": "text/html"}
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    paths |= {f"/static/{name}": types[name.rpartition(".")[2]] for name in FILES if name.endswith(tuple(types))}
    assert len(paths) > 20
    for path, media_type in paths.items():
        answer = client.get(path)
        assert answer.status_code == 200, path
        assert answer.headers["content-type"].split(";")[0] == media_type
        assert answer.headers["content-security-policy"] == CONTENT_SECURITY_POLICY
        assert answer.headers["x-content-type-options"] == "nosniff"
        again = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    assert "unsafe" not in CONTENT_SECURITY_POLICY and "default-src 'none'" in CONTENT_SECURITY_POLICY


def test_nothing_else_is_served(client: TestClient) -> None:
    for path in (
        "/static/",
        "/static/chat.html",
        "/static/__init__.py",
        "/static/..%2f__init__.py",
        "/static/%2e%2e/keys.py",
        "/chat.js",
    ):
        assert client.get(path).status_code == 404, path
    assert client.post("/").status_code == 405
    assert client.get("/openapi.json").json()["paths"] == {}


def test_the_pages_load_only_files_that_exist_and_hold_no_inline_script_or_style() -> None:
    for name, text in FILES.items():
        if name.endswith(".html"):
            for path in re.findall(r'(?:src|href)="(/static/[^"]+)"', text):
                assert path.removeprefix("/static/") in FILES
            assert not re.search(r"<style|<script>|\son\w+=|\sstyle=|https?://", text)
        if name.endswith(".js"):
            for imported in re.findall(r'from "\./([^"]+)"', text):
                assert imported in FILES
            assert not re.search(SINKS, text), name


def test_colours_can_be_read() -> None:
    """Text on what it stands on: at least 4.5 to 1 (WCAG 2.2, 1.4.3), in light and in dark."""
    tokens = dict(re.findall(r"--(\w[\w-]*): light-dark\((#\w{6}, #\w{6})\)", FILES["base.css"]))

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    pairs = [(text, ground) for text in ("ink", "soft", "accent", "bad") for ground in ("bg", "side", "card", "tint")]
    pairs += [("on-accent", "accent"), ("accent", "wash"), ("good", "bg"), ("blue", "card"), ("bg", "ink")]
    for text, ground in pairs:
        for mode in (0, 1):
            one, other = sorted(luminance(tokens[name].split(", ")[mode]) for name in (text, ground))
            assert (other + 0.05) / (one + 0.05) >= 4.5, (text, ground, mode)
