"""A benchmark of any OpenAI-compatible server: many streamed requests, and what their times say."""

from __future__ import annotations

import asyncio
import json
import math
import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import httpx
import numpy as np
from pydantic import Field, SecretStr, model_validator

from hanlin.artifacts import HanlinError, Progress, Settings, Silent, UsageError
from hanlin.data.prompts import read_prompts

WORDS = re.findall(
    r"\w+",
    "the of and to in is that for it with as his on be at by which have from not but what all were when there can an "
    "your each she do how their if will up other about out many then them these so some her would make like him into "
    "time has look two more write go see number no way could people my than first water been call who oil its now find",
)
"""What random prompts are made of: a token each, with most vocabularies"""
POOL_WORDS = 4096
PERCENTILES = (95, 99)


class BenchSettings(Settings):
    """What is asked of the server, and how often."""

    url: str
    """Where the server is: `http://host:port`, with `/v1` or without."""
    model: str | None = None
    """The model's name there; left out: the first that the server lists."""
    endpoint: Literal["chat", "completions"] = "chat"
    """`/v1/chat/completions` with a user's message, or `/v1/completions` with a prompt."""
    num_prompts: int = Field(default=100, ge=1)
    """Requests in all."""
    request_rate: float = Field(default=float("inf"), gt=0)
    """Requests a second, arriving as a Poisson process; `inf`: all at once."""
    max_concurrency: int | None = Field(default=None, ge=1)
    """At most so many are under way at once; those that arrive meanwhile wait, and their time begins when they are
    sent. None: no bound."""
    input_len: tuple[int, int] = (128, 512)
    """Tokens of a random prompt: the least and the most, each length as likely. Prompts of a chat get the template's
    tokens besides."""
    output_len: tuple[int, int] = (128, 128)
    """`max_tokens`: the least and the most, each as likely."""
    prompts: Path | None = None
    """Prompts from a file instead: a text with one a line, or any file of prompts, conversations or preferences that
    hanlin reads. They are taken in their order, again from the start where they are too few."""
    ignore_eos: bool = False
    """Ask for answers of exactly `max_tokens` (`ignore_eos`, which hanlin, vLLM and SGLang know)."""
    temperature: float = Field(default=0.0, ge=0)
    """The requests' temperature."""
    seed: int = Field(default=0, ge=0)
    """Of prompts, lengths and arrivals."""
    timeout: float = Field(default=600.0, gt=0)
    """Seconds after which a request counts as failed."""
    key: SecretStr | None = None
    """Sent as `Authorization: Bearer`."""

    @model_validator(mode="after")
    def _check(self) -> BenchSettings:
        if not self.url.startswith(("http://", "https://")):
            raise UsageError(f"url is {self.url!r}: it begins with http:// or https://")
        for name in ("input_len", "output_len"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise UsageError(f"{name} is {low}-{high}: give a length from 1 on, or the least and the most")
        return self


@dataclass
class Sample:
    """One request: what is sent."""

    prompt: str | list[int] | list[dict[str, str]]
    """A text, its tokens, or messages"""
    max_tokens: int


@dataclass
class Timing:
    """How one request went. Times are seconds of one clock."""

    sent: float = 0.0
    pieces: list[float] = field(default_factory=list[float])
    """When each piece with text arrived"""
    end: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None


async def bench(settings: BenchSettings, progress: Progress | None = None) -> dict[str, Any]:
    """Send the requests and return the figures, under the names that vLLM's benchmark gives them.

    `ttft` is the time to the first text, `tpot` the time of each further token (of one request, on average), `itl` that
    between two pieces of a stream, `e2el` that of the whole answer; in milliseconds, of requests that ended well.
    Raises HanlinError when the server can't be reached, or does not answer one request that is made first.
    """
    progress = progress or Silent()
    headers = {"Authorization": f"Bearer {settings.key.get_secret_value()}"} if settings.key else {}
    base = settings.url.rstrip("/").removesuffix("/v1")
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=base, headers=headers, limits=limits, timeout=settings.timeout) as client:
        model = settings.model or await _first_model(client)
        rng = np.random.default_rng(settings.seed)
        samples = await _samples(client, settings, model, rng)
        progress.update(0, settings.num_prompts, "one request to begin with")
        trial = await _ask(client, settings, model, samples.pop())
        if trial.error is not None:
            raise HanlinError(f"{base} does not answer as a benchmark needs it: {trial.error}")
        gaps = rng.exponential(1 / settings.request_rate, settings.num_prompts)  # 1 / inf: no gaps
        arrivals = np.cumsum(gaps) - gaps[0]
        under_way = most = done = failed = 0
        places = asyncio.Semaphore(settings.max_concurrency or settings.num_prompts)
        start = time.perf_counter()

        async def send(sample: Sample, arrival: float) -> Timing:
            nonlocal under_way, most, done, failed
            await asyncio.sleep(start + arrival - time.perf_counter())
            async with places:
                under_way += 1
                most = max(most, under_way)
                timing = await _ask(client, settings, model, sample)
                under_way -= 1
            done += 1
            failed += timing.error is not None
            progress.update(done, settings.num_prompts, f"{failed} failed" if failed else "")
            return timing

        timings = await asyncio.gather(*(send(one, float(at)) for one, at in zip(samples, arrivals)))
        duration = time.perf_counter() - start
    asked = settings.model_dump(mode="json", exclude={"key"})
    if math.isinf(settings.request_rate):
        asked["request_rate"] = "inf"  # JSON has no such number
    return {
        "settings": asked,
        "model": model,
        **figures(timings, duration),
        "max_concurrent_requests": most,
    }


