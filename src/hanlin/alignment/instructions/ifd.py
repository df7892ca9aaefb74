"""Instruction-following difficulty: how little an instruction helps the model to say the answer.

IFD(Q, A) = s(A | Q) / s(A), s the mean loss of the answer's tokens with and without the instruction before them (Li et
al. 2023, "From Quantity to Quality", section 2.2). Near 0 the instruction says it all; above 1 it makes the answer less
likely, so the two hardly belong together; what is high but below 1 teaches most.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from hanlin.artifacts import Settings

if TYPE_CHECKING:
    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.reader import Reader
    from hanlin.alignment.instructions.rows import Instruction


class IfdSettings(Settings):
    """Keeps rows by instruction-following difficulty under `model` (Li et al. 2023)."""

    least: float = Field(default=0.0, ge=0)
    """Rows below are dropped (reason `ifd_low`)."""
    most: float = Field(default=1.0, gt=0)
    """Rows above are dropped (reason `ifd_high`): at more than 1 the instruction only hinders."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Of those between, the most difficult share is kept (the others: `ifd_share`); left out: all."""

    @model_validator(mode="after")
    def _ordered(self) -> IfdSettings:
        if self.least >= self.most:
            raise ValueError(f"least ({self.least}) must be below most ({self.most})")
        return self


def measure_ifd(reader: Reader, rows: Sequence[Instruction]) -> list[dict[str, float] | None]:
    """{ifd, loss (mean nats a token, given the instruction), direct (without it)} of each row's last trained answer;
    None for a row without one, or whose answer has no loss by itself."""
    pairs: list[tuple[list[int], list[int]]] = []
    which: list[int] = []
    for place, row in enumerate(rows):
        before, answer = row.last
        ids = reader.model.tokenizer.encode(answer)
        if ids:
            which.append(place)
            pairs += [(reader.prompt(before, row.tools), ids), (reader.empty, ids)]
    losses = [-sum(one) / len(one) for one in reader.logprobs(pairs)]
    found: list[dict[str, float] | None] = [None] * len(rows)
    for number, place in enumerate(which):
        given, direct = losses[2 * number], losses[2 * number + 1]
        if direct > 0:
            found[place] = {"ifd": given / direct, "loss": given, "direct": direct}
    return found


def keep_by_ifd(
    rows: Sequence[Instruction], measured: Sequence[dict[str, Any] | None], settings: IfdSettings, account: Account
) -> list[Instruction]:
    """The rows in the band, and of them the most difficult share. Rows that could not be measured are kept."""
    inside: list[tuple[Instruction, float]] = []
    dropped: set[int] = set()
    for row, value in zip(rows, measured, strict=True):
        if value is None:
            continue
        row.measures["ifd"] = value
        difficulty = float(value["ifd"])
        if difficulty < settings.least:
            account.drop(row, "ifd_low", difficulty, settings.least)
        elif difficulty > settings.most:
            account.drop(row, "ifd_high", difficulty, settings.most)
        else:
            inside.append((row, difficulty))
            continue
        dropped.add(id(row))
    if settings.share is not None and inside:
        inside.sort(key=lambda one: (-one[1], one[0].id))
        count = max(1, round(settings.share * len(inside)))
        for row, difficulty in inside[count:]:
            account.drop(row, "ifd_share", difficulty, inside[count - 1][1])
            dropped.add(id(row))
    return [row for row in rows if id(row) not in dropped]
