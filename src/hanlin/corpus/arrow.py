"""pyarrow, which has no types, as `Any`: one place where the type checker looks away, instead of every line that uses
it."""

from __future__ import annotations

from typing import Any

import pyarrow as _pa
import pyarrow.compute as _pc
import pyarrow.parquet as _pq

pa: Any = _pa
pc: Any = _pc
pq: Any = _pq
