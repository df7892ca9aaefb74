"""The peers of serve_speed.py, each reduced to: answer these requests and say how fast."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from serve_common import new_tokens, now, say

from hanlin.inference import Request
from hanlin.serving.export.export import export_model

# transformers ----------------------------------------------------------


def transformers_model(directory: Path, dtype: str, device: torch.device | str = "cpu") -> Any:
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.set_verbosity_error()
    return AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).to(device).eval()


class Padded:
    """`generate` on left-padded batches. Requests of like lengths go together, those with the most new tokens first;
    every batch goes on to the longest answer in it, of which only what was asked for is counted."""

    def __init__(self, model: Any, batch: int) -> None:
        self.model, self.batch = model, batch

    def __call__(self, requests: Sequence[Request]) -> float:
        start = now()
        order = sorted(requests, key=lambda one: (-one.max_new_tokens, len(one.prompt_ids)))
        for first in range(0, len(order), self.batch):
            part = order[first : first + self.batch]
            width, count = max(len(one.prompt_ids) for one in part), max(one.max_new_tokens for one in part)
            padding = [width - len(one.prompt_ids) for one in part]
            ids = torch.tensor([[0] * pad + list(one.prompt_ids) for pad, one in zip(padding, part, strict=True)])
            mask = torch.tensor([[0] * pad + [1] * (width - pad) for pad in padding])
            device = self.model.device
            out = self.model.generate(
                ids.to(device),
                attention_mask=mask.to(device),
                max_new_tokens=count,
                min_new_tokens=count,
                do_sample=False,
                pad_token_id=0,
            )
            assert out.shape == (len(part), width + count)
        return new_tokens(requests) / (now() - start)


class Continuous:
    """transformers' continuous batching. By itself it would take nine tenths of the machine's memory for its cache and
    fill it with zeros first; here the cache has room for what is asked."""

    def __init__(self, model: Any, requests: Sequence[Request], batch: int = 64) -> None:
        from transformers import ContinuousBatchingConfig, GenerationConfig

        page = 32
        blocks = sum(-(-(len(one.prompt_ids) + one.max_new_tokens) // page) + 1 for one in requests)
        self.model = model
        self.generation = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        self.batching = ContinuousBatchingConfig(
            page_size=page, num_blocks=blocks, max_batch_tokens=1024, max_requests_per_batch=batch,
            allow_block_sharing=False,
        )  # fmt: skip

    def __call__(self, requests: Sequence[Request]) -> float:
        manager = self.model.continuous_batching_context_manager(
            generation_config=self.generation, continuous_batching_config=self.batching
        )
        with manager as running:
            start = now()
            for one in requests:
                running.add_request(list(one.prompt_ids), max_new_tokens=one.max_new_tokens)
            lengths: list[int] = []
            while len(lengths) < len(requests):
                result = running.get_result(timeout=1)
                if result is None:
                    if not running.is_running():
                        raise RuntimeError("transformers' continuous batching stopped by itself")
                elif result.is_finished():
                    if result.error is not None:
                        raise RuntimeError(f"transformers' continuous batching failed: {result.error}")
                    lengths.append(len(result.generated_tokens))
            seconds = now() - start
        assert sorted(lengths) == sorted(one.max_new_tokens for one in requests)
        return new_tokens(requests) / seconds


# llama.cpp -------------------------------------------------------------


def quantised(library: Any, plain: Path, kind: int) -> Path:
    """llama.cpp's own quantisation of a GGUF file, every matrix of it, the head too, as int8 and int4 have it."""
    out = plain.with_name(f"type{kind}.gguf")
    settings = library.llama_model_quantize_default_params()
    settings.nthread, settings.ftype, settings.pure = os.cpu_count() or 1, kind, True
    if library.llama_model_quantize(str(plain).encode(), str(out).encode(), ctypes.byref(settings)):
        raise RuntimeError(f"llama.cpp could not quantise {plain}")
    return out


class Cpp:
    """llama.cpp through its own interface in C: sequences decoded together, greedily."""

    _quiet: Any = None

    def __init__(self, directory: Path, folder: Path, kind: str, threads: int) -> None:
        """`kind`: bf16, f16, q8_0 or q4_0."""
        import llama_cpp

        self.library: Any = llama_cpp
        if Cpp._quiet is None:
            Cpp._quiet = llama_cpp.llama_log_callback(lambda level, text, data: None)
            llama_cpp.llama_log_set(Cpp._quiet, ctypes.c_void_p())
            llama_cpp.llama_backend_init()
        types = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_0}
        plain = folder / f"{'f32' if kind in types else kind}.gguf"
        if not plain.exists():
            export_model(directory, "gguf", plain, plain.stem)
        path = quantised(llama_cpp, plain, types[kind]) if kind in types else plain
        self.bytes, self.threads = path.stat().st_size, threads
        say(f"llama.cpp: {path.name}, {self.bytes / 1e6:.0f} MB")
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        if not self.model:
            raise RuntimeError(f"llama.cpp could not load {path}")

    def __call__(self, prompts: Sequence[Sequence[int]], new: int) -> float:
        """Tokens a second after the first one of each; prompts of one length."""
        library, count, length = self.library, len(prompts), len(prompts[0])
        settings = library.llama_context_default_params()
        settings.n_ctx = count * (-(-(length + new) // 256) * 256)
        settings.n_seq_max, settings.n_batch, settings.n_ubatch = count, count * length, 512
        settings.n_threads = settings.n_threads_batch = self.threads
        context = library.llama_init_from_model(self.model, settings)
        batch = library.llama_batch_init(count * length, 0, 1)
        try:
            batch.n_tokens = count * length
            for row, prompt in enumerate(prompts):
                for place, token in enumerate(prompt):
                    self._put(batch, row * length + place, token, place, row, place == length - 1)
            self._decode(context, batch)
            tokens = [self._best(context, row * length + length - 1) for row in range(count)]
            start = now()
            batch.n_tokens = count
            for step in range(1, new):
                for row, token in enumerate(tokens):
                    self._put(batch, row, token, length + step - 1, row, True)
                self._decode(context, batch)
                tokens = [self._best(context, row) for row in range(count)]
            return count * (new - 1) / (now() - start)
        finally:
            library.llama_batch_free(batch)
            library.llama_free(context)

    def _put(self, batch: Any, index: int, token: int, position: int, sequence: int, wanted: bool) -> None:
        batch.token[index], batch.pos[index] = token, position
        batch.n_seq_id[index], batch.seq_id[index][0], batch.logits[index] = 1, sequence, wanted

    def _decode(self, context: Any, batch: Any) -> None:
        code = self.library.llama_decode(context, batch)
        if code:
            raise RuntimeError(f"llama_decode failed: {code}")

    def _best(self, context: Any, index: int) -> int:
        scores = self.library.llama_get_logits_ith(context, index)
        size = self.library.llama_vocab_n_tokens(self.library.llama_model_get_vocab(self.model))
        return int(np.ctypeslib.as_array(scores, (size,)).argmax())
