"""The products of products.c, compiled for this processor at their first use."""

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
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import atomic_path

SOURCE = Path(__file__).with_name("products.c")
FLAGS = ("-O3", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
"""No product and sum is contracted to one operation: each height of a tile would round in its own way."""
TARGETS = (("-march=native", "-fopenmp"), ("-fopenmp",), ())
"""Tried in this order, for compilers that do not know the one or the other."""
SECONDS = 120
SMALL = 1 << 17
"""Multiplications up to which one thread is faster than waking others."""
INSTEAD = "8-bit and 4-bit weights are multiplied by PyTorch's kernels, which are slower"

_log = logging.getLogger(__name__)


class Matrix(ctypes.Structure):
    """`Matrix` of products.c."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("outputs", ctypes.c_int64),
        ("columns", ctypes.c_int64),
        ("group", ctypes.c_int64),
    )


class Product:
    """Calls: float32 rows [n, inputs] -> [n, outputs], by a matrix of `bits` (8 or 4) bits a weight.

    `codes` and `scales` are laid out as products.c says; the tensors are held, not copied.
    """

    def __init__(
        self, bits: int, codes: Tensor, scales: Tensor, bias: Tensor | None, inputs: int, outputs: int, group: int
    ) -> None:
        library = compiled()
        assert library is not None
        self._function = library.product
        self._kept = codes, scales, bias
        columns = -(-inputs // group) * group
        pointers = codes.data_ptr(), scales.data_ptr(), None if bias is None else bias.data_ptr()
        self._matrix = Matrix(*pointers, outputs, columns, group)
        self._address = ctypes.addressof(self._matrix)
        self.bits, self.inputs, self.outputs = bits, inputs, outputs

    def __call__(self, x: Tensor) -> Tensor:
        rows = x.shape[0]
        x = x if x.dtype == torch.float32 and x.is_contiguous() else x.float().contiguous()
        out = torch.empty((rows, self.outputs))
        threads = 1 if rows * self.inputs * self.outputs <= SMALL else torch.get_num_threads()
        # The interpreter's lock is not held meanwhile.
        if self._function(self._address, self.bits, x.data_ptr(), self.inputs, rows, out.data_ptr(), threads):
            raise MemoryError(f"no memory for a product of {rows} rows")
        return out


class BfloatProduct:
    """The same for a bfloat16 matrix [outputs, inputs], whose rows of x are rounded to bfloat16. Only where
    `multiplies_bfloat16`."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        library = compiled()
        assert library is not None
        self._function = library.product_bfloat16
        self.outputs, self.inputs = weight.shape
        self._missing = -self.inputs % 8
        padded = F.pad(weight, (0, self._missing, 0, -self.outputs % 16)).contiguous()
        # [blocks, pairs, 16], each 32 bits two neighbouring columns of an output.
        self._codes = padded.view(torch.int32).unflatten(0, (-1, 16)).transpose(1, 2).contiguous()
        self._bias = bias
        self._pointers = self._codes.data_ptr(), None if bias is None else bias.data_ptr()

    def __call__(self, x: Tensor) -> Tensor:
        x = x.bfloat16().contiguous()
        if self._missing:
            x = F.pad(x, (0, self._missing))
        rows, columns = x.shape
        out = torch.empty((rows, self.outputs))
        threads = 1 if rows * columns * self.outputs <= SMALL else torch.get_num_threads()
        codes, bias = self._pointers
        self._function(codes, bias, x.data_ptr(), columns // 2, self.outputs, rows, out.data_ptr(), threads)
        return out


def multiplies_bfloat16() -> bool:
    """Whether this processor and its compiler have what products.c multiplies bfloat16 by."""
    return bool(torch.cpu.get_capabilities().get("avx512_bf16")) and hasattr(compiled(), "product_bfloat16")


@functools.cache
def compiled() -> ctypes.CDLL | None:
    """The compiled products, from the cache or made now (2 s, once a machine); None, saying so in the log, where
    there is no C compiler that makes them."""
    name = os.environ.get("CC") or next((name for name in ("cc", "gcc", "clang") if shutil.which(name)), None)
    compiler = None if name is None else shutil.which(name)
    if compiler is None or not sys.platform.startswith(("linux", "darwin")):
        _log.warning("no C compiler (cc, gcc, clang or $CC) is there; %s", INSTEAD)
        return None
    # A home may be shared by machines with different processors.
    identity = f"{SOURCE.read_text(encoding='utf-8')} {FLAGS} {TARGETS} {compiler} {torch.cpu.get_capabilities()}"
    digest = hashlib.sha256(identity.encode()).hexdigest()[:24]
    folder = _cache_folder()
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hanlin-")))
        library = folder / f"products-{digest}.so"
        problem = "" if library.is_file() else _compile(compiler, library)
        if not problem:
            try:
                return load_library(library)
            except OSError as error:
                problem = str(error)
    _log.warning("%s compiled with %s: %s; %s", SOURCE, compiler, problem, INSTEAD)
    return None


def load_library(path: Path) -> ctypes.CDLL:
    """A compiled products.c."""
    library = ctypes.CDLL(str(path))
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64
    library.product.argtypes = [pointer, number, pointer, size, size, pointer, number]
    library.product.restype = number
    if hasattr(library, "product_bfloat16"):
        library.product_bfloat16.argtypes = [pointer, pointer, pointer, size, size, size, pointer, number]
        library.product_bfloat16.restype = None
    return library


def _compile(compiler: str, library: Path) -> str:
    """Compile products.c; returns what is wrong with it, or nothing."""
    problem = ""
    for target in TARGETS:
        try:
            with atomic_path(library) as part:
                command = [compiler, *FLAGS, *target, str(SOURCE), "-o", str(part), "-lm"]
                subprocess.run(command, check=True, capture_output=True, text=True, timeout=SECONDS)
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
