"""Objectives by name: what a run changes of its config to train by one of them.

Each is a mapping of fields of a run, as `recipes.with_objective` takes it. What is compared at
equal budget is `COMPARED`; `ABLATIONS` take one thing away from ours, or add one. `weights` names
the entry of `WEIGHTS` that a pair begins with, before the objective's own fields.
"""

from collections.abc import Mapping
from typing import Any

Fields = Mapping[str, Any]

_STUDENT: Fields = {"cross": "none", "align_streams": False, "w_sync": 0.0, "w_recon": 0.0}
"""Of an objective that trains the student's own logits and nothing else."""

_BASELINE: Fields = {"pair.statistics": "shared", "calibration_examples": 0}
"""The PyTorch baseline's statistics: running averages over all streams, shared by them."""

WEIGHTS: dict[str, dict[str, Fields]] = {
    "vit_small": {
        "ours": {"w_sync": 0.25, "w_recon": 0.25, "w_align": 0.25, "w_cross": 4.0},
        "any_order": {
            "w_sync": 2.0,
            "w_recon": 2.0,
            "w_align": 2.0,
            "w_cross": 4.0,
            "ramps": (("mixed", 1.0, 0.25, 1.0),),
        },
    },
}
"""Of ours, by pair, where others than the baseline's were found better (BUILD_NOTES)."""

_OURS: Fields = {
    "weights": "ours",
    "pair.statistics": "per_stream",
    "calibration_examples": 10_000,
    "converter_init": "least_squares",
}

_ANY_ORDER: Fields = {**_OURS, "weights": "any_order"}
_MIXED: Fields = {"mixed_compositions": 2, "mixed_rule": "crossing"}

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
    "random": {**_BASELINE, "objective": {"cross": "random", "align_streams": False}},
    "all": {**_BASELINE, "objective": {"cross": "all", "align_streams": False}},
    "ours": {**_OURS, "objective": {}},
    "any_order": {**_ANY_ORDER, "objective": _MIXED},
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
    "one_mixed": {**_ANY_ORDER, "objective": {**_MIXED, "mixed_compositions": 1}},
    "light_mixed": {**_ANY_ORDER, "objective": {**_MIXED, "w_mixed": 0.3}},
    "late_mixed": {
        **_ANY_ORDER,
        "objective": {**_MIXED, "ramps": (("mixed", 0.0, 1.0, 0.5),)},
    },
    "mixed_converters": {**_ANY_ORDER, "objective": {**_MIXED, "mixed_trains": "converters"}},
    "calibrated_over_all": {**_ANY_ORDER, "calibration_over": "all", "objective": _MIXED},
    "switch_mixed": {**_ANY_ORDER, "objective": {**_MIXED, "mixed_rule": "switch"}},
}
"""Ours with one thing taken away or added: what each is worth."""

OBJECTIVES = COMPARED | ABLATIONS
