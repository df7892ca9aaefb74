"""The pages that the service shows: the chat at `/` and annotation at `/annotate`, with their scripts and styles.

They are plain files, served as they lie here: no build step, nothing from the network. A page's script and style are
files of their own, so that the content security policy can forbid everything inline.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

CONTENT_SECURITY_POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No string becomes HTML or script in these pages; the browser is to see to it.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    # The browser asks each time whether a file is still the same, so that a new version of the service is seen at once.
    "Cache-Control": "no-cache",
}
PAGES = {"/": "chat.html", "/annotate": "annotate.html"}
MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


def page_routes() -> list[Route]:
    """A route for each page and for each file that the pages load. None of them needs a key: they hold no data."""
    routes: list[Route] = []
    for file in sorted(files(__name__).iterdir(), key=lambda file: file.name):
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in MEDIA_TYPES:
            paths = [path for path, name in PAGES.items() if name == file.name] or [f"/static/{file.name}"]
            content = file.read_bytes()
            routes += [_route(path, content, MEDIA_TYPES[suffix]) for path in paths]
    return routes


def mount(app: Starlette) -> None:
    """Adds the pages to an application (Starlette's, FastAPI's); they do not appear in its OpenAPI description."""
    app.router.routes.extend(page_routes())


def _route(path: str, content: bytes, media_type: str) -> Route:
    tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {**HEADERS, "ETag": tag}

    async def serve(request: Request) -> Response:
        if request.headers.get("if-none-match") == tag:
            return Response(status_code=304, headers=headers)
        return Response(content, media_type=media_type, headers=headers)

    return Route(path, serve, methods=["GET"], include_in_schema=False)
