"""The shape of a model: one settings object for the four families that hanlin trains and reads."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from hanlin.artifacts import HanlinError, Settings

Family = Literal["qwen3", "llama", "mistral", "gpt2"]
Activation = Literal["silu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu"]

ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "llama3")
"""RoPE variants that are computed here and that `transformers` reads under the same names."""


class ModelConfig(Settings):
    """A decoder: exactly one of Qwen3ForCausalLM, LlamaForCausalLM, MistralForCausalLM or GPT2LMHeadModel.

    Fields left out are filled in from the family (norm, activation, biases, positions) and from the other sizes
    (`kv_heads`, `head_dim`, `intermediate_size`), so that a made config is always complete.
    """

    family: Family = "qwen3"
    """Which Hugging Face architecture the model is saved as."""
    vocabulary_size: int = Field(gt=0)
    """Rows of the embedding; at least the tokenizer's vocabulary."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    layers: int = Field(gt=0)
    """Number of blocks (attention + MLP)."""
    heads: int = Field(gt=0)
    """Query heads."""
    kv_heads: int = Field(default=0, ge=0)
    """Key and value heads (grouped-query attention); left out: as many as `heads`. Must divide `heads`."""
    head_dim: int = Field(default=0, ge=0)
    """Width of one head; left out: hidden_size / heads."""
    intermediate_size: int = Field(default=0, ge=0)
    """Width of the MLP; left out: 8/3 (gated) or 4 (plain) times the hidden size, rounded up to a multiple of 64."""
    max_positions: int = Field(default=2048, gt=0)
    """Longest sequence that the model is meant for (`max_position_embeddings`, GPT-2's `n_positions`)."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm (Zhang & Sennrich 2019, eq. 4) or LayerNorm with bias."""
    norm_epsilon: float = Field(default=1e-6, gt=0)
    """Added to the mean square (or variance) before the root."""
    activation: Activation = "silu"
    """The MLP's activation, under its Hugging Face name."""
    gated: bool = True
    """A gated MLP, down(act(gate(x)) * up(x)) (Shazeer 2020, SwiGLU), or a plain one, down(act(up(x)))."""
    position: Literal["rope", "learned"] = "rope"
    """Rotary embedding of queries and keys (Su et al. 2021), or a learned vector a position added to the input."""
    rope_theta: float = Field(default=10000.0, gt=0)
    """Base of the rotary wavelengths."""
    rope_scaling: dict[str, Any] | None = None
    """RoPE scaling as in Hugging Face's config: `rope_type` (linear, dynamic, yarn, llama3) and its parameters."""
    qk_norm: bool = False
    """RMSNorm on each head's query and key before the rotation (Qwen3)."""
    attention_bias: bool = False
    """Biases in the attention's projections (q, k, v and output)."""
    mlp_bias: bool = False
    """Biases in the MLP's projections."""
    sliding_window: int | None = Field(default=None, gt=0)
    """A position attends to the last `sliding_window` positions, itself included; none: to all before it."""
    full_attention_layers: int = Field(default=0, ge=0)
    """With a sliding window, how many of the first layers attend fully all the same (Qwen3's `max_window_layers`)."""
    tied: bool = True
    """The output head is the embedding matrix."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """What was left out, from the family and from the other sizes."""
        if not isinstance(values, dict):
            return values
        known: dict[str, Any] = {**_FAMILY_DEFAULTS.get(values.get("family", "qwen3"), {}), **values}
        heads, hidden = known.get("heads"), known.get("hidden_size")
        if not known.get("kv_heads"):
            known["kv_heads"] = heads
        if not known.get("head_dim") and isinstance(heads, int) and isinstance(hidden, int) and heads > 0:
            if hidden % heads:
                raise HanlinError(
                    f"hidden_size {hidden} is not a multiple of heads {heads}, in the model's settings: "
                    "change one of them, or give head_dim"
                )
            known["head_dim"] = hidden // heads
        if not known.get("intermediate_size") and isinstance(hidden, int):
            wide = hidden * 8 / 3 if known.get("gated", True) else hidden * 4
            known["intermediate_size"] = int(-(-wide // 64) * 64)
        return known

    @model_validator(mode="after")
    def _check(self) -> ModelConfig:
        """Refuse what no Hugging Face class of this family could express."""
        for field, value in _FAMILY_FIXED[self.family].items():
            if getattr(self, field) != value:
                raise HanlinError(
                    f"{field} is {getattr(self, field)!r}, which {self.family} has not, in the model's settings: "
                    f"leave it at {value!r} or choose another family"
                )
        if self.heads % self.kv_heads:
            raise HanlinError(
                f"heads {self.heads} is not a multiple of kv_heads {self.kv_heads}, in the model's settings: change one"
            )
        if self.position == "rope" and self.head_dim % 2:
            raise HanlinError(
                f"head_dim {self.head_dim} is odd, in the model's settings: rotary positions need an even one"
            )
        if self.family == "gpt2" and (self.kv_heads != self.heads or self.head_dim * self.heads != self.hidden_size):
            raise HanlinError(
                "kv_heads or head_dim differ from heads and hidden_size / heads, in the model's settings: "
                "gpt2 cannot express that; leave them out or choose another family"
            )
        if self.rope_type not in ROPE_TYPES:
            raise HanlinError(
                f"rope_scaling has the type {self.rope_type!r}, in the model's settings, not {', '.join(ROPE_TYPES)}"
            )
        return self

    @property
    def rope_type(self) -> str:
        """`default`, or the kind of scaling."""
        return str((self.rope_scaling or {}).get("rope_type", "default"))

    def window(self, layer: int) -> int | None:
        """The sliding window of layer `layer` (from 0), in positions; None where it attends to everything before it."""
        return self.sliding_window if layer >= self.full_attention_layers else None


_FAMILY_DEFAULTS: dict[str, dict[str, Any]] = {
    "qwen3": {"qk_norm": True},
    "llama": {},
    "mistral": {},
    "gpt2": {
        "norm": "layer",
        "norm_epsilon": 1e-5,
        "activation": "gelu_new",
        "gated": False,
        "position": "learned",
        "attention_bias": True,
        "mlp_bias": True,
    },
}

_FAMILY_FIXED: dict[Family, dict[str, Any]] = {
    "qwen3": {"norm": "rms", "gated": True, "position": "rope", "qk_norm": True, "mlp_bias": False},
    "llama": {"norm": "rms", "gated": True, "position": "rope", "qk_norm": False, "sliding_window": None},
    "mistral": {
        "norm": "rms", "gated": True, "position": "rope", "qk_norm": False, "attention_bias": False, "mlp_bias": False,
        "full_attention_layers": 0,
    },
    "gpt2": {
        "norm": "layer", "gated": False, "position": "learned", "qk_norm": False, "attention_bias": True,
        "mlp_bias": True, "sliding_window": None, "rope_scaling": None,
    },
}  # fmt: skip
