"""Speed of serving beside transformers and llama.cpp, on the same weights, in one run.

    python benchmarks/serve_speed.py [--only a b c …] [--dtype bfloat16 …] [--rounds 3] [--threads 2] [--json FILE]
    python benchmarks/serve_speed.py --quick

A Llama of 100M parameters (hidden 768, 12 layers, 12 heads, 4 of keys and values, intermediate 2,048, vocabulary
32,000, tied), random weights, greedy. The contestants take turns; figures are medians over rounds, and a ratio is the
median of each round's ratio, so that a busy machine disturbs all alike.

a  64 requests of mixed lengths (prompts of 16-256 tokens, 16-128 new ones): output tokens a second, prompts included,
   beside transformers' continuous batching and its `generate` (padded batches of like lengths, of 16 or of 64,
   whichever is faster). int8 and int4 are held against the faster of transformers' float32 and bfloat16.
b  Beside llama.cpp, which reads what `hanlin export --to gguf` writes and quantises it itself (all matrices, the head
   too): tokens a second of generation alone, 64 prompt tokens and 64 new ones, at batch 1 and 16; and what share it is
   of what memory allows, which is the rate of a streaming read over the bytes of weights that a step reads.
c  Seconds to the first token of a prompt of 2,000 tokens and a few more, where nobody asked before and where its
   beginning is known.
d  Requests of a through a live `hanlin serve`, streamed, 16 at once, beside the bare engine in a process of its own.
e  What the same bits in any company cost in float32: tokens a second of generation with and without.
f  Guessing ahead at batch 1, where the guesses are right: by lookup on prompts that are one passage again and again,
   and by a draft of the model's first two layers, where its other ten change nothing (their last matrices are zero).
   With the share of guesses that were accepted.
g  Start-up: seconds from `hanlin serve` to the line that says where it is, which is after its first answer, of the
   model above and of one with 450M parameters.

Needs pip install 'hanlin[export]' transformers llama-cpp-python. --quick runs every part on a small model, to see that
it works: its figures mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import random
import signal
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import serve_common as common
import torch
from serve_common import decode_rate, engine_of, medians, mixed, new_tokens, now, race, ratio, report, say
from serve_live import bare, service
from serve_peers import Continuous, Cpp, Padded, transformers_model

import hanlin
from hanlin.inference import Engine, Request
from hanlin.inference.precision import DTYPES, load_for_generation
from hanlin.models import ModelConfig

KINDS = {"float32": "f32", "bfloat16": "bf16", "int8": "q8_0", "int4": "q4_0"}
BARS = {
    ("bfloat16", 1): 0.8, ("bfloat16", 16): 1.1, ("int8", 1): 0.9, ("int4", 1): 0.75,
    "continuous": 2.0, "generate": 3.0, "prefix": 10.0, "service": 0.05, "deterministic": 0.10, "speculation": 1.5,
}  # fmt: skip
PREFIX = 2000
Result = Iterator[dict[str, Any]]


class Bench:
    """The options and the model, in a folder of its own."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.rounds, self.threads = options.rounds, options.threads
        self.count = 8 if options.quick else 64
        self.new = 8 if options.quick else 64
        self.config = LLAMA_QUICK if options.quick else common.LLAMA
        self.model = common.save(folder / "model", self.config)

    def engine(self, dtype: str, **settings: Any) -> Engine:
        return engine_of(self.model, dtype, **settings)

    def prompts(self, batch: int) -> list[Request]:
        return mixed(batch, batch, (64, 64), (self.new, self.new))

    # a ----------------------------------------------------------------

    def mixed_lengths(self) -> Result:
        requests = mixed(self.count, 1)
        contestants: dict[str, Callable[[], float]] = {}
        for dtype in self.options.dtype:
            contestants[f"hanlin {dtype}"] = partial(common.answer_rate, self.engine(dtype), requests)
        plain = [dtype for dtype in ("float32", "bfloat16") if dtype in self.options.dtype] or ["bfloat16"]
        for dtype in plain:
            # Continuous batching changes the model that it is given: each way has one of its own.
            padded = transformers_model(self.model, dtype)
            tried = {batch: Padded(padded, batch)(requests) for batch in ((8,) if self.options.quick else (16, 64))}
            say(f"a, generate {dtype}, tokens a second by batch: {tried}")
            contestants[f"generate {dtype}"] = partial(Padded(padded, max(tried, key=lambda one: tried[one])), requests)
            continuous = Continuous(transformers_model(self.model, dtype), requests)
            contestants[f"continuous {dtype}"] = partial(continuous, requests)
        for name, run in contestants.items():
            if not name.startswith("generate"):
                say(f"a, first run, not counted: {name} {run():.1f}")
        found = race("a", contestants, self.rounds)
        rates = medians(found)
        for dtype in self.options.dtype:
            for peer in ("continuous", "generate"):
                fastest = max(plain, key=lambda one: rates[f"{peer} {one}"])
                name = f"{peer} {dtype if dtype in plain else fastest}"
                value = ratio(found[f"hanlin {dtype}"], found[name])
                yield report(
                    "a", dtype=dtype, output_tokens=new_tokens(requests), tokens_per_second=rates[f"hanlin {dtype}"],
                    peer=name, peer_tokens_per_second=rates[name], ratio=value, bar=BARS[peer],
                )  # fmt: skip

    # b ----------------------------------------------------------------

    def beside_llama_cpp(self) -> Result:
        for dtype in self.options.dtype:
            engine, theirs = self.engine(dtype), Cpp(self.model, self.folder, KINDS[dtype], self.threads)
            for batch in self.options.batch:
                requests = self.prompts(batch)
                contestants: dict[str, Callable[[], float]] = {
                    "hanlin": partial(decode_rate, engine, requests),
                    "llama.cpp": partial(theirs, [list(one.prompt_ids) for one in requests], self.new),
                }
                for run in contestants.values():
                    run()
                # Memory's rate takes its turn too.
                contestants["memory"] = common.memory_rate
                found = race(f"b {dtype} batch {batch}", contestants, self.rounds)
                rates = medians(found)
                weight = self._bytes(dtype)
                yield report(
                    "b", dtype=dtype, batch=batch, tokens_per_second=rates["hanlin"], peer=f"llama.cpp {KINDS[dtype]}",
                    peer_tokens_per_second=rates["llama.cpp"], ratio=ratio(found["hanlin"], found["llama.cpp"]),
                    bar=BARS.get((dtype, batch)), memory_GB_per_second=rates["memory"] / 1e9, weights_MB=weight / 1e6,
                    limit_tokens_per_second=batch * rates["memory"] / weight,
                    share_of_limit=ratio(found["hanlin"], [batch * one / weight for one in found["memory"]]),
                )  # fmt: skip

    def _bytes(self, dtype: str) -> float:
        """Of the weights that a step reads: all matrices, the head once."""
        bits = {"float32": 32.0, "bfloat16": 16.0, "int8": 8.0, "int4": 4.5}[dtype]
        config = self.config
        queries = config.heads * config.head_dim
        layer = config.hidden_size * (
            2 * queries + 2 * config.kv_heads * config.head_dim + 3 * config.intermediate_size
        )
        return bits / 8 * (config.layers * layer + config.hidden_size * config.vocabulary_size)

    # c ----------------------------------------------------------------

    def shared_prefix(self) -> Result:
        config = self.config.model_copy(update={"max_positions": 4096})
        directory = common.save(self.folder / "long", config)
        rng, prefix = random.Random(0), 200 if self.options.quick else PREFIX
        for dtype in self.options.dtype:
            engine = hanlin.load(directory, dtype).engine

            shared: list[list[int]] = []

            def ask(known: bool, engine: Engine = engine, shared: list[list[int]] = shared) -> float:
                if not known:
                    shared[:] = [[rng.randrange(config.vocabulary_size) for _ in range(prefix)]]
                ids = [*shared[0], *(rng.randrange(config.vocabulary_size) for _ in range(16))]
                start = now()
                answer = engine.iterate(Request(prompt_ids=ids, max_new_tokens=4, ignore_eos=True))
                next(answer)
                seconds = now() - start
                for _ in answer:
                    pass
                return seconds

            ask(False), ask(True)
            found = race(f"c {dtype}", {"cold": partial(ask, False), "warm": partial(ask, True)}, 3 * self.rounds)
            yield report(
                "c", dtype=dtype, prefix=prefix, ratio=ratio(found["cold"], found["warm"]), bar=BARS["prefix"],
                cold_milliseconds=1e3 * statistics.median(found["cold"]),
                warm_milliseconds=1e3 * statistics.median(found["warm"]),
            )  # fmt: skip

    # d ----------------------------------------------------------------

    def service_overhead(self) -> Result:
        for dtype in (one for one in self.options.dtype if one in ("float32", "bfloat16")):
            seeds = iter(range(1000, 9999))
            with ExitStack() as stack:
                engine = stack.enter_context(bare(self.model, dtype, self.count, self.threads))
                live = stack.enter_context(service(self.model, dtype, self.count, self.threads))
                # The same requests for all three in a round, others in the next: nothing is known of any prompt.
                seed = next(seeds)
                for run in (partial(engine, "generate"), partial(engine, "stream"), live):
                    say(f"d {dtype}, first run, not counted: {run(seed):.1f}")
                found: dict[str, list[float]] = {}
                for _ in range(self.rounds):
                    seed = next(seeds)
                    contestants: dict[str, Callable[[], float]] = {
                        "engine.stream": partial(engine, "stream", seed),
                        "service": partial(live, seed),
                        "engine.generate": partial(engine, "generate", seed),
                    }
                    for name, values in race(f"d {dtype}", contestants, 1).items():
                        found.setdefault(name, []).extend(values)
            rates = medians(found)
            yield report(
                "d", dtype=dtype, tokens_per_second=rates, bar=BARS["service"],
                overhead=1 - ratio(found["service"], found["engine.stream"]),
                overhead_over_generate=1 - ratio(found["service"], found["engine.generate"]),
            )  # fmt: skip

    # e ----------------------------------------------------------------

    def determinism(self) -> Result:
        engines = {
            name: self.engine("float32", deterministic=name == "deterministic") for name in ("deterministic", "free")
        }
        for batch in sorted({*self.options.batch, 1, 4, 16, 64}):
            requests = self.prompts(batch)
            contestants = {name: partial(decode_rate, engine, requests) for name, engine in engines.items()}
            for run in contestants.values():
                run()
            found = race(f"e batch {batch}", contestants, self.rounds)
            yield report(
                "e", dtype="float32", batch=batch, tokens_per_second=medians(found),
                cost=1 - ratio(found["deterministic"], found["free"]), bar=BARS["deterministic"],
            )  # fmt: skip

    # f ----------------------------------------------------------------

    def speculation(self) -> Result:
        whole, small = common.idle_layers(self.folder, self.config, 2)
        rng = random.Random(0)
        passage = [rng.randrange(self.config.vocabulary_size) for _ in range(24)]
        request = Request(prompt_ids=passage * 8, max_new_tokens=2 * self.new, ignore_eos=True)
        for dtype in self.options.dtype:
            draft = load_for_generation(small, dtype, common.CPU)
            for name, guesser in (("lookup", "lookup"), ("draft", draft)):
                plain, guessing = engine_of(whole, dtype), engine_of(whole, dtype, speculation=guesser)
                assert plain.generate([request])[0].ids == guessing.generate([request])[0].ids
                load = common.guesses(guessing, request)
                contestants = {
                    "plain": partial(decode_rate, plain, [request]), name: partial(decode_rate, guessing, [request])
                }  # fmt: skip
                found = race(f"f {dtype}", contestants, self.rounds)
                yield report(
                    "f", dtype=dtype, guesses=name, accepted=load, tokens_per_second=medians(found),
                    ratio=ratio(found[name], found["plain"]), bar=BARS["speculation"],
                )  # fmt: skip

    # g ----------------------------------------------------------------

    def start_up(self) -> Result:
        large = {"hidden_size": 1536, "layers": 16, "head_dim": 128, "intermediate_size": 4096}
        models = {"small" if self.options.quick else "100M": self.model}
        if not self.options.quick:
            models["450M"] = common.save(self.folder / "large", self.config.model_copy(update=large))
        for size, directory in models.items():
            # Kernels are compiled once on a machine, and files read: that is not counted.
            with service(directory, self.options.dtype[0], 1, self.threads):
                pass
            found: dict[str, list[float]] = {dtype: [] for dtype in self.options.dtype}
            for _, dtype in itertools.product(range(self.rounds), self.options.dtype):
                start = now()
                with service(directory, dtype, 1, self.threads):
                    found[dtype].append(now() - start)
            yield report("g", model=size, seconds=medians(found))


