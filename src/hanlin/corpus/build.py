"""The stage `corpus`: files in, documents and a ledger out, in one pass whose memory does not grow with the input.

What is held in memory: one record at a time (bounded), a row group of each table, the validation documents (bounded by
`validation_max_bytes`), and 24 to 48 bytes for each kept document, by which duplicates are known.
"""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from hanlin.artifacts import HanlinError, Progress, Settings, Stage, StageContext, UsageError, write_json
from hanlin.corpus.document import Document, Record
from hanlin.corpus.filters import Filters, hash_fraction
from hanlin.corpus.inputs import InputFile, Root, fingerprint, make_roots, walk
from hanlin.corpus.split import ENOUGH, Split

LONGEST_PART = 16 << 20


class CorpusSettings(Settings):
    """Raw files to clean documents: read, normalised, deduplicated, split, and accounted for to the byte."""

    inputs: str | list[str] = Field(default_factory=list[str])
    """Files and folders to read, in any known format (see the documentation). A folder's sub-folders are its
    sources."""
    world: str | None = None
    """A `world` stage whose documents are read too (or alone)."""
    text_fields: list[str] | None = None
    """For JSON, tables and CSV: the fields that make the text, joined by line ends. Default: the first of text,
    content, body, …, with title and author before it."""
    weights: dict[str, float] | None = None
    """The share of the training tokens that each source gets, in any unit; default: as many as it has. Every source
    needs one."""
    validation_fraction: float = Field(default=0.02, ge=0, lt=1)
    """Documents whose hash is below this go to validation. From 20 documents on there is at least one; 0: none at
    all."""
    validation_max_bytes: int = Field(default=8 << 20, gt=0)
    """Validation holds at most so many bytes of text; they are held in memory while the corpus is built."""
    min_bytes: int = Field(default=16, ge=1)
    """Shorter documents (in bytes of UTF-8, after normalisation) are dropped."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Longer documents are dropped; None: long documents stay whole."""
    max_unreadable_share: float = Field(default=0.01, ge=0, le=1)
    """Documents with a greater share of control and replacement characters are dropped."""
    part_bytes: int | None = Field(default=None, ge=1024)
    """A plain text file longer than this is read as several documents, cut at blank lines: memory stays bounded, and no
    text is lost. Default: 16 MiB; where the input has fewer than 20 files, a fortieth of it if that is less (at least
    4 KiB), so that a single book leaves something to validate on."""
    max_record_bytes: int = Field(default=64 << 20, ge=1024)
    """A single JSON value, line, page or PDF that is longer is quarantined: memory stays bounded."""

    @model_validator(mode="after")
    def _needs_input(self) -> CorpusSettings:
        if not self.inputs and self.world is None:
            raise ValueError(
                "a corpus needs `inputs` (paths of files or folders) or `world` (the name of a world stage)"
            )
        return self

    @property
    def paths(self) -> list[str]:
        return [self.inputs] if isinstance(self.inputs, str) else self.inputs


@dataclass
class _SourceFigures:
    documents: int = 0
    bytes: int = 0
    train: int = 0
    validation: int = 0
    train_bytes: int = 0
    validation_bytes: int = 0

    def add(self, split: str, size: int) -> None:
        self.documents += 1
        self.bytes += size
        if split == "train":
            self.train += 1
            self.train_bytes += size
        else:
            self.validation += 1
            self.validation_bytes += size


@dataclass
class _Placed:
    """A document that waits for its split, with its row in the ledger."""

    document: Document
    size: int
    row: int
    split: str


