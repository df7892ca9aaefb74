"""Who is answered when: memory, priorities, prefixes, preemption, cancellation; and always with the answer of a lone
run."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from hanlin.artifacts import HanlinError
from hanlin.inference import Completion, Engine, Request
from hanlin.inference.cache import BLOCK, KVCache, blocks_of
from hanlin.inference.native import multiplies_dense
from hanlin.inference.precision import DTYPES
from hanlin.inference.prefixes import TILE, Prefixes, digests
from hanlin.inference.scheduler import Scheduler
from hanlin.inference.sequence import Sequence
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from tests.inference.models import VOCABULARY, prompts, tokenizer


def roomy(positions: int = 1024, **more: Any) -> Transformer:
    """A lively model with room for long prompts."""
    shape: dict[str, Any] = {"family": "qwen3", "hidden_size": 32, "layers": 2, "heads": 4, "intermediate_size": 48}
    shape |= {"kv_heads": 2, "vocabulary_size": VOCABULARY, "max_positions": positions}
    config = ModelConfig(**{**shape, **more})
    model = Transformer(config)
    model.init_weights(5)
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * (0.2 if parameter.ndim > 1 else 0.1))
    return model.eval()


MODEL = roomy()
needs_dense = pytest.mark.skipif(not multiplies_dense(), reason="no AVX2 with FMA, or no compiler")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("roomy")
    save_model(directory, MODEL, tokenizer())
    return directory


def made(**settings: Any) -> Engine:
    return Engine(MODEL, tokenizer(), **{"max_batch": 4, "frozen": True, "deterministic": True, **settings})


def asked(lengths: list[int], new: int = 12, seed: int = 0, **more: Any) -> list[Request]:
    return [
        Request(prompt_ids=prompt, max_new_tokens=new, ignore_eos=True, temperature=1, seed=number, **more)
        for number, prompt in enumerate(prompts(lengths, seed))
    ]


def lone(requests: list[Request], **settings: Any) -> list[Completion]:
    return [made(**settings).generate([request])[0] for request in requests]


def same(one: list[Completion], other: list[Completion]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.ids == b.ids and a.logprobs == b.logprobs and a.finish_reason == b.finish_reason


def scheduler(one: Engine) -> Scheduler:
    found = one._scheduler
    assert found is not None
    return found


# Memory ---------------------------------------------------------------


def test_preempted_sequences_go_on_bit_by_bit() -> None:
    requests = asked([40, 100, 30, 64], new=90)
    # Room for two of them at most when they are done.
    crowded = made(cache_tokens=320)
    same(crowded.generate(requests), lone(requests))
    assert crowded.load.preemptions > 0
    assert crowded.load.used_blocks == 0


def test_what_can_never_fit_is_refused() -> None:
    one = made(cache_tokens=128)
    with pytest.raises(HanlinError, match=r"128.*cache_tokens"):
        one.generate(asked([100], new=40))
    assert len(one.generate(asked([100], new=20))[0].ids) == 20


def test_nothing_is_left_over_whatever_happens() -> None:
    chance = random.Random(3)
    one = made(cache_tokens=700, max_batch=5)
    for turn in range(6):
        lengths = [chance.choice([1, 5, 127, 128, 129, 200, 300]) for _ in range(9)]
        requests = asked(lengths, new=chance.choice([1, 20, 60]), seed=turn)
        for number, _ in enumerate(one.iterate(requests[0])):
            if number == turn:
                break
        one.generate(requests)
        state, held = one.load, scheduler(one).cache.held
        assert state.running == state.waiting == 0
        assert not any(held[:5]) and state.used_blocks <= state.total_blocks
        assert sorted(scheduler(one)._free) == list(range(5))


def test_the_cache_counts_and_keeps() -> None:
    cache = KVCache(MODEL.config, 3, 20, torch.float32, torch.device("cpu"))
    cache.hold(0, BLOCK + 1)
    cache.hold(2, 1)
    assert cache.held == [2, 0, 1] and cache.free == 17
    cache.data[0, :, :, :40] = torch.randn(2, 4, 40, 8)
    kept = cache.data[0, :, :, :40].clone()
    spilled = cache.spill(0, 40)
    cache.clear(0)
    assert not cache.data[0].any()
    cache.release(0)
    cache.hold(1, 40)
    cache.restore(1, spilled)
    assert torch.equal(cache.data[1, :, :, :40], kept)
    cache.hold(0, 40)
    cache.copy(1, 0, 40, 8)
    assert torch.equal(cache.data[0, :, :, 8:40], kept[:, :, 8:]) and not cache.data[0, :, :, :8].any()
    cache.reorder([1, 2], 40)
    assert torch.equal(cache.data[0, :, :, :40], kept) and not cache.data[1, :, :, :40].any()
    # Memory that is needed elsewhere is given back, and comes back as zeros.
    cache.release(0)
    cache.hold(2, 19 * BLOCK)
    assert not cache.data[0].any()


def test_memory_follows_what_is_held() -> None:
    """Addresses for far more than there is; pages for what is written."""
    config = MODEL.config.model_copy(update={"max_positions": 1 << 20, "layers": 24, "kv_heads": 16})
    cache = KVCache(config, 64, 1 << 20, torch.float32, torch.device("cpu"))
    assert cache.data.numel() * 4 > 1 << 40
    before = _resident()
    cache.data[3, :, :, :64] = 1.0
    assert _resident() - before < 64 << 20
    cache.hold(3, 64)
    cache.release(3)
    cache.trim()
    assert _resident() - before < 1 << 20
    # A slot that is used again for less gives back what it does not hold.
    cache.hold(3, 2048)
    cache.data[3, :, :, :2048] = 1.0
    assert _resident() - before > 40 << 20
    cache.release(3)
    cache.hold(3, 64)
    cache.trim()
    assert _resident() - before < 8 << 20
    assert (cache.data[3, :, :, :64] == 1).all() and not cache.data[3, :, :, 64:2048].any()


def _resident() -> int:
    import os
    from pathlib import Path

    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# Prefixes -------------------------------------------------------------


def test_prefixes_are_found_by_their_content() -> None:
    one, other = list(range(3 * TILE + 5)), list(range(3 * TILE + 5))
    other[TILE + 3] = 999
    mine, theirs = digests(one, "a"), digests(other, "a")
    assert len(mine) == 3 and mine[0] == theirs[0] and mine[1] != theirs[1] and mine[2] != theirs[2]
    assert not set(mine) & set(digests(one, "b"))
    held = Prefixes()
    held.note(7, mine[:2])
    assert held.find(mine) == (7, 2) and held.find(theirs) == (7, 1) and held.find(digests(one, "b")) is None
    held.note(7, mine)
    held.note(8, theirs)
    assert held.find(theirs) == (8, 3) and held.oldest([7, 8]) == 7
    held.touch(7)
    assert held.oldest([7, 8]) == 8
    held.forget(7)
    assert held.find(mine) == (8, 1)
    held.forget(8)
    assert held.find(mine) is None


def test_a_prompt_that_was_read_is_not_read_again() -> None:
    start = prompts([300], seed=9)[0]
    requests = [
        Request(prompt_ids=[*start, *rest], max_new_tokens=8, temperature=1, seed=number, ignore_eos=True)
        for number, rest in enumerate(prompts([10, 50, 200, 1], seed=4))
    ]
    one = made()
    for request, alone in zip(requests, lone(requests)):
        read = one.load.prompt_tokens
        same(one.generate([request]), [alone])
        fresh = one.load.prompt_tokens - read
        assert fresh == len(request.prompt_ids) - (256 if read else 0)
    assert one.load.prefix_hits == 3 * 256
    # All at once: the beginning is read by one of them.
    crowd = made()
    same(crowd.generate(requests), lone(requests))
    assert crowd.load.prompt_tokens == sum(len(request.prompt_ids) for request in requests) - 3 * 256


def test_owners_do_not_share_what_they_asked() -> None:
    prompt = prompts([300], seed=9)[0]
    one = made()
    for salt, fresh in (("a", 300), ("a", 44), ("b", 300)):
        read = one.load.prompt_tokens
        one.generate([Request(prompt_ids=prompt, max_new_tokens=2, cache_salt=salt)])
        assert one.load.prompt_tokens - read == fresh
    # Nor when they ask at once.
    crowd = made()
    crowd.generate([Request(prompt_ids=prompt, max_new_tokens=2, cache_salt=salt) for salt in "aba"])
    assert crowd.load.prompt_tokens == 600


def follow_up(request: Request, answer: Completion, words: int, seed: int) -> Request:
    """What is asked next in a conversation."""
    ids = [*request.prompt_ids, *answer.ids, *prompts([words], seed)[0]]
    return Request(prompt_ids=ids, max_new_tokens=150, temperature=1, seed=seed, ignore_eos=True)


@needs_dense
@pytest.mark.parametrize("speculation", [None, "lookup"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_conversation_is_read_once(dtype: str, speculation: Literal["lookup"] | None, saved: Path) -> None:
    def engine() -> Engine:
        return Engine(saved, dtype=dtype, device="cpu", max_batch=4, speculation=speculation)

    # After the first answer there are two full tiles of tokens, but of the last one there are no keys and values.
    one, request = engine(), Request(prompt_ids=prompts([50], 3)[0], max_new_tokens=2 * TILE - 50, ignore_eos=True)
    length = 0
    for turn in range(4):
        before = one.load.prompt_tokens
        answer = one.generate([request])[0]
        same([answer], engine().generate([request]))
        known = len(request.prompt_ids) - (one.load.prompt_tokens - before)
        assert known == max(0, length - 1) // TILE * TILE
        length = len(request.prompt_ids) + len(answer.ids)
        request = follow_up(request, answer, 20, turn)


def test_without_kernels_answers_are_not_kept() -> None:
    """A model in memory is computed by PyTorch's kernels: a token's bits depend on whether it was read or generated."""
    one = made()
    assert not one._step.reads_as_it_writes
    request = asked([200], new=200)[0]
    after = follow_up(request, one.generate([request])[0], 20, 1)
    before = one.load.prompt_tokens
    same(one.generate([after]), lone([after]))
    assert one.load.prompt_tokens - before == len(after.prompt_ids) - TILE


class Library:
    """What an engine's shelves are said to hold, and what a fresh engine has of the same texts."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory, self.settings = directory, {"dtype": "float32", "device": "cpu", "max_batch": 2, **settings}
        self.engine = Engine(directory, **self.settings)
        assert self.engine._step.reads_as_it_writes
        self.texts: dict[bytes, list[int]] = {}
        self.read: dict[bytes, torch.Tensor] = {}

    def answer(self, requests: list[Request]) -> list[Completion]:
        answers = self.engine.generate(requests)
        for request, answer in zip(requests, answers, strict=True):
            self.know([*request.prompt_ids, *answer.ids])
        return answers

    def know(self, ids: list[int]) -> None:
        for number, digest in enumerate(digests(ids, "")):
            self.texts[digest] = ids[: (number + 1) * TILE]

    def check(self) -> list[int]:
        """The tiles of each shelf that holds any, each of which has the bits of its text read by a fresh engine."""
        held = scheduler(self.engine)
        shelves, cache, prefixes = held.shelves, held.cache, held.prefixes
        assert cache.used == shelves.blocks <= cache.blocks
        for shelf in shelves._slots:
            chain = prefixes._chains.get(shelf, [])
            assert cache.held[shelf] == blocks_of(len(chain) * TILE)
            if chain:
                ids = self.texts[chain[-1]]
                assert digests(ids, "") == chain
                if chain[-1] not in self.read:
                    fresh = Engine(self.directory, **self.settings)
                    fresh.generate([Request(prompt_ids=ids, max_new_tokens=1)])
                    (first,) = [one for one in scheduler(fresh).shelves._slots if scheduler(fresh).prefixes.tiles(one)]
                    self.read[chain[-1]] = scheduler(fresh).cache.data[first, :, :, : len(ids)].clone()
                assert torch.equal(cache.data[shelf, :, :, : len(ids)], self.read[chain[-1]])
        return [prefixes.tiles(shelf) for shelf in shelves._slots if prefixes.tiles(shelf)]


