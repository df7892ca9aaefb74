"""A model as an ONNX directory: graph, weights, and the tokenizer's and settings' files beside them."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from hanlin.artifacts import Progress, UsageError
from hanlin.artifacts.files import sync_directory
from hanlin.models.hub import Slot
from hanlin.serving.export.onnx_graph import IR_VERSION, OPSET, decoder
from hanlin.serving.export.source import Source, reported

GRAPH, WEIGHTS = "model.onnx", "model.onnx_data"
EMBEDDED_BYTES = 256 << 20
"""Weights up to this stand in the graph's file: one of over 2 GiB could not be read, and all of it is in memory twice
while it is written. Larger ones have a file of their own."""
ALIGNMENT = 4096
"""Where tensors begin in that file, so that they can be mapped into memory"""


def write(source: Source, out: Path, dtype: str | None, progress: Progress) -> None:
    """Write the open `source` as the directory `out`, in place of an earlier export, in `dtype` (None: f32).

    Raises UsageError for another dtype than f32 and f16, and where something else is at `out`.
    """
    if dtype not in (None, "f32", "f16"):
        raise UsageError(f"dtype is {dtype!r}: ONNX is written in f32 or f16")
    if out.exists() and not (out / GRAPH).is_file():
        raise UsageError(f"{out} is there and no ONNX export, so it is not replaced: give another path")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    try:
        _write_graph(source, part, dtype == "f16", progress)
        source.tokenizer.save(part)
        for name in ("config.json", "generation_config.json"):
            if (source.directory / name).is_file():
                shutil.copyfile(source.directory / name, part / name)
        for file in part.iterdir():
            file.chmod(0o644)
            with file.open("rb") as opened:
                os.fsync(opened.fileno())
        part.chmod(0o755)
        if out.exists():
            # Two directories can't change places at once: the earlier one goes only when the new one is whole.
            earlier = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".old", dir=out.parent))
            out.replace(earlier)
            part.replace(out)
            shutil.rmtree(earlier)
        else:
            part.replace(out)
        sync_directory(out.parent)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _write_graph(source: Source, directory: Path, half: bool, progress: Progress) -> None:
    config = source.config
    graph = decoder(config, half)
    graph.name = source.directory.resolve().name
    if config.rope_type == "dynamic":
        progress.say(f"rope_scaling is dynamic: the graph holds the frequencies up to {config.max_positions} tokens.")
    size = sum(math.prod(shape) for shape in source.shapes.values()) * (2 if half else 4)
    if size <= EMBEDDED_BYTES:
        for slot in reported(source.shapes, progress):
            graph.initializer.append(_initialiser(slot, source.shapes[slot], half, _array(source, slot, half)))
    else:
        with (directory / WEIGHTS).open("wb") as file:
            for slot in reported(source.shapes, progress):
                file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                tensor = _initialiser(slot, source.shapes[slot], half)
                array = _array(source, slot, half)
                place = {"location": WEIGHTS, "offset": file.tell(), "length": array.nbytes}
                tensor.data_location = TensorProto.EXTERNAL
                for key, value in place.items():
                    tensor.external_data.add(key=key, value=str(value))
                array.tofile(file)
                graph.initializer.append(tensor)
    model = helper.make_model(
        graph, ir_version=IR_VERSION, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="hanlin"
    )
    helper.set_model_props(model, source.provenance(progress))
    path = directory / GRAPH
    path.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)


def _initialiser(
    slot: Slot, shape: tuple[int, ...], half: bool, array: NDArray[np.floating] | None = None
) -> TensorProto:
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    tensor = TensorProto(name=slot.name, data_type=kind, dims=shape)
    if array is not None:
        tensor.raw_data = array.tobytes()
    return tensor


def _array(source: Source, slot: Slot, half: bool) -> NDArray[np.floating]:
    """The tensor, little-endian."""
    tensor = source.bounded(slot, 65504.0 if half else math.inf, "f16" if half else "f32")
    return np.ascontiguousarray(tensor.numpy(), dtype="<f2" if half else "<f4")