class _Builder:
    def __init__(self, settings: CorpusSettings, workdir: Path, part_bytes: int) -> None:
        from hanlin.corpus.ledger import Ledger
        from hanlin.corpus.shards import ShardWriter

        self._settings, self._part_bytes = settings, part_bytes
        self._filters = Filters(settings.min_bytes, settings.max_bytes, settings.max_unreadable_share)
        self._split: Split[_Placed] = Split(settings.validation_fraction, settings.validation_max_bytes)
        self._writers = {split: ShardWriter(workdir / split) for split in ("train", "validation")}
        self.ledger = Ledger(workdir)
        self.sources: dict[str, _SourceFigures] = {}
        self.languages: dict[str, _SourceFigures] = {}

    def read(self, file: InputFile, progress: _Meter) -> None:
        """Everything that one file holds, into the tables."""
        from hanlin.corpus.readers import read_stream
        from hanlin.corpus.stream import ByteStream

        if file.rule is not None or file.reason is not None:
            self._unopened(file, file.rule, file.reason)
            return
        try:
            stream = ByteStream(file.path)
        except OSError as error:
            self._unopened(file, None, f"can't be opened: {error.strerror}")
            return
        first, overhead = self.ledger.rows, 0
        settings = self._settings
        with stream:
            format, spans = read_stream(
                stream, file.path.name, settings.text_fields, self._part_bytes, settings.max_record_bytes
            )
            position = 0
            for span in spans:
                if span.offset != position:
                    raise HanlinError(
                        f"the {format.name} reader lost its place in {file.path}: byte {position} is followed by "
                        f"{span.offset}. Report this as a bug."
                    )
                position += span.raw_bytes
                if isinstance(span, Record):
                    self._record(file, format.name, span)
                    progress.at(stream.consumed)
                else:
                    overhead += span.raw_bytes
            if stream.measured is None:
                stream.drain()  # what a reader left behind is counted here, and nowhere else: the ledger won't balance
            if self.ledger.rows == first:
                self._record(file, format.name, Record(position, 0, rule="empty", measured=0, threshold=1))
            self.ledger.file(
                file=file.name, source=file.source, format=format.name, compression=stream.compression,
                file_bytes=stream.size, decoded_bytes=stream.consumed, raw_bytes=stream.raw_bytes,
                overhead_bytes=overhead, records=self.ledger.rows - first,
            )  # fmt: skip

    def _unopened(self, file: InputFile, rule: str | None, reason: str | None) -> None:
        self._record(file, "", Record(0, 0, rule=rule, reason=reason, unread_bytes=file.size))
        self.ledger.file(
            file=file.name, source=file.source, format=None, compression=None, file_bytes=file.size,
            decoded_bytes=0, raw_bytes=0, overhead_bytes=0, records=1,
        )  # fmt: skip

    def _record(self, file: InputFile, format: str, record: Record) -> None:
        about: dict[str, Any] = {
            "file": file.name,
            "offset": record.offset,
            "raw_bytes": record.raw_bytes,
            "unread_bytes": record.unread_bytes,
            "source": file.source,
        }
        if record.rule is not None:
            self.ledger.record(
                **about,
                decision="dropped",
                rule=record.rule,
                measured=record.measured,
                threshold=record.threshold,
                reason=record.reason,
            )
            return
        if record.text is None or record.reason is not None:
            self.ledger.record(**about, decision="quarantined", reason=record.reason)
            return
        verdict = self._filters.judge(record.text, format)
        if verdict.rule is not None or verdict.id is None:
            self.ledger.record(
                **about,
                decision="dropped",
                rule=verdict.rule,
                measured=verdict.measured,
                threshold=verdict.threshold,
                id=verdict.id,
            )
            return
        metadata = dict(record.metadata)
        language = _language(verdict.text, format, metadata)
        metadata |= {"file": file.name, "offset": record.offset, "bytes": record.raw_bytes, "language": language}
        document = Document(verdict.id, verdict.text, file.source, metadata)
        hash = hash_fraction(verdict.id)
        split = "validation" if hash < self._settings.validation_fraction else "train"
        row = self.ledger.record(
            **about, decision="kept", split=split, id=verdict.id, language=language, kept_bytes=verdict.bytes
        )
        for placed in self._split.place(hash, verdict.bytes, _Placed(document, verdict.bytes, row, split)):
            self._write(placed, "train")

    def _write(self, placed: _Placed, split: str) -> None:
        if placed.split != split:
            self.ledger.change_split(placed.row, split)
        document = placed.document
        self._writers[split].add(document, placed.size)
        self.sources.setdefault(document.source, _SourceFigures()).add(split, placed.size)
        self.languages.setdefault(document.metadata["language"], _SourceFigures()).add(split, placed.size)

    def finish(self) -> dict[str, Any]:
        for split, rest in zip(("train", "validation"), self._split.finish()):
            for placed in rest:
                self._write(placed, split)
        for writer in self._writers.values():
            writer.close()
        ledger = self.ledger.finish().table()
        total = sum(source.bytes for source in self.sources.values())
        if total != ledger["bytes"]["documents"]:
            raise HanlinError(
                f"the ledger does not balance: {ledger['bytes']['documents']} bytes kept, {total} counted by source. "
                "Report this as a bug."
            )
        return {
            "ledger": ledger,
            "sources": {name: vars(self.sources[name]) for name in sorted(self.sources)},
            "languages": {name: vars(self.languages[name]) for name in sorted(self.languages)},
        }


