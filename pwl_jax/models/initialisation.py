"""Initial values, compiled for a single run."""

from collections.abc import Callable
from typing import Any

import jax


def initial_variables(init: Callable[..., Any], *arguments: Any) -> Any:
    """`init(*arguments)` under `jax.jit`.

    A network's init is hundreds of small random draws that run once: on CPU, optimising them
    takes five times as long as compiling and running them without (BUILD_NOTES).
    """
    cpu = jax.default_backend() == "cpu"
    options = {"xla_backend_optimization_level": 0} if cpu else None
    # A function of its own: JAX must not mix this executable with others of the same `init`.
    return jax.jit(lambda *args: init(*args), compiler_options=options)(*arguments)
