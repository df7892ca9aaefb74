"""`hanlin lineage`: where an artifact came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hanlin.artifacts.errors import HanlinError


def lineage(
    artifact: Annotated[Path, typer.Argument(help="An artifact: any stage's folder of a run.")],
    as_json: Annotated[bool, typer.Option("--json", help="The whole tree with all settings and figures.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Hash every file, and say which are not as they were made.")
    ] = False,
) -> None:
    """Print the tree of what an artifact was made from: inputs, hashes, settings, code version, figures."""
    from hanlin.recipes.lineage import lineage as build

    node = build(artifact, check)
    if as_json:
        print(json.dumps(node, ensure_ascii=False, indent=1))
    else:
        from rich.tree import Tree

        from hanlin.cli.console import make_console

        tree = Tree("")
        _draw(node, "", tree)
        make_console().print(*tree.children)
    damaged = _damaged(node)
    if damaged:
        raise HanlinError(f"{len(damaged)} files are not as they were made: {', '.join(damaged[:5])}.")


def _draw(node: dict[str, Any], role: str, tree: Any) -> None:
    from rich.markup import escape

    if node.get("missing"):
        tree.add(f"[red]{role}: {node['id'][:12]} is no longer at {escape(node['path'])}[/red]")
        return
    code = node["code"]
    commit = (
        f", commit {code['commit'][:10]}{' with changes' if code.get('changed') == 'yes' else ''}"
        if "commit" in code
        else ""
    )
    head = f"[bold]{escape(node['stage'])}[/bold] ({node['kind']})"
    branch = tree.add(f"{role + ': ' if role else ''}{head}  [cyan]{node['id'][:12]}[/cyan]  {escape(node['path'])}")
    branch.add(
        f"[dim]{node['files']} files, {node['bytes']:,} bytes, content {node['content'][:12]}; {node['started']}, "
        f"{node['seconds']:.1f} s; hanlin {code.get('hanlin', 'not ours')}{commit}; seed {node['seed']}[/dim]"
    )
    branch.add("[dim]settings[/dim] " + escape(json.dumps(node["settings"], ensure_ascii=False)))
    plain = {key: value for key, value in node["figures"].items() if isinstance(value, int | float | str)}
    if plain:
        branch.add("[dim]figures[/dim] " + escape(json.dumps(plain, ensure_ascii=False)))
    for name, child in node["inputs"].items():
        _draw(child, name, branch)


def _damaged(node: dict[str, Any]) -> list[str]:
    own = [f"{node['path']}/{name}" for name in node.get("damaged", [])]
    return own + [name for child in node["inputs"].values() for name in _damaged(child)]