def figures(timings: Sequence[Timing], duration: float) -> dict[str, Any]:
    """Throughputs over `duration` seconds, and mean, median, p95 and p99 of the latencies in milliseconds.

    Tokens are those that the server counts (`usage`); of a server that counts none, pieces of the stream.
    """
    good = [one for one in timings if one.error is None]
    errors = Counter(one.error for one in timings if one.error is not None)
    inputs, outputs = sum(one.input_tokens for one in good), sum(one.output_tokens for one in good)
    firsts = [(one, one.pieces[0] if one.pieces else one.end) for one in good]
    latencies = {
        "ttft": [first - one.sent for one, first in firsts],
        "tpot": [(one.end - first) / (one.output_tokens - 1) for one, first in firsts if one.output_tokens > 1],
        "itl": [late - early for one in good for early, late in zip(one.pieces, one.pieces[1:])],
        "e2el": [one.end - one.sent for one in good],
    }
    found: dict[str, Any] = {
        "duration": duration,
        "completed": len(good),
        "failed": len(timings) - len(good),
        "errors": dict(errors.most_common()),
        "total_input_tokens": inputs,
        "total_output_tokens": outputs,
        "request_throughput": len(good) / duration,
        "output_throughput": outputs / duration,
        "total_token_throughput": (inputs + outputs) / duration,
    }
    for name, seconds in latencies.items():
        values = np.array(seconds) * 1000
        statistics: dict[str, Callable[[Any], Any]] = {"mean": np.mean, "median": np.median}
        for percent in PERCENTILES:
            statistics[f"p{percent}"] = lambda x, percent=percent: np.percentile(x, percent)
        for kind, statistic in statistics.items():
            found[f"{kind}_{name}_ms"] = float(statistic(values)) if len(values) else None
    return found


async def _first_model(client: httpx.AsyncClient) -> str:
    try:
        found = (await client.get("/v1/models")).raise_for_status().json()
        return str(found["data"][0]["id"])
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
        raise HanlinError(
            f"{client.base_url} does not list its models ({type(error).__name__}: {error}): is the address right, and "
            "does HANLIN_API_KEY hold a key where one is needed?"
        ) from error


