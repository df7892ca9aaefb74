"""The loop. Every objective is trained by it: read `train` from top to bottom.

The course of a run is a function of (model, objective, data, settings, seed): what a step does depends on the number of
the step and on the state that a checkpoint holds, never on the clock. So a run that is killed and started again ends
with the same bits. The batch of step s is the s-th of the data that is not on the skip list (`batch_of_step`), the rate
is a function of s, and rollbacks go to checkpoints at fixed steps. Only the number of steps, in a run with a time
limit, comes from the clock (`horizon`).
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError, Progress, write_json
from hanlin.models.device import choose_device
from hanlin.models.memory import keep_freed_memory
from hanlin.training.checkpoints import Checkpoints, seed_everything
from hanlin.training.compiling import choose_compile, compile_blocks, uncompiled, undo_compile
from hanlin.training.horizon import Horizon
from hanlin.training.interruption import Interruption, deterministic
from hanlin.training.job import Job
from hanlin.training.memory import memory_figures, watch_peak
from hanlin.training.objectives import Objective, Rows
from hanlin.training.optimizers import Optimizer
from hanlin.training.parallel import World
from hanlin.training.precision import DTYPES, WorkingCopy, choose_precision, matmul_rate
from hanlin.training.recovery import recover
from hanlin.training.settings import LoopSettings
from hanlin.training.spikes import Detector, batch_of_step
from hanlin.training.state import RunState, clear_stale_reports
from hanlin.training.telemetry import Metrics, curves

CHECKPOINTS = "checkpoints"


def train(job: Job, settings: LoopSettings, workdir: Path, seed: int, progress: Progress) -> dict[str, Any]:
    """Train `job.model` and return the run's figures; write metrics.jsonl, spikes/ and checkpoints/ in `workdir`.

    Started again in the same `workdir` it goes on where it was. Raises HanlinError with a diagnosis when spikes do not
    stop, and KeyboardInterrupt, after writing a checkpoint, on Ctrl-C or SIGTERM.
    """
    world = World.current()
    device = choose_device(settings.device)
    checkpoints = Checkpoints(workdir / CHECKPOINTS, settings.keep_checkpoints)
    decisions = _decide(job, settings, device, checkpoints.directory / "decisions.json", world, progress)
    keep_freed_memory()
    watch_peak(device)
    seed_everything(seed, world.rank)
    job.model.to(device).train()
    run = RunState(
        working=WorkingCopy(job.model, decisions["precision"]),
        optimizer=Optimizer(job.model, settings.optimizer),
        # A gradient that clipping hardly touches does no harm.
        detector=Detector(settings.spikes, least_norm=3 * settings.gradient_clip),
        checkpoints=checkpoints,
        metrics=Metrics(workdir / "metrics.jsonl", write=world.first),
        world=world,
        horizon=Horizon(settings, job.steps, checkpoints.directory / "steps.json"),
    )
    horizon = run.horizon
    evaluate_every = settings.evaluation_interval(job.steps)
    point_every = settings.checkpoint_interval(job.steps)
    with deterministic(settings.deterministic), Interruption() as interruption:
        if run.resume(progress):
            clear_stale_reports(workdir / "spikes", run.spikes)
        else:
            _evaluate(job, run)
            run.save(point=True)
        if job.on_policy is not None:
            job.on_policy.rewind(run.step)
        if decisions["compile"]:
            compile_blocks(run.working.module)

        while run.step < horizon.steps:
            if horizon.open and world.any(horizon.observe(run.step, run.seconds)):
                horizon.decay_from(run.step, write=world.first)
                world.barrier()
                progress.say(f"the learning rate falls from here: {horizon.steps:,} steps fit the time")
            begun = time.perf_counter()
            position = batch_of_step(run.step, run.skipped)
            if job.on_policy is not None:
                with measuring(run.working.module):
                    job.on_policy.prepare(run.working.module, position, run.step)
            batch: Rows = job.source.step(position, world.rank, world.ranks)
            parts = batch.parts(settings.tokens_at_once(device.type), settings.micro_rows)
            sums = accumulate(run.working, job.objective, parts, device, world)
            loss = sums.metrics["loss"] / sums.tokens
            norm = gradient_norm(run.working) / sums.tokens
            run.computed_tokens += sums.positions

            reason = run.detector.judge(loss, norm)
            if reason is not None:
                recover(job, settings, run, batch, position, reason, workdir, progress)
                if job.on_policy is not None:
                    job.on_policy.rewind(run.step)
                continue

            clip = settings.gradient_clip
            shrink = min(1.0, clip / (norm + 1e-6)) if clip else 1.0
            scale_gradients(run.working, shrink / sums.tokens)
            factor = horizon.rate_factor(run.step)
            run.optimizer.step(factor)
            run.working.clear()
            run.working.refresh()
            run.detector.accept(loss, norm)

            took = time.perf_counter() - begun
            run.tokens += sums.positions
            run.trained_tokens += sums.tokens
            run.loss = loss
            means = {name: value / sums.tokens for name, value in sums.metrics.items()}
            if job.on_policy is not None:
                means |= job.on_policy.observe(position, means)
            run.metrics.write(
                {
                    "step": run.step,
                    "batch": position,
                    **means,
                    "grad_norm": norm,
                    "lr": run.optimizer.main_rate * factor,
                    "tokens": run.tokens,
                    "tokens_per_second": round(sums.positions / took, 1),
                    "flops_per_second": round(sums.positions * job.flops_per_token / took),
                    "seconds": round(run.seconds, 3),
                }
            )
            run.step += 1

            best = _evaluate(job, run) if run.step % evaluate_every == 0 or run.step == horizon.steps else False
            point = run.step % point_every == 0 or run.step == horizon.steps
            late = time.perf_counter() - run.saved > settings.checkpoint_minutes * 60
            stop = world.any(interruption.asked)
            if point or best or stop or world.any(late):
                run.save(point=point)
            progress.update(run.step, horizon.expected, _note(run, job, loss, sums.positions / took))
            if stop:
                progress.say(
                    f"stopped after step {run.step} of {horizon.expected}; the same command goes on from there"
                )
                raise KeyboardInterrupt

    undo_compile(run.working.module)
    if settings.finish_with == "best" and run.best is not None and run.best["step"] in checkpoints.steps():
        run.load_weights(run.best["step"])
    run.metrics.close()
    return _figures(job, settings, run, decisions, device, workdir)


@dataclass
class StepSums:
    """Sums over all micro-batches and ranks of one step."""

    metrics: dict[str, float]
    tokens: int
    """What the loss is divided by."""
    positions: int


def accumulate(
    working: WorkingCopy, objective: Objective, micro_batches: Iterable[Rows], device: torch.device, world: World
) -> StepSums:
    """Gradients of the SUM of the step's losses, in the master parameters' `.grad`, one micro-batch after the other.

    Nothing is divided here: a mean over micro-batches or ranks would weigh a token by how many others its micro-batch
    happened to hold.
    """
    working.clear()
    names: list[str] = []
    totals: Tensor | None = None
    positions = 0
    for one in micro_batches:
        micro = one.to(device)
        parts = objective(working.module, micro)
        parts.loss_sum.backward()
        working.collect()
        metrics = {"loss": parts.loss_sum, **parts.metrics}
        names = list(metrics)
        positions += micro.input_ids.numel()
        row = torch.stack([value.detach().double() for value in (parts.tokens, *metrics.values())])
        totals = row if totals is None else totals + row
    assert totals is not None
    totals = torch.cat([totals, totals.new_tensor([positions])])
    world.sum_([*working.gradients(), totals])
    tokens, *values, positions_all = totals.tolist()
    if not tokens > 0:
        raise HanlinError(
            "a whole step has no token to train on: every label of its batch is -100. Look at the data's labels."
        )
    return StepSums(dict(zip(names, values)), int(tokens), int(positions_all))


@torch.no_grad()
def gradient_norm(working: WorkingCopy) -> float:
    """L2 norm of all the gradients together, each summed in its own dtype (fp32, or fp64)."""
    return float(torch.nn.utils.get_total_norm(working.gradients()))


@torch.no_grad()
def scale_gradients(working: WorkingCopy, factor: float) -> None:
    """Divide by the step's tokens, and clip, in one pass."""
    # PyTorch has no public name for it; its own clip_grad_norm_ calls the same.
    torch._foreach_mul_(working.gradients(), factor)  # pyright: ignore[reportPrivateUsage]


