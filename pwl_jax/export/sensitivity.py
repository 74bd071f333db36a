"""How much each tensor's precision matters, measured, and the bits that follow from it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from pwl_jax.data import pipeline, sources
from pwl_jax.errors import UserError
from pwl_jax.export.measure import CODED
from pwl_jax.hybrid.masks import leaf_names
from pwl_jax.ladder import EXACT, Bits, Composition, Rung
from pwl_jax.models.block_network import Variables
from pwl_jax.precision import (
    Choice,
    PrecisionError,
    Quantization,
    canonical_json,
    decode_tensor,
    encode_frame,
    encode_tensor,
    plan_bits,
    quantizable,
)
from pwl_jax.training.evaluation import Evaluator

MOST_EXAMPLES = 256
"""Images that logits are compared on; one forward pass a tensor."""

_OVERFLOWED = 1e30
_WIDTHS: tuple[Bits, ...] = (2, 3, 4, 5, 6, 8, EXACT)


def planned_widths(
    evaluator: Evaluator,
    variables: Variables,
    stages: Sequence[Bits],
    share: float,
    source: pipeline.PreparedSource,
    quantization: Quantization,
) -> dict[str, tuple[Bits, ...]]:
    """The widths of each tensor at each stage, such that the first stage keeps to a budget.

    A tensor's sensitivity is the mean squared change of the logits per squared error of the
    tensor, measured with this tensor alone at the first stage's bits, in its network by itself.
    The change that other widths make is taken to grow with their squared error.

    Args:
      evaluator: of the pair.
      variables: its exact tree; networks that are not in it are not planned.
      stages: of all blocks, the first one in bits.
      share: bytes of a network's codes in the first stage, as a share of what they take with the
        stage's bits everywhere.
      source: validation images.
      quantization: how codes are chosen.

    Returns:
      By tensor name, of tensors that are sent as codes.

    Raises:
      UserError: a budget below what the fewest bits take.
    """
    images, _ = pipeline.in_memory(_some(source.source), source.preprocessing)
    inputs = source.preprocessing.normalize(images)
    planned: dict[str, tuple[Bits, ...]] = {}
    for network in (network for network in CODED if network in variables):
        blocks = evaluator.hybrid.num_blocks
        composition = Composition.prefix(blocks, blocks if network == "teacher" else 0)
        rung = Rung.uniform(composition, EXACT)
        choices: dict[str, list[Choice]] = {}
        uniform = 0
        exact = _logits(evaluator, rung, variables, inputs)
        named = zip(
            leaf_names(variables[network]), jax.tree.leaves(variables[network]), strict=True
        )
        for place, (name, leaf) in enumerate(named):
            array = np.asarray(leaf)
            if not quantizable(array, quantization.channel_axis):
                continue
            size, coarse = _coded(array, stages[0], quantization)
            uniform += size
            moved = _replaced(variables, network, place, coarse)
            with np.errstate(invalid="ignore", over="ignore"):
                change = np.mean((_logits(evaluator, rung, moved, inputs) - exact) ** 2)
            squared = _distance(array, coarse)
            known = {stages[0]: (size, squared)}
            sensitivity = _finite(float(change)) / squared if squared else 0.0
            offered = choices.setdefault(f"{network}/{name}", [])
            for bits in _WIDTHS:
                if bits not in known:
                    size, seen = _coded(array, bits, quantization)
                    known[bits] = size, _distance(array, seen)
                size, squared = known[bits]
                offered.append(Choice(bits, size, sensitivity * squared))
        try:
            plan = plan_bits(choices, round(share * uniform))
        except PrecisionError as error:
            raise UserError(
                f"base_budget {share:g} of the {uniform} bytes that the {network}'s codes take at "
                f"{stages[0]} bits: {error}"
            ) from None
        planned |= {name: _stages_of(bits, stages) for name, bits in plan.items()}
    return planned


def _stages_of(first: Bits, stages: Sequence[Bits]) -> tuple[Bits, ...]:
    """A tensor's width at every stage, given that of the first."""
    if first == EXACT:
        return (EXACT,) * len(stages)
    later = [EXACT if stage == EXACT else max(int(first), int(stage)) for stage in stages[1:]]
    return (first, *later)


def _logits(
    evaluator: Evaluator, rung: Rung, variables: Variables, inputs: np.ndarray
) -> np.ndarray:
    return np.asarray(evaluator.logits([rung], lambda _: variables, jnp.asarray(inputs))[rung])


def _replaced(variables: Variables, network: str, place: int, array: np.ndarray) -> Variables:
    leaves, structure = jax.tree.flatten(variables[network])
    leaves[place] = jnp.asarray(array)
    changed: Mapping[str, Any] = jax.tree.unflatten(structure, leaves)
    return {**variables, network: changed}


def _distance(array: np.ndarray, seen: np.ndarray) -> float:
    """Summed squared error, of the finite values: no codes stand for others."""
    with np.errstate(invalid="ignore", over="ignore"):
        difference = seen.astype(np.float64) - array.astype(np.float64)
    return float(np.sum(difference[np.isfinite(difference)] ** 2))


def _finite(change: float) -> float:
    """A change that can be compared: logits that overflowed changed very much."""
    return change if np.isfinite(change) else _OVERFLOWED


def _some(source: sources.Source) -> sources.Source:
    """As many examples as logits are compared on, from the whole split: it may be sorted."""
    step = -(-len(source) // MOST_EXAMPLES)
    return dataclasses.replace(source, indices=source.indices[::step])


def _coded(array: np.ndarray, bits: Bits, quantization: Quantization) -> tuple[int, np.ndarray]:
    """What a width costs, with its header, and what is seen of the tensor then."""
    payload = encode_tensor(array, (bits,), quantization=quantization)[0]
    size = payload.byte_count + len(encode_frame(canonical_json(payload.header)))
    return size, decode_tensor([payload], max_bytes=array.nbytes)