async def _samples(
    client: httpx.AsyncClient, settings: BenchSettings, model: str, rng: np.random.Generator
) -> list[Sample]:
    count = settings.num_prompts + 1  # one for the trial
    lengths = rng.integers(*settings.output_len, size=count, endpoint=True).tolist()
    prompts: list[Any]
    if settings.prompts is not None:
        given = _from_file(settings.prompts, settings.endpoint)
        prompts = [given[number % len(given)] for number in range(count)]
    else:
        sizes = rng.integers(*settings.input_len, size=count, endpoint=True).tolist()
        pool = rng.choice(WORDS, POOL_WORDS).tolist()
        tokens = await _tokenize(client, model, " ".join(pool))
        if settings.endpoint == "completions":
            prompts = [rng.choice(tokens, size).tolist() for size in sizes]
        else:
            words = [max(1, round(size * POOL_WORDS / len(tokens))) for size in sizes]
            texts = [" ".join(rng.choice(WORDS, size)) for size in words]
            prompts = [[{"role": "user", "content": text}] for text in texts]
    return [Sample(prompt, length) for prompt, length in zip(prompts, lengths)]


async def _tokenize(client: httpx.AsyncClient, model: str, text: str) -> list[int]:
    try:
        reply = await client.post("/tokenize", json={"model": model, "prompt": text, "add_special_tokens": False})
        tokens = reply.raise_for_status().json()["tokens"]
        return [int(token) for token in tokens]
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise HanlinError(
            f"{client.base_url} does not say how long a text is ({type(error).__name__}: {error}), so prompts of a "
            "given length can't be made: give a file of prompts (--prompts)"
        ) from error


def _from_file(path: Path, endpoint: str) -> list[Any]:
    """Messages, or texts for completions."""
    if not path.is_file():
        raise UsageError(f"{path} is not a file: give one of prompts")
    if path.suffix == ".txt":
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        found: list[Any] = [[{"role": "user", "content": line}] for line in lines]
    else:
        found = [[message.to_dict() for message in one.messages] for one in read_prompts(path)[0]]
    if not found:
        raise HanlinError(f"{path} holds no prompts")
    if endpoint == "completions":
        return ["\n".join(message["content"] or "" for message in messages) for messages in found]
    return found


async def _ask(client: httpx.AsyncClient, settings: BenchSettings, model: str, sample: Sample) -> Timing:
    """Send one request and follow its stream to the end. Whatever goes wrong is in the result's `error`."""
    chat = settings.endpoint == "chat"
    body: dict[str, Any] = {
        "model": model,
        "messages" if chat else "prompt": sample.prompt,
        "max_tokens": sample.max_tokens,
        "temperature": settings.temperature,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if settings.ignore_eos:
        body["ignore_eos"] = True
    timing = Timing(sent=time.perf_counter())
    try:
        async with asyncio.timeout(settings.timeout):
            async with client.stream("POST", "/v1/chat/completions" if chat else "/v1/completions", json=body) as reply:
                if not reply.is_success:
                    timing.error = f"HTTP {reply.status_code}: {_message(await reply.aread())}"
                else:
                    timing.error = await _follow(reply, timing, chat)
    except TimeoutError:
        timing.error = f"no end within {settings.timeout:g} s"
    except httpx.HTTPError as error:
        timing.error = f"{type(error).__name__}: {error}".rstrip(": ")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        timing.error = f"a piece of the stream is not as OpenAI's are: {type(error).__name__}: {error}"
    timing.end = timing.end or time.perf_counter()
    timing.output_tokens = timing.output_tokens or len(timing.pieces)
    return timing


async def _follow(reply: httpx.Response, timing: Timing, chat: bool) -> str | None:
    """Read the stream into `timing`; returns what was wrong with it."""
    async for line in reply.aiter_lines():
        now = time.perf_counter()
        if not line.startswith("data:"):
            continue
        data = line.removeprefix("data:").strip()
        if data == "[DONE]":
            return None
        value = json.loads(data)
        if value.get("error"):
            return f"in the stream: {_message(data.encode())}"
        for choice in value.get("choices", []):
            piece = choice.get("delta", {}) if chat else {"content": choice.get("text")}
            if any(piece.get(key) for key in ("content", "reasoning_content", "tool_calls")):
                timing.pieces.append(now)
            if piece or choice.get("finish_reason"):
                timing.end = now
        usage = value.get("usage")
        if usage:
            timing.input_tokens, timing.output_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    return "the stream broke off before [DONE]"


def _message(body: bytes) -> str:
    """The message of an error's body, at most a line."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)["error"]
        text = str(found["message"] if isinstance(found, dict) else found)
    except (ValueError, KeyError, TypeError):
        pass
    return " ".join(text.split())[:200]
