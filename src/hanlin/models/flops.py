"""Exact counts: floating-point operations of matrix products a token, and parameters."""

from __future__ import annotations

from hanlin.models.config import ModelConfig


def matrix_parameters(config: ModelConfig) -> int:
    """Weights that every token is multiplied with: the blocks' matrices and the output head (tied or not)."""
    attention = config.hidden_size * config.head_dim * (2 * config.heads + 2 * config.kv_heads)
    mlp = config.hidden_size * config.intermediate_size * (3 if config.gated else 2)
    return config.layers * (attention + mlp) + config.hidden_size * config.vocabulary_size


def attention_span(length: int, window: int | None = None) -> float:
    """Mean number of positions that a position attends to, itself included, in a document of `length` positions."""
    if window is None or window >= length:
        return (length + 1) / 2
    return (window * (window + 1) / 2 + (length - window) * window) / length


def forward_flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """FLOPs of the forward pass a token: 2 a multiply-add of every matrix product, attention's two included.

    Attention is counted over the positions that are seen (half the square, or the window), not over what a kernel may
    compute and throw away; a row is taken to be one document of `sequence_length`. Norms, activations, rotations,
    softmax and the embedding's look-up are not matrix products and not counted (as in PaLM, Chowdhery et al. 2022,
    appendix B).
    """
    seen = sum(attention_span(sequence_length, config.window(layer)) for layer in range(config.layers))
    return 2 * matrix_parameters(config) + 4 * config.heads * config.head_dim * seen


def flops_per_token(config: ModelConfig, sequence_length: int) -> float:
    """FLOPs of forward and backward a trained token: three times the forward's (each product has two gradients)."""
    return 3 * forward_flops_per_token(config, sequence_length)


def parameter_count(config: ModelConfig, embedding: bool = True) -> int:
    """Parameters of the model; without `embedding`, less the token and position tables and an untied head."""
    hidden, layers = config.hidden_size, config.layers
    norm = hidden * (2 if config.norm == "layer" else 1)
    count = matrix_parameters(config) - hidden * config.vocabulary_size + norm * (2 * layers + 1)
    if config.qk_norm:
        count += layers * 2 * config.head_dim
    if config.attention_bias:
        count += layers * (config.head_dim * (config.heads + 2 * config.kv_heads) + hidden)
    if config.mlp_bias:
        count += layers * (config.intermediate_size * (2 if config.gated else 1) + hidden)
    if embedding:
        count += hidden * config.vocabulary_size * (1 if config.tied else 2)
        count += hidden * config.max_positions if config.position == "learned" else 0
    return count
