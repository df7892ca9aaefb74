"""What a tokenizer costs and what of it is used: compression beside other tokenizers, and tokens that are seldom seen.

Fertility is the mean number of tokens per word (Rust et al. 2021, "How Good is Your Tokenizer?"), measured on words
with the space before them. Han is written without spaces, so there it is tokens per character of runs of Han.

On seldom seen tokens. A model learns a token from its occurrences. Gowda and May (2020, "Finding the Optimal Vocabulary
Size for Neural Machine Translation", arXiv:2004.02334) advise the largest vocabulary of which 95 % of the tokens are
met at least 100 times in training: `rare_below` = 100 and `rare_share_warning` = 5 % are theirs. (That is a rule of
thumb for quality, in translation. We know of no published share at which the loss begins to spike; hardly trained
tokens are one of its known causes.) Two sorts are told apart here. *Never seen* are, mostly, scaffolds: tokens that
merging made on its way to longer ones and that text never ends on. They disturb no training, as they are never in it,
but are room wasted, and what a model does with one is anyone's guess (Land and Bartolo 2024, "Fishing for Magikarp",
arXiv:2405.05417). *Rare* are those that are seen, but too seldom: the warning counts these.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import regex
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError
from hanlin.tokenization.tokenizer import Tokenizer
from hanlin.tokenization.train import BATCH_CHARACTERS, Plan, TokenizerSettings, batches, read_rows

Advance = Callable[[int, str], None]
CountTokens = Callable[[list[str]], list[int]]
"""Number of tokens of each text."""

OURS = "this tokenizer"
WORD = regex.compile(r" ?(?:(?!\p{Han})[\p{L}\p{M}])+")
HAN = regex.compile(r"\p{Han}+")


def make_report(
    tokenizer: Tokenizer, plan: Plan, corpus: Path, settings: TokenizerSettings, advance: Advance
) -> dict[str, Any]:
    """All figures: `vocabulary`, `sample`, `tokens` (seldom seen), `text` (compression), `warnings`, `rarest`.

    `advance` is told the bytes that are done. Raises HanlinError for a reference that can't be read.
    """
    counters: dict[str, CountTokens] = {
        OURS: _counter(tokenizer),
        "UTF-8 bytes": lambda texts: [len(text.encode()) for text in texts],
        "characters": lambda texts: [len(text) for text in texts],
    }
    counters |= {name: _counter(load_reference(name)) for name in settings.references}
    counts, sample = _count_sample(tokenizer, plan, advance)
    text, validation_counts = _compression(counters, tokenizer, corpus, settings.report_bytes, advance)
    scale = sum(plan.sizes.values()) / max(1, sample["bytes"])
    tokens, rarest = _seldom(tokenizer, counts, validation_counts, scale, settings)
    warnings: list[str] = []
    if tokens["rare_share"] > settings.rare_share_warning:
        warnings.append(
            f"{tokens['rare_share']:.1%} of the learned tokens are rare: the training text is expected to hold each "
            f"fewer than {settings.rare_below} times, too few to train its embedding well. Beyond "
            f"{settings.rare_share_warning:.0%} a smaller vocabulary is usually better, and hardly trained tokens can "
            f"make the loss spike. Choose a smaller vocabulary_size (about {tokens['advised_vocabulary_size']:,}), or "
            "more text."
        )
    learned = _learned(tokenizer)
    vocabulary = {
        "requested": settings.vocabulary_size,
        "size": tokenizer.vocabulary_size,
        "learned": len(learned),
        "special": tokenizer.special,
        "longest_bytes": max((len(tokenizer.token_bytes(index)) for index in learned), default=1),
    }
    return {
        "vocabulary": vocabulary,
        "sample": sample,
        "tokens": tokens,
        "text": text,
        "warnings": warnings,
        "rarest": rarest,
    }


def load_reference(name: str) -> Tokenizer:
    """A tokenizer by the path of its tokenizer.json or directory, or by its name on the hub (downloaded).

    Raises HanlinError when it is neither.
    """
    if Path(name).exists():
        return Tokenizer.load(Path(name))
    if regex.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) is None or name.endswith(".json"):
        raise HanlinError(f"references names {name}, which is neither a path here nor a model's name on the hub.")
    import tokenizers

    try:
        return Tokenizer(tokenizers.Tokenizer.from_pretrained(name).to_str())
    except Exception as error:  # the tokenizers library raises Exception itself
        raise HanlinError(
            f"The reference tokenizer {name} is no path here and can't be had from the hub: {error}. "
            "Correct the name, or drop it from references."
        ) from None


def _counter(tokenizer: Tokenizer) -> CountTokens:
    return lambda texts: [len(ids) for ids in tokenizer.encode_batch(texts)]


def _count_sample(tokenizer: Tokenizer, plan: Plan, advance: Advance) -> tuple[NDArray[np.int64], dict[str, Any]]:
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    documents = size = 0
    for batch in batches(plan.texts(), len):
        for ids in tokenizer.encode_batch(batch):
            counts += np.bincount(np.array(ids, np.int64), minlength=len(counts))
        documents += len(batch)
        read = sum(len(text.encode()) for text in batch)
        size += read
        advance(read, "counting")
    sample = {"documents": documents, "bytes": size, "tokens": int(counts.sum()), "repeats": plan.repeats}
    return counts, sample


def _seldom(
    tokenizer: Tokenizer,
    counts: NDArray[np.int64],
    validation_counts: NDArray[np.int64],
    scale: float,
    settings: TokenizerSettings,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Shares are of the learned tokens: there are bytes that UTF-8 never uses, and special tokens are in no text.

    `scale` is how much larger the training split is than the sample.
    """
    learned = np.array(_learned(tokenizer), np.int64)
    total = max(1, len(learned))
    unseen = int((counts[learned] == 0).sum())
    expected = counts[learned] * scale
    rare = (expected > 0) & (expected < settings.rare_below)
    fitting = _largest_fitting(tokenizer, counts * scale, settings.rare_below, settings.rare_share_warning)
    advised = tokenizer.vocabulary_size - len(learned) + fitting
    longest = sorted(learned.tolist(), key=lambda index: (-len(tokenizer.token_bytes(index)), index))[:20]
    figures = {
        "never_seen": unseen,
        "never_seen_share": unseen / total,
        "rare": int(rare.sum()),
        "rare_share": int(rare.sum()) / total,
        "rare_below": settings.rare_below,
        "rare_share_warning": settings.rare_share_warning,
        "unused_in_validation_share": int((validation_counts[learned] == 0).sum()) / total,
        "unseen_bytes": int((counts[:256] == 0).sum()),
        "advised_vocabulary_size": advised,
        "longest": [_shown(tokenizer, index) for index in longest],
    }
    order: list[int] = learned[np.argsort(counts[learned], kind="stable")].tolist()
    rarest = [{"id": index, "token": _shown(tokenizer, index), "count": int(counts[index])} for index in order[:100]]
    return figures, rarest


