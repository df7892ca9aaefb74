"""Time to quality: the model of `hanlin run own-text minutes=N` beside compressors and a 5-gram model.

    hanlin run own-text corpus.inputs=FOLDER minutes=10 --out runs/own
    .venv/bin/python benchmarks/time_to_quality.py runs/own

All figures are bits per byte of the same text: the held-out documents that the run's exam `corpus/bits-per-byte`
scored. gzip, xz and zstd, each at its highest level, compress those documents joined by blank lines: alone, and behind
the whole training text (what that adds to its size). The 5-gram model has interpolated modified Kneser-Ney smoothing
(Chen & Goodman 1999, section 3) over the tokens of the run's tokenizer, counted in the tokens that the network read in
its minutes, and in the whole training split.
"""

from __future__ import annotations

import argparse
import gzip
import json
import lzma
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from hanlin.corpus import iterate_documents
from hanlin.data import PackedTokens, TokenShards
from hanlin.evaluation import plan_task
from hanlin.evaluation.heldout import sample
from hanlin.tokenization import Tokenizer

Ids = NDArray[np.int64]
ORDER = 5


class KneserNey:
    """An interpolated n-gram model with three discounts an order. `tokens`: the training text as one stream of ids."""

    def __init__(self, tokens: Ids, vocabulary: int, order: int = ORDER) -> None:
        self.vocabulary, self.order = vocabulary, order
        # Of each order: sorted keys (prefix id · V + last token), so that an n-gram's id is its place among them.
        self.keys: list[Ids] = [np.arange(vocabulary, dtype=np.int64)]
        counts: list[Ids] = [np.bincount(tokens, minlength=vocabulary).astype(np.int64)]
        ids = tokens
        firsts: list[Ids] = [np.zeros(0, np.int64)]
        all_ids = [ids]
        for n in range(2, order + 1):
            key = all_ids[-1][: len(tokens) - n + 1] * vocabulary + tokens[n - 1 :]
            keys, first, inverse, count = np.unique(key, return_index=True, return_inverse=True, return_counts=True)
            self.keys.append(keys)
            counts.append(count.astype(np.int64))
            firsts.append(first)
            all_ids.append(inverse.astype(np.int64))
        # Below the highest order an n-gram counts by how many different tokens stand before it.
        for n in range(1, order):
            suffixes = all_ids[n - 1][firsts[n] + 1]
            counts[n - 1] = np.bincount(suffixes, minlength=len(self.keys[n - 1])).astype(np.int64)
        self.counts = counts
        self.discounts = [_discounts(count) for count in counts]
        self.totals: list[Ids] = []
        self.back: list[NDArray[np.float64]] = []
        for n in range(1, order + 1):
            size = 1 if n == 1 else len(self.keys[n - 2])
            prefix = np.zeros(len(self.keys[0]), np.int64) if n == 1 else self.keys[n - 1] // vocabulary
            count = counts[n - 1]
            total = np.bincount(prefix, weights=count, minlength=size)
            taken = np.bincount(prefix, weights=self._taken(n, count), minlength=size)
            self.totals.append(total.astype(np.int64))
            self.back.append(np.divide(taken, total, out=np.ones(size), where=total > 0))

    def _taken(self, n: int, count: Ids) -> NDArray[np.float64]:
        return self.discounts[n - 1][np.minimum(count, 3)]

    def _find(self, n: int, key: Ids) -> Ids:
        """Ids of n-grams by key; -1 for those that training never saw."""
        keys = self.keys[n - 1]
        place = np.minimum(np.searchsorted(keys, key), len(keys) - 1)
        return np.where(keys[place] == key, place, -1)

    def bits(self, tokens: Ids) -> NDArray[np.float64]:
        """-log2 p of each token after the first; contexts are as long as the text allows."""
        probability = np.full(len(tokens) - 1, 1.0 / self.vocabulary)
        target = tokens[1:]
        # contexts[i] = id of the n-1 tokens before target i
        context = np.zeros(len(target), np.int64)
        for n in range(1, self.order + 1):
            if n == 1:
                found = target
            else:
                # the id of the n-1 tokens that end just before each target
                context = self._contexts(tokens, n - 1)
                found = np.where(context >= 0, self._find(n, context * self.vocabulary + target), -1)
            known = (context >= 0) & (self.totals[n - 1][np.maximum(context, 0)] > 0)
            total = np.maximum(self.totals[n - 1][np.maximum(context, 0)], 1)
            count = np.where(found >= 0, self.counts[n - 1][np.maximum(found, 0)], 0)
            own = np.maximum(count - self._taken(n, count), 0) / total
            probability = np.where(known, own + self.back[n - 1][np.maximum(context, 0)] * probability, probability)
        return -np.log2(probability)

    def _contexts(self, tokens: Ids, length: int) -> Ids:
        """For each token but the first, the id of the `length` tokens before it; -1 where there are fewer, or never
        seen."""
        result = np.full(len(tokens) - 1, -1, np.int64)
        count = len(tokens) - length
        if count <= 0:
            return result
        ids = tokens[:count].copy()
        for n in range(2, length + 1):
            ids = np.where(ids >= 0, self._find(n, ids * self.vocabulary + tokens[n - 1 : n - 1 + count]), -1)
        result[length - 1 :] = ids
        return result


