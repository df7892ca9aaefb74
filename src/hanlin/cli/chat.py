"""`hanlin chat`: talk to a model in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hanlin.cli.generate import DEVICE_HELP, Device, Dtype

if TYPE_CHECKING:
    from hanlin.inference import LanguageModel

Messages = list[dict[str, str]]


def _fitting(model: LanguageModel, messages: Messages, start: int, answer: int) -> Messages:
    """The messages less the oldest turns, so that they leave room in the context for an answer of `answer` tokens (or
    for half a context, if that is less). The first `start` (a system prompt) and the last always stay."""
    context = model.config.max_positions
    room = context - min(answer, context // 2)
    while len(messages) > start + 1 and len(model.chat_request(messages).prompt_ids) > room:
        messages = [*messages[:start], *messages[start + 2 :]]
    return messages


def chat(
    model: Annotated[
        Path, typer.Argument(help="A model's directory: a stage of a run, or any Hugging Face directory.")
    ],
    system: Annotated[str | None, typer.Option(help="A system prompt.")] = None,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest that hold this share of probability.")] = 1.0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens an answer.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answers.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="What the weights are kept in.")] = Dtype.float32,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.auto,
) -> None:
    """Talk to a model.

    When a conversation outgrows the model's context, its oldest turns are left out, and it is said.

    /new begins again, /undo takes the last turn back, /quit or Ctrl-D leaves; Ctrl-C stops an answer.
    """
    import sys

    from rich.markup import escape

    import hanlin
    from hanlin.artifacts import HanlinError
    from hanlin.cli.console import make_console

    console = make_console()
    loaded = hanlin.load(model, dtype=dtype.value, device=device.value)
    start: list[dict[str, str]] = [{"role": "system", "content": system}] if system else []
    messages = list(start)
    if console.is_terminal:
        console.print(f"[dim]{model}. /new begins again, /undo takes the last turn back, /quit leaves.[/dim]")
    turn = 0
    while True:
        try:
            line = input("› " if sys.stdin.isatty() else "").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line in ("/quit", "/exit"):
            return
        if line == "/new":
            messages = list(start)
            continue
        if line == "/undo":
            if len(messages) > len(start):
                messages = messages[:-2]
            continue
        if line.startswith("/"):
            console.print("[dim]Commands: /new, /undo, /quit.[/dim]")
            continue
        if not line:
            continue
        asked = [*messages, {"role": "user", "content": line}]
        kept, answer = asked, ""
        try:
            kept = _fitting(loaded, asked, len(start), max_new_tokens)
            for delta in loaded.stream_chat(
                kept, max_new_tokens=max_new_tokens, temperature=temperature, top_p=top_p, seed=seed + turn
            ):
                # Control characters of a model's output must not reach the terminal.
                text = "".join(c for c in delta.text if c.isprintable() or c in "\n\t")
                answer += delta.text
                print(text, end="", flush=True)
        except KeyboardInterrupt:
            console.print(" [dim](stopped)[/dim]", end="")
        except HanlinError as error:  # a message longer than the context, say: what was said before is kept
            console.print(f"[red]{escape(str(error))}[/red]")
            continue
        print()
        if len(kept) < len(asked):
            console.print("[dim](The model's context is full: the oldest turns were left out.)[/dim]")
        messages = [*kept, {"role": "assistant", "content": answer}]
        turn += 1
