"""Why training keeps breaking: the known causes, each held against what was recorded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hanlin.training.spikes import rare_share


@dataclass
class Facts:
    """What the diagnosis has to know of the run beside its spikes."""

    precision: str
    median_loss: float | None
    schedule_factor: float
    """Present learning rate over the peak."""
    warmup: bool
    """Whether the run is in its warm-up."""
    peak_rate: float
    clip: float
    model: dict[str, Any] = field(default_factory=dict)
    """`norms`: where they stand (pre, post); `qk_norm`: whether queries and keys are normalised; where known."""


def diagnose(spikes: list[dict[str, Any]], facts: Facts) -> str:
    """A line a cause: whether the records speak for it, and what to do. `spikes`: the reports of the last row."""
    return "\n".join(
        f"  - {cause}: {finding}"
        for cause, finding in (
            ("rare tokens", _rare(spikes)),
            ("junk documents", _junk(spikes)),
            ("bf16 resolution at small loss", _resolution(facts)),
            ("learning rate", _rate(spikes, facts)),
            ("placement of norms", _norms(facts)),
        )
    )


def _rare(spikes: list[dict[str, Any]]) -> str:
    shares = [share for share in (rare_share(spike["tokens"]) for spike in spikes) if share is not None]
    if not shares:
        return "not known: the data has no token counts."
    mean = sum(shares) / len(shares)
    verdict = "LIKELY" if mean > 0.3 else "unlikely"
    advice = "; train the tokenizer on this corpus, or with a smaller vocabulary" if mean > 0.3 else ""
    return f"{verdict}: {mean:.0%} of the hardest tokens were seen fewer than 100 times in training{advice}."


def _junk(spikes: list[dict[str, Any]]) -> str:
    out = [entry for spike in spikes for entry in spike["standing_out"]]
    with_some = sum(bool(spike["standing_out"]) for spike in spikes)
    if not out:
        return "unlikely: in no batch did a document stand out from the others by its loss."
    names = ", ".join(dict.fromkeys(str(entry.get("document") or entry.get("file") or "?")[:16] for entry in out[:5]))
    sources = ", ".join(dict.fromkeys(str(entry["source"]) for entry in out if entry.get("source")))
    verdict = "LIKELY" if with_some * 2 >= len(spikes) else "possible"
    return (
        f"{verdict}: in {with_some} of {len(spikes)} batches documents stood far out ({names}"
        f"{'; sources: ' + sources if sources else ''}); look at them, and filter what is like them."
    )


def _resolution(facts: Facts) -> str:
    if facts.precision != "bf16":
        return f"excluded: the run computes in {facts.precision}."
    if facts.median_loss is not None and facts.median_loss < 1.0:
        return (
            f"LIKELY: the loss was {facts.median_loss:.2f}, where bf16 can no longer tell probabilities near 1 apart; "
            "use precision=fp32."
        )
    return "unlikely: the loss is not small."


def _rate(spikes: list[dict[str, Any]], facts: Facts) -> str:
    where = "in the warm-up" if facts.warmup else f"at {facts.schedule_factor:.0%} of the peak rate {facts.peak_rate:g}"
    documents = any(spike["standing_out"] for spike in spikes)
    gradients = any(
        spike["reason"]["measure"] == "gradient norm" or spike["reason"]["value"] is None for spike in spikes
    )
    if facts.schedule_factor >= 0.5 and (gradients or not documents):
        clip = "" if facts.clip else ", and clip gradients (gradient_clip: 1.0)"
        return (
            f"LIKELY: the spikes came {where}, and the data does not explain them; "
            f"halve the learning rates or warm up longer{clip}."
        )
    return f"possible: the spikes came {where}; if filtering does not help, halve the learning rates."


def _norms(facts: Facts) -> str:
    norms, qk_norm = facts.model.get("norms"), facts.model.get("qk_norm")
    if norms is None:
        return "not known for this model."
    if norms == "post":
        return "LIKELY: norms stand after the sums (post-norm), which needs a long warm-up; use a pre-norm family."
    if qk_norm is False:
        return (
            "possible: norms stand before each part (pre-norm, stable), but queries and keys are not normalised, so "
            "attention logits can grow; family qwen3 has qk_norm."
        )
    return "excluded: pre-norm, with queries and keys normalised."
