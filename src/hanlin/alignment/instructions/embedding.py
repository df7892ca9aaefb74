"""Texts as vectors of length 1, whose inner product says how alike they are."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from hanlin.alignment.instructions.text import units

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hanlin.alignment.instructions.reader import Reader

DIMENSIONS = 1024
"""Of hashed TF-IDF vectors: 4 KiB a text."""
_BATCH_TOKENS = 8_192


def tfidf(texts: Sequence[str], dimensions: int = DIMENSIONS) -> NDArray[np.float32]:
    """[n, dimensions] TF-IDF over units and pairs of neighbouring units, hashed with signs (Weinberger et al. 2009).

    tf = 1 + ln(count), idf = 1 + ln((1 + n) / (1 + documents with it)); an empty text is the zero vector.
    """
    import numpy as np

    documents: Counter[str] = Counter()
    for text in texts:
        documents.update(set(_terms(text)))
    places: dict[str, tuple[int, float, float]] = {}
    found = np.zeros((len(texts), dimensions), np.float32)
    for row, text in enumerate(texts):
        for term, count in Counter(_terms(text)).items():
            if term not in places:
                code = int.from_bytes(hashlib.blake2b(term.encode("utf-8", "surrogatepass"), digest_size=8).digest())
                idf = 1 + math.log((1 + len(texts)) / (1 + documents[term]))
                places[term] = (code >> 1) % dimensions, 1.0 if code & 1 else -1.0, idf
            place, sign, idf = places[term]
            found[row, place] += sign * (1 + math.log(count)) * idf
    return _unit(found)


def _terms(text: str) -> list[str]:
    words = units(text)
    return words + [f"{one} {other}" for one, other in itertools.pairwise(words)]


def mean_hidden(reader: Reader, texts: Sequence[str], tick: Callable[[int], None] | None = None) -> NDArray[np.float32]:
    """[n, hidden] the mean of the model's final hidden states over a text's tokens (those that fit its context)."""
    import numpy as np
    import torch

    network = reader.model.engine.model
    device, limit = network.embedding.weight.device, reader.model.config.max_positions
    ids = [reader.plain(text)[:limit] for text in texts]
    order = sorted(range(len(ids)), key=lambda place: -len(ids[place]))
    found = np.zeros((len(ids), reader.model.config.hidden_size), np.float32)
    done = 0
    while done < len(order):
        longest = len(ids[order[done]])
        chosen = order[done : done + max(1, _BATCH_TOKENS // longest)]
        lengths = torch.tensor([len(ids[place]) for place in chosen], device=device)
        padded = torch.tensor([ids[place] + [0] * (longest - len(ids[place])) for place in chosen], device=device)
        with torch.inference_mode():
            # Padding stands behind everything real, so that causal attention hides it.
            hidden = network.hidden(padded).float()
            real = torch.arange(longest, device=device)[None] < lengths[:, None]
            mean = (hidden * real[..., None]).sum(1) / lengths[:, None]
        found[chosen] = mean.cpu().numpy()
        done += len(chosen)
        if tick is not None:
            tick(done)
    # A model's hidden states share a large common part, which would make all texts look alike.
    return _unit(found - found.mean(axis=0))


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors), where=norms > 0)
