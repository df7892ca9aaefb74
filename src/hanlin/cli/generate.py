"""`hanlin generate`: one answer, printed alone."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Dtype(StrEnum):
    """What weights are kept in for inference."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    int8 = "int8"
    int4 = "int4"


class Device(StrEnum):
    """Where a model computes."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


DEVICE_HELP = "Where to compute; auto takes the GPU where there is one."


def generate(
    model: Annotated[
        Path, typer.Argument(help="A model's directory: a stage of a run, or any Hugging Face directory.")
    ],
    prompt: Annotated[str, typer.Option(help="The text to answer (or, with --raw, to go on from).")],
    max_new_tokens: Annotated[int, typer.Option(min=1, help="At most so many new tokens.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 takes the likeliest token each time.")] = 0.0,
    top_k: Annotated[int, typer.Option(min=0, help="Sample among the k likeliest (0: all).")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample among the likeliest that hold this share of probability.")] = 1.0,
    min_p: Annotated[
        float, typer.Option(help="Leave out tokens below this share of the likeliest one's probability.")
    ] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option(help="Above 1: tokens that stand already become less likely.")
    ] = 1.0,
    beams: Annotated[int, typer.Option(min=1, help="Beam search with so many beams (with temperature 0).")] = 1,
    stop: Annotated[list[str] | None, typer.Option(help="Stop before this text; may be given several times.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same answer.")] = 0,
    dtype: Annotated[Dtype, typer.Option(help="What the weights are kept in.")] = Dtype.float32,
    device: Annotated[Device, typer.Option(help=DEVICE_HELP)] = Device.auto,
    raw: Annotated[bool, typer.Option("--raw", help="Go on from the prompt as it is, with no chat template.")] = False,
) -> None:
    """Print a model's answer to a prompt, and nothing else."""
    import hanlin

    loaded = hanlin.load(model, dtype=dtype.value, device=device.value)
    answer = loaded.generate(
        prompt,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        beams=beams,
        stop=stop or [],
        seed=seed,
        raw=raw,
    )
    print(answer.text)
