"""Floor 1: the Transformers, plain PyTorch for one device; `hub` reads and writes Hugging Face directories."""

from hanlin.models.attention import Cache
from hanlin.models.config import ModelConfig
from hanlin.models.transformer import Transformer

__all__ = ["Cache", "ModelConfig", "Transformer"]
