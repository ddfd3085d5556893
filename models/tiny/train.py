"""Train the tiny chat model on generated dialogues, on a CPU, in minutes.

The same seed gives the same data and the same initial weights. The result is not bit-exact
between machines, because the order of floating-point sums depends on the processor.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import dialogues
import jax
import jax.numpy as jnp
import numpy as np
import tokenizer as text
from families import FAMILIES
from model import ModelConfig, Params, initial_params, parameter_count, weighted_loss
from tokenizers import Tokenizer

TOKENIZER_PATH = Path(__file__).with_name("tokenizer.json")
DEFAULT_PEAK_RATE = 4e-3
DEFAULT_WARMUP = 60
POOL = 48
"""Encoded dialogues to choose from when a row is filled."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a training run besides the sizes of the network.

    Attributes:
        steps: Optimiser steps on short rows.
        long_steps: Further steps on rows of the full context, which teach the model to find the
            last question in a long conversation. Included in the learning rate schedule.
        seed: Seed of the data and of the initial weights.
        terse: Keep only the first sentence of each answer.
        long_every: Besides, every such step is one on long rows; 0 for none.
        lesson: Which lesson of ``families.py`` the dialogues are drawn from.
        emphasis: Factors on the weights of some categories of dialogues.
        short_tokens: Length of a short row.
        batch_tokens: Tokens per step; gradients are summed over micro-batches that fit the cache.
        peak_rate: Highest learning rate, reached after ``warmup`` steps, then cosine decay.
        final_share: Learning rate at the end, as a share of the peak.
        weight_decay: Decoupled weight decay of the matrices.
        clip_norm: Largest norm of the gradient.
        question_weight: Loss weight of the user's words.
        plain_share: Share of rows' items that are statements outside any chat.
        isolated: Dialogues in a short row do not see each other. The model learns to read its
            question sooner, and long rows still teach it to ignore what came before.
        balanced: Weigh the tokens of short answers more.
    """

    steps: int
    long_steps: int
    seed: int
    terse: bool = False
    long_every: int = 0
    lesson: int = 1
    emphasis: tuple[tuple[str, float], ...] = ()
    short_tokens: int = 256
    batch_tokens: int = 4096
    peak_rate: float = DEFAULT_PEAK_RATE
    final_share: float = 0.03
    warmup: int = DEFAULT_WARMUP
    weight_decay: float = 0.1
    beta_1: float = 0.9
    beta_2: float = 0.97
    clip_norm: float = 1.0
    question_weight: float = 0.05
    plain_share: float = 0.03
    isolated: bool = False
    balanced: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """Packed rows of one step: ids (micro, batch, tokens + 1), the others (micro, batch, tokens).

    ``segments`` numbers the dialogues of a row.
    """

    ids: np.ndarray
    weights: np.ndarray
    segments: np.ndarray


def items(
    tokenizer: Tokenizer, rng: random.Random, config: TrainConfig
) -> Iterator[tuple[list[int], list[float]]]:
    """Yield encoded dialogues and plain statements without end."""
    emphasis = dict(config.emphasis)
    while True:
        if rng.random() < config.plain_share:
            yield text.encode_plain(tokenizer, dialogues.plain_text(rng))
        else:
            talk = dialogues.dialogue(
                rng, evaluation=False, lesson=config.lesson, emphasis=emphasis
            )
            yield text.encode_dialogue(
                tokenizer,
                rng,
                talk,
                question_weight=config.question_weight,
                terse=config.terse,
                balanced=config.balanced,
            )


class Packer:
    """Fills rows with whole dialogues, the longest that fits first, so that little is padding.

    Without isolation the dialogues in a row see each other, so that a row looks like a long
    conversation in which only the last question matters.
    """

    def __init__(self, source: Iterator[tuple[list[int], list[float]]]) -> None:
        self._source = source
        self._pool: list[tuple[list[int], list[float]]] = []

    def row(self, tokens: int) -> tuple[list[int], list[float], list[int]]:
        """Return exactly ``tokens`` ids, weights and segments, padded with ids of weight zero."""
        ids: list[int] = []
        weights: list[float] = []
        segments: list[int] = []
        while True:
            while len(self._pool) < POOL:
                item = next(self._source)
                # One that fits no row of this length would stay in the pool for ever.
                if len(item[0]) <= tokens:
                    self._pool.append(item)
            fitting = [i for i, item in enumerate(self._pool) if len(item[0]) <= tokens - len(ids)]
            if not fitting:
                break
            # The oldest goes first, so that long ones are not starved; only the last gap is
            # filled with the best fit.
            room = tokens - len(ids)
            chosen = (
                fitting[0]
                if room > tokens // 3
                else max(fitting, key=lambda i: len(self._pool[i][0]))
            )
            item = self._pool.pop(chosen)
            ids += item[0]
            weights += item[1]
            segments += [segments[-1] + 1 if segments else 0] * len(item[0])
        padding = tokens - len(ids)
        return ids + [0] * padding, weights + [0.0] * padding, segments + [-1] * padding

    def rows(self, micro: int, batch: int, tokens: int) -> Rows:
        """Return the rows of one step, shaped for gradient accumulation."""
        filled = [self.row(tokens + 1) for _ in range(micro * batch)]
        ids = np.array([row[0] for row in filled], np.int32)
        weights = np.array([row[1][1:] for row in filled], np.float32)
        segments = np.array([row[2][:-1] for row in filled], np.int32)
        shape = (micro, batch, tokens)
        return Rows(
            ids.reshape(micro, batch, tokens + 1), weights.reshape(shape), segments.reshape(shape)
        )


@partial(jax.jit, static_argnames=("sizes", "config"), donate_argnums=(0, 1))
def train_step(
    params: Params,
    moments: tuple[Params, Params],
    batch: tuple[jax.Array, jax.Array, jax.Array | None],
    rate: jax.Array,
    step: jax.Array,
    *,
    sizes: ModelConfig,
    config: TrainConfig,
) -> tuple[Params, tuple[Params, Params], jax.Array]:
    """Do one AdamW step over all micro-batches; returns the mean loss in nats as well.

    ``batch`` holds ids, weights and, when dialogues are isolated, segments.
    """

    def accumulate(total: Any, part: Any) -> tuple[Any, None]:
        value = jax.value_and_grad(weighted_loss)(params, *part, sizes)
        return jax.tree.map(jnp.add, total, value), None

    zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, params))
    (loss, gradient), _ = jax.lax.scan(accumulate, zero, batch)
    scale = 1 / jnp.maximum(jnp.sum(batch[1]), 1)
    norm = scale * jnp.sqrt(sum(jnp.sum(g * g) for g in jax.tree.leaves(gradient)))
    clip = scale * jnp.minimum(1.0, config.clip_norm / (norm + 1e-6))
    gradient = jax.tree.map(lambda g: g * clip, gradient)
    b1, b2 = config.beta_1, config.beta_2
    first = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, moments[0], gradient)
    second = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, moments[1], gradient)
    first_scale, second_scale = 1 / (1 - b1**step), 1 / (1 - b2**step)

    def update(p: jax.Array, m: jax.Array, v: jax.Array) -> jax.Array:
        direction = m * first_scale / (jnp.sqrt(v * second_scale) + 1e-8)
        decay = config.weight_decay if p.ndim > 1 else 0.0
        return p - rate * (direction + decay * p)

    return jax.tree.map(update, params, first, second), (first, second), loss * scale


def is_long_step(step: int, config: TrainConfig) -> bool:
    """Tell whether a step, counted from 0, works on rows of the full context."""
    regular = config.long_every > 0 and (step + 1) % config.long_every == 0
    return regular or step >= config.steps


def rate_at(step: int, config: TrainConfig) -> float:
    """Learning rate of a step, counted from 0."""
    total = config.steps + config.long_steps
    if step < config.warmup:
        return config.peak_rate * (step + 1) / config.warmup
    progress = (step - config.warmup) / max(1, total - config.warmup)
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
    return config.peak_rate * (config.final_share + (1 - config.final_share) * cosine)


def save_checkpoint(
    path: Path, params: Params, sizes: ModelConfig, config: TrainConfig, record: dict[str, Any]
) -> None:
    """Write the weights as ``.npz`` with the sizes and the record of the run as JSON inside."""
    arrays = {"embedding": params["embedding"], "norm": params["norm"]}
    for index, block in enumerate(params["blocks"]):
        arrays |= {f"blocks.{index}.{name}": value for name, value in block.items()}
    about = {"sizes": sizes.to_json(), "run": asdict(config), **record}
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(
        path,
        about=np.array(json.dumps(about)),
        **{name: np.asarray(value) for name, value in arrays.items()},
    )


def load_params(path: Path, sizes: ModelConfig) -> Params:
    """Read the weights of a checkpoint, to go on from them."""
    with np.load(path) as stored:
        arrays = {name: jnp.asarray(stored[name]) for name in stored.files if name != "about"}
    names = initial_params(sizes, 0)["blocks"][0]
    blocks = [
        {name: arrays[f"blocks.{index}.{name}"] for name in names} for index in range(sizes.layers)
    ]
    return {"embedding": arrays["embedding"], "blocks": blocks, "norm": arrays["norm"]}


def train(
    config: TrainConfig,
    sizes: ModelConfig,
    out: Path | None,
    *,
    resume: Path | None = None,
    stop_after: int | None = None,
) -> list[float]:
    """Train from scratch or from the weights of a checkpoint.

    Args:
        config: The run.
        sizes: The network.
        out: Where to save the checkpoint; nothing is saved when ``None``.
        resume: Checkpoint whose weights to start from. The optimiser starts afresh.
        stop_after: End after this step of the schedule.

    Returns:
        The loss of every step, in nats per weighted token.
    """
    tokenizer = text.load(TOKENIZER_PATH)
    params = initial_params(sizes, config.seed) if resume is None else load_params(resume, sizes)
    moments = (jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params))
    packer = Packer(items(tokenizer, random.Random(config.seed), config))
    print(f"{parameter_count(params):,} parameters, seed {config.seed}", flush=True)
    losses: list[float] = []
    seen = 0
    total = min(config.steps + config.long_steps, stop_after or sys.maxsize)
    for step in range(total):
        is_long = is_long_step(step, config)
        tokens = sizes.context_tokens if is_long else config.short_tokens
        count = config.batch_tokens // tokens
        # Micro-batches of 8 short rows or 1 long row were the fastest on two cores.
        batch = 8 if tokens <= 256 and count % 8 == 0 else 1
        rows = packer.rows(count // batch, batch, tokens)
        seen += rows.weights.size
        params, moments, loss = train_step(
            params,
            moments,
            (rows.ids, rows.weights, rows.segments if config.isolated and not is_long else None),
            jnp.float32(rate_at(step, config)),
            jnp.float32(step + 1),
            sizes=sizes,
            config=config,
        )
        losses.append(float(loss))
        last = step + 1 == total
        if step % 25 == 0 or last:
            recent = sum(losses[-25:]) / len(losses[-25:])
            print(
                f"step {step + 1}/{total} loss {recent:.4f} rate {rate_at(step, config):.2e} "
                f"tokens {seen:,} cpu {time.process_time():.0f} s",
                flush=True,
            )
        if out is not None and (last or (step + 1) % 500 == 0):
            record = {
                "tokens": seen,
                "cpu_seconds": round(time.process_time()),
                "steps_done": step + 1,
                "final_loss": round(sum(losses[-25:]) / 25, 4),
            }
            save_checkpoint(out, params, sizes, config, record)
    return losses


def emphasis(text: str) -> tuple[tuple[str, float], ...]:
    """Parse ``repeat=3,memory=2``."""
    pairs = (item.split("=") for item in text.split(","))
    parsed = tuple((name, float(factor)) for name, factor in pairs)
    unknown = {name for name, _ in parsed} - FAMILIES.keys()
    if unknown:
        raise argparse.ArgumentTypeError(f"no such category: {', '.join(sorted(unknown))}")
    return parsed


def main() -> None:
    """Train one checkpoint from the command line."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--steps", type=int, required=True, help="steps on short rows")
    parser.add_argument("--long-steps", type=int, default=0, help="then steps on full-context rows")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--layers", type=int, default=ModelConfig().layers)
    parser.add_argument("--peak-rate", type=float, default=DEFAULT_PEAK_RATE)
    parser.add_argument("--isolated", action="store_true", help="dialogues do not see each other")
    parser.add_argument("--balanced", action="store_true", help="weigh short answers more")
    parser.add_argument("--long-every", type=int, default=0, help="every such step is a long one")
    parser.add_argument("--lesson", type=int, choices=(1, 2), default=1)
    parser.add_argument("--warmup", type=int, default=DEFAULT_WARMUP, help="steps")
    parser.add_argument("--emphasis", type=emphasis, default=(), metavar="CATEGORY=FACTOR,...")
    parser.add_argument("--resume", type=Path, help="checkpoint to start from")
    parser.add_argument("--stop-after", type=int, help="end after this step of the schedule")
    parser.add_argument("--terse", action="store_true", help="learn only first sentences")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint file (.npz)")
    arguments = parser.parse_args()
    config = TrainConfig(
        steps=arguments.steps,
        long_steps=arguments.long_steps,
        seed=arguments.seed,
        terse=arguments.terse,
        peak_rate=arguments.peak_rate,
        isolated=arguments.isolated,
        balanced=arguments.balanced,
        long_every=arguments.long_every,
        emphasis=arguments.emphasis,
        lesson=arguments.lesson,
        warmup=arguments.warmup,
    )
    sizes = ModelConfig(layers=arguments.layers)
    train(config, sizes, arguments.out, resume=arguments.resume, stop_after=arguments.stop_after)


if __name__ == "__main__":
    main()
