"""Floor 2: tokens and conversations to batches: shards, packing, order, provenance, and the formats of people's data.

From a text file to a batch: `stage.py` (a corpus's documents to token shards) → `shards.py` (read them) → `order.py`
(which piece at which step) → `packing.py` (rows). From instructions: `rows.py` (containers) → `formats.py`,
`messages.py`, `preferences.py` (what rows mean) → `rendered.py` (tokens) → `conversations.py` (rows). `preview.py`
shows what was understood.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hanlin.data.batch import Batch
    from hanlin.data.conversations import PackedConversations
    from hanlin.data.formats import PlainText, ReadReport, read_instructions
    from hanlin.data.order import Order
    from hanlin.data.packing import PackedTokens, validation_batches
    from hanlin.data.preferences import Preference, read_preferences
    from hanlin.data.rendered import RenderedConversations, render_conversations
    from hanlin.data.shards import TokenShards

_HOMES = {
    "Batch": "batch",
    "Order": "order",
    "PackedConversations": "conversations",
    "PackedTokens": "packing",
    "PlainText": "formats",
    "Preference": "preferences",
    "ReadReport": "formats",
    "RenderedConversations": "rendered",
    "TokenShards": "shards",
    "read_instructions": "formats",
    "read_preferences": "preferences",
    "render_conversations": "rendered",
    "validation_batches": "packing",
}
__all__ = [
    "Batch",
    "Order",
    "PackedConversations",
    "PackedTokens",
    "PlainText",
    "Preference",
    "ReadReport",
    "RenderedConversations",
    "TokenShards",
    "read_instructions",
    "read_preferences",
    "render_conversations",
    "validation_batches",
]


def __getattr__(name: str) -> Any:
    # torch, numpy and pyarrow are imported by those who use them, not by those who read a stage's settings.
    if name in _HOMES:
        return getattr(importlib.import_module(f"hanlin.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'hanlin.data' has no attribute {name!r}")
