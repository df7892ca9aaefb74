"""What is done about a spike: it is recorded, training goes back to a checkpoint, and the batch is passed over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from hanlin.artifacts import HanlinError, Progress, write_json
from hanlin.training.compiling import uncompiled
from hanlin.training.diagnosis import Facts, diagnose
from hanlin.training.job import Job
from hanlin.training.settings import LoopSettings
from hanlin.training.spikes import documents_of, hardest_tokens, in_a_row, rare_share, robust, standing_out
from hanlin.training.state import RunState

IGNORED = -100


def recover(
    job: Job,
    settings: LoopSettings,
    run: RunState,
    batch: Any,
    position: int,
    reason: dict[str, Any],
    workdir: Path,
    progress: Progress,
) -> None:
    """Record what the batch held, return to a checkpoint from before it, and pass it over from now on.

    The n-th spike in a row goes back n checkpoints (as far as they are kept) and passes over 2^(n-1) batches, as
    trouble that comes back began earlier or lasts longer. Raises HanlinError with a diagnosis after too many.
    """
    row = in_a_row(run.spikes, run.step, settings.spikes.recovery_steps)
    points = run.checkpoints.points()
    target = points[max(0, len(points) - row)]
    skipped = list(range(position, position + 2 ** (row - 1)))
    earlier = sum(spike["step"] == run.step for spike in run.spikes)
    name = f"{run.step}.json" if not earlier else f"{run.step}-{earlier + 1}.json"
    report: dict[str, Any] = {
        "step": run.step,
        "batch": position,
        "reason": reason,
        "in_a_row": row,
        "rolled_back_to": target,
        "skipped": skipped,
        "learning_rate": run.optimizer.rates["matrix"] * run.horizon.rate_factor(run.step),
        **look_into(job, run, batch, position),
    }
    run.working.clear()
    if run.world.first:
        write_json(workdir / "spikes" / name, report)
    value = "not a number" if reason["value"] is None else f"{reason['value']:.3g} against {reason['median']:.3g}"
    if row > settings.spikes.most_in_a_row:
        reports = [*(_read(workdir / "spikes" / spike["file"]) for spike in run.spikes[-(row - 1) :]), report]
        raise HanlinError(
            f"training broke {row} times in a row, the last time at step {run.step} ({reason['measure']} {value}), "
            f"although each time it went back and passed over the batch. The records are in {workdir / 'spikes'}. "
            "Known causes:\n" + diagnose(reports, _facts(job, settings, run))
        )
    run.spikes.append(
        {
            "step": run.step,
            "batch": position,
            "measure": reason["measure"],
            "value": reason["value"],
            "median": reason["median"],
            "in_a_row": row,
            "rolled_back_to": target,
            "skipped": skipped,
            "file": name,
        }
    )
    out = report["standing_out"]
    what = (
        f"; {len(out)} of its documents stand out, first {out[0].get('document', '')[:12]} ({out[0].get('source')})"
        if out
        else ""
    )
    progress.say(
        f"spike at step {run.step}: {reason['measure']} {value}{what}. Going back to step {target} and passing over "
        f"batch{'es' if len(skipped) > 1 else ''} {', '.join(map(str, skipped))}; see spikes/{name}"
    )
    run.roll_back(target)


def look_into(job: Job, run: RunState, batch: Any, position: int) -> dict[str, Any]:
    """The batch's documents and hardest tokens, under the weights with which it spiked."""
    trace = job.source.trace(position)
    found: dict[str, Any] = {"documents": trace, "tokens": [], "standing_out": [], "rare_share": None}
    if job.token_losses is None:
        return found
    device = next(run.working.module.parameters()).device
    with uncompiled(run.working.module):
        losses = [
            job.token_losses(run.working.module, batch.slice(i, i + 1).to(device)).cpu() for i in range(batch.rows)
        ]
    all_losses = torch.cat(run.world.gather(torch.cat(losses)))
    labels = torch.cat(run.world.gather(batch.labels))
    trained = labels != IGNORED
    documents = documents_of(trace, all_losses, trained)
    tokens = hardest_tokens(labels, all_losses, trained, job.token_counts, job.spell)
    return {
        "documents": documents,
        "standing_out": standing_out(documents, robust(run.detector.losses)[0] if run.detector.losses else None),
        "tokens": tokens,
        "rare_share": rare_share(tokens),
    }


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def _facts(job: Job, settings: LoopSettings, run: RunState) -> Facts:
    return Facts(
        precision=run.working.precision,
        median_loss=robust(run.detector.losses)[0] if run.detector.losses else None,
        schedule_factor=run.horizon.rate_factor(run.step),
        warmup=run.step < run.horizon.warmup,
        peak_rate=settings.optimizer.learning_rate,
        clip=settings.gradient_clip,
        model=job.facts,
    )
