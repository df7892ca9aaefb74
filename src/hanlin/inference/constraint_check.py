"""Whether a grammar can be used, found out in a process of its own: `python -P constraint_check.py < grammar`.

Grammars come from clients. llguidance bounds most of the work that one can cause, but not all: a long chain of
references overflows the stack, which no exception reports, and some intersections of patterns take for ever. Here that
ends a process that holds nothing. The script imports nothing of hanlin's, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import json
import random
import resource
import sys
import threading

import llguidance

CPU_SECONDS = 2
MEMORY_BYTES = 1 << 30
STACK_BYTES = 4 << 20
"""Less than the 8 MB that a thread has elsewhere: what fits here fits there."""
STEPS = 64
"""Tokens that are tried: most grammars that are too much say so at the first of them."""

LIMITS = llguidance.LLParserLimits(
    initial_lexer_fuel=1_000_000,
    step_lexer_fuel=200_000,
    step_max_items=50_000,
    max_lexer_states=50_000,
    max_grammar_size=200_000,
    verbose_errors=False,
)


class ByteVocabulary:
    """A vocabulary of the 256 bytes and an end, as llguidance takes one."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(self) -> None:
        self.tokens = [*(bytes([byte]) for byte in range(256)), b"<end>"]
        self.eos_token_id = 256
        self.special_token_ids = [256]

    def __call__(self, text: str) -> list[int]:
        return list(text.encode())


def fault(grammar: str) -> str | None:
    """What is wrong with a grammar; None: it was compiled, and began answers within the limits."""
    tokenizer = llguidance.LLTokenizer(ByteVocabulary(), n_vocab=257, eos_token=256, slices=[])  # pyright: ignore[reportArgumentType] (its duck)
    matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=LIMITS)
    draw = random.Random(0)
    for _ in range(STEPS):
        if matcher.is_stopped():
            break
        allowed = [token for token, bias in enumerate(matcher.compute_logit_bias()) if bias and token < 256]
        if not allowed:
            break
        matcher.consume_token(draw.choice(allowed))
    return message(matcher) if matcher.is_error() else None


def message(matcher: llguidance.LLMatcher) -> str:
    """A matcher's error without the state that it appends."""
    text = matcher.get_error().split("\n<")[0].strip() or "nothing satisfies it"
    if text == "NoExtensionBias":
        return "nothing satisfies it"
    return text if len(text) <= 300 else text[:299] + "…"


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    grammar = sys.stdin.buffer.read().decode()
    threading.stack_size(STACK_BYTES)
    thread = threading.Thread(target=lambda: print(json.dumps({"fault": fault(grammar)})))
    thread.start()
    thread.join()


if __name__ == "__main__":
    main()
