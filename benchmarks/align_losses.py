"""What hanlin and trl make of the same answers: a rollout's loss and its gradient, both of the same weights.

`align_speed.py` asks for it. The answers are those of a rollout that hanlin's stage stored. The policy's weights are
moved by noise, for one that is sure of its answers has gradients of the size of rounding; log π_old is the policy's,
moved so far that many tokens are clipped, and so are PPO's old values. Of GRPO and RLOO log π_ref is also the policy's,
moved, and rewards and advantages are normal draws, one an answer (real ones are often alike, and cancel). All else each
computes by itself, trl in the trainers of its releases. Where they differ by design:

- GRPO: nothing.
- RLOO: trl has one ratio π/π_old of a whole answer, and clips that; hanlin has one of each token. For an answer of one
  token these are the same, so losses are those of each answer's last token, with all before it as its prompt. Where
  π = π_old, the gradient of whole answers is the same too (the losses are not), and is compared. So are the advantages
  that each computes from the same rewards and log-probabilities.
- PPO: trl whitens by the variance over M - 1, hanlin over M: hanlin's advantages are multiplied by √((M - 1)/M). trl's
  reward models have no mean to subtract: hanlin's are given the mean 0 (with γ = 1 it moves rewards, values and returns
  alike, and the loss not at all). Behind an answer that ended by itself trl has one more place, where the reward is
  given and a value is learned; hanlin gives the reward at the answer's last token, behind which nothing comes. The
  critic is the reward model here, so that the value there is the reward: it adds nothing, but trl's value loss is a
  mean over E more values, and hanlin's is multiplied by M/(M + E) for it.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import torch
from align_common import KL, NEW_TOKENS, SAMPLES, VALUE_WEIGHT, read
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence

if TYPE_CHECKING:
    from align_peer import Elsewhere, Trl

    from hanlin.data.sequences import Sequences
    from hanlin.training.objectives import Objective

NOISE = 0.3
"""Standard deviation of what is added to log π_old (nats), to old values, and to weights, in proportion to them"""
GIVEN, FOUND, GRADIENT = "given.safetensors", "found.safetensors", "gradient/"
Found = dict[str, Tensor]
"""`loss`, the gradient of every weight by its Hugging Face name, and what else is compared"""

# ---------------------------------------------------------------------- hanlin


def losses_apart(task: str, trl: Elsewhere, done: Path, folder: Path, reward: Path, natural: bool) -> float:
    """Largest difference of losses, of advantages, and of gradients (by the length of hanlin's). `done` is a run of the
    stage `task` with its rollouts, `reward` its reward model (PPO); `natural`: whether its answers end by themselves.
    Prints what it compares."""
    folder.mkdir()
    model = folder / "model"
    given = stored(done, model)

    def theirs(batch: Sequences, what: str, **more: Any) -> Found:
        save_file(tables(batch), folder / GIVEN)
        trl.ask(losses=what, model=model, folder=folder, **more)
        return load_file(folder / FOUND)

    if task == "ppo":
        return of_ppo(given, model, reward, lambda batch: theirs(batch, "ppo", natural=natural))
    given.of_token["reference"] = given.of_token["old"] + noise(given, 1)
    given.of_sequence["reward"], drawn = torch.randn(2, len(given.lengths), generator=torch.Generator().manual_seed(2))
    given.of_token["advantages"] = drawn[given.sequence_of_token()]
    return {"grpo": of_grpo, "rloo": of_rloo}[task](given, model, theirs)


def stored(done: Path, model: Path) -> Sequences:
    """A run's first rollout that is still there; puts the policy whose loss is computed into `model`."""
    from hanlin.alignment.policy import score_all
    from hanlin.data.sequences import Sequences
    from hanlin.models.hub import load_model, save_model

    policy, generator = load_model(done), torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in policy.parameters():
            weight.mul_(1 + NOISE * torch.randn(weight.shape, generator=generator))
    save_model(model, policy)
    found = load_file(min((done / "rollouts").glob("*.safetensors")))

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}

    lengths = found["lengths"]
    batch = Sequences(
        found["input_ids"], lengths, found["answer_lengths"], torch.ones_like(lengths), part("of_token/"),
        {**part("of_sequence/"), "coefficient": torch.full((len(lengths),), KL), "per_token": torch.ones(len(lengths))},
    )  # fmt: skip
    batch.of_token["old"] = score_all(policy, batch, batch.input_ids.numel()) + noise(batch, 0)
    return batch


