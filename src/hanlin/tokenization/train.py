"""The stage `tokenizer`: learn a byte-level BPE from a sample of a corpus's training split, and report on it."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from hanlin.artifacts import HanlinError, Settings, Stage, StageContext, hash_file, write_json

T = TypeVar("T")
BATCH_CHARACTERS = 1 << 20


class TokenizerSettings(Settings):
    """Settings of the stage `tokenizer`."""

    corpus: str
    """The corpus stage whose training split is sampled, in the corpus's mixture weights."""
    vocabulary_size: int = Field(default=8192, ge=300)
    """Tokens in all: 256 bytes, the merges that are learned, and the special tokens. Any number will do."""
    max_token_bytes: int = Field(default=16, ge=2, le=512)
    """No token is longer. On 10 MB of English, Chinese and code, 16 costs 0.06 % in bytes per token against no bound at
    8,192 tokens and 0.2 % at 32,768, and keeps rows of dashes and the like out of the vocabulary."""
    min_frequency: int = Field(default=2, ge=1)
    """A pair that is met less often in the sample is not merged."""
    sample_bytes: int = Field(default=20_000_000, ge=1)
    """About so many bytes of text are learned from: documents are chosen by their hash."""
    report_bytes: int = Field(default=4_000_000, ge=1)
    """About so many bytes of validation text are measured in the report."""
    references: list[str] = Field(default_factory=list[str])
    """Tokenizers to compare with: each a tokenizer.json, a directory that holds one, or the name of a model on the
    Hugging Face hub. Only a name is downloaded."""
    rare_below: int = Field(default=100, ge=1)
    """A token is rare when the whole training split is expected to hold it, but fewer times."""
    rare_share_warning: float = Field(default=0.05, gt=0, le=1)
    """The report warns when a larger share of the learned tokens is rare (`report.py` says where both are from)."""


def run_train(settings: TokenizerSettings, context: StageContext) -> dict[str, Any]:
    """Train, save and report in `context.workdir`; returns the report's figures."""
    from hanlin.tokenization import vocabulary
    from hanlin.tokenization.report import make_report
    from hanlin.tokenization.tokenizer import Tokenizer

    corpus = context.inputs["corpus"]
    plan = Plan.make(corpus.path, corpus.manifest.settings.get("weights"), settings.sample_bytes, context.seed)
    # Two passes over the sample (learning, counting) and one over validation text; merging takes about one more.
    total = 3 * plan.bytes + settings.report_bytes
    done = 0

    def advance(size: int, note: str) -> None:
        nonlocal done
        done += size
        context.progress.update(min(done, total), total, note)

    def counted(texts: Iterator[str]) -> Iterator[str]:
        for text in texts:
            advance(len(text.encode()), "reading")
            yield text

    json_text, merges = train(
        counted(plan.texts()), settings.vocabulary_size, settings.max_token_bytes, settings.min_frequency
    )
    done = max(done, 2 * plan.bytes)
    tokenizer = Tokenizer(json_text, vocabulary.tokenizer_config(), vocabulary.chatml_template())
    tokenizer.check_chat()
    if tokenizer.vocabulary_size < settings.vocabulary_size:
        context.progress.say(
            f"The sample supports {tokenizer.vocabulary_size:,} tokens, not {settings.vocabulary_size:,}: after "
            f"{merges:,} merges no pair of tokens of at most {settings.max_token_bytes} bytes is met "
            f"{settings.min_frequency} times. The vocabulary is that much smaller."
        )
    tokenizer.save(context.workdir)
    figures = make_report(tokenizer, plan, corpus.path, settings, advance)
    for warning in figures["warnings"]:
        context.progress.say(f"Warning: {warning}")
    write_json(context.workdir / "report.json", figures)
    return {key: value for key, value in figures.items() if key != "rarest"}


def train(texts: Iterator[str], vocabulary_size: int, max_token_bytes: int, min_frequency: int) -> tuple[str, int]:
    """Learn merges from texts: the text of a tokenizer.json, and the number of tokens learned.

    The trainer is that of `tokenizers`: unlike `rustbpe` (2-4 times faster) it can bound a token's length while it
    learns. The same texts give the same bytes: pairs are merged by their count, then by their ids.
    """
    import tokenizers
    from tokenizers import models, trainers

    from hanlin.tokenization import vocabulary

    alphabet = vocabulary.byte_alphabet()
    learned = vocabulary_size - len(vocabulary.SPECIAL_TOKENS)
    if learned < len(alphabet):
        raise HanlinError(
            f"vocabulary_size is {vocabulary_size}, too small for {len(alphabet)} bytes and "
            f"{len(vocabulary.SPECIAL_TOKENS)} special tokens: give {len(alphabet) - learned + vocabulary_size}."
        )
    skeleton: dict[str, Any] = {
        "version": "1.0",
        "added_tokens": [],
        "model": {"type": "BPE", "vocab": {}, "merges": []},
    }
    skeleton["pre_tokenizer"] = vocabulary.pre_tokenizer(vocabulary.TRAINING_PATTERN)
    tokenizer = tokenizers.Tokenizer.from_str(json.dumps(skeleton))
    assert isinstance(tokenizer.model, models.BPE)
    trainer = trainers.BpeTrainer(
        vocab_size=learned,
        min_frequency=min_frequency,
        show_progress=False,
        initial_alphabet=alphabet,
        max_token_length=max_token_bytes + 1,  # the trainer's bound is exclusive
    )
    tokenizer.train_from_iterator(texts, trainer)
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    merged = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1]) if len(token) > 1]
    too_long = [token for token in merged if len(token) > max_token_bytes]
    if too_long:
        raise HanlinError(
            f"The trainer made tokens of more than {max_token_bytes} bytes, such as {too_long[0]!r}: this version of "
            "the tokenizers library does not keep to max_token_length. Install another."
        )
    return vocabulary.tokenizer_json([*alphabet, *merged], model["merges"]), len(merged)


