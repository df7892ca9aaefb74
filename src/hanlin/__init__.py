"""hanlin: from a folder of text to a language model that has been examined and that you can talk to.

>>> import hanlin
>>> model = hanlin.load("runs/world/chat")                              # doctest: +SKIP
>>> print(model.generate("Where was Ada Karim born?").text)             # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "Request", "__version__", "load"]

if TYPE_CHECKING:
    from hanlin.inference import Engine, Request, load


def __getattr__(name: str) -> Any:
    # torch takes a second to import: only those who use a model wait for it.
    if name in ("Engine", "Request", "load"):
        from hanlin import inference

        return getattr(inference, name)
    raise AttributeError(f"module 'hanlin' has no attribute {name!r}")