@needs_dense
def test_many_samples_of_a_prompt_take_one_shelf(saved: Path) -> None:
    library = Library(saved, max_batch=8)
    other = asked([300], new=4, seed=1)[0]
    library.answer([other])
    prompt = prompts([200], seed=2)[0]
    samples = [
        Request(prompt_ids=prompt, max_new_tokens=60 + number % 3 * 100, ignore_eos=True, temperature=1, seed=number)
        for number in range(40)
    ]
    library.answer(samples)
    assert len(library.check()) == 2
    before = library.engine.load.prompt_tokens
    library.answer([other])
    assert library.engine.load.prompt_tokens - before == 300 - 256


@needs_dense
@pytest.mark.parametrize("speculation", [None, "lookup"])
@pytest.mark.parametrize("window", [None, 90])
@pytest.mark.parametrize("seed", range(2))
def test_shelves_hold_what_they_are_said_to_hold(
    seed: int, window: int | None, speculation: Literal["lookup"] | None, tmp_path: Path
) -> None:
    """In random conversations, several at once, with answers asked for anew, other questions, and little memory."""
    save_model(tmp_path, roomy(sliding_window=window), tokenizer())
    rng = random.Random(seed)
    library = Library(tmp_path, cache_tokens=rng.choice([1100, 2000, 6000]), speculation=speculation)
    history = [Request(prompt_ids=prompts([rng.randint(5, 300)], seed)[0], max_new_tokens=40, ignore_eos=True)]
    for turn in range(10):
        requests: list[Request] = []
        for number in range(rng.randint(1, 3)):
            before = history[-1] if rng.random() < 0.6 else rng.choice(history)
            drawn = {"seed": 10 * turn + number, "temperature": rng.choice([0, 1])}
            requests.append(dataclasses.replace(before, max_new_tokens=rng.randint(1, 250), **drawn))
        answers = library.answer(requests)
        fresh = Engine(tmp_path, **{**library.settings, "speculation": None})
        same(answers, [fresh.generate([request])[0] for request in requests])
        library.check()
        for number, (request, answer) in enumerate(zip(requests, answers)):
            if len(request.prompt_ids) + len(answer.ids) < 700 and rng.random() < 0.5:
                history.append(follow_up(request, answer, rng.randint(1, 60), 10 * turn + number))


