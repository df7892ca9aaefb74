"""`hanlin recipe`: list, show, schema."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

app = typer.Typer(
    no_args_is_help=True, help="Look at recipes: what there is, what a recipe resolves to, what it may contain."
)


@app.command("list")
def list_() -> None:
    """The recipes that come with hanlin."""
    from hanlin.recipes.recipe import library, load_recipe

    for name in library():
        print(f"{name:16} {' '.join(load_recipe(name).about.split())}")


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="A recipe of the library, or a .yaml file.")],
    assignments: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE…", help="Settings, as for `hanlin run`.")
    ] = None,
) -> None:
    """Print a recipe with every setting that it would use, and where each value comes from."""
    from hanlin.recipes.recipe import load_recipe, steps

    loaded = load_recipe(recipe, assignments or [])
    ordered = steps(loaded)
    print(f"name: {loaded.name}")
    for key in ("seed", "minutes"):
        print(_line(0, key, getattr(loaded, key), loaded.where(key)))
    print("stages:")
    for step in ordered:
        exam = step.name not in loaded.stages
        prefix = f"exam.{step.name.removesuffix('-exam')}" if exam else f"stages.{step.name}"
        print(f"  {step.name}:  # {step.stage.kind}, {loaded.where(prefix)}")
        _print_tree(step.settings.model_dump(mode="json"), prefix, 2, loaded)


def _print_tree(values: dict[str, Any], prefix: str, depth: int, loaded: Any) -> None:
    for key, value in values.items():
        path = f"{prefix}.{key}"
        if isinstance(value, dict) and value:
            print("  " * depth + f"{key}:")
            _print_tree(value, path, depth + 1, loaded)
        else:
            source = loaded.where(path)
            stage_line = loaded.where(prefix)
            print(_line(depth, key, value, "default" if path not in loaded.origin and source == stage_line else source))


def _line(depth: int, key: str, value: Any, source: str) -> str:
    text = f"{'  ' * depth}{key}: {json.dumps(value, ensure_ascii=False)}"
    return f"{text:64} # {source}"


@app.command()
def schema(
    kind: Annotated[str | None, typer.Argument(help="A stage kind; without it, all kinds are described.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON Schema, for editors.")] = False,
) -> None:
    """Describe the settings of each kind of stage, field by field."""
    from hanlin.recipes.registry import KINDS, get_stage
    from hanlin.recipes.schema import describe

    kinds = [kind] if kind else list(KINDS)
    if as_json:
        print(
            json.dumps(
                {name: get_stage(name).settings.model_json_schema() for name in kinds}, indent=1, ensure_ascii=False
            )
        )
        return
    for name in kinds:
        print(describe(get_stage(name)))
