"""pyarrow, which has no types, as `Any`: one place where the type checker looks away, instead of every line that uses
it."""

from __future__ import annotations

from typing import Any

import pyarrow as _pa  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.compute as _pc  # pyright: ignore[reportMissingTypeStubs]
import pyarrow.parquet as _pq  # pyright: ignore[reportMissingTypeStubs]

pa: Any = _pa
pc: Any = _pc
pq: Any = _pq
