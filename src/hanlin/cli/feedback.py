"""`hanlin feedback`: what users and annotators said, as training data."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Make training data of what users and annotators said.")

Db = Annotated[
    str | None,
    typer.Option(
        "--db", help="The service's database: a path or a URL. Default: HANLIN_DB, or hanlin/service.db of your data."
    ),
]


@app.callback()
def _group() -> None:
    pass


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The folder for the files.", file_okay=False)],
    since: Annotated[datetime | None, typer.Option(help="Only what was said from this day (and time, UTC) on.")] = None,
    kind: Annotated[list[str] | None, typer.Option(help="rating, edit or preference; may be repeated.")] = None,
    min_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Where several people judged the same: the least share that must agree.")
    ] = 0.0,
    db: Db = None,
) -> None:
    """Write preference and instruction files that the training stages read, and an account of every row.

    pairs.jsonl is for stages of kind preference, reward and rrhf, judged.jsonl for preference with loss kto,
    rankings.jsonl for reward and rrhf, instructions.jsonl for sft.
    """
    from datetime import UTC

    from hanlin.artifacts import UsageError
    from hanlin.serving.feedback import KINDS, FeedbackStore
    from hanlin.serving.feedback_export import ACCOUNT, Export
    from hanlin.serving.store import Database, default_url

    for one in kind or []:
        if one not in KINDS:
            raise UsageError(f"there is no kind {one!r} of feedback. Kinds: {', '.join(KINDS)}.")
    database = Database(db or default_url())
    begin = None if since is None else since.replace(tzinfo=since.tzinfo or UTC).timestamp()
    said = FeedbackStore(database).rows(begin, kind or KINDS)
    selection = {"since": None if since is None else since.isoformat(), "kinds": list(kind or KINDS)}
    account = Export(said, min_agreement).write(out, selection)
    print(f"{account['read']} read = {account['used']} used + {account['left_out']} left out ({out / ACCOUNT})")
    for name, file in account["files"].items():
        print(f"  {out / name}: {file['rows']} rows")
    for reason, count in account["reasons"].items():
        print(f"  left out: {count}, {reason}")
