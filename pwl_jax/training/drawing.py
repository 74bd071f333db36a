"""Compositions drawn at random, the same on all devices: what a training step mixes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def draw_switch(rng: jax.Array, blocks: int) -> jax.Array:
    """A random mixed composition by the baseline's rule: bool[N], never all equal.

    With probability 1/2 there is one switch point (a prefix or a suffix), else every block is
    drawn alone.
    """
    coin, start, pivot, bits, flip = jax.random.split(rng, 5)
    first = jax.random.bernoulli(start)
    positions = jnp.arange(blocks)
    single = jnp.where(positions < jax.random.randint(pivot, (), 1, blocks), first, ~first)
    free = jax.random.bernoulli(bits, shape=(blocks,))
    uniform = (free == free[0]).all()
    flipped = positions == jax.random.randint(flip, (), 0, blocks)
    free = jnp.where(uniform & flipped, ~free, free)
    return jnp.where(jax.random.bernoulli(coin), single, free)


def draw_crossing(rng: jax.Array, blocks: int) -> jax.Array:
    """A random composition that is no prefix: bool[N], every block drawn alone but for two.

    At a boundary drawn at random the student's block is followed by the teacher's, which makes it
    no prefix; any such composition can come, as often as it has such boundaries. Prefixes are left
    out because every step trains all of them anyway.
    """
    bits, where = jax.random.split(rng)
    free = jax.random.bernoulli(bits, shape=(blocks,))
    positions = jnp.arange(blocks)
    boundary = jax.random.randint(where, (), 0, blocks - 1)
    return jnp.where(positions == boundary, False, free) | (positions == boundary + 1)


RULES: dict[str, Callable[[jax.Array, int], jax.Array]] = {
    "switch": draw_switch,
    "crossing": draw_crossing,
}
"""How a composition is drawn: `(rng, N) -> bool[N]`, True for the teacher's block. `switch` is the
PyTorch baseline's rule, `crossing` this project's."""