def _decide(
    job: Job, settings: LoopSettings, device: torch.device, file: Path, world: World, progress: Progress
) -> dict[str, Any]:
    """What `auto` means in this run: measured when it begins, and kept for as long as it lasts."""
    here = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": _device_name(device)}
    if world.first and not file.is_file():
        precision = choose_precision(settings.precision, device, progress)
        rate = matmul_rate(DTYPES[precision], device)
        flops = job.flops_per_token * job.steps * settings.rows * settings.sequence_length
        compiled = choose_compile(settings.compile, device, flops, rate, progress, settings.seconds)
        write_json(file, {"precision": precision, "compile": compiled, "matmul_rate": rate, **here})
    world.barrier()
    stored = json.loads(file.read_text(encoding="utf-8"))
    for name, value in here.items():
        if stored[name] != value:
            progress.say(
                f"{name} is {value}, but the run began with {stored[name]}: its result may differ in the last bits"
            )
    return stored


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


@contextlib.contextmanager
def measuring(model: nn.Module) -> Generator[None, None, None]:
    """Within it the model only computes: no gradients, no dropout, nothing compiled anew."""
    model.eval()
    with torch.no_grad(), uncompiled(model):
        yield
    model.train()


def _evaluate(job: Job, run: RunState) -> bool:
    """Measure the model as it is now; True when it is the best so far."""
    if job.evaluate is None:
        return False
    with measuring(run.working.module):
        found = {
            name: value if math.isfinite(value) else None for name, value in job.evaluate(run.working.module).items()
        }
    run.validations.append({"step": run.step, **found})
    run.metrics.write(
        {"step": run.step, **{f"validation_{k}": v for k, v in found.items()}, "seconds": round(run.seconds, 3)}
    )
    loss = found["loss"]
    if loss is None or (run.best is not None and loss >= run.best["loss"]):
        return False
    run.best = {"step": run.step, **found}
    return True


