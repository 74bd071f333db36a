"""Steps that are not finite change nothing: told on the device, the same way on all of them."""

from typing import Any, TypeVar

import jax
import jax.numpy as jnp


def all_finite(tree: Any, axis: str) -> jax.Array:
    """Whether every number of a tree is finite, on every device of a mapped axis: bool scalar.

    Devices that hold the same numbers agree without asking; asking keeps them in step where one
    of them has computed something else.
    """
    here = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()
    return jax.lax.pmin(here.astype(jnp.int32), axis) > 0


T = TypeVar("T")


def select(which: jax.Array, this: T, that: T) -> T:
    """`this` where the scalar holds, else `that`, leaf by leaf; what both share is left alone."""
    return jax.tree.map(lambda a, b: a if a is b else jnp.where(which, a, b), this, that)
