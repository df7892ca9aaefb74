"""A row of instruction data on its way from a file to `instructions.jsonl`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from hanlin.alignment.instructions.text import language_of
from hanlin.artifacts import digest

if TYPE_CHECKING:
    from hanlin.tokenization import Conversation

FILE = "instructions.jsonl"
"""What every stage that makes instructions writes, and what `sft` reads of it."""


@dataclass
class Instruction:
    """A conversation as it will be written. Its messages and tools are never changed: a changed row is a new one."""

    messages: list[dict[str, Any]]
    """OpenAI's form; an answer that is not to be trained on has the weight 0"""
    metadata: dict[str, Any]
    """Where it came from, and what was measured of it"""
    tools: list[dict[str, Any]] | None = None
    own_text: str | None = None
    """Of a row made by a template: what is not the template's, by which near duplicates are known"""
    measures: dict[str, Any] = field(default_factory=dict[str, Any])
    """What the selection measured, by the name of the rule"""

    @staticmethod
    def of(conversation: Conversation, source: str) -> Instruction:
        """From a conversation that `read_instructions` read."""
        metadata = dict(conversation.metadata)
        untrained = set(metadata.pop("untrained_answers", []))
        messages: list[dict[str, Any]] = []
        answers = 0
        for message in conversation.messages:
            value = message.to_dict()
            if message.role == "assistant":
                if answers in untrained:
                    value["weight"] = 0
                answers += 1
            messages.append(value)
        given = {"given_id": metadata.pop("id")} if "id" in metadata else {}
        return Instruction(messages, {"source": source, **metadata, **given}, conversation.tools)

    @cached_property
    def id(self) -> str:
        """16 hex digits of what is said, whoever says it from where."""
        return digest({"messages": self.messages, "tools": self.tools})[:16]

    @cached_property
    def question(self) -> str:
        """Everything that the user says."""
        return self._said("user")

    @cached_property
    def answer(self) -> str:
        """Everything that the assistant says."""
        return self._said("assistant")

    @cached_property
    def language(self) -> str:
        """The language of what is asked: as the source says, or as it looks."""
        return str(self.metadata.get("language") or language_of(self.question or self.answer))

    @cached_property
    def turns(self) -> int:
        """How many answers there are."""
        return sum(message["role"] == "assistant" for message in self.messages)

    @cached_property
    def last(self) -> tuple[list[dict[str, Any]], str]:
        """The messages before the last answer that is trained on, and that answer's text."""
        for place in range(len(self.messages) - 1, -1, -1):
            message = self.messages[place]
            if message["role"] == "assistant" and message.get("weight") != 0 and message["content"]:
                return [_unweighted(one) for one in self.messages[:place]], str(message["content"])
        return [_unweighted(one) for one in self.messages], ""

    def line(self) -> str:
        """Its line in `instructions.jsonl`."""
        measured = {"measures": self.measures} if self.measures else {}
        row: dict[str, Any] = {"id": self.id, "messages": self.messages}
        if self.tools:
            row["tools"] = self.tools
        row["metadata"] = {**self.metadata, **measured}
        return json.dumps(row, ensure_ascii=False) + "\n"

    def _said(self, role: str) -> str:
        return "\n".join(str(one["content"]) for one in self.messages if one["role"] == role and one["content"])


def _unweighted(message: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != "weight"}
