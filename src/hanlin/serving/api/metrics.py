"""/metrics for Prometheus, with vLLM's names under the prefix `hanlin:`, so that its dashboards need one change."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable

from fastapi import APIRouter, Request
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from hanlin.inference import Delta
from hanlin.serving.models import Models

FIRST_TOKEN = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
WHOLE = (0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
LABEL = ["model_name"]

router = APIRouter()


class Metrics:
    """What one service counts."""

    def __init__(self, models: Models) -> None:
        self.registry = registry = CollectorRegistry()
        registry.register(_Engines(models))

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"hanlin:{name}", text, LABEL, buckets=buckets, registry=registry)

        self.first_token = histogram(
            "time_to_first_token_seconds", "From a request's admission to its first token.", FIRST_TOKEN
        )
        self.between = histogram("inter_token_latency_seconds", "Between one token and the next.", PER_TOKEN)
        self.per_token = histogram(
            "time_per_output_token_seconds", "Of an answer, after its first token, per token.", PER_TOKEN
        )
        self.whole = histogram("e2e_request_latency_seconds", "From a request's admission to its end.", WHOLE)
        self.finished = Counter(
            "hanlin:request_success_total",
            "Answers that ended, by how: stop, length, abort (the client went), error.",
            [*LABEL, "finished_reason"],
            registry=registry,
        )
        self.refused = Counter(
            "hanlin:requests_refused_total", "Requests told to come back later.", ["reason"], registry=registry
        )

    async def watched(self, answer: AsyncIterator[Delta], model: str, started: float) -> AsyncGenerator[Delta]:
        """The pieces of an answer, timed."""
        first, latest, tokens, reason = 0.0, started, 0, "abort"
        between = self.between.labels(model)
        try:
            async for delta in answer:
                now = time.monotonic()
                if delta.ids:
                    if not tokens:
                        first = now
                        self.first_token.labels(model).observe(now - started)
                        latest = now
                    new = len(delta.ids) - (not tokens)
                    for _ in range(new):
                        between.observe((now - latest) / new)
                    tokens += len(delta.ids)
                    latest = now
                reason = delta.finish_reason or reason
                yield delta
        except Exception:
            reason = "error"
            raise
        finally:
            if isinstance(answer, AsyncGenerator):
                with contextlib.suppress(RuntimeError):
                    await answer.aclose()
            self.finished.labels(model, "abort" if reason == "cancelled" else reason).inc()
            self.whole.labels(model).observe(time.monotonic() - started)
            if tokens > 1:
                self.per_token.labels(model).observe((latest - first) / (tokens - 1))


class _Engines(Collector):
    """What the engines say of themselves, asked when Prometheus asks."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def collect(self) -> Iterable[Metric]:
        gauges = {
            name: GaugeMetricFamily(f"hanlin:{name}", text, labels=LABEL)
            for name, text in (
                ("num_requests_running", "Answers in the making."),
                ("num_requests_waiting", "Answers that wait for their turn."),
                ("kv_cache_usage_perc", "Share of the cache's blocks in use, 0 to 1."),
                ("prefix_cache_usage_perc", "Share that holds texts of finished requests only, 0 to 1."),
            )
        }
        counters = {
            name: CounterMetricFamily(f"hanlin:{name}", text, labels=LABEL)
            for name, text in (
                ("prompt_tokens", "Tokens of prompts."),
                ("generation_tokens", "Tokens generated."),
                ("prefix_cache_queries", "Tokens of prompts looked for in the prefix cache."),
                ("prefix_cache_hits", "Tokens of prompts found there."),
                ("num_preemptions", "Answers set back because the cache was full."),
                ("engine_steps", "Steps of the engine."),
            )
        }
        for version in self._models.in_memory():
            if version.model is None:
                continue
            load, label = version.model.engine.load, [version.id]
            gauges["num_requests_running"].add_metric(label, load.running)
            gauges["num_requests_waiting"].add_metric(label, load.waiting)
            gauges["kv_cache_usage_perc"].add_metric(label, load.used_blocks / max(1, load.total_blocks))
            gauges["prefix_cache_usage_perc"].add_metric(label, load.kept_blocks / max(1, load.total_blocks))
            counters["prompt_tokens"].add_metric(label, load.prompt_tokens)
            counters["generation_tokens"].add_metric(label, load.generated_tokens)
            counters["prefix_cache_queries"].add_metric(label, load.prefix_queries)
            counters["prefix_cache_hits"].add_metric(label, load.prefix_hits)
            counters["num_preemptions"].add_metric(label, load.preemptions)
            counters["engine_steps"].add_metric(label, load.steps)
        return [*gauges.values(), *counters.values()]


@router.get("/metrics", tags=["operation"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Counters and times for Prometheus."""
    found: Metrics = request.app.state.service.metrics
    return Response(generate_latest(found.registry), media_type=CONTENT_TYPE_LATEST)
