"""Compositions, rungs and the ladder they form. Plain Python, no arrays."""

from pwl_jax.ladder.composition import (
    ORDERS,
    Composition,
    CompositionError,
    Unit,
    compositions_of,
)
from pwl_jax.ladder.ladder import Ladder, LadderRung, Measurement
from pwl_jax.ladder.ordering import area, candidate_rungs, greedy_order, paying_rungs
from pwl_jax.ladder.rung import EXACT, Bits, Rung, parse_bits, parse_rung, precision_rank
from pwl_jax.ladder.table import ladder_table

__all__ = [
    "EXACT",
    "ORDERS",
    "Bits",
    "Composition",
    "CompositionError",
    "Ladder",
    "LadderRung",
    "Measurement",
    "Rung",
    "Unit",
    "area",
    "candidate_rungs",
    "compositions_of",
    "greedy_order",
    "ladder_table",
    "parse_bits",
    "parse_rung",
    "paying_rungs",
    "precision_rank",
]