class Plan:
    """Which documents of a corpus's training split are learned from, and how often each.

    A source's documents are taken until it has its share of the sample: each document by the hash of its id and the
    seed, so that the choice depends on nothing else. A source whose share is larger than the source is read over again.
    """

    def __init__(self, corpus: Path, seed: int, sizes: dict[str, int], repeats: dict[str, float]):
        self.corpus, self.seed, self.sizes, self.repeats = corpus, seed, sizes, repeats
        self.bytes = round(sum(size * repeats[source] for source, size in sizes.items()))
        """Bytes that the sample is expected to have"""

    @staticmethod
    def make(corpus: Path, weights: dict[str, float] | None, sample_bytes: int, seed: int) -> Plan:
        """`weights` is each source's share of the sample, in any unit; None: as the corpus is."""
        sizes: dict[str, int] = {}
        for row in read_rows(corpus, "train", ["source", "bytes"]):
            sizes[row["source"]] = sizes.get(row["source"], 0) + row["bytes"]
        whole = sum(sizes.values())
        if not whole:
            raise HanlinError(f"The corpus in {corpus} has no training text to learn a tokenizer from.")
        if weights is None:
            shares = {source: size / whole for source, size in sizes.items()}
        else:
            shares = {source: weights.get(source, 0.0) for source in sizes}
            total = sum(shares.values())
            if total <= 0:
                raise HanlinError(
                    f"The corpus's weights {weights} give none to its sources ({', '.join(sorted(sizes))})."
                )
            shares = {source: share / total for source, share in shares.items()}
        target = min(sample_bytes, whole)
        return Plan(
            corpus, seed, sizes, {source: shares[source] * target / size for source, size in sizes.items() if size}
        )

    def copies(self, identity: str, source: str) -> int:
        """How often the sample holds the document `identity`."""
        number = int.from_bytes(hashlib.sha256(f"{self.seed}:{identity}".encode()).digest()[:8], "big")
        repeats = self.repeats.get(source, 0.0)
        return int(repeats) + (number < (repeats - int(repeats)) * 2.0**64)

    def texts(self) -> Iterator[str]:
        """The sample's documents in the corpus's order."""
        empty = True
        for row in read_rows(self.corpus, "train", ["id", "source", "text"]):
            for _ in range(self.copies(row["id"], row["source"])):
                empty = False
                yield row["text"]
        if empty:
            # A few large documents and a small sample: chance may leave none.
            yield next(row["text"] for row in read_rows(self.corpus, "train", ["text"]))


def read_rows(corpus: Path, split: str, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a corpus artifact's split, read in a stream. (The room `corpus` is beside this one, not below.)"""
    parquet: Any = importlib.import_module("pyarrow.parquet")

    for file in sorted((corpus / split).glob("*.parquet")):
        with parquet.ParquetFile(file) as table:
            for group in table.iter_batches(batch_size=256, columns=list(columns)):
                yield from group.to_pylist()


def batches(items: Iterator[T], size: Callable[[T], int], limit: int = BATCH_CHARACTERS) -> Iterator[list[T]]:
    """Items in lists of about `limit` characters, for `Tokenizer.encode_batch`."""
    batch: list[T] = []
    held = 0
    for item in items:
        batch.append(item)
        held += size(item)
        if held >= limit:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def fingerprint(settings: TokenizerSettings) -> dict[str, str]:
    """Hashes of the reference tokenizers that are files: the report depends on them."""
    found: dict[str, str] = {}
    for name in settings.references:
        file = Path(name) / "tokenizer.json" if Path(name).is_dir() else Path(name)
        if file.is_file():
            found[name] = hash_file(file)
    return found


TRAIN_STAGE = Stage(
    kind="tokenizer",
    settings=TokenizerSettings,
    run=run_train,
    inputs={"corpus": ("corpus",)},
    fingerprint=fingerprint,
)
