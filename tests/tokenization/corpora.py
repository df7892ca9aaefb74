"""A small corpus artifact, made by hand in the layout that the room `corpus` writes."""

from __future__ import annotations

import hashlib
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from hanlin.artifacts import Artifact, Manifest, StageContext
from tests.conftest import Told

WORDS = "the of and river mountain city founded year people large village north museum painter was born in"
ENGLISH = [*WORDS.split(" ")]
CHINESE = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"


def english(random_: random.Random, words: int) -> str:
    text = " ".join(random_.choice(ENGLISH) for _ in range(words))
    return f"{text.capitalize()} {random_.randrange(3000)}. It's 'Café No. {random_.randrange(99)}', naïve.\n"


def chinese(random_: random.Random, characters: int) -> str:
    text = "".join(random_.choice(CHINESE) for _ in range(characters))
    return f"{text}，Python{text[:3]}，共{random_.randrange(3000)}人。\n"


def documents(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`count` documents, three of four English ("pages"), the others Chinese ("poems")."""
    random_ = random.Random(seed)
    rows: list[dict[str, Any]] = []
    for number in range(count):
        chinese_one = number % 4 == 3
        make = chinese if chinese_one else english
        text = "".join(make(random_, random_.randrange(5, 30)) for _ in range(random_.randrange(1, 6))) + f"[{number}]"
        rows.append(
            {
                "id": hashlib.sha256(text.encode()).hexdigest()[:32],
                "text": text,
                "source": "poems" if chinese_one else "pages",
                "language": "zh" if chinese_one else "en",
                "bytes": len(text.encode()),
            }
        )
    return rows


def make_corpus(path: Path, train: list[dict[str, Any]], validation: list[dict[str, Any]], **settings: Any) -> Artifact:
    for split, rows in (("train", train), ("validation", validation)):
        (path / split).mkdir(parents=True, exist_ok=True)
        if rows:
            pq.write_table(pa.Table.from_pylist(rows), path / split / "00000.parquet")
    manifest = Manifest(
        id="0" * 64,
        content="0" * 64,
        stage="corpus",
        kind="corpus",
        version=1,
        settings=settings,
        seed=0,
        inputs={},
        code={},
        environment={},
        figures={},
        started="",
        seconds=0.0,
        files={},
    )
    return Artifact(path, manifest)


def context(workdir: Path, corpus: Artifact, seed: int = 0) -> tuple[StageContext, Told]:
    told = Told()
    workdir.mkdir(parents=True, exist_ok=True)
    return StageContext(workdir=workdir, inputs={"corpus": corpus}, seed=seed, progress=told), told