def test_what_a_request_begins_with_is_the_last_to_go(saved: Path) -> None:
    """Conversations in turn, for which there is not memory enough: the next turn does not put out its own beginning."""
    one = Engine(saved, device="cpu", max_batch=2, cache_tokens=1000, frozen=True)
    first, second, third = (asked([300], new=4, seed=seed)[0] for seed in range(3))
    one.generate([first])
    one.generate([second])
    before = one.load.prompt_tokens
    one.generate([dataclasses.replace(first, prompt_ids=[*first.prompt_ids, *third.prompt_ids])])
    assert one.load.prompt_tokens - before == 600 - 256


def test_kept_prompts_give_way() -> None:
    one = made(cache_tokens=640, max_batch=2)
    for seed in range(4):
        one.generate(asked([300], new=4, seed=seed))
    assert 0 < one.load.used_blocks <= one.load.total_blocks
    last = asked([300], new=4, seed=3)
    read = one.load.prompt_tokens
    one.generate(last)
    assert one.load.prompt_tokens - read == 44
    requests = asked([250, 240], new=4, seed=11)
    same(one.generate(requests), lone(requests))


# Order ----------------------------------------------------------------


def finished(one: Engine, requests: list[Request]) -> list[int]:
    order: list[int] = []
    answers = one.generate(requests, on_finish=lambda done: order.append(id(done)))
    return [[id(answer) for answer in answers].index(number) for number in order]


