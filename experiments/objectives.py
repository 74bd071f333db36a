"""Objectives by name: what a run changes of its config to train by one of them.

Each is a mapping of fields of a run, as `recipes.with_objective` takes it. What is compared at
equal budget is `COMPARED`; `ABLATIONS` take one thing away from ours, or add one.
"""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]

_BASELINE_WEIGHTS: Fields = {"w_sync": 1.0, "w_recon": 1.0, "w_align": 1.0, "w_cross": 2.0}
"""The PyTorch baseline's, whatever weights a family has in ours (`recipes.SMALL_WEIGHTS`)."""

_STUDENT: Fields = {
    **_BASELINE_WEIGHTS,
    "cross": "none",
    "align_streams": False,
    "w_sync": 0.0,
    "w_recon": 0.0,
}
"""Of an objective that trains the student's own logits and nothing else."""

_BASELINE: Fields = {"pair.statistics": "shared", "calibration_examples": 0}
"""The PyTorch baseline's statistics: running averages over all streams, shared by them."""

_OURS: Fields = {
    "pair.statistics": "per_stream",
    "calibration_examples": 10_000,
    "converter_init": "least_squares",
}

_ANY_ORDER: Fields = {"mixed_compositions": 2, "mixed_rule": "crossing"}

FITTED = {"stitched": "alone", "stitched_kd": "kd", "refitted": "ours"}
"""Of what trains nothing itself, the objective whose result it takes: converters are fitted to it
by least squares, and statistics measured, after the fact (see `stitching`)."""

COMPARED: dict[str, Fields] = {
    "alone": {"objective": {**_STUDENT, "alpha": 1.0}},
    "kd": {"objective": _STUDENT},
    "dkd": {
        "objective": {
            **_STUDENT,
            "soft": "dkd",
            "temperature": 4.0,
            "alpha": 0.5,
            "w_target": 1.0,
            "w_others": 8.0,
            "ramps": (("soft", 0.0, 1.0, 1 / 12),),
        }
    },
    "random": {
        **_BASELINE,
        "objective": {**_BASELINE_WEIGHTS, "cross": "random", "align_streams": False},
    },
    "all": {
        **_BASELINE,
        "objective": {**_BASELINE_WEIGHTS, "cross": "all", "align_streams": False},
    },
    "ours": {**_OURS, "objective": {}},
    "any_order": {**_OURS, "objective": _ANY_ORDER},
    "stitched": {},
}
"""(a) the student alone, (b) plain distillation, (b') decoupled distillation with the weights,
temperature and warm-up of its authors' code for CIFAR (arXiv 2203.08679), (c) and (d) the
baseline's two modes, (e) ours without and with mixed compositions, (f) stitching."""

ABLATIONS: dict[str, Fields] = {
    "refitted": {},
    "stitched_kd": {},
    "no_alignment": {**_OURS, "objective": {"align_streams": False}},
    "shared_statistics": {**_OURS, "pair.statistics": "shared", "objective": {}},
    "running_averages": {**_OURS, "calibration_examples": 0, "objective": {}},
    "random_converters": {**_OURS, "converter_init": "random", "objective": {}},
    "no_features": {
        **_OURS,
        "objective": {"w_sync": 0.0, "w_recon": 0.0, "align_streams": False},
    },
    "fading_features": {
        **_OURS,
        "objective": {
            "ramps": (("sync", 1.0, 0.1, 1.0), ("recon", 1.0, 0.1, 1.0), ("align", 1.0, 0.1, 1.0))
        },
    },
    "next_rung": {**_OURS, "objective": {"soft_target": "next"}},
    "decoupled": {
        **_OURS,
        "objective": {"soft": "dkd", "w_others": 2.0, "ramps": (("soft", 0.0, 1.0, 1 / 12),)},
    },
    "one_mixed": {**_OURS, "objective": {**_ANY_ORDER, "mixed_compositions": 1}},
    "light_mixed": {**_OURS, "objective": {**_ANY_ORDER, "w_mixed": 0.3}},
    "late_mixed": {
        **_OURS,
        "objective": {**_ANY_ORDER, "ramps": (("mixed", 0.0, 1.0, 0.5),)},
    },
    "mixed_converters": {**_OURS, "objective": {**_ANY_ORDER, "mixed_trains": "converters"}},
    "calibrated_over_all": {**_OURS, "calibration_over": "all", "objective": _ANY_ORDER},
    "switch_mixed": {**_OURS, "objective": {**_ANY_ORDER, "mixed_rule": "switch"}},
}
"""Ours with one thing taken away or added: what each is worth."""

OBJECTIVES = COMPARED | ABLATIONS
