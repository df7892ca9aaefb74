"""`hanlin serve` under load: no hang, no wrong answer, no leaked block, memory flat.

    python benchmarks/serve_load.py [--streams 200] [--minutes 10] [--seed 0] [--pool 240] [--json FILE]

A server over a small model, and this process with so many clients at once, each doing one thing after the other, drawn
from the seed: they ask for chats and plain continuations of all kinds, streamed and whole, and listen, fast or slowly;
leave while the prompt is read or in the middle of the answer; read nothing; send half a body, or garbage. Every answer
that is heard to its end is compared, token by token and bit by bit of its log-probabilities, with the same request
answered alone beforehand. The cache is small, so that answers are set back and go on. At the end nothing may run, wait
or be held but the texts that the cache keeps, no thread, descriptor or acknowledged feedback may be lost, and the
server's memory (last quarter of the time against the second) must not have grown. Ends with 1 where any of it fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from load_clients import Clients, Tally, Wrong, ask
from load_pool import NAME, Entry, make_model, make_pool

from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.store import Database

PATIENCE = 2
"""Seconds that the server waits for clients that dawdle."""
SETTINGS: dict[str, Any] = {
    "port": 0,
    "cache_tokens": 6_000,
    "header_seconds": PATIENCE,
    "body_seconds": PATIENCE,
    "write_seconds": PATIENCE,
    "request_seconds": 120,
}
GROWTH = 0.03
"""Most that memory may grow from the second quarter of the time to the last."""
JUDGED = 120
"""Seconds of load below which memory is not judged: caches are still filling."""
SETTLES = 30
"""Seconds within which everything must be free once the clients are gone."""
UNANSWERED = 5.0
"""Seconds within which /health must answer under load."""


@dataclass
class Sample:
    """The server at one moment."""

    second: float
    memory: int
    threads: int
    descriptors: int


@dataclass
class Report:
    """What came of it."""

    tally: Tally
    seconds: float
    samples: list[Sample] = field(default_factory=list[Sample])
    health: list[float] = field(default_factory=list[float])
    metrics: dict[str, float] = field(default_factory=dict[str, float])
    problems: list[str] = field(default_factory=list[str])

    def quarter(self, number: int) -> float:
        """Median of the memory, in bytes, in one of the four quarters of the time."""
        last = self.samples[-1].second
        return statistics.median(
            [one.memory for one in self.samples if number * last / 4 <= one.second <= (number + 1) * last / 4]
        )

    def as_json(self) -> dict[str, Any]:
        tally = self.tally
        return {
            "seconds": self.seconds,
            "outcomes": {f"{kind}: {outcome}": n for (kind, outcome), n in sorted(tally.outcomes.items())},
            "failed": tally.failed,
            "failures": tally.failures,
            "problems": self.problems,
            "output_tokens_per_second_of_right_answers": tally.tokens / self.seconds,
            "time_to_first_token_seconds": spread(tally.first_token),
            "answer_seconds": spread(tally.whole),
            "health_seconds": spread(self.health),
            "memory_mib_by_quarter": [self.quarter(number) / 2**20 for number in range(4)],
            "memory_mib": [round(one.memory / 2**20, 1) for one in self.samples],
            "threads": [one.threads for one in self.samples[:: max(1, len(self.samples) // 20)]],
            "metrics": self.metrics,
        }


def spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    ordered = sorted(values)
    return {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)} | {
        "max": ordered[-1]
    }


def sample(process: int, started: float) -> Sample:
    own = Path(f"/proc/{process}")
    pages = int((own / "statm").read_text().split()[1])
    threads, descriptors = (len(list((own / name).iterdir())) for name in ("task", "fd"))
    return Sample(time.monotonic() - started, pages * os.sysconf("SC_PAGE_SIZE"), threads, descriptors)


async def read_metrics(port: int) -> dict[str, float]:
    """The engine's gauges and counters."""
    _, text = await ask(port, "/metrics", method="GET")
    return {
        name: float(value)
        for name, value in re.findall(r'^hanlin:(\w+)\{model_name="[^"]*"\} (\S+)$', text, re.MULTILINE)
    }


async def drive(port: int, process: int, pool: list[Entry], streams: int, seconds: float, seed: int) -> Report:
    """Load the service on `port`, whose process is `process`, and look at what is left."""
    tally = Tally()
    report = Report(tally, seconds)
    clients = Clients(port, pool, tally, PATIENCE)
    for entry in pool[:8]:  # so that threads and caches are there
        await ask(port, entry.path, entry.body)
    started = time.monotonic()
    idle = sample(process, started)

    async def watch() -> None:
        while True:
            report.samples.append(sample(process, started))
            asked = time.monotonic()
            try:
                async with asyncio.timeout(UNANSWERED):
                    status, value = await ask(port, "/health", method="GET")
                if status != 200:
                    report.problems.append(f"/health: {status} {value}")
            except Exception as error:
                report.problems.append(f"/health after {time.monotonic() - asked:.1f} s: {error!r}")
            report.health.append(time.monotonic() - asked)
            await asyncio.sleep(1)

    watching = asyncio.create_task(watch())
    await asyncio.gather(
        *(clients.stream_of_requests(seed * 1_000_003 + number, started + seconds) for number in range(streams))
    )
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    report.seconds = time.monotonic() - started
    await settle(port, process, idle, report)
    # It is whole still.
    after = Clients(port, pool, tally, PATIENCE)
    await asyncio.gather(*(after.stream_of_requests(seed - 1 - number, time.monotonic() + 1) for number in range(4)))
    if len(report.samples) > 4 and seconds >= JUDGED and report.quarter(3) > (1 + GROWTH) * report.quarter(1):
        report.problems.append(
            f"memory grew from {report.quarter(1) / 2**20:.1f} MiB in the second quarter to "
            f"{report.quarter(3) / 2**20:.1f} MiB in the last"
        )
    for outcome in ("right", "gone", "acknowledged"):
        if not any(name == outcome for _, name in tally.outcomes):
            report.problems.append(f"no request ended {outcome!r}: this was no load")
    return report


