"""`hanlin feedback`: what users and annotators said, as training data."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Make training data of what users and annotators said.")

Db = Annotated[
    str | None,
    typer.Option(
        "--db", help="The service's database: a path or a URL. Default: HANLIN_DB, or hanlin/service.db of your data."
    ),
]


@app.command()
def export(
    out: Annotated[Path, typer.Option(help="The folder for the files.", file_okay=False)],
    since: Annotated[datetime | None, typer.Option(help="Only what was said from this day (and time, UTC) on.")] = None,
    kind: Annotated[
        list[str] | None, typer.Option(help="rating, edit, preference or annotation; may be repeated. Default: all.")
    ] = None,
    project: Annotated[
        list[str] | None, typer.Option(help="Of annotations: only this project's; may be repeated. Default: all.")
    ] = None,
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

    from hanlin.serving.feedback_export import ACCOUNT, read_export
    from hanlin.serving.store import Database, default_url

    begin = None if since is None else since.replace(tzinfo=since.tzinfo or UTC).timestamp()
    database = Database(db or default_url())
    found = read_export(database, since=begin, kinds=kind, projects=project, min_agreement=min_agreement)
    account = found.write(out)
    print(f"{account['read']} read = {account['used']} used + {account['left_out']} left out ({out / ACCOUNT})")
    for name, file in account["files"].items():
        print(f"  {out / name}: {file['rows']} rows")
    for reason, count in account["reasons"].items():
        print(f"  left out: {count}, {reason}")


@app.command()
def annotate(
    project: Annotated[str, typer.Argument(help="The project's name; it is made if it is not there.")],
    file: Annotated[Path | None, typer.Option(help="Tasks to add: a file with one a row.", dir_okay=False)] = None,
    feedback: Annotated[bool, typer.Option("--feedback", help="Add tasks from what users said.")] = False,
    kind: Annotated[str, typer.Option(help="Of a new project: pair, ranking or prompt.")] = "pair",
    overlap: Annotated[int, typer.Option(help="Of a new project: how many annotators answer each task.")] = 2,
    instructions: Annotated[str, typer.Option(help="Of a new project: what the annotators are told.")] = "",
    db: Db = None,
) -> None:
    """Give annotators something to do: pairs to compare, answers to rank, prompts to write."""
    from typing import cast

    from hanlin.serving.annotation import Annotation
    from hanlin.serving.annotation_tasks import Kind
    from hanlin.serving.feedback import FeedbackStore
    from hanlin.serving.store import Database, default_url

    database = Database(db or default_url())
    annotation = Annotation(database)
    if project not in annotation.projects():
        annotation.create(project, cast(Kind, kind), overlap=overlap, instructions=instructions)
    given = [annotation.add_file(project, file)] if file is not None else []
    if feedback:
        given.append(annotation.add_feedback(project, FeedbackStore(database).rows()))
    for found in given:
        print(f"{found.rows} rows: {found.added} added, {found.known} there already, {len(found.refused)} refused")
        for reason in found.refused[:20]:
            print(f"  {reason}")
    print(f"{project}: {len(annotation.tasks(project))} tasks in {database.name}")


@app.command()
def agreement(
    project: Annotated[str, typer.Argument(help="The project's name.")],
    db: Db = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """Show how far a project is, how far its annotators agree (Krippendorff's alpha), and how each of them answers."""
    import json

    from hanlin.serving.annotation import Annotation
    from hanlin.serving.annotation_summary import summarise
    from hanlin.serving.store import Database, default_url

    found = summarise(Annotation(Database(db or default_url())), project)
    if as_json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
        return
    print(
        f"{project} ({found['kind']}): {found['complete']} of {found['tasks']} tasks answered by {found['overlap']}; "
        f"{found['answers']} answers, {found['skipped']} skipped"
    )
    for level, value in found["alpha"].items():
        print(f"  Krippendorff's alpha, {level}: {'not defined yet' if value is None else f'{value:.3f}'}")
    for name in ("task_types", "styles"):
        if name in found:
            print(f"  {name.replace('_', ' ')}: {_shares(found[name])}")
    for name, one in found["annotators"].items():
        confirmed, changed = one["prelabels"]["confirmed"], one["prelabels"]["changed"]
        print(f"  {name}: {one['answers']} answers, {one['skipped']} skipped; {_shares(one['distribution'])}")
        if confirmed or changed:
            print(f"    pre-labels: {confirmed} confirmed, {changed} changed")


def _shares(counts: dict[str, Any]) -> str:
    return ", ".join(f"{name} {one['share']:.0%}" for name, one in counts.items()) or "none"
