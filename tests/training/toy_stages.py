"""Small inputs for the stages, made by the tests themselves; also run as a program that tests kill."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from hanlin.artifacts import Artifact, Manifest, Stage, StageContext
from hanlin.artifacts.store import InputEntry, content_hash, list_files
from hanlin.data.shards import DOCUMENT_COLUMNS
from hanlin.tokenization import Tokenizer
from hanlin.training.pretrain import PRETRAIN_STAGE, ModelShape, PretrainSettings
from hanlin.training.settings import LoopSettings, OptimizerSettings
from hanlin.training.sft import SFT_STAGE, SftLoop, SftOptimizer, SftSettings

SHAPE = ModelShape(hidden_size=32, layers=2, heads=2, kv_heads=1, max_positions=128)


def texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    names, places = ["Ada", "Bo", "Cy", "Di"], ["Rome", "Oslo", "Lima", "北京"]
    return [f"{chance.choice(names)} lives in {chance.choice(places)}. " * chance.randint(1, 6) for _ in range(count)]


def manifest(stage: str, kind: str, directory: Path, **known: Any) -> Manifest:
    files = list_files(directory)
    values: dict[str, Any] = {"settings": {}, "seed": 0, "inputs": {}, "figures": {}, **known}
    about = {"code": {}, "environment": {}, "started": "", "seconds": 0.0, "version": 1}
    return Manifest(id=stage, content=content_hash(files), stage=stage, kind=kind, files=files, **about, **values)


def make_tokens(directory: Path, documents: int = 200, junk: int | None = None) -> Artifact:
    """A tokens artifact of short documents, byte by byte; training document `junk` is of letters drawn by chance."""
    tokenizer = Tokenizer.bytes()
    directory.mkdir(parents=True)
    tokenizer.save(directory / "tokenizer")
    splits = {}
    for split, count, seed in (("train", documents, 1), ("validation", 12, 2)):
        written = texts(count, seed)
        if split == "train" and junk is not None:
            written[junk] = "".join(chr(random.Random(place).randrange(33, 127)) for place in range(150))
        streams = [np.array([tokenizer.end_of_text_id, *tokenizer.encode(text)], "<u2") for text in written]
        np.concatenate(streams).tofile(directory / f"{split}.bin")
        offsets = np.concatenate([[0], np.cumsum([len(stream) for stream in streams])]).astype(np.int64)
        np.save(directory / f"{split}.offsets.npy", offsets)
        columns: dict[str, list[Any]] = {
            "id": [f"{split}{number}" for number in range(count)],
            "source": ["toy"] * count,
            "language": ["en"] * count,
            "file": [f"{split}.txt"] * count,
            "offset": list(range(count)),
            "raw_bytes": [len(text.encode()) for text in written],
            "bytes": [len(text.encode()) for text in written],
        }
        pq.write_table(
            pa.table({name: columns[name] for name in DOCUMENT_COLUMNS}), directory / f"{split}.documents.parquet"
        )
        splits[split] = {"tokens": int(offsets[-1]), "documents": count}
        if split == "train":
            counts = np.bincount(np.concatenate(streams), minlength=tokenizer.vocabulary_size)
            np.save(directory / "token_counts.npy", counts)
    index = {
        "dtype": "uint16",
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_text_id": tokenizer.end_of_text_id,
        "weights": None,
        "splits": splits,
    }
    (directory / "tokens.json").write_text(json.dumps(index))
    (directory / "manifest.json").write_text(manifest("tokens", "tokens", directory).model_dump_json())
    return Artifact.load(directory)


def make_instructions(path: Path, count: int = 120) -> Path:
    """Two formats in one file."""
    rows: list[dict[str, Any]] = []
    for number in range(count):
        question, answer = f"What follows {number % 7}?", str(number % 7 + 1)
        if number % 2:
            rows.append({"instruction": question, "output": answer})
        else:
            turns = [("human", question), ("gpt", answer), ("human", "Sure?"), ("gpt", "Yes.")]
            rows.append({"conversations": [{"from": who, "value": what} for who, what in turns]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def loop(kind: type[LoopSettings] = LoopSettings, **changes: Any) -> Any:
    known: dict[str, Any] = {"rows": 4, "sequence_length": 64, "device": "cpu", "precision": "fp32", "compile": False}
    return kind(**{**known, "checkpoint_every": 10, "evaluate_every": 10, "evaluation_tokens": 512, **changes})


def run_stage(stage: Stage, settings: Any, workdir: Path, inputs: dict[str, Artifact], seed: int = 0) -> Artifact:
    """Run a stage as recipes do, in `workdir`, and leave it as a finished artifact."""
    workdir.mkdir(parents=True, exist_ok=True)
    figures = stage.run(settings, StageContext(workdir, inputs, seed))
    for name in stage.transient:
        shutil.rmtree(workdir / name)
    entries = {
        key: InputEntry(id=found.id, content=found.manifest.content, path=str(found.path))
        for key, found in inputs.items()
    }
    about = manifest(
        "it", stage.kind, workdir, settings=settings.model_dump(mode="json"), seed=seed, inputs=entries, figures=figures
    )
    (workdir / "manifest.json").write_text(about.model_dump_json())
    return Artifact.load(workdir)


def main(workdir: Path, options: dict[str, Any]) -> None:
    """Pretrain or fine-tune in `workdir`: what the kill tests run and kill."""
    torch.set_num_threads(1)
    folder = Path(options["folder"])
    changes = {"steps": options["steps"], "checkpoint_minutes": 0.001, "micro_rows": 2}
    if options["kind"] == "pretrain":
        optimizer = OptimizerSettings(name=options["optimizer"])
        settings: Any = PretrainSettings(data="tokens", model=SHAPE, loop=loop(**changes, optimizer=optimizer))
        run = StageContext(workdir, {"data": Artifact.load(folder / "tokens")}, 3)
        PRETRAIN_STAGE.run(settings, run)
    else:
        optimizer = SftOptimizer(name=options["optimizer"])
        settings = SftSettings(
            model="base", data=str(folder / "rows.jsonl"), loop=loop(SftLoop, **changes, optimizer=optimizer)
        )
        SFT_STAGE.run(settings, StageContext(workdir, {"model": Artifact.load(folder / "base")}, 3))
    shutil.copy(workdir / "model.safetensors", workdir / "final.safetensors")
