"""`hanlin keys`: who may call the service."""

from __future__ import annotations

from typing import Annotated, cast

import typer

app = typer.Typer(no_args_is_help=True, help="API keys of the service: make, list and revoke them.")

Db = Annotated[
    str | None,
    typer.Option(
        "--db", help="The service's database: a path or a URL. Default: HANLIN_DB, or hanlin/service.db of your data."
    ),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.")],
    role: Annotated[
        str, typer.Option(help="user, annotator (may annotate too) or admin (may do everything).")
    ] = "user",
    days: Annotated[float | None, typer.Option(help="Days that it is good for. Default: until it is revoked.")] = None,
    requests: Annotated[int | None, typer.Option("--requests-per-minute", min=1)] = None,
    tokens: Annotated[int | None, typer.Option("--tokens-per-minute", min=1)] = None,
    concurrent: Annotated[int | None, typer.Option("--concurrent-requests", min=1)] = None,
    daily: Annotated[int | None, typer.Option("--daily-tokens", min=1)] = None,
    db: Db = None,
) -> None:
    """Make a key and print it: this once, for only its hash is kept. Limits that are not given are the service's."""
    import sys

    from hanlin.serving.keys import KeyLimits, Keys, Role
    from hanlin.serving.store import Database, default_url

    limits = KeyLimits(
        requests_per_minute=requests, tokens_per_minute=tokens, concurrent_requests=concurrent, daily_tokens=daily
    )
    database = Database(db or default_url())
    key, secret = Keys(database).create(name, cast(Role, role), days=days, limits=limits)
    print(f"{key.prefix}… ({key.role}) in {database.name}. Keep it now: it is not shown again.", file=sys.stderr)
    print(secret)


@app.command("list")
def list_keys(db: Db = None, as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False) -> None:
    """Show all keys, by their first characters."""
    import json
    import time
    from dataclasses import asdict

    from hanlin.serving.keys import Keys
    from hanlin.serving.store import Database, default_url

    database, now = Database(db or default_url()), time.time()
    keys = Keys(database).list()
    if as_json:
        rows = [
            {**asdict(key), "state": key.state(now), "limits": key.limits.model_dump(exclude_none=True)} for key in keys
        ]
        print(json.dumps(rows, ensure_ascii=False, indent=1))
        return
    from datetime import date

    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    from hanlin.cli.console import make_console

    table = Table(title=escape(f"keys in {database.name}"), title_justify="left", title_style="bold", box=SIMPLE_HEAD)
    for column in ("key", "name", "role", "state", "created", "expires", "used", "limits"):
        table.add_column(column, overflow="fold")
    for key in keys:
        state = key.state(now)
        days = (
            "" if day is None else f"{date.fromtimestamp(day)}" for day in (key.created, key.expires, key.last_used)
        )
        limits = [
            f"{name} {value:,}".replace("_", " ") for name, value in key.limits.model_dump(exclude_none=True).items()
        ]
        shown = f"[green]{state}[/green]" if state == "active" else f"[red]{state}[/red]"
        table.add_row(key.prefix, escape(key.name), key.role, shown, *days, "\n".join(limits))
    make_console().print(table if keys else f"There is no key in {escape(database.name)}.")


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(help="The key, or its first characters as `hanlin keys list` shows them.")],
    db: Db = None,
) -> None:
    """End a key: a running service refuses it from its next request on."""
    from hanlin.serving.keys import Keys
    from hanlin.serving.store import Database, default_url

    ended = Keys(Database(db or default_url())).revoke(key)
    print(f"{ended.prefix}… ({ended.name}) is revoked.")
