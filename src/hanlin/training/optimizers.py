"""Which parameter is moved by which rule, at which rate: one object for AdamW and Muon together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hanlin.artifacts import HanlinError
from hanlin.models.lora_layers import Adapter
from hanlin.training.muon import Muon
from hanlin.training.settings import OptimizerSettings, Role


@dataclass(frozen=True)
class Placed:
    """A parameter, what it is in the model, and the row widths of the matrices that lie in it."""

    name: str
    parameter: nn.Parameter
    role: Role
    splits: tuple[int, ...]


def place(model: nn.Module) -> list[Placed]:
    """Every trained parameter with its role; a tied head counts as the embedding.

    A linear layer's weight is a hidden matrix unless the layer's name ends in `head`; `splits` of a layer (q, k and v,
    or gate and up, as one product) say which rows belong together. What a LoRA adapter holds is of the role adapter.
    """
    owners = {id(p): (name, module) for name, module in model.named_modules() for p in module.parameters(recurse=False)}
    found: list[Placed] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        owner_name, owner = owners[id(parameter)]
        role: Role = "scalar"
        if isinstance(owner, Adapter):
            role = "adapter"
        elif isinstance(owner, nn.Embedding):
            role = "embedding"
        elif parameter.ndim == 2:
            role = "head" if owner_name.endswith("head") else "matrix"
        splits = getattr(owner, "splits", None) if role == "matrix" else None
        found.append(Placed(name, parameter, role, splits or (parameter.shape[0],)))
    return found


class Optimizer:
    """AdamW for embeddings, head, norms, biases and adapters; Muon or AdamW for the hidden matrices, which alone decay.

    Raises HanlinError when there is nothing to train.
    """

    def __init__(self, model: nn.Module, settings: OptimizerSettings) -> None:
        self.settings = settings
        self.placed = place(model)
        if not self.placed:
            raise HanlinError("every parameter of the model is frozen: there is nothing to train")
        self.rates = settings.rates()
        self.muon: Muon | None = None
        matrices = [one for one in self.placed if one.role == "matrix"]
        others = self.placed
        if settings.name == "muon" and matrices:
            others = [one for one in self.placed if one.role != "matrix"]
            self.muon = Muon(
                [one.parameter for one in matrices],
                [one.splits for one in matrices],
                settings.momentum,
                settings.weight_decay,
            )
        self.muon_names = [one.name for one in matrices] if self.muon else []
        self.adamw_names = {one.parameter: one.name for one in others}
        groups = [
            {
                "params": [one.parameter for one in others if one.role == role],
                "weight_decay": settings.weight_decay if role == "matrix" else 0.0,
                "role": role,
            }
            for role in self.rates
        ]
        self.adamw = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=0.0,
            betas=(settings.beta1, settings.beta2),
            eps=settings.epsilon,
            fused=True,
        )

    @property
    def main_rate(self) -> float:
        """The peak rate of what is trained above all: the adapters, where there are some, or the hidden matrices."""
        adapted = any(one.role == "adapter" for one in self.placed)
        return self.rates["adapter" if adapted else "matrix"]

    def step(self, factor: float) -> None:
        """One update from the gradients, at `factor` (the schedule's) times the peak rates."""
        for group in self.adamw.param_groups:
            group["lr"] = self.rates[group["role"]] * factor
        self.adamw.step()
        if self.muon is not None:
            self.muon.step(self.rates["matrix"] * factor)

    def state(self) -> dict[str, Tensor]:
        """Every tensor of the optimiser's memory by `<parameter>/<name>`: the live tensors, not copies."""
        found: dict[str, Tensor] = {}
        for parameter, name in self.adamw_names.items():
            for key, value in self.adamw.state[parameter].items():
                found[f"{name}/{key}"] = value
        if self.muon is not None:
            for name, buffer in zip(self.muon_names, self.muon.buffers):
                found[f"{name}/momentum"] = buffer
        return found

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned. Raises HanlinError when it does not fit the model."""
        left = dict(state)
        self.adamw.state.clear()
        for parameter, name in self.adamw_names.items():
            memory = {
                key: left.pop(f"{name}/{key}") for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in left
            }
            for key, value in memory.items():
                if key != "step" and value.shape != parameter.shape:
                    raise HanlinError(
                        f"the checkpoint's {name}/{key} is of shape {tuple(value.shape)}, not {tuple(parameter.shape)}."
                    )
                memory[key] = value.to(parameter.device, copy=True)
            if memory:
                self.adamw.state[parameter] = memory
        if self.muon is not None:
            for name, buffer in zip(self.muon_names, self.muon.buffers):
                if f"{name}/momentum" not in left:
                    raise HanlinError(
                        f"the checkpoint has no momentum for {name}: it was written by another optimiser."
                    )
                buffer.copy_(left.pop(f"{name}/momentum"))
        if left:
            raise HanlinError(
                f"the checkpoint has optimiser state for {next(iter(left))}, which this run does not train."
            )