LLAMA_QUICK = ModelConfig.model_validate(
    {
        **common.LLAMA.model_dump(),
        "hidden_size": 384,
        "layers": 2,
        "heads": 6,
        "kv_heads": 2,
        "intermediate_size": 512,
        "head_dim": 64,
    }
)


PARTS: dict[str, Callable[[Bench], Result]] = {
    "a": Bench.mixed_lengths,
    "b": Bench.beside_llama_cpp,
    "c": Bench.shared_prefix,
    "d": Bench.service_overhead,
    "e": Bench.determinism,
    "f": Bench.speculation,
    "g": Bench.start_up,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="the parts to run")
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32", "int8", "int4"], choices=DTYPES)
    parser.add_argument("--batch", nargs="+", type=int, default=[1, 16], help="of parts b and e")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--clock", choices=list(common.CLOCKS), default="wall",
        help="cpu: count processor time, for a busy machine and --threads 1; not for part d, and not to be reported",
    )  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="a small model and few tokens, to see that it runs")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    torch.set_num_threads(options.threads)
    common.use_clock(options.clock)
    # Stopped, it stops the processes that it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    machine = {
        "threads": options.threads, "clock": options.clock, "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "capabilities": [name for name, there in torch.cpu.get_capabilities().items() if there is True],
        "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip
    print(json.dumps(machine), flush=True)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="serve-speed-") as folder:
        bench = Bench(options, Path(folder))
        for part in options.only:
            for result in PARTS[part](bench):
                results.append({**result, "load": round(os.getloadavg()[0], 1)})
                print(json.dumps(results[-1]), flush=True)
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
