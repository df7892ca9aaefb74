"""Answers from the engine: the policy's own, at temperature 1, as the objective takes them to be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hanlin.alignment.rollouts import Samples
from hanlin.artifacts import HanlinError
from hanlin.data.prompts import Prompt
from hanlin.data.rendered import place_of
from hanlin.data.sequences import join
from hanlin.inference import Engine, Request
from hanlin.models.lora import folded
from hanlin.tokenization import Conversation, Tokenizer


class RenderedPrompts:
    """Prompts as tokens; those that leave less than `most_new` of `length` tokens, and those that the chat template
    refuses, are left out, and named."""

    def __init__(self, prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int, most_new: int) -> None:
        self.prompts: list[Prompt] = []
        self.ids: list[list[int]] = []
        self.dropped: list[str] = []
        for number, prompt in enumerate(prompts, start=1):
            place = place_of(prompt.metadata, number)
            asked = Conversation(prompt.messages, prompt.tools)
            try:
                ids = tokenizer.render_tokens(asked, add_generation_prompt=True).ids
            except HanlinError as error:
                self.dropped.append(f"{place}: {error}")
                continue
            if len(ids) + most_new > length:
                self.dropped.append(f"{place}: {len(ids)} tokens, and {most_new} for an answer, are over {length}")
                continue
            self.prompts.append(prompt)
            self.ids.append(ids)
        if not self.ids:
            first = f"; the first: {self.dropped[0]}" if self.dropped else ""
            raise HanlinError(f"none of {len(prompts)} prompts can be used{first}.")

    def __len__(self) -> int:
        return len(self.ids)

    def figures(self) -> dict[str, Any]:
        """The account: read = used + dropped."""
        total = len(self.ids) + len(self.dropped)
        return {"read": total, "used": len(self.ids), "dropped": len(self.dropped), "dropped_rows": self.dropped[:20]}


class EngineSampler:
    """Draws answers with the engine that serves and examines, from the very module that is trained."""

    def __init__(
        self,
        rendered: RenderedPrompts,
        tokenizer: Tokenizer,
        most_new: int,
        max_batch: int = 256,
        temperature: float = 1.0,
    ) -> None:
        """At another `temperature` than 1 the log-probabilities are not those of what was drawn."""
        self.rendered, self.tokenizer, self.most_new, self.max_batch = rendered, tokenizer, most_new, max_batch
        self.temperature = temperature

    @property
    def prompts(self) -> int:
        return len(self.rendered)

    def describe(self, prompt: int) -> dict[str, Any]:
        """File and row of a prompt."""
        about = self.rendered.prompts[prompt].metadata
        file, record = about.get("file", ""), about.get("row", prompt + 1)
        return {"document": f"{file}:{record}", "file": file, "record": record, "line": about.get("line")}

    def sample(self, model: Any, prompts: list[int], samples: int, seed: int) -> Samples:
        """`samples` answers to each of `prompts`. Raises HanlinError when the model's scores are no numbers."""
        engine = Engine(model, self.tokenizer, max_batch=self.max_batch)
        requests = [
            Request(
                prompt_ids=self.rendered.ids[prompt],
                max_new_tokens=self.most_new,
                temperature=self.temperature,
                # Of its own, for a prompt may be asked twice in a rollout.
                seed=seed * 1_000_003 + place,
            )
            for place, prompt in enumerate(prompt for prompt in prompts for _ in range(samples))
        ]
        with folded(model):
            found = engine.generate(requests)
        if any(answer.finish_reason == "error" for answer in found):
            raise HanlinError("the policy's scores are no numbers any more: lower the learning rate, or raise β.")
        sequences = join(
            [request.prompt_ids for request in requests], [answer.ids for answer in found], [samples] * len(prompts)
        )
        return Samples(
            sequences,
            torch.tensor([value for answer in found for value in answer.logprobs]),
            torch.tensor([answer.finish_reason == "stop" for answer in found]),
            [answer.text for answer in found],
            list(prompts),
        )
