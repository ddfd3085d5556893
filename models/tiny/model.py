"""A small llama-architecture language model in JAX.

The layout follows what llama.cpp calls the ``llama`` architecture, so that ``export.py`` can
write the arrays to GGUF without permuting anything: RMS norm, interleaved rotary positions
(the pairs are neighbouring elements, not the two halves of a head), SwiGLU and an output matrix
tied to the token embedding.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Params = dict[str, Any]
"""Nested dictionary of float32 arrays, keyed by tensor name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Sizes of the network. Every matrix side is a multiple of 32, which Q8_0 blocks require."""

    vocab: int = 768
    width: int = 128
    layers: int = 4
    heads: int = 4
    feed_forward: int = 320
    context_tokens: int = 1024
    rope_base: float = 10_000.0
    norm_epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Elements per attention head."""
        return self.width // self.heads

    def to_json(self) -> dict[str, Any]:
        """Return the sizes as plain values, to be stored beside a checkpoint."""
        return asdict(self)


def initial_params(config: ModelConfig, seed: int) -> Params:
    """Draw fresh weights.

    Args:
        config: Sizes of the network.
        seed: Seed of the NumPy generator; the same seed gives the same weights everywhere.

    Returns:
        Float32 arrays, matrices as (inputs, outputs). Matrices that write into the residual
        stream start smaller, so that depth does not inflate its variance.
    """
    rng = np.random.default_rng(seed)
    width, hidden = config.width, config.feed_forward
    residual_scale = (2 * config.layers) ** -0.5

    def matrix(rows: int, columns: int, scale: float = 1.0) -> jax.Array:
        values = rng.standard_normal((rows, columns)) * (rows**-0.5) * scale
        return jnp.asarray(values, jnp.float32)

    blocks = [
        {
            "attention_norm": jnp.ones(width, jnp.float32),
            "qkv": matrix(width, 3 * width),
            "attention_out": matrix(width, width, residual_scale),
            "feed_norm": jnp.ones(width, jnp.float32),
            "gate_up": matrix(width, 2 * hidden),
            "down": matrix(hidden, width, residual_scale),
        }
        for _ in range(config.layers)
    ]
    embedding = jnp.asarray(rng.standard_normal((config.vocab, width)) * 0.02, jnp.float32)
    return {"embedding": embedding, "blocks": blocks, "norm": jnp.ones(width, jnp.float32)}


def parameter_count(params: Params) -> int:
    """Count the stored weights (a tied output matrix counts once)."""
    return sum(int(leaf.size) for leaf in jax.tree.leaves(params))


def rms_norm(x: jax.Array, gain: jax.Array, epsilon: float) -> jax.Array:
    """Scale ``x`` to unit root mean square over its last axis, then by ``gain``."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + epsilon) * gain


def rotary_tables(config: ModelConfig, tokens: int) -> tuple[jax.Array, jax.Array]:
    """Return the cosines and sines of every position, each (tokens, head_width / 2)."""
    half = config.head_width // 2
    frequency = config.rope_base ** (-np.arange(half, dtype=np.float64) / half)
    angle = np.arange(tokens, dtype=np.float64)[:, None] * frequency[None, :]
    return jnp.asarray(np.cos(angle), jnp.float32), jnp.asarray(np.sin(angle), jnp.float32)


def rotate(x: jax.Array, cosine: jax.Array, sine: jax.Array) -> jax.Array:
    """Apply interleaved rotary positions to (batch, tokens, heads, head_width)."""
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cosine[None, :, None, :], sine[None, :, None, :]
    turned = jnp.stack((even * c - odd * s, even * s + odd * c), axis=-1)
    return turned.reshape(x.shape)


def attention(
    block: Params, x: jax.Array, segments: jax.Array | None, config: ModelConfig
) -> jax.Array:
    """Causal self-attention over (batch, tokens, width), inside segments when they are given."""
    batch, tokens, width = x.shape
    cosine, sine = rotary_tables(config, tokens)
    shape = (batch, tokens, config.heads, config.head_width)
    query, key, value = (part.reshape(shape) for part in jnp.split(x @ block["qkv"], 3, axis=-1))
    query = rotate(query, cosine, sine) * config.head_width**-0.5
    key = rotate(key, cosine, sine)
    score = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    visible = jnp.tril(jnp.ones((tokens, tokens), bool))
    if segments is not None:
        visible = visible & (segments[:, None, :, None] == segments[:, None, None, :])
    weight = jax.nn.softmax(jnp.where(visible, score, -1e9), axis=-1)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", weight, value).reshape(batch, tokens, width)
    return mixed @ block["attention_out"]


def feed_forward(block: Params, x: jax.Array) -> jax.Array:
    """SwiGLU over the last axis."""
    gate, up = jnp.split(x @ block["gate_up"], 2, axis=-1)
    return (jax.nn.silu(gate) * up) @ block["down"]


def logits(
    params: Params, ids: jax.Array, config: ModelConfig, segments: jax.Array | None = None
) -> jax.Array:
    """Score the next token at every position.

    Args:
        params: Weights as made by :func:`initial_params`.
        ids: Token ids, (batch, tokens), int32.
        config: Sizes of the network.
        segments: (batch, tokens) int32; tokens see only tokens of the same number. All earlier
            tokens are seen when ``None``.

    Returns:
        Unnormalised log-probabilities, (batch, tokens, vocab).
    """
    x = params["embedding"][ids]
    for block in params["blocks"]:
        normal = rms_norm(x, block["attention_norm"], config.norm_epsilon)
        x = x + attention(block, normal, segments, config)
        x = x + feed_forward(block, rms_norm(x, block["feed_norm"], config.norm_epsilon))
    return rms_norm(x, params["norm"], config.norm_epsilon) @ params["embedding"].T


def weighted_loss(
    params: Params,
    ids: jax.Array,
    weights: jax.Array,
    segments: jax.Array | None,
    config: ModelConfig,
) -> jax.Array:
    """Sum of next-token cross-entropies, each multiplied by its weight.

    Args:
        params: Weights of the network.
        ids: (batch, tokens + 1) int32; position i predicts position i + 1.
        weights: (batch, tokens) float32, the weight of each prediction.
        segments: (batch, tokens) int32 or ``None``, as for :func:`logits`.
        config: Sizes of the network.

    Returns:
        The weighted sum in nats. The caller divides by the total weight.
    """
    scores = logits(params, ids[:, :-1], config, segments)
    chosen = jnp.take_along_axis(scores, ids[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum((jax.nn.logsumexp(scores, axis=-1) - chosen) * weights)
