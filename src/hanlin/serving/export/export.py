"""`export_model`: one call that writes a model for another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from hanlin.artifacts import HanlinError, Progress, Silent, UsageError
from hanlin.serving.export.source import Source

Format = Literal["gguf", "onnx"]


def export_model(
    directory: Path | str,
    to: Format,
    out: Path | str,
    dtype: str | None = None,
    *,
    adapter: Path | str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the Hugging Face model in `directory` as a GGUF file or an ONNX directory `out`, and return its path.

    `dtype` is f32, f16, bf16 or q8_0 for GGUF (None: as the weights are) and f32 or f16 for ONNX (None: f32). An
    `adapter` (LoRA, as `peft` saves it) is folded in. What is there already is replaced only with `force`; the new
    appears whole or not at all. Raises UsageError for settings that mean nothing, and HanlinError for a model that the
    format can't hold, saying what of it.
    """
    directory, out = Path(directory), Path(out)
    progress = progress or Silent()
    try:
        if to == "gguf":
            from hanlin.serving.export import gguf_model as module
        else:
            from hanlin.serving.export import onnx_model as module
    except ImportError as error:
        raise HanlinError(f"{error}: install what exporting needs, pip install 'hanlin[export]'") from error
    if out.exists() and not force:
        raise UsageError(f"{out} is there already: give another path, or --force to replace it")
    with Source(directory, None if adapter is None else Path(adapter)) as source:
        module.write(source, out, dtype, progress)
    return out
