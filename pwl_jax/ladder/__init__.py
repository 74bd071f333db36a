"""Compositions, rungs and the ladder they form. Plain Python, no arrays."""

from pwl_jax.ladder.climbs import CLIMB_ORDERS, ClimbOrder, climb_plan
from pwl_jax.ladder.composition import (
    ORDERS,
    OWN_STREAM,
    Composition,
    CompositionError,
    Unit,
    compositions_of,
    stream_name,
)
from pwl_jax.ladder.ladder import Ladder, LadderRung, Measurement
from pwl_jax.ladder.ordering import (
    area,
    best_order,
    candidate_rungs,
    greedy_order,
    paying_rungs,
)
from pwl_jax.ladder.rung import EXACT, Bits, Rung, parse_bits, parse_rung, precision_rank
from pwl_jax.ladder.table import ladder_table

__all__ = [
    "CLIMB_ORDERS",
    "EXACT",
    "ORDERS",
    "OWN_STREAM",
    "Bits",
    "ClimbOrder",
    "Composition",
    "CompositionError",
    "Ladder",
    "LadderRung",
    "Measurement",
    "Rung",
    "Unit",
    "area",
    "best_order",
    "candidate_rungs",
    "climb_plan",
    "compositions_of",
    "greedy_order",
    "ladder_table",
    "parse_bits",
    "parse_rung",
    "paying_rungs",
    "precision_rank",
    "stream_name",
]
