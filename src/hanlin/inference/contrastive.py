"""Context-aware decoding (Shi et al. 2023, equation 4): what the context changes counts more than what is known anyway.

Two sequences advance together, one whose prompt has the context and one whose prompt has not; the next token is chosen
by (1 + α) · scores with − α · scores without.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from hanlin.inference.runner import Runner
from hanlin.inference.sampling import Choice, SamplingState, choose


@torch.inference_mode()
def contrastive_search(runner: Runner, state: SamplingState) -> Iterator[Choice]:
    """The choices of one row, token after token, for as long as they are asked for; the caller advances `state`.

    `state.request` has a contrast; `runner` has two rows. Log-probabilities are those of the model that reads the
    context; the processed ones are of what was drawn from.
    """
    request = state.request
    assert request.contrast is not None
    prompts = [request.prompt_ids, request.contrast.prompt_ids]
    lengths, alpha = [len(prompt) for prompt in prompts], request.contrast.alpha
    logits = runner.prefill(prompts)
    while True:
        scores = (1 + alpha) * logits[:1] - alpha * logits[1:]
        # What is impossible in both stays so: the difference of two infinities is no number.
        scores.masked_fill_(logits[:1] == -torch.inf, -torch.inf)
        choice = choose(logits[:1], [state], scores)
        yield choice
        logits = runner.decode(choice.tokens * 2, lengths)
        lengths = [length + 1 for length in lengths]
