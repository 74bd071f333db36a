r"""More models than fit into memory, and requests that switch between them.

  python -m experiments.benchmarks.model_switching [--rounds=3] [--models=6] [--share=0.333] \
      [--workdirs=W1/pwl,W2/pwl,...] [--config=lenet5_digits] [--drawn=resnet_quarter]

Requests ask for one of K models by Zipf's law; which model is how popular changes between the
phases of the trace. All policies serve the same trace, each in a process of its own, each request
some milliseconds after the answer to the one before, with memory for a third of the teachers'
weights: full models under LRU and the same in int8 (bare ONNX Runtime), students alone, and a pool
of live models, whose students stay while models in demand climb in the background and go back down
when others need the room. The time to first answer counts loading where the model is not there.

Two cases: pairs trained from K seeds on scikit-learn's digits (or --workdirs of your own), whose
answers are judged; and heavier ones of the registry with drawn weights, for speed and bytes only.
What is made lies below --workdir and is kept: the first run takes minutes more.

Linux can drop files from the page cache, so models are read from the disk when they are loaded,
and can limit a process's memory where this user may make a control group; the JSON says whether.
Prints a table and writes experiments/results/model_switching/<name>.json and <name>.png.
"""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from absl import flags

from experiments import results_file
from experiments.benchmarks import switching_models, switching_report
from experiments.benchmarks.control_group import memory_group
from experiments.benchmarks.switching_policies import POLICIES, Model
from experiments.benchmarks.switching_report import Case, Outcome
from experiments.benchmarks.switching_worker import Work
from experiments.benchmarks.zipf_trace import zipf_trace
from experiments.results_file import table, write_results
from launch import cli
from pwl_jax.errors import UserError

_WORKDIRS = flags.DEFINE_list("workdirs", [], "Distilled pairs to switch between.")
_CONFIG = flags.DEFINE_string(
    "config", "lenet5_digits", "Of experiments/configs: what is trained where no --workdirs are."
)
_EPOCHS = flags.DEFINE_integer("epochs", None, "Of teacher and student; the config's if not given.")
_DRAWN = flags.DEFINE_string(
    "drawn", "resnet_quarter", "Pair of the registry with drawn weights; empty for none."
)
_MODELS = flags.DEFINE_integer("models", 6, "K, where models are made here.", lower_bound=2)
_SHARE = flags.DEFINE_float("share", 1 / 3, "Of the teachers' weights that memory holds.", 0.0)
_REQUESTS = flags.DEFINE_integer("requests", 2000, "Of the first case.", lower_bound=1)
_DRAWN_REQUESTS = flags.DEFINE_integer("drawn_requests", 300, "Of the second.", lower_bound=1)
_ZIPF = flags.DEFINE_float("zipf", 1.0, "Popularity is 1 / rank to this power.", 0.0)
_PHASES = flags.DEFINE_integer("phases", 3, "Orders of popularity, one after another.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Processes of each policy.", lower_bound=1)
_PAUSE = flags.DEFINE_float("pause_ms", 3.0, "Between an answer and the next request.", 0.0)
_SEED = flags.DEFINE_integer("seed", 0, "Of the trace.")
_EXECUTOR = flags.DEFINE_string("executor", "onnxruntime", "Of live models: onnxruntime or jax.")
_SLACK = flags.DEFINE_integer(
    "slack_mib",
    256,
    "What the control group allows beyond the budget: sessions' own memory, while loading too.",
    lower_bound=1,
)
_CORES = flags.DEFINE_integer("cores", 2, "Processors that a process may use.", lower_bound=1)
_WORKDIR = flags.DEFINE_string("workdir", "reports/model_switching", "Where models are kept.")
_NAME = flags.DEFINE_string("name", "model_switching", "Name of the JSON file and the chart.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")

_ROOT = Path(__file__).parents[2]


