"""`hanlin export`: a model for another engine."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a model is written as."""

    gguf = "gguf"
    onnx = "onnx"


class ExportDtype(StrEnum):
    """Precisions of what is written."""

    f32 = "f32"
    f16 = "f16"
    bf16 = "bf16"
    q8_0 = "q8_0"


def export(
    model: Annotated[
        Path, typer.Argument(help="A model's directory: a stage of a run, or any Hugging Face directory.")
    ],
    to: Annotated[
        Format, typer.Option(help="gguf: one file, for llama.cpp and what is built on it; onnx: for onnxruntime.")
    ],
    out: Annotated[Path, typer.Option(help="Where to write: a file such as model.gguf, or for onnx a new directory.")],
    dtype: Annotated[
        ExportDtype | None,
        typer.Option(
            help="Precision of the weights: any of these for gguf (as the model has them, unless given), f32 (unless "
            "given) or f16 for onnx. q8_0 is 8 bits, in blocks of 32 weights that share a scale.",
            show_default=False,
        ),
    ] = None,
    adapter: Annotated[
        Path | None, typer.Option(help="A LoRA adapter's directory (peft's format), to be worked into the weights.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export at --out.")] = False,
) -> None:
    """Write a model for another engine, with its tokenizer, chat template and end tokens.

    vLLM, SGLang and transformers need no export: they read the model's directory as it is.

    [bold]hanlin export runs/world/chat --to gguf --out chat.gguf --dtype q8_0[/bold], then llama-server -m chat.gguf.

    [bold]hanlin export runs/world/chat --to onnx --out chat-onnx[/bold] writes model.onnx, with the key-value cache as
    inputs (past_key_values.0.key …) and outputs (present.0.key …), under the names that optimum and transformers.js
    expect.

    Large models need little memory: tensors are read, turned and written one at a time. Where the format can't hold the
    model as it is, it is said and nothing is written. Needs pip install 'hanlin\\[export]'.
    """
    from hanlin.cli.console import ConsoleReporter, make_console
    from hanlin.serving.export.export import export_model

    with ConsoleReporter() as reporter:
        progress = reporter.begin("export", "export", resumed=False)
        written = export_model(
            model, to.value, out, dtype.value if dtype else None, adapter=adapter, force=force, progress=progress
        )
    files = sorted(written.iterdir()) if written.is_dir() else [written]
    size = sum(file.stat().st_size for file in files)
    make_console().print(f"{written}  {size / 1e6:,.1f} MB", markup=False)
