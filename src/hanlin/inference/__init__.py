"""Floor 2: the engine. Requests in, tokens with log-probabilities out.

load.py (a directory) ─ engine.py ─┬ scheduler.py (who runs) ─ sampling.py, text.py ├ beam.py (beam search) └
scoring.py (log-probabilities of given texts) below them: runner.py (a model with its cache) ─ step.py (one token a
row), cache.py, precision.py (bfloat16 without hardware)
"""

from hanlin.inference.engine import Engine
from hanlin.inference.load import LanguageModel, load
from hanlin.inference.samples import expand, likeliest
from hanlin.inference.types import Completion, Constraint, Delta, FinishReason, Request

__all__ = [
    "Completion",
    "Constraint",
    "Delta",
    "Engine",
    "FinishReason",
    "LanguageModel",
    "Request",
    "expand",
    "likeliest",
    "load",
]
