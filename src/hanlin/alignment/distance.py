"""How far a reward model's inputs are from those that it was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hanlin.artifacts import HanlinError, atomic_path

DISTANCE = "distance.safetensors"
"""The file in a reward model's directory"""
_AT_ONCE = 4096
_NAMES = {"mean", "whiten", "held_out"}


@dataclass
class Distance:
    """The Mahalanobis distance of hidden states from a Gaussian, divided by √H: about 1 for a draw from it.

    The Gaussian is that of the training answers' last hidden states (Lee et al. 2018, with one class), its covariance
    shrunk towards a multiple of the identity as far as its sample is small (Ledoit & Wolf 2004).
    """

    mean: Tensor
    """float64 [H]"""
    whiten: Tensor
    """float64 [H, H]: a difference times it has the length of the distance, times √H"""
    held_out: Tensor
    """float64 [101] percentiles, 0 to 100, of held-out answers' distances: what is usual of data like the training's"""

    @staticmethod
    def fit(hidden: Tensor) -> Distance:
        """From hidden states [n, H] of n ≥ 2 answers; `held_out` is not known yet (NaN)."""
        if len(hidden) < 2:
            raise HanlinError(f"a distance needs two answers or more to be measured from, not {len(hidden)}")
        mean = hidden.double().mean(0)
        covariance, _ = shrunk_covariance(hidden, mean)
        values, vectors = torch.linalg.eigh(covariance)
        return Distance(mean, vectors / values.sqrt(), torch.full((101,), torch.nan, dtype=torch.float64))

    def of(self, hidden: Tensor) -> Tensor:
        """Hidden states [n, H], on any device, to distances, float64 [n] on the CPU."""
        parts = [
            (part.to("cpu", torch.float64) - self.mean) @ self.whiten
            for part in hidden.detach().split(_AT_ONCE)
            if len(part)
        ]
        if not parts:
            return torch.zeros(0, dtype=torch.float64)
        return torch.cat([part.norm(dim=1) for part in parts]) / len(self.mean) ** 0.5

    def usual(self, distances: Tensor) -> Distance:
        """The same, with these for `held_out`."""
        at = torch.linspace(0, 1, 101, dtype=torch.float64)
        return Distance(self.mean, self.whiten, torch.quantile(distances.double(), at))

    def drift(self, distances: Tensor) -> dict[str, float]:
        """Of new answers: their `mean` distance, its ratio to the held-out `median`, and the share of them that is
        `beyond` all but a hundredth of the held-out ones (0.01, where nothing has drifted)."""
        return {
            "mean": float(distances.mean()),
            "median_ratio": float(distances.median() / self.held_out[50]),
            "beyond": float((distances > self.held_out[99]).double().mean()),
        }

    def save(self, path: Path) -> None:
        """Write the file whole."""
        with atomic_path(path) as part:
            save_file({name: getattr(self, name).contiguous() for name in sorted(_NAMES)}, part)

    @staticmethod
    def load(path: Path) -> Distance:
        """Raises HanlinError when there is no such file, or it can't be read."""
        try:
            found: dict[str, Any] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise HanlinError(f"{path} can't be read: {error}. A reward stage writes it beside its model.") from None
        if set(found) != _NAMES:
            raise HanlinError(f"{path} holds {', '.join(sorted(found))}, not {', '.join(sorted(_NAMES))}")
        return Distance(**found)


def shrunk_covariance(x: Tensor, mean: Tensor) -> tuple[Tensor, float]:
    """(covariance [H, H], float64, positive definite; the weight of its identity) of rows x [n, H].

    Σ* = (1 - ρ) S + ρ μ I with S = Σ (x - mean)(x - mean)ᵀ / n, μ = tr S / H, and ρ the estimate of the weight that
    brings Σ* nearest to the truth (Ledoit & Wolf 2004, lemmas 3.2 to 3.4): ρ = min(b², d²) / d², d² = ‖S - μI‖² and
    b² = Σ ‖(x - mean)(x - mean)ᵀ - S‖² / n², both in the Frobenius norm over H.
    """
    n, size = x.shape
    second = torch.zeros((size, size), dtype=torch.float64)
    fourth = 0.0
    for part in x.split(_AT_ONCE):
        part = part.to("cpu", torch.float64) - mean
        second += part.T @ part
        fourth += float(part.square().sum(1).square().sum())
    sample = second / n
    level = float(sample.trace()) / size
    if level == 0:  # answers that no hidden state tells apart: any difference from them is the same
        return torch.eye(size, dtype=torch.float64), 1.0
    norm = float(sample.square().sum())
    away = norm - size * level**2
    # Σ ‖x xᵀ - S‖² = Σ ‖x‖⁴ - n ‖S‖²
    noise = (fourth / n - norm) / n
    # A hair of the identity keeps the matrix invertible where the sample says that it is exact.
    weight = min(1.0, max(noise / away if away > 0 else 1.0, 1e-6))
    return (1 - weight) * sample + weight * level * torch.eye(size, dtype=torch.float64), weight