def test_smaller_priorities_go_first() -> None:
    one = made(max_batch=1)
    requests = [
        Request(prompt_ids=[5], max_new_tokens=3, ignore_eos=True, priority=priority) for priority in (2, 0, 1, 0)
    ]
    assert finished(one, requests) == [1, 3, 2, 0]


def test_an_urgent_request_takes_the_place_of_another_which_loses_nothing() -> None:
    one = made(max_batch=2)
    slow, urgent = asked([20, 150], new=40), asked([30], new=3, seed=5, priority=-1)
    alone = lone([*slow, *urgent])
    order: list[str] = []
    plan = Scheduler(one._step, 2, 200, 4096, 0)
    sequences = [one._sequence(request) for request in slow]
    plan.add(sequences)
    for _ in range(5):
        plan.step()
    late = one._sequence(urgent[0])
    plan.add([late])
    everyone = {"slow": sequences[0], "slower": sequences[1], "urgent": late}
    while plan.busy:
        for sequence in plan.step():
            if sequence.finish_reason:
                order += [name for name, known in everyone.items() if known is sequence]
    assert order[0] == "urgent" and plan.load.preemptions == 1
    same([sequence.completion() for sequence in (*sequences, late)], alone)


def test_no_one_starves_where_memory_is_short() -> None:
    """Of equal priority the first to come is never put out for a later one."""
    one = made(max_batch=3)
    plan = Scheduler(one._step, 3, 9, 4096, 0)
    sequences = [one._sequence(request) for request in asked([40] * 8, new=60)]
    plan.add(sequences)
    ended: list[int] = []
    for _ in range(2000):
        ended += [sequence.number for sequence in plan.step() if sequence.finish_reason]
        if not plan.busy:
            break
    assert plan.load.preemptions > 0 and ended == sorted(ended) and len(ended) == 8


