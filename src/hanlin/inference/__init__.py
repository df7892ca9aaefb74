"""Floor 2: the engine. Requests in, tokens with log-probabilities out.

load.py (chat) ─ engine.py ─┬ driver.py (a thread of its own, for streams)
                            ├ scheduler.py (who is answered when) ─ sequence.py, sampling.py, text.py
                            ├ runner.py (a few rows together) ─ beam.py, contrastive.py
                            └ scoring.py (log-probabilities of given texts)
below them: step.py (a step through the model) ─ attention.py ─ plan.py (how it is cut); functions.py, blocks.py (all
blocks in one call), alike.py (the same bits in any company); cache.py (keys and values) ─ memory.py, prefixes.py (what
texts have in common) ─ shelves.py

directory.py (what lies in a model's directory) · speculation.py (tokens guessed ahead) · samples.py (several answers
to one prompt) · embeddings.py · adapters.py (LoRA by row)
constraints.py (what may come next) ─┬ constraint_check.py (a process that tries a grammar)
                                     └ tool_calls.py
precision.py (the forms of weights) ─ products.py, quantised.py, rows.py ─ native.py ─ kernels/ (C)
"""

from hanlin.inference.engine import Engine
from hanlin.inference.load import LanguageModel, load
from hanlin.inference.samples import expand, likeliest
from hanlin.inference.types import Completion, Constraint, Contrast, Delta, FinishReason, Request

__all__ = [
    "Completion",
    "Constraint",
    "Contrast",
    "Delta",
    "Engine",
    "FinishReason",
    "LanguageModel",
    "Request",
    "expand",
    "likeliest",
    "load",
]