def _learned(tokenizer: Tokenizer) -> range:
    """Ids of the merged tokens of a vocabulary made here: they follow the bytes."""
    return range(256, len(json.loads(tokenizer.json)["model"]["vocab"]))


def _largest_fitting(tokenizer: Tokenizer, counts: NDArray[np.floating[Any]], rare_below: int, share: float) -> int:
    """How many merges, learned from the same text, would leave at most `share` of the tokens rare.

    BPE applies merges in the order they were learned, so text in a smaller vocabulary is this vocabulary's text with
    the last merges undone: a dropped token's occurrences become those of its two parts.
    """
    parts: dict[str, tuple[str, str]] = {}
    model = json.loads(tokenizer.json)["model"]
    for first, second in model["merges"]:
        parts.setdefault(first + second, (first, second))
    ids: dict[str, int] = model["vocab"]
    left: list[float] = counts.tolist()

    def is_rare(index: int) -> bool:
        return index >= 256 and 0 < left[index] < rare_below

    rare = sum(map(is_rare, range(len(ids))))
    for token, index in sorted(ids.items(), key=lambda item: -item[1]):
        size = index - 255
        if size <= 0 or rare <= share * size:
            return max(0, size)
        rare -= is_rare(index)
        for part in parts[token]:
            rare -= is_rare(ids[part])
            left[ids[part]] += left[index]
            rare += is_rare(ids[part])
    return 0


def _shown(tokenizer: Tokenizer, index: int) -> str:
    return tokenizer.token_bytes(index).decode("utf-8", "backslashreplace")


