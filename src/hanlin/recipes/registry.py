"""The kinds of stage that a recipe may name, and where each is defined."""

from __future__ import annotations

import importlib
from typing import Any

from hanlin.artifacts import HanlinError, Stage
from hanlin.artifacts.written import nearest

KINDS: dict[str, str] = {
    "world": "hanlin.corpus.world:STAGE",
    "corpus": "hanlin.corpus.build:STAGE",
    "tokenizer": "hanlin.tokenization.train:TRAIN_STAGE",
    "tokens": "hanlin.data.stage:TOKENS_STAGE",
    "pretrain": "hanlin.forecasting.dial:DIAL_STAGE",
    "sft": "hanlin.forecasting.dial:SFT_DIAL_STAGE",
    "instructions": "hanlin.alignment.instructions.stage:INSTRUCTIONS_STAGE",
    "self-instruct": "hanlin.alignment.instructions.self_instruct:SELF_INSTRUCT_STAGE",
    "reward": "hanlin.alignment.reward:REWARD_STAGE",
    "preference": "hanlin.alignment.preference:PREFERENCE_STAGE",
    "rrhf": "hanlin.alignment.preference:RRHF_STAGE",
    "ppo": "hanlin.alignment.policy_gradient:PPO_STAGE",
    "grpo": "hanlin.alignment.policy_gradient:GRPO_STAGE",
    "rloo": "hanlin.alignment.policy_gradient:RLOO_STAGE",
    "best-of-n": "hanlin.alignment.best_of_n:BEST_OF_N_STAGE",
    "constitution": "hanlin.alignment.constitution.stage:CONSTITUTION_STAGE",
    "exam": "hanlin.evaluation.exam:EXAM_STAGE",
    "feedback": "hanlin.serving.feedback_stage:FEEDBACK_STAGE",
    "serve": "hanlin.serving.serve_stage:SERVE_STAGE",
}


def get_stage(kind: str) -> Stage[Any]:
    """The stage of this kind; imported when asked for, so that a command pays only for what it uses."""
    if kind not in KINDS:
        raise HanlinError(f"there is no stage kind {kind!r}{nearest(kind, KINDS)}. Kinds: {', '.join(KINDS)}.")
    module, name = KINDS[kind].split(":")
    return getattr(importlib.import_module(module), name)