def test_long_prompts_do_not_hold_up_answers() -> None:
    one = made()
    plan = Scheduler(one._step, 4, 200, 4096, 0)
    first = one._sequence(asked([10], new=30)[0])
    plan.add([first])
    plan.step()
    plan.add([one._sequence(asked([900], new=2, seed=2)[0])])
    sizes: list[int] = []
    while first.finish_reason is None:
        before = plan.load.prompt_tokens
        plan.step()
        sizes.append(plan.load.prompt_tokens - before)
    assert sizes[:4] == [256, 256, 256, 132] and len(first.ids) == 30


# Cancelling -----------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_cancelling_frees_memory_at_once(steps: int) -> None:
    one = made()
    plan = Scheduler(one._step, 4, 200, 128, 0)
    sequences = [one._sequence(request) for request in asked([300, 20, 300, 40], new=20)]
    plan.add(sequences)
    for _ in range(steps):
        plan.step()
    for sequence in sequences[::2]:
        plan.cancel(sequence)
        assert sequence.finish_reason == "cancelled" and sequence.slot == -1
    assert plan.cache.used == sum(plan.cache.held[one.slot] for one in plan.running)
    while plan.busy:
        plan.step()
    assert plan.cache.used == 0
    same([s.completion() for s in sequences[1::2]], lone([s.request for s in sequences[1::2]]))


def test_a_cancelled_leader_leaves_those_that_waited_for_it() -> None:
    one = made()
    prompt = prompts([400], seed=2)[0]
    requests = [Request(prompt_ids=prompt, max_new_tokens=5, temperature=1, seed=n) for n in range(3)]
    plan = Scheduler(one._step, 4, 200, 256, 0)
    sequences: list[Sequence] = [one._sequence(request) for request in requests]
    plan.add(sequences)
    plan.step()
    plan._admit()
    assert sequences[1].leader is sequences[0]
    plan.cancel(sequences[0])
    while plan.busy:
        plan.step()
    same([s.completion() for s in sequences[1:]], lone(requests[1:]))
    assert plan.load.prompt_tokens == 400


# Streams --------------------------------------------------------------


def test_streams_are_the_whole_answers() -> None:
    one = made()
    requests = [*asked([5, 140, 20, 64, 9, 300], new=25), Request(prompt_ids=[1, 2], max_new_tokens=4, beams=2)]
    requests.append(Request(prompt_ids=[4, 5, 6], max_new_tokens=3, prompt_logprobs=True, logprobs=2))
    alone = lone(requests)

    async def collect(request: Request) -> Completion:
        pieces = [piece async for piece in one.stream(request)]
        done = pieces[-1].completion
        assert done is not None and pieces[-1].finish_reason == done.finish_reason
        assert "".join(piece.text for piece in pieces) == done.text
        assert [token for piece in pieces for token in piece.ids] == done.ids
        assert [top for piece in pieces for top in piece.top_logprobs] == done.top_logprobs
        return done

    async def everyone() -> list[Completion]:
        return list(await asyncio.gather(*map(collect, requests)))

    try:
        found = asyncio.run(everyone())
        same(found, alone)
        assert found[-1].prompt_logprobs == pytest.approx(alone[-1].prompt_logprobs)
        # The other ways in go on beside the thread.
        same(one.generate(requests), alone)
        assert list(one.iterate(requests[0]))[-1].completion == alone[0]
    finally:
        one.close()
    same(one.generate(requests[:2]), alone[:2])