class _Meter:
    """Progress in bytes of the input on disk, told at most a thousand times."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total = progress, total
        self._before = 0
        self._told = 0

    def at(self, consumed: int) -> None:
        done = self._before + consumed
        if done - self._told > self._total / 1000:
            self._told = done
            self._progress.update(done, self._total)

    def finished(self, file: InputFile) -> None:
        self._before += file.size
        self.at(0)


def _language(text: str, format: str, metadata: dict[str, Any]) -> str:
    if format == "code":
        return "code"
    from hanlin.corpus.language import from_metadata, identify

    return from_metadata(metadata.get("language", metadata.get("lang"))) or identify(text)


def _roots(settings: CorpusSettings, context: StageContext) -> list[Root]:
    roots = make_roots(settings.paths)
    if settings.world is not None:
        folder = context.inputs["world"].path / "documents"
        roots = [Root(root.path, root.label or root.path.resolve().name) for root in roots]
        roots.append(Root(folder, "world" if roots else "", by_file=True))
    return roots


def _mixture(settings: CorpusSettings, sources: dict[str, dict[str, int]]) -> dict[str, Any]:
    """What each source weighs in training: its given weight, or its size. Raises HanlinError when the weights don't
    fit."""
    weights = settings.weights
    sizes = {name: source["train_bytes"] for name, source in sources.items()}
    if weights is not None:
        problems = [f"no weight for source {name}" for name in sizes if name not in weights]
        problems += [f"a weight for {name}, which has no documents" for name in weights if not sizes.get(name)]
        if problems:
            raise HanlinError(
                f"corpus.weights does not fit the corpus: {'; '.join(problems)}. "
                f"Give each of {', '.join(sizes)} its share."
            )
    chosen = {name: float(size) if weights is None else weights[name] for name, size in sizes.items()}
    whole = sum(chosen.values()) or 1.0
    return {
        name: {"bytes": sizes[name], "weight": weights[name] if weights else None, "share": chosen[name] / whole}
        for name in sizes
    }


def run_corpus(settings: CorpusSettings, context: StageContext) -> dict[str, Any]:
    """Build the corpus in `context.workdir`, from an empty folder each time: the same inputs give the same bytes.

    Raises UsageError when an input doesn't exist or a weight names no source, and HanlinError when the ledger doesn't
    balance or nothing is left to train on.
    """
    workdir, progress = context.workdir, context.progress
    for left in list(workdir.iterdir()):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
    roots = _roots(settings, context)
    sources: set[str] = set()
    files = total = 0
    for file in walk(roots):
        sources.add(file.source)
        files += 1
        total += file.size
    _check_weights(settings.weights, sources)
    builder = _Builder(settings, workdir, settings.part_bytes or _part_bytes(files, total))
    meter = _Meter(progress, total)
    progress.update(0, total)
    for file in walk(roots):
        builder.read(file, meter)
        meter.finished(file)
    figures = builder.finish()
    progress.update(total, total)
    if not figures["sources"]:
        why = Counter[str](figures["ledger"]["rules"])
        why["quarantined"] = figures["ledger"]["records"]["quarantined"]
        first = "".join(
            f" First: {example['file']}: {example['reason']}."
            for example in figures["ledger"]["quarantine_examples"][:1]
        )
        raise HanlinError(
            f"no document is left of {', '.join(settings.paths) or settings.world}: {total} bytes, "
            f"{', '.join(f'{name} {count}' for name, count in why.items())}.{first}"
        )
    figures["mixture"] = _mixture(settings, figures["sources"])
    write_json(workdir / "mixture.json", figures["mixture"])
    _report(figures, settings, progress)
    return figures


def _part_bytes(files: int, total: int) -> int:
    return LONGEST_PART if files >= ENOUGH else min(LONGEST_PART, max(4 << 10, total // (2 * ENOUGH)))


def _check_weights(weights: dict[str, float] | None, sources: set[str]) -> None:
    if weights is None:
        return
    unknown = sorted(set(weights) - sources)
    if unknown:
        raise UsageError(f"corpus.weights names {', '.join(unknown)}; the sources are {', '.join(sorted(sources))}.")
    if min(weights.values(), default=0) < 0 or sum(weights.values()) <= 0:
        raise UsageError("corpus.weights must be shares of 0 and more, not all of them 0.")


def _report(figures: dict[str, Any], settings: CorpusSettings, progress: Progress) -> None:
    ledger, sources = figures["ledger"], figures["sources"]
    records = ledger["records"]
    progress.say(
        f"{records['kept']} documents kept ({ledger['bytes']['documents'] / 1e6:.1f} MB), "
        f"{records['dropped']} dropped, {records['quarantined']} quarantined; "
        f"every byte of {ledger['files']} files is accounted for"
    )
    if settings.validation_fraction and not any(source["validation"] for source in sources.values()):
        progress.say(
            f"no validation documents: the corpus has only {records['kept']}, and from {ENOUGH} on there is one; "
            "add files, or cut long texts with corpus.part_bytes"
        )


def _fingerprint(settings: CorpusSettings) -> list[list[str | int]]:
    return fingerprint(make_roots(settings.paths))


STAGE = Stage(
    kind="corpus",
    settings=CorpusSettings,
    run=run_corpus,
    inputs={"world": ("world",)},
    paths=("inputs",),
    fingerprint=_fingerprint,
)