async def settle(port: int, process: int, idle: Sample, report: Report) -> None:
    """Wait until all is free; what is not then is a problem."""
    until = time.monotonic() + SETTLES
    while True:
        report.metrics = found = await read_metrics(port)
        now = sample(process, time.monotonic())
        left = {
            "requests running": found["num_requests_running"],
            "requests waiting": found["num_requests_waiting"],
            "cache held beyond the texts that are kept": found["kv_cache_usage_perc"]
            - found["prefix_cache_usage_perc"],
            "descriptors more than before": now.descriptors - idle.descriptors - 12,  # the database's connections
            "threads more than before": now.threads - idle.threads - 40,  # asyncio's and Starlette's pools
        }
        left = {what: number for what, number in left.items() if number > 0}
        if not left or time.monotonic() > until:
            break
        await asyncio.sleep(0.1)
    report.problems += [f"{number:g} {what} {SETTLES} s after the last client" for what, number in left.items()]


def check_feedback(database: Path, report: Report) -> None:
    """All that was acknowledged is there."""
    opened = Database(str(database))
    there = {row.id for row in FeedbackStore(opened).rows()}
    opened.close()
    if lost := report.tally.feedback - there:
        report.problems.append(f"{len(lost)} of {len(report.tally.feedback)} acknowledged pieces of feedback are lost")


def check_log(text: str, report: Report) -> None:
    """The server has nothing to complain of."""
    for line in text.splitlines():
        if " ERROR " in line or line.startswith("Traceback") or "never retrieved" in line:
            report.problems.append(f"the server's log: {line[:500]}")


@contextlib.contextmanager
def serving(model: Path, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], int, Path]]:
    """A server of its own process: process, port, and the file of what it says."""
    (folder / "serve.yaml").write_text(json.dumps({**SETTINGS, "database": str(folder / "service.db")}))
    log = folder / "server.log"
    command = [sys.executable, "-c", "from hanlin.cli.main import main; main()", "serve", f"{NAME}={model}"]
    with log.open("wb") as said:
        server = subprocess.Popen([*command, "--config", str(folder / "serve.yaml")], stdout=said, stderr=said)
    try:
        yield server, wait_for_port(log, server.poll), log
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            raise Wrong("the server did not end within 60 s of SIGTERM") from None


def wait_for_port(log: Path, ended: Any, seconds: float = 120) -> int:
    """The port that the server says it listens on."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and ended() is None:
        if found := re.search(r"http://127\.0\.0\.1:(\d+)", log.read_text() if log.exists() else ""):
            return int(found[1])
        time.sleep(0.05)
    raise Wrong(f"the server did not start: {log.read_text()}")


def show(report: Report) -> None:
    kinds: dict[str, list[str]] = {}
    for (kind, outcome), count in sorted(report.tally.outcomes.items()):
        kinds.setdefault(kind, []).append(f"{count} {outcome}")
    for kind, told in kinds.items():
        print(f"{kind:18} {', '.join(told)}")
    figures = report.as_json()
    print(f"{'right tokens/s':18} {figures['output_tokens_per_second_of_right_answers']:.0f}")
    for name in ("time_to_first_token_seconds", "answer_seconds", "health_seconds"):
        print(f"{name.removesuffix('_seconds'):18}", ", ".join(f"{k} {v:.3f} s" for k, v in figures[name].items()))
    print(f"{'memory by quarter':18} {', '.join(f'{mib:.1f}' for mib in figures['memory_mib_by_quarter'])} MiB")
    metrics = report.metrics
    print(f"{'preemptions':18} {metrics['num_preemptions_total']:.0f} in {metrics['engine_steps_total']:.0f} steps")
    print(
        f"{'prefix cache':18} {metrics['prefix_cache_hits_total']:.0f} of {metrics['prefix_cache_queries_total']:.0f}"
    )
    for line in [*report.problems, *report.tally.failures]:
        print(f"PROBLEM {line}")
    good = not report.problems and not report.tally.failed
    print("good" if good else f"NOT GOOD: {report.tally.failed} requests failed, {len(report.problems)} other problems")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--streams", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=240, help="requests whose answers are known")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="hanlin-load-") as name:
        folder = Path(name)
        make_model(folder / "model")
        began = time.monotonic()
        pool = make_pool(folder / "model", arguments.pool, arguments.seed)
        print(f"{len(pool)} requests answered alone in {time.monotonic() - began:.0f} s", flush=True)
        with serving(folder / "model", folder) as (server, port, log):
            driving = drive(port, server.pid, pool, arguments.streams, 60 * arguments.minutes, arguments.seed)
            report = asyncio.run(driving)
            if server.poll() is not None:
                report.problems.append(f"the server ended with {server.returncode}")
        check_feedback(folder / "service.db", report)
        check_log(log.read_text(), report)
    show(report)
    if arguments.json is not None:
        machine = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
        settings = {name: value for name, value in vars(arguments).items() if name != "json"}
        arguments.json.write_text(json.dumps({"settings": settings, "machine": machine, **report.as_json()}, indent=1))
    sys.exit(bool(report.problems or report.tally.failed))


if __name__ == "__main__":
    main()
