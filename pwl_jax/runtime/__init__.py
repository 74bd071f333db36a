"""Live models: answer from the first rung on, climb while answering. Imports no JAX."""

from typing import TYPE_CHECKING

from pwl_jax.lazy import lazily
from pwl_jax.runtime.answers import Event, Prediction, Progress
from pwl_jax.runtime.backoff import Backoff
from pwl_jax.runtime.batching import LARGEST_BATCH, bucket, padded_batches
from pwl_jax.runtime.executor import (
    Block,
    Chain,
    Executor,
    ExecutorError,
    Program,
    Step,
    create_executor,
    executor_names,
)
from pwl_jax.runtime.live_model import LiveModel, NotReadyError
from pwl_jax.runtime.plan import LiveModelError
from pwl_jax.runtime.policy import ClimbState, Decision, InOrder, Limits, Policy

if TYPE_CHECKING:
    from pwl_jax.runtime.model_pool import ModelPool, PoolError

# Who serves one model needs none of these.
__getattr__ = lazily(__name__, dict.fromkeys(("ModelPool", "PoolError"), "model_pool"))

__all__ = [
    "LARGEST_BATCH",
    "Backoff",
    "Block",
    "Chain",
    "ClimbState",
    "Decision",
    "Event",
    "Executor",
    "ExecutorError",
    "InOrder",
    "Limits",
    "LiveModel",
    "LiveModelError",
    "ModelPool",
    "NotReadyError",
    "Policy",
    "PoolError",
    "Prediction",
    "Program",
    "Progress",
    "Step",
    "bucket",
    "create_executor",
    "executor_names",
    "padded_batches",
]
