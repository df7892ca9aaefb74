"""What the parts of serve_speed.py share: model, requests, turns of contestants, and how generation is timed."""

from __future__ import annotations

import itertools
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from hanlin.inference import Engine, Request
from hanlin.inference.precision import load_for_generation
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.tokenization import Tokenizer
from hanlin.tokenization.vocabulary import byte_alphabet, tokenizer_config, tokenizer_json

LLAMA = ModelConfig(
    family="llama", vocabulary_size=32000, hidden_size=768, layers=12, heads=12, kv_heads=4, intermediate_size=2048,
    max_positions=2048, tied=True,
)  # fmt: skip
SPECIALS = 64
"""Places in the vocabulary that are left for special tokens."""
CPU = torch.device("cpu")
Tokens = list[int]


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
_clock = [CLOCKS["wall"]]


def use_clock(name: str) -> None:
    """`cpu` counts this process's time on processors: with one thread it leaves out what others take meanwhile."""
    _clock[0] = CLOCKS[name]


def now() -> float:
    return _clock[0]()


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def spoken(size: int) -> Tokenizer:
    """A vocabulary of `size` in which nearly every token is a few letters, so that random tokens make text, and a
    service has text to send."""
    letters = [chr(letter) for letter in range(ord("a"), ord("z") + 1)]
    space = byte_alphabet()[ord(" ")]
    pairs = [(one, other) for one in letters for other in letters]
    merges = [*pairs, *((one + other, third) for one, other in pairs for third in letters)]
    merges += [(space, letter) for letter in letters]
    merges += [(space + letter, pair) for letter in letters for pair in map("".join, pairs)]
    merges = merges[: size - SPECIALS - len(byte_alphabet())]
    tokens = [*byte_alphabet(), *map("".join, merges)]
    return Tokenizer(tokenizer_json(tokens, merges), tokenizer_config())


def save(directory: Path, config: ModelConfig, dtype: torch.dtype = torch.float32) -> Path:
    """A model of `config` with random weights, as a Hugging Face directory."""
    model = Transformer(config)
    model.init_weights(0)
    save_model(directory, model.to(dtype), spoken(config.vocabulary_size))
    return directory


def idle_layers(folder: Path, config: ModelConfig, active: int) -> tuple[Path, Path]:
    """A model of `config` in which only the first `active` layers change anything, and these alone as a model."""
    whole = Transformer(config)
    whole.init_weights(0)
    small = Transformer(config.model_copy(update={"layers": active}))
    with torch.no_grad():
        for name, parameter in whole.named_parameters():
            path = name.split(".")
            if path[0] == "blocks" and int(path[1]) >= active:
                if name.endswith(("attention.out.weight", "mlp.down.weight")):
                    parameter.zero_()
            else:
                small.get_parameter(name).copy_(parameter)
    for model, name in ((whole, "idle"), (small, "active")):
        save_model(folder / name, model, spoken(config.vocabulary_size))
    return folder / "idle", folder / "active"


def guesses(engine: Engine, request: Request) -> float:
    """The share of the tokens that were guessed for an answer that are right."""
    scheduler = engine._make_scheduler()
    scheduler.add([engine._sequence(request)])
    while scheduler.busy:
        scheduler.step()
    return scheduler.load.accepted_tokens / max(1, scheduler.load.guessed_tokens)


def engine_of(directory: Path, dtype: str, *, deterministic: bool | None = None, **settings: Any) -> Engine:
    """The engine as `hanlin.load` makes it, but that it forgets prompts: rounds ask the same again."""
    model = load_for_generation(directory, dtype, CPU)
    settings = {"max_batch": 64, **settings}
    return Engine(model, Tokenizer.load(directory), deterministic=deterministic, **settings)


def mixed(
    count: int, seed: int, prompt: tuple[int, int] = (16, 256), new: tuple[int, int] = (16, 128)
) -> list[Request]:
    """Requests of mixed lengths, each length as likely, which are answered in full."""
    rng = random.Random(seed)
    return [
        Request(
            prompt_ids=[rng.randrange(LLAMA.vocabulary_size) for _ in range(rng.randint(*prompt))],
            max_new_tokens=rng.randint(*new),
            ignore_eos=True,
        )
        for _ in range(count)
    ]


def new_tokens(requests: Sequence[Request]) -> int:
    return sum(request.max_new_tokens for request in requests)


def answer_rate(engine: Engine, requests: list[Request]) -> float:
    """Output tokens a second, prompts included."""
    start = now()
    done = sum(len(one.ids) for one in engine.generate(requests))
    assert done == new_tokens(requests)
    return done / (now() - start)


def decode_rate(engine: Engine, requests: Sequence[Request]) -> float:
    """Tokens a second from the step after which every request has its first token; prompts are read before."""
    scheduler = engine._make_scheduler()
    sequences = [engine._sequence(request) for request in requests]
    scheduler.add(sequences)
    while not all(sequence.ids for sequence in sequences):
        scheduler.step()
    before = sum(len(sequence.ids) for sequence in sequences)
    start = now()
    while scheduler.busy:
        scheduler.step()
    return (sum(len(sequence.ids) for sequence in sequences) - before) / (now() - start)


def race(what: str, contestants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Figures of each contestant, round by round: they take turns, so that a busy machine disturbs all alike."""
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number, (name, run) in itertools.product(range(rounds), contestants.items()):
        found[name].append(run())
        say(f"{what}, round {number + 1} of {rounds}: {name} {found[name][-1]:.4g}")
    return found


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The median of each round's ratio."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


def report(part: str, **values: Any) -> dict[str, Any]:
    return {
        "part": part,
        **{key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()},
    }


def medians(found: Mapping[str, Sequence[float]]) -> dict[str, float]:
    return {name: round(statistics.median(values), 2) for name, values in found.items()}


def memory_rate(device: torch.device = CPU) -> float:
    """Bytes a second that a streaming read of memory gets."""
    much = torch.ones(1 << 28, device=device)
    times: list[float] = []
    for _ in range(8):
        start = now()
        much.sum().item()
        times.append(now() - start)
    return much.nbytes / min(times)
