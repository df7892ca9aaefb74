"""The kernels of `kernels/`, in C, compiled for this processor at their first use."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import atomic_path

SOURCES = tuple(
    Path(__file__).parent / "kernels" / name
    for name in ("kernels.h", "coded.c", "dense.c", "rows.c", "attend.c", "blocks.c")
)
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
"""No product and sum is contracted to one operation but where it is written so: each height of a tile would round in
its own way."""
TARGETS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
"""Tried in this order, for compilers that do not know the one or the other."""
SECONDS = 120
SMALL = 1 << 17
"""Multiplications up to which one thread is faster than waking others."""
INSTEAD = "PyTorch's kernels are used, with which generation is slower"

_log = logging.getLogger(__name__)


class Coded(ctypes.Structure):
    """`Coded` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("codes", "scales", "bias")),
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "columns", "group", "bits")),
    )


class Dense(ctypes.Structure):
    """`Dense` of kernels.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("words", "bias")),
        *((name, ctypes.c_int64) for name in ("outputs", "inputs", "steps", "blocks")),
    )


KINDS = ("coded", "float32", "bfloat16")
"""Of products, as blocks.c numbers them."""


class Product:
    """Calls: float32 rows [n, inputs] -> [n, outputs], by a matrix of which the tensors are held, not copied."""

    def __init__(self, name: str, matrix: Coded | Dense, kept: tuple[Tensor | None, ...]) -> None:
        self._function: Callable[..., int] = getattr(compiled(), f"product_{name}")
        self.kind, self.matrix, self._kept = KINDS.index(name), matrix, kept
        self._address = ctypes.addressof(matrix)
        self.inputs, self.outputs = int(matrix.inputs), int(matrix.outputs)

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        x = x if x.dtype == torch.float32 and x.is_contiguous() else x.float().contiguous()
        out = torch.empty((rows, self.outputs))
        threads = 1 if rows * self.inputs * self.outputs <= SMALL else torch.get_num_threads()
        # The interpreter's lock is not held meanwhile.
        if self._function(self._address, x.data_ptr(), rows, out.data_ptr(), threads):
            raise MemoryError(f"no memory for a product of {rows} rows")
        return out


def coded_product(
    bits: int, codes: Tensor, scales: Tensor, bias: Tensor | None, inputs: int, outputs: int, group: int
) -> Product:
    """The product with a matrix [outputs, inputs] of `bits` (8 or 4) bits a weight, whose codes and scales are laid out
    as `quantised.interleave` says; float32 bias [outputs]. `group`: columns that share a scale, of x or of both."""
    columns = -(-inputs // group) * group
    matrix = Coded(*map(address, (codes, scales, bias)), outputs, inputs, columns, group, bits)
    return Product("coded", matrix, (codes, scales, bias))


def dense_product(weight: Tensor, bias: Tensor | None) -> Product:
    """The product with a float32 or bfloat16 matrix [outputs, inputs] on the CPU, of which a copy is laid out as
    dense.c says; bias [outputs]. For bfloat16, rows are rounded to it where the processor multiplies it. Only where
    `multiplies_dense` says so."""
    outputs, inputs = weight.shape
    # Rows of whole words of 32 bits.
    weight = F.pad(weight, (0, -inputs % (4 // weight.dtype.itemsize))).contiguous()
    steps, blocks = weight.shape[1] * weight.dtype.itemsize // 4, -(-outputs // 64) * 4
    words = torch.empty(blocks * steps * 16, dtype=torch.int32)
    library = compiled()
    assert library is not None
    library.dense_words(weight.data_ptr(), outputs, steps, blocks, words.data_ptr(), torch.get_num_threads())
    bias = None if bias is None else bias.float().contiguous()
    matrix = Dense(address(words), address(bias), outputs, inputs, steps, blocks)
    return Product(str(weight.dtype).removeprefix("torch."), matrix, (words, bias))


def address(tensor: Tensor | None) -> int | None:
    """Where its numbers lie; None for none."""
    return None if tensor is None else tensor.data_ptr()


def multiplies_dense() -> bool:
    """Whether this processor and its compiler have what dense.c multiplies by (AVX2 and FMA, or AVX-512)."""
    return hasattr(compiled(), "product_float32")


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The compiled kernels, from the cache or made now (12 s, once a machine); None, saying so in the log, where
    there is no C compiler that makes them."""
    name = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    compiler = None if name is None else shutil.which(name)
    if compiler is None or not sys.platform.startswith(("linux", "darwin")):
        _log.warning("no C compiler (cc, gcc, clang or $CC) is there; %s", INSTEAD)
        return None
    # A home may be shared by machines with different processors.
    text = "".join(source.read_text(encoding="utf-8") for source in SOURCES)
    identity = f"{text} {FLAGS} {TARGETS} {compiler} {torch.cpu.get_capabilities()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = _cache_folder()
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hanlin-")))
        library = folder / f"kernels-{digest}.so"
        problem = "" if library.is_file() else _compile(compiler, library)
        if not problem:
            try:
                return load_library(library)
            except OSError as error:
                problem = str(error)
    _log.warning("%s compiled with %s: %s; %s", SOURCES[0].parent, compiler, problem, INSTEAD)
    return None


_POINTER, _SIZE, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_PRODUCT = (_INT, (_POINTER, _POINTER, _SIZE, _POINTER, _INT))
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "product_coded": _PRODUCT,
    "product_float32": _PRODUCT,
    "product_bfloat16": _PRODUCT,
    "add_norm": (None, (_POINTER, _POINTER, _POINTER, _FLOAT, _SIZE, _SIZE, _POINTER, _INT)),
    "gate": (None, (_POINTER, _SIZE, _SIZE, _POINTER, _INT)),
    "dense_words": (None, (_POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _INT)),
    "blocks": (_INT, (*(_POINTER,) * 8, *(_SIZE,) * 3, _POINTER, _SIZE, _INT)),
    "scan": (None, (_POINTER, _SIZE, _SIZE, _POINTER, _POINTER, _POINTER, _INT)),
    "place": (None, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _INT)),
    "attend": (None, (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _SIZE, _SIZE, _SIZE, _POINTER, _INT)),
}
"""What each function of the kernels returns and takes."""


def load_library(path: Path) -> ctypes.CDLL:
    """The compiled kernels in a file; a processor may be without some products."""
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _FUNCTIONS.items():
        if hasattr(library, name):
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    return library


def command(compiler: str, target: Sequence[str], library: Path) -> list[str]:
    """What compiles the kernels."""
    sources = (str(source) for source in SOURCES if source.suffix == ".c")
    return [compiler, *FLAGS, *target, *sources, "-o", str(library), "-lm"]


def _compile(compiler: str, library: Path) -> str:
    """Compile the kernels; returns what is wrong with it, or nothing."""
    problem = ""
    for target in TARGETS:
        try:
            with atomic_path(library) as part:
                subprocess.run(
                    command(compiler, target, part), check=True, capture_output=True, text=True, timeout=SECONDS
                )
            return ""
        except subprocess.CalledProcessError as error:
            problem = str(error.stderr).strip()[-500:]
        except (OSError, subprocess.TimeoutExpired) as error:
            problem = str(error)
    return problem


def _cache_folder() -> Path | None:
    """Where compiled code is kept: a folder that nobody else can write to. None where there is no such."""
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        folder = (Path(home) if home else Path.home() / ".cache") / "hanlin"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = folder.stat()
    except (OSError, RuntimeError):
        return None
    ours = state.st_uid == os.getuid() and not state.st_mode & 0o022
    return folder if ours and os.access(folder, os.W_OK) else None
