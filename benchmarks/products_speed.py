"""Speed and exactness of a linear layer's product in each form that weights take for generation, and what memory gives.

    python benchmarks/products_speed.py [--threads 2] [--shapes 768x2304 …] [--rows 1 4 16 64] [--json FILE]

Shapes are inputs x outputs; by default those of a model of 100M parameters. Before each product 64 MiB of something
else are read, so that weights come from memory and not from caches, then a small product of the same form is computed,
so that all but the weights is at hand, as it is between the layers of a model. Figures are microseconds, the lower
quartile of `--repeats` products, the forms taking turns, so that a busy machine disturbs all alike. Error is the root
mean square against float64 over the result's, of the product itself (the rounding of the weights to 8 or 4 bits is not
counted). On a machine that is busy otherwise use one thread fewer than it has cores: threads wait for each other.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.inference import quantised
from hanlin.inference.native import compiled, multiplies_dense
from hanlin.inference.products import DenseLinear
from hanlin.inference.quantised import CodedLinear
from hanlin.models.quantised import Bits, dequantise
from hanlin.models.quantised import quantise as codes_of

SHAPES = ["768x2304", "768x768", "768x4096", "2048x768", "768x32000"]
Product = Callable[[Tensor], Tensor]
Form = tuple[float, Callable[[Tensor], Product], Callable[[Tensor], Tensor]]
"""Bytes a weight; makes the product of a weight; the weight that it stands for, float64."""


def coded(bits: Bits, group: int, native: bool) -> Form:
    def make(weight: Tensor) -> Product:
        found = quantised.compiled
        try:
            if not native:
                quantised.compiled = lambda: None
            layer = CodedLinear(weight, None, bits, group)
        finally:
            quantised.compiled = found
        assert layer.way == ("native" if native else "torch")
        return layer.product

    scale = 0.0 if bits == 8 else 4 / group
    return bits / 8 + scale, make, lambda weight: dequantise(*codes_of(weight, bits, group), torch.float64)


def plain(dtype: torch.dtype) -> Form:
    def make(weight: Tensor) -> Product:
        kept = weight.to(dtype, copy=True)
        return lambda x: F.linear(x.to(dtype), kept).float()

    return dtype.itemsize, make, lambda weight: weight.to(dtype).double()


def packed(weight: Tensor) -> Product:
    """oneDNN's product with a weight that is laid out for it."""
    kept = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x.to(weight.dtype), kept, None, "none", [], "").float()


def forms() -> dict[str, Form]:
    found = {"float32 F.linear": plain(torch.float32), "bfloat16 F.linear": plain(torch.bfloat16)}
    for dtype in (torch.float32, torch.bfloat16):
        name, exact = str(dtype).removeprefix("torch."), lambda weight, dtype=dtype: weight.to(dtype).double()
        found[f"{name} oneDNN"] = dtype.itemsize, lambda weight, dtype=dtype: packed(weight.to(dtype)), exact
        if multiplies_dense():
            make = lambda weight, dtype=dtype: DenseLinear(weight.to(dtype), None).product  # noqa: E731 — a line each
            found[f"{name} dense.c"] = dtype.itemsize, make, exact
    for native in (True, False):
        if native and compiled() is None:
            continue
        where = "coded.c" if native else "torch"
        found[f"int8 {where}"] = coded(8, 64, native)
        for group in (32, 64, 128):
            if native or group == 64:
                found[f"int4/{group} {where}"] = coded(4, group, native)
    return found


def timed(call: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measure(shape: str, rows: list[int], repeats: int, other: Tensor) -> list[dict[str, Any]]:
    inputs, outputs = map(int, shape.split("x"))
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0)) / inputs**0.5
    x = torch.randn(max(64, *rows), inputs, generator=torch.Generator().manual_seed(1))
    products: dict[str, Product] = {}
    small: dict[str, Product] = {}
    results: list[dict[str, Any]] = []
    for name, (_, make, stands_for) in forms().items():
        products[name], small[name] = make(weight), make(weight[:64])
        wanted = x.double() @ stands_for(weight)[:, :inputs].T
        error = float((products[name](x) - wanted).square().mean().sqrt() / wanted.square().mean().sqrt())
        results.append({"shape": shape, "form": name, "error": error})
    for count in rows:
        part = x[:count].contiguous()
        times: dict[str, list[float]] = {name: [] for name in products}
        for _ in range(repeats):
            for name, product in products.items():
                other.sum()
                small[name](part)
                times[name].append(timed(lambda product=product, part=part: product(part)))
        for result in results:
            result[str(count)] = statistics.quantiles(times[result["form"]], n=4)[0] * 1e6
    for result in results:
        size = forms()[result["form"]][0] * inputs * outputs
        result["GB/s"] = size / result[str(rows[0])] / 1e3
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 16, 64])
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    other = torch.ones(16 << 20)
    read = other.nbytes / min(timed(other.sum) for _ in range(20)) / 1e9
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, {given.threads} threads", end="")
    print(f", {read:.0f} GB/s read from memory")
    results: list[dict[str, Any]] = []
    with torch.inference_mode():
        for shape in given.shapes:
            print(f"\n| {shape} | " + " | ".join(f"{count} rows" for count in given.rows) + " | GB/s | error |")
            print("|---" * (len(given.rows) + 3) + "|")
            for result in measure(shape, given.rows, given.repeats, other):
                cells = [f"{result[str(count)]:,.0f}" for count in given.rows]
                cells += [f"{result['GB/s']:.1f}", f"{result['error']:.1e}"]
                print(f"| {result['form']} | " + " | ".join(cells) + " |", flush=True)
                results.append(result)
    if given.json:
        given.json.write_text(json.dumps({"threads": given.threads, "GB/s": read, "results": results}, indent=1))


if __name__ == "__main__":
    main()