class _Group:
    """What is measured of one language or source."""

    def __init__(self) -> None:
        self.bytes = self.characters = self.documents = 0
        self.words: Counter[str] = Counter()
        self.han: Counter[str] = Counter()
        self.tokens: Counter[str] = Counter()

    def figures(self, counters: dict[str, CountTokens]) -> dict[str, Any]:
        words, han = self.words.total(), sum(len(run) * count for run, count in self.han.items())
        rows: dict[str, Any] = {}
        for name, counter in counters.items():
            rows[name] = {
                "tokens": self.tokens[name],
                "bytes_per_token": self.bytes / max(1, self.tokens[name]),
                "tokens_per_word": _weighted(counter, self.words) / words if words else None,
                "tokens_per_han": _weighted(counter, self.han) / han if han else None,
            }
        sizes = {"documents": self.documents, "bytes": self.bytes, "characters": self.characters}
        return {**sizes, "words": words, "han": han, "tokenizers": rows}


def _weighted(counter: CountTokens, texts: Counter[str]) -> int:
    return sum(size * count for size, count in zip(counter(list(texts)), texts.values()))


def _compression(
    counters: dict[str, CountTokens], tokenizer: Tokenizer, corpus: Path, report_bytes: int, advance: Advance
) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """`{"split", "language": {name: figures}, "source": {name: figures}}`, and how often each token was used.

    The text is validation text; a corpus without any is measured on its training text, and `split` says so.
    """
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    groups: dict[str, dict[str, _Group]] = {"language": {}, "source": {}}
    split = "validation" if any(read_rows(corpus, "validation", ["id"])) else "train"
    chosen = _choose(lambda: read_rows(corpus, split, ["id", "source", "bytes"]), report_bytes)
    rows = (row for row in read_rows(corpus, split, ["id", "source", "language", "text"]) if row["id"] in chosen)
    for batch in batches(rows, lambda row: len(row["text"]), BATCH_CHARACTERS // 4):
        texts: list[str] = [row["text"] for row in batch]
        sizes = {name: counter(texts) for name, counter in counters.items()}
        for ids in tokenizer.encode_batch(texts):
            counts += np.bincount(np.array(ids, np.int64), minlength=len(counts))
        for number, (row, text) in enumerate(zip(batch, texts)):
            words, han = Counter(WORD.findall(text)), Counter(HAN.findall(text))
            for kind in ("language", "source"):
                group = groups[kind].setdefault(row[kind] or "unknown", _Group())
                group.documents += 1
                group.bytes += sizes["UTF-8 bytes"][number]
                group.characters += sizes["characters"][number]
                group.words.update(words)
                group.han.update(han)
                group.tokens.update({name: size[number] for name, size in sizes.items()})
        advance(sum(sizes["UTF-8 bytes"]), "measuring")
    figures: dict[str, Any] = {"split": split}
    for kind, members in groups.items():
        figures[kind] = {name: members[name].figures(counters) for name in sorted(members)}
    return figures, counts


def _choose(read: Callable[[], Iterator[dict[str, Any]]], limit: int) -> set[str]:
    """Ids of documents of about `limit` bytes, the same share of each source. Ids are hashes: their order is chance.

    `read` is called twice and begins anew each time; what is held is the ids chosen, not those of all documents.
    """
    sizes: Counter[str] = Counter()
    for row in read():
        sizes[row["source"]] += row["bytes"]
    share = min(1.0, limit / max(1, sizes.total()))
    lowest = {source: _Lowest(share * size) for source, size in sizes.items()}
    for row in read():
        lowest[row["source"]].offer(row["id"], row["bytes"])
    return {one.identity for kept in lowest.values() for one in kept.heap}


@dataclass(frozen=True, slots=True)
class _Chosen:
    identity: str
    bytes: int

    def __lt__(self, other: _Chosen) -> bool:
        """Backwards: the first of a heap is then the one with the highest id."""
        return self.identity > other.identity


class _Lowest:
    """Of the documents offered, those of the lowest ids that together reach `budget` bytes: as few as do."""

    def __init__(self, budget: float) -> None:
        self.budget = budget
        self.bytes = 0
        self.heap: list[_Chosen] = []

    def offer(self, identity: str, size: int) -> None:
        if self.bytes >= self.budget and (not self.heap or identity > self.heap[0].identity):
            return
        heapq.heappush(self.heap, _Chosen(identity, size))
        self.bytes += size
        while self.bytes - self.heap[0].bytes >= self.budget:
            self.bytes -= heapq.heappop(self.heap).bytes