def main() -> None:
    """Measures both cases."""
    if not _SHARE.value > 0:
        raise UserError(f"--share is {_SHARE.value}; expected more than 0")
    folder = Path(_WORKDIR.value)
    cases = [_measured(_judged(folder), _REQUESTS.value)]
    if _DRAWN.value:
        drawn = switching_models.drawn_models(_DRAWN.value, _MODELS.value, folder, _say)
        cases.append(_measured((f"{_DRAWN.value}, drawn", drawn), _DRAWN_REQUESTS.value))
    rows = [row for case in cases for row in switching_report.rows_of(case)]
    print("\n" + "\n".join(table(rows)))
    more = {
        "control_group": {case.name: case.group for case in cases},
        "page_cache_dropped": all(case.dropped for case in cases),
        "cores": _CORES.value,
        "trace": {
            "zipf": _ZIPF.value,
            "phases": _PHASES.value,
            "seed": _SEED.value,
            "loop": "closed, one request at a time",
            "pause_ms": _PAUSE.value,
        },
        "answered_by": {case.name: case.answered_by() for case in cases},
    }
    results = Path(_RESULTS.value)
    path = write_results("model_switching", _NAME.value, rows, results=results, more=more)
    switching_report.write_chart(cases, path.with_suffix(".png"))
    print(f"\nwritten to {path} and {path.with_suffix('.png').name}")


def _judged(folder: Path) -> tuple[str, list[Model]]:
    if _WORKDIRS.value:
        if len(_WORKDIRS.value) < 2:
            raise UserError("--workdirs names one model; expected at least two to switch between")
        models = switching_models.workdir_models([Path(w) for w in _WORKDIRS.value], folder)
        return f"{len(models)} workdirs", models
    known = sorted(path.stem for path in (_ROOT / "experiments/configs").glob("*_digits.py"))
    if _CONFIG.value not in known:
        raise UserError(f"--config is '{_CONFIG.value}'; expected one of {', '.join(known)}")
    models = switching_models.trained_models(
        _CONFIG.value, _MODELS.value, folder, _EPOCHS.value, _say
    )
    return f"{_CONFIG.value}, trained", models


def _measured(named: tuple[str, list[Model]], requests: int) -> Case:
    """All policies on one trace, interleaved; every other round backwards."""
    name, models = named
    budget = round(_SHARE.value * sum(model.float32_bytes for model in models))
    trace = zipf_trace(len(models), requests, _ZIPF.value, _PHASES.value, _SEED.value)
    limit = budget + (_SLACK.value << 20)
    outcomes: dict[str, list[Outcome]] = {policy: [] for policy in POLICIES}
    for turn in range(_ROUNDS.value):
        _say(f"{name}: round {turn + 1} of {_ROUNDS.value}")
        for policy in POLICIES[:: -1 if turn % 2 else 1]:
            with memory_group(f"model_switching_{os.getpid()}", limit) as (group, said):
                work = Work(
                    policy,
                    tuple(models),
                    trace,
                    budget,
                    _EXECUTOR.value,
                    pause=_PAUSE.value / 1e3,
                    groups=(group,) if group else (),
                    cores=_some_cores(),
                )
                outcomes[policy].append(_ran(work))
    group_said = f"{said}, {limit} bytes" if group else said
    return Case(name, tuple(models), budget, outcomes, group_said)


def _ran(work: Work) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "experiments.benchmarks.switching_worker"],
        input=json.dumps(dataclasses.asdict(work)),
        capture_output=True,
        text=True,
        cwd=_ROOT,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended by signal {-done.returncode}"]
        raise UserError(
            f"'{work.policy}' failed: {lines[-1]}; where it was killed for memory, try a larger "
            "--slack_mib"
        )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return Outcome(**found)


def _some_cores() -> tuple[int, ...]:
    usable = getattr(os, "sched_getaffinity", None)
    return tuple(sorted(usable(0))[: _CORES.value]) if usable else ()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    cli.run(main)