def noise(batch: Sequences, seed: int) -> Tensor:
    """For each token one of … -0.15, -0.05, 0.05, 0.15 …: none is so near to where clipping begins that rounding
    decides about a whole token's gradient."""
    drawn = NOISE * torch.randn(int(batch.answer_lengths.sum()), generator=torch.Generator().manual_seed(seed))
    return (10 * drawn).floor() / 10 + 0.05


def tables(batch: Sequences) -> Found:
    """A batch as trl has it: prompts are padded in front, answers and the values of their tokens behind."""
    answers = batch.answer_lengths
    parts = batch.input_ids.split(batch.lengths.tolist())
    ids = [(one[: len(one) - size], one[len(one) - size :]) for one, size in zip(parts, answers.tolist())]
    found = {f"of_sequence/{name}": values for name, values in batch.of_sequence.items()}
    for name, side, rows in zip(("prompt", "completion"), ("left", "right"), zip(*ids)):
        for what, fill in (("ids", rows), ("mask", [torch.ones_like(row) for row in rows])):
            found[f"{name}_{what}"] = pad_sequence(list(fill), batch_first=True, padding_side=side)
    for name, values in batch.of_token.items():
        found[f"of_token/{name}"] = pad_sequence(list(values.split(answers.tolist())), batch_first=True)
    return {name: value.contiguous() for name, value in found.items()}


def ours(model: Path, batch: Sequences, objective: Objective, critic: Any = None) -> tuple[Found, float]:
    """What hanlin finds, and the share of tokens that it clips."""
    from hanlin.alignment.actor_critic import ActorCritic
    from hanlin.models.hub import load_model, views_of
    from hanlin.models.reward import SCORE

    policy = load_model(model)
    trained = policy if critic is None else ActorCritic(policy, critic)
    found = objective(trained, batch)
    loss = found.loss_sum / found.tokens
    loss.backward()
    for weight in trained.parameters():
        assert weight.grad is not None
        weight.data = weight.grad
    names = {slot.name: value for slot, value in views_of(policy).items()}
    if critic is not None:
        slots = {**views_of(critic.trunk), SCORE: critic.score_head.weight.detach()}
        names |= {f"critic.{slot.name}": value for slot, value in slots.items()}
    gradient = {GRADIENT + name: value for name, value in names.items()}
    kinds = [name for name in ("policy_loss", "value_loss") if name in found.metrics]
    losses = {"loss": loss.detach(), **{name: found.metrics[name] / found.tokens for name in kinds}}
    clipped = float(found.metrics["clipped"]) / int(batch.answer_lengths.sum())
    return {**losses, **gradient}, clipped


def tell(what: str, one: Found, two: Found, names: tuple[str, ...], clipped: float | None = None) -> float:
    """Print how far `names` are apart, and the gradients; returns the most."""
    apart, parts = [0.0], list[str]()
    for name in names:
        apart.append(float((one[name] - two[name]).abs().max()))
        both = f"{float(one[name]):.6f} and {float(two[name]):.6f}" if one[name].ndim == 0 else f"{apart[-1]:.0e} apart"
        parts.append(f"{name} {both}")
    weights = sorted(name for name in one if name.startswith(GRADIENT))
    if weights:
        assert weights == sorted(name for name in two if name.startswith(GRADIENT))
        whole, other = (torch.cat([found[name].flatten() for name in weights]) for found in (one, two))
        apart.append(float((whole - other).norm() / whole.norm()))
        parts.append(f"gradients {apart[-1]:.0e} of their length apart")
    share = "" if clipped is None else f" ({clipped:.0%} of tokens clipped)"
    print(f"  {what}: {'; '.join(parts)}{share}", flush=True)
    return max(apart)


