"""Floor 1: text to token ids and back.

corpus ─ train.py (sample, learn merges) ─ vocabulary.py (the files) ─ tokenizer.py ─ report.py
conversation.py (messages) ─ chat.py (templates, and where the answers are) ─ tokenizer.py `render_tokens`
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hanlin.tokenization.conversation import Conversation, Message

if TYPE_CHECKING:
    from hanlin.tokenization.tokenizer import RenderedConversation, Tokenizer

__all__ = ["Conversation", "Message", "RenderedConversation", "Tokenizer"]


def __getattr__(name: str) -> Any:
    # The tokenizers library is loaded by those who make tokens.
    if name in ("Tokenizer", "RenderedConversation"):
        from hanlin.tokenization import tokenizer

        return getattr(tokenizer, name)
    raise AttributeError(f"module 'hanlin.tokenization' has no attribute {name!r}")