def test_a_stream_that_nobody_reads_any_more_is_over() -> None:
    one = made()
    requests = asked([20, 300, 30], new=500)

    async def look() -> None:
        stream = one.stream(requests[0])
        await anext(stream)
        assert isinstance(stream, AsyncGenerator)
        await stream.aclose()
        task = asyncio.create_task(_read(one, requests[1]))
        await asyncio.sleep(0.02)
        task.cancel()
        for _ in range(500):
            state = one.load
            if not state.running and not state.waiting:
                break
            await asyncio.sleep(0.01)
        assert state.running == state.waiting == 0
        assert one._driver is not None and not one._driver._listeners

    try:
        asyncio.run(look())
    finally:
        one.close()


async def _read(one: Engine, request: Request) -> None:
    async for _ in one.stream(request):
        pass


def test_a_step_that_fails_is_told_and_the_next_request_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    one, request = made(), asked([20], new=5)[0]
    alone = lone([request])
    good = one._step.__class__.__call__

    def bad(*_: Any) -> Any:
        raise MemoryError("no room")

    async def ask() -> Completion | None:
        return [piece async for piece in one.stream(request)][-1].completion

    try:
        monkeypatch.setattr(one._step.__class__, "__call__", bad)
        with pytest.raises(MemoryError, match="no room"):
            asyncio.run(ask())
        with pytest.raises(MemoryError, match="no room"):
            one.generate([request])
        monkeypatch.setattr(one._step.__class__, "__call__", good)
        done = asyncio.run(ask())
        assert done is not None
        same([done], alone)
    finally:
        one.close()


def test_a_closed_engine_says_so_to_those_who_wait() -> None:
    one = made()

    async def ask() -> None:
        stream = one.stream(asked([20], new=900)[0])
        await anext(stream)
        await asyncio.to_thread(one.close)
        with pytest.raises(HanlinError, match="closed"):
            while True:
                await anext(stream)

    asyncio.run(asyncio.wait_for(ask(), 20))


def test_an_order_that_fails_takes_no_other_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    one, requests = made(), asked([20, 30], new=5)
    alone = lone(requests)
    make, calls = one._make_scheduler, [0]

    def once() -> Scheduler:
        calls[0] += 1
        if calls[0] == 1:
            raise MemoryError("no addresses")
        return make()

    monkeypatch.setattr(one, "_make_scheduler", once)

    async def ask(request: Request) -> Completion | None:
        return [piece async for piece in one.stream(request)][-1].completion

    async def both() -> list[Any]:
        asking = asyncio.gather(*map(ask, requests), return_exceptions=True)
        return await asyncio.wait_for(asking, 20)

    try:
        found = asyncio.run(both())
        assert sum(isinstance(answer, MemoryError) for answer in found) >= 1
        for answer, expected in zip(found, alone):
            if not isinstance(answer, MemoryError):
                same([answer], [expected])
        same([asyncio.run(ask(request)) for request in requests], alone)
    finally:
        one.close()


def test_what_changed_weights_had_read_is_not_used() -> None:
    import copy

    model = copy.deepcopy(MODEL)
    request = asked([300], new=4)[0]
    one = Engine(model, tokenizer(), deterministic=True)
    before = one.generate([request])[0]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    after = one.generate([request])[0]
    same([after], Engine(model, tokenizer(), deterministic=True).generate([request]))
    assert after.logprobs != before.logprobs


def test_blocks_are_planned_from_what_is_free() -> None:
    one = Engine(MODEL, tokenizer(), max_batch=4)
    assert one.blocks == 4 * blocks_of(1024)
    assert Engine(MODEL, tokenizer(), cache_tokens=100).blocks == 4


def test_a_drafts_cache_is_in_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanlin.inference.engine.free_memory", lambda _: 1 << 20)
    alone = Engine(MODEL, tokenizer(), max_batch=64).blocks
    assert 1 < alone < 64 * blocks_of(1024)
    assert Engine(MODEL, tokenizer(), max_batch=64, speculation=MODEL).blocks == alone // 2