def of_grpo(batch: Sequences, model: Path, theirs: Callable[..., Found]) -> float:
    """By two ways of dividing: the loss."""
    from hanlin.alignment.policy_losses import policy_objective
    from hanlin.alignment.policy_settings import ClipSettings, KlSettings, Normalise

    apart: list[float] = []
    ways: tuple[tuple[Normalise, str], ...] = (("token", "dapo"), ("sequence", "grpo"))
    for normalise, kind in ways:
        objective = policy_objective(ClipSettings(), KlSettings(within="loss", estimator="k3"), normalise)
        found, clipped = ours(model, batch, objective)
        apart.append(tell(f"grpo, by {normalise}", found, theirs(batch, "grpo", kind=kind), ("loss",), clipped))
    return max(apart)


def of_rloo(batch: Sequences, model: Path, theirs: Callable[..., Found]) -> float:
    """Advantages, the loss of answers of one token, and the gradient of whole ones."""
    from hanlin.alignment.policy_losses import policy_objective
    from hanlin.alignment.policy_settings import ClipSettings, KlSettings, RlooRollout

    objective = policy_objective(ClipSettings(), KlSettings(), "sum")
    last_token = batch.answer_lengths.cumsum(0) - 1
    own = replace(batch, of_token=dict(batch.of_token))
    credit(own, RlooRollout(prompts=len(batch.lengths) // SAMPLES, samples=SAMPLES))
    credits = {"advantages": own.of_token["advantages"][last_token]}
    apart = [tell("rloo, credit", credits, theirs(batch, "rloo-credit"), ("advantages",))]
    last = replace(
        batch,
        answer_lengths=torch.ones_like(batch.answer_lengths),
        of_token={name: values[last_token] for name, values in batch.of_token.items()},
    )
    found, clipped = ours(model, last, objective)
    apart.append(tell("rloo, last tokens", found, theirs(last, "rloo"), ("loss",), clipped))
    same = replace(batch, of_token={**batch.of_token, "old": batch.of_token["old"] - noise(batch, 0)})
    found, _ = ours(model, same, objective)
    return max(*apart, tell("rloo, π = π_old", found, theirs(same, "rloo", on_policy=True), ()))


def of_ppo(batch: Sequences, model: Path, reward: Path, theirs: Callable[[Sequences], Found]) -> float:
    """Rewards of tokens, advantages and returns; then the loss. `reward`: what the critic begins as."""
    from hanlin.alignment.policy_losses import policy_objective
    from hanlin.alignment.policy_settings import ClipSettings, KlSettings, PpoRollout
    from hanlin.models.reward import load_reward_model

    critic = load_reward_model(reward)
    batch.of_sequence["reward"] = batch.of_sequence["reward"] + critic.mean
    critic.mean = 0.0
    batch.of_token["moved"] = noise(batch, 1)
    with torch.no_grad():
        values = critic.values(batch) + batch.of_token["moved"]
    credit(batch, PpoRollout(), values)
    two = theirs(batch)
    tokens = int(batch.answer_lengths.sum())
    further = int(two.pop("values")) - tokens
    batch.of_token["advantages"] = batch.of_token["advantages"] * ((tokens - 1) / tokens) ** 0.5
    names = ("rewards", "returns", "advantages")
    credits = {name: batch.of_token[name] for name in names} | {"scores": batch.of_sequence["reward"]}
    apart = tell("ppo, credit", credits, two, ("scores", *names))
    weight = VALUE_WEIGHT * tokens / (tokens + further)
    found, clipped = ours(model, batch, policy_objective(ClipSettings(), KlSettings(), "token", weight), critic)
    found["value_loss"] = found["value_loss"] * tokens / (tokens + further)
    what = f"ppo, {tokens} tokens, {tokens + further} values"
    return max(apart, tell(what, found, two, ("policy_loss", "value_loss", "loss"), clipped))


def credit(batch: Sequences, settings: Any, values: Tensor | None = None) -> None:
    """hanlin's advantages, by the rollout's rewards; of PPO also its returns, and `rewards` of tokens."""
    from hanlin.alignment.advantages import token_rewards
    from hanlin.alignment.policy_settings import KlSettings
    from hanlin.alignment.rollouts import Samples, credited

    old, reference = batch.of_token["old"], batch.of_token["reference"]
    rewards = {"reward": batch.of_sequence["reward"]}
    samples = Samples(batch, old, torch.ones(len(batch.lengths), dtype=torch.bool), [], [])
    credited(batch, samples, rewards, old, reference, values, KL, KlSettings(coefficient=KL), settings)
    if values is not None:
        batch.of_token["rewards"] = token_rewards(rewards["reward"], batch.answer_lengths, old - reference, KL)


# ---------------------------------------------------------------------- trl


def answer(trl: Trl, losses: str, model: Path, folder: Path, **more: Any) -> None:
    """What trl makes of `folder`'s given answers with the weights in `model`."""
    given = load_file(folder / GIVEN)
    found = {"grpo": trl_grpo, "rloo": trl_rloo, "rloo-credit": trl_credit, "ppo": trl_ppo}[losses](
        trl, model, folder, given, **more
    )
    save_file({name: value.detach().cpu().contiguous() for name, value in found.items()}, folder / FOUND)


def trl_grpo(trl: Trl, model: Path, folder: Path, given: Found, kind: str) -> Found:
    """`kind` is trl's `loss_type`."""
    from trl import GRPOConfig, GRPOTrainer

    # hanlin's k3 has no such factor.
    made = trainer(trl, GRPOTrainer, GRPOConfig, folder, model, loss_type=kind, use_bias_correction_kl=False)
    return loss_of(
        made, given, advantages=given["of_token/advantages"][:, 0], old_per_token_logps=given["of_token/old"],
        ref_per_token_logps=given["of_token/reference"], num_items_in_batch=given["completion_mask"].sum(),
    )  # fmt: skip


def trl_rloo(trl: Trl, model: Path, folder: Path, given: Found, on_policy: bool = False) -> Found:
    """`on_policy`: log π_old is trl's own, for sums over long answers round by more than is to be seen."""
    from trl import RLOOConfig, RLOOTrainer

    made = trainer(trl, RLOOTrainer, RLOOConfig, folder, model)
    old = given["of_token/old"]
    if on_policy:
        ids, mask = (torch.cat((given[f"prompt_{x}"], given[f"completion_{x}"]), 1) for x in ("ids", "mask"))
        device = made.accelerator.device
        with torch.no_grad():
            found = made._get_per_token_logps_and_entropies(made.model, ids.to(device), mask.to(device), old.shape[1])
        old = found[0].cpu() * given["completion_mask"]
    return loss_of(made, given, advantages=given["of_token/advantages"][:, 0], old_logps=old.sum(1))


def trl_credit(trl: Trl, model: Path, folder: Path, given: Found) -> Found:
    """RLOO's advantages: generation and the models' log-probabilities are replaced by what is given."""
    from trl import RLOOConfig, RLOOTrainer

    made = trainer(trl, RLOOTrainer, RLOOConfig, folder, model, given["of_sequence/reward"].tolist())
    device = made.accelerator.device
    prompts, answers = (
        [row[mask.bool()].tolist() for row, mask in zip(given[f"{name}_ids"], given[f"{name}_mask"])]
        for name in ("prompt", "completion")
    )
    said = (prompts, answers, ["" for _ in answers])
    logprobs = iter([(given[f"of_token/{name}"].to(device), None, None) for name in ("old", "reference")])
    with (
        mock.patch.object(made, "_generate", lambda _: said),
        mock.patch.object(made, "_get_per_token_logps_and_entropies", lambda *_, **__: next(logprobs)),
    ):
        return {"advantages": made._generate_and_score_completions([{"prompt": ""} for _ in answers])["advantages"]}


def trainer(
    trl: Trl, kind: Any, config: Any, folder: Path, model: Path, rewards: list[float] | None = None, **more: Any
) -> Any:
    """A GRPO or RLOO trainer of the weights in `model`."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    settings = trl.config(
        "grpo", config, folder, num_generations=SAMPLES, max_completion_length=NEW_TOKENS, beta=KL, **more
    )
    made = kind(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32), args=settings,
        train_dataset=Dataset.from_list(read(trl.data / "grpo.jsonl")), processing_class=trl.tokenizer,
        reward_funcs=lambda **given: rewards,
    )  # fmt: skip
    made.current_gradient_accumulation_steps = 1
    made.model.train()
    return made


def loss_of(made: Any, given: Found, **more: Tensor) -> Found:
    """The trainer's own loss."""
    inputs = {name: value for name, value in {**given, **more}.items() if "/" not in name}
    loss = made._compute_loss(made.model, {name: value.to(made.accelerator.device) for name, value in inputs.items()})
    loss.backward()
    return {"loss": loss, **gradients(made.model)}


def gradients(model: Any, prefix: str = "") -> Found:
    return {GRADIENT + prefix + name: weight.grad for name, weight in model.named_parameters()}


class Reached(Exception):
    """train() has its first loss."""


def trl_ppo(trl: Trl, model: Path, folder: Path, given: Found, natural: bool) -> Found:
    """All that PPO computes is inside its train(): this runs up to its first backward pass, on given answers, log π_old
    and old values, and reads its variables there."""
    from trl.experimental.ppo import ppo_trainer

    made: Any = trl.ppo_trainer(folder, natural, model, local_rollout_forward_batch_size=len(given["prompt_ids"]))
    given = {name: value.to(made.accelerator.device) for name, value in given.items()}
    filler = trl.tokenizer.pad_token_id
    queries, answers = (
        given[f"{name}_ids"].masked_fill(given[f"{name}_mask"] == 0, filler) for name in ("prompt", "completion")
    )
    made.dataloader = [{"input_ids": queries}]
    whole = torch.cat((queries, answers), 1)
    # In train() the first log-probabilities are those of what was generated.
    logprobs = itertools.chain([given["of_token/old"]])
    log_softmax, get_reward, seen = ppo_trainer.selective_log_softmax, ppo_trainer.get_reward, dict[str, Any]()

    def scored(scorer: Any, ids: Tensor, filler: int, start: int) -> Any:
        places, last, ends = get_reward(scorer, ids, filler, start)
        if scorer is not made.reward_model:
            places = places + pad(given["of_token/moved"], (start - 1, 1))[..., None]
        return places, last, ends

    def reached(loss: Tensor) -> None:
        frame = inspect.currentframe()
        assert frame is not None and frame.f_back is not None
        seen.update(frame.f_back.f_locals)
        raise Reached

    with (
        mock.patch.object(ppo_trainer, "batch_generation", lambda *_: (whole, answers)),
        mock.patch.object(
            ppo_trainer, "selective_log_softmax",
            lambda logits, ids: found if (found := next(logprobs, None)) is not None else log_softmax(logits, ids),
        ),
        mock.patch.object(ppo_trainer, "get_reward", scored),
        mock.patch.object(made.accelerator, "backward", reached),
        contextlib.suppress(Reached),
    ):  # fmt: skip
        made.train()
    seen["loss"].backward()
    tokens, places = ~seen["padding_mask"], ~seen["padding_mask_p1"]
    assert torch.equal(tokens, given["completion_mask"].bool())
    # The reward behind an answer that ended, to its last token.
    behind = (seen["rewards"] * (places & ~tokens)).sum(1)
    seen["rewards"][torch.arange(len(behind)), tokens.sum(1) - 1] += behind
    return {
        **{name: seen[name][tokens] for name in ("rewards", "returns", "advantages")},
        "scores": seen["scores"], "values": places.sum(),
        "loss": seen["loss"], "policy_loss": seen["pg_loss"], "value_loss": seen["vf_loss"],
        **gradients(made.model.policy), **gradients(made.model.value_model, "critic."),
    }  # fmt: skip