def _discounts(count: Ids) -> NDArray[np.float64]:
    """D(0) = 0, D1, D2, D3+ from the numbers of n-grams seen once to four times (Chen & Goodman 1999, eq. 26)."""
    n1, n2, n3, n4 = (max(1, int((count == k).sum())) for k in (1, 2, 3, 4))
    y = n1 / (n1 + 2 * n2)
    raw = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    return np.array([0.0, *(min(max(value, 0.05), k - 0.05) for k, value in enumerate(raw, 1))])


def scored_texts(run: Path) -> list[str]:
    """The documents of the exam's bits-per-byte, whole: those whose hash the exam drew, from the validation split."""
    task = plan_task("corpus/bits-per-byte").task
    return [one.text for one in sample(lambda: iterate_documents(run / "corpus", "validation"), task.max_bytes)]


def tokens_read(shards: TokenShards, manifest: dict[str, Any]) -> Ids:
    """The tokens of the run's batches, in their order."""
    loop = manifest["settings"]["loop"]
    source = PackedTokens(shards, loop["sequence_length"], loop["rows"], manifest["seed"])
    return np.concatenate([source.step(step).input_ids.numpy().ravel() for step in range(loop["steps"])])


def compressed(texts: list[str], training: bytes) -> dict[str, float]:
    data = "\n\n".join(texts).encode()
    size = sum(len(text.encode()) for text in texts)

    def bits(count: int) -> float:
        return 8 * count / size

    window = zstandard.ZstdCompressionParameters.from_level(22, window_log=27, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=window)
    return {
        "gzip -9": bits(len(gzip.compress(data, 9))),
        "xz -9e": bits(len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))),
        "zstd -22": bits(len(packer.compress(data))),
        "xz -9e behind the training text": bits(
            len(lzma.compress(training + data, filters=[_XZ])) - len(lzma.compress(training, filters=[_XZ]))
        ),
        "zstd -22 behind the training text": bits(
            len(packer.compress(training + data)) - len(packer.compress(training))
        ),
    }


_XZ = {"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 128 << 20}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    run: Path = parser.parse_args().run
    texts = scored_texts(run)
    size = sum(len(text.encode()) for text in texts)
    training = "\n\n".join(one.text for one in iterate_documents(run / "corpus", "train")).encode()
    rows: dict[str, float] = compressed(texts, training)

    shards = TokenShards.open(run / "tokens")
    manifest = json.loads((run / "base" / "manifest.json").read_text())
    tokenizer = Tokenizer.load(run / "tokens" / "tokenizer")
    held_out = [np.array([shards.end_of_text_id, *ids], np.int64) for ids in tokenizer.encode_batch(texts) if ids]
    for name, stream in (
        ("that the network read", tokens_read(shards, manifest)),
        ("of the whole text", shards.tokens),
    ):
        begun = time.perf_counter()
        model = KneserNey(np.asarray(stream, np.int64), shards.vocabulary_size)
        took = time.perf_counter() - begun
        label = f"5-gram, modified Kneser-Ney, the {len(stream) / 1e6:.1f}M tokens {name} ({took:.0f} s)"
        rows[label] = sum(float(model.bits(ids).sum()) for ids in held_out) / size

    results: dict[str, Any] = json.loads((run / "base-exam" / "manifest.json").read_text())["figures"]
    figure = results["tasks"]["corpus/bits-per-byte"]["bits_per_byte"]
    base = manifest["figures"]
    assert math.isclose(figure["bytes"], size, rel_tol=0.001), (figure["bytes"], size)
    rows[f"hanlin, {base['tokens'] / 1e6:.1f}M tokens ({base['seconds']:.0f} s)"] = figure["value"]
    print(f"{size:,} bytes of held-out text in {len(texts)} documents; training text {len(training):,} bytes\n")
    for name, value in sorted(rows.items(), key=lambda row: -row[1]):
        print(f"{value:7.3f} bits/byte  {name}")


if __name__ == "__main__":
    main()