def _note(run: RunState, job: Job, loss: float, speed: float) -> str:
    note = f"loss {loss:.3f}"
    last = run.validations[-1] if run.validations else None
    if last and last["loss"] is not None:
        note += (
            f" · {last['bits_per_byte']:.3f} bits/byte"
            if "bits_per_byte" in last
            else f" · validation {last['loss']:.3f}"
        )
    note += f" · {speed:,.0f} tokens/s"
    return note + (f" · {speed * job.flops_per_token / 1e9:,.0f} GFLOP/s" if job.flops_per_token else "")


def _figures(
    job: Job, settings: LoopSettings, run: RunState, decisions: dict[str, Any], device: torch.device, workdir: Path
) -> dict[str, Any]:
    seconds = run.seconds
    flops = run.computed_tokens * job.flops_per_token
    last = run.validations[-1] if run.validations else None
    return {
        "steps": run.step,
        "tokens": run.tokens,
        "trained_tokens": run.trained_tokens,
        "epochs": (run.step + len(run.skipped)) / job.source.steps_per_epoch,
        "seconds": seconds,
        "tokens_per_second": run.computed_tokens / seconds,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "matmul_flops_per_second": decisions["matmul_rate"],
        "matmul_share": flops / seconds / decisions["matmul_rate"],
        "loss": run.loss if run.loss is not None and math.isfinite(run.loss) else None,
        "validation": {"first": run.validations[0] if last else None, "last": last, "best": run.best},
        "spikes": run.spikes,
        "skipped_batches": run.skipped,
        "precision": decisions["precision"],
        "compile": decisions["compile"],
        "device": decisions["device"],
        "threads": decisions["threads"],
        "memory": memory_figures(run.working, run.optimizer, device),
        "learning_rates": settings.optimizer.rates(),
        "curves": curves(workdir / "metrics.jsonl") if run.world.first else {},
    }
