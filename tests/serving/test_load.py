"""A short form of `benchmarks/serve_load.py`: twenty clients of all kinds at once on a server of its own process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import torch

from tests.processes import begin, command_line

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
STREAMS, SECONDS = 20, 6


def test_a_service_under_load(tmp_path: Path) -> None:
    sys.path.insert(0, BENCHMARKS)
    try:
        from load_pool import KINDS, NAME, make_model, make_pool
        from serve_load import SETTINGS, check_feedback, check_log, drive, wait_for_port
    finally:
        sys.path.remove(BENCHMARKS)
    torch.set_num_threads(1)
    make_model(tmp_path / "model")
    database, log = tmp_path / "service.db", tmp_path / "server.log"
    (tmp_path / "serve.yaml").write_text(json.dumps({**SETTINGS, "database": str(database)}), encoding="utf-8")
    words = ["serve", f"{NAME}={tmp_path / 'model'}", "--config", str(tmp_path / "serve.yaml")]
    server = begin(command_line, words, tmp_path, said=log)
    try:
        pool = make_pool(tmp_path / "model", len(KINDS), seed=1)
        port = wait_for_port(log, lambda: server.exitcode)
        assert server.pid is not None
        report = asyncio.run(drive(port, server.pid, pool, STREAMS, SECONDS, seed=1))
        os.kill(server.pid, signal.SIGTERM)
        server.join(30)
        assert server.exitcode == 0
    finally:
        server.kill()
        server.join(10)
    check_feedback(database, report)
    check_log(log.read_text(encoding="utf-8"), report)
    assert report.tally.failures == [] and report.problems == []
    kinds = {kind for kind, _ in report.tally.outcomes}
    assert {"stream", "whole", "leaves in decode", "garbage"} <= kinds
