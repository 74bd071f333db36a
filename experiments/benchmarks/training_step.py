r"""The training step beside PyTorch's, on the same weights, images, batch and precision.

  python -m experiments.benchmarks.training_step --baseline_dir=CLONE \
      [--pairs=resnet,vgg] [--batch=128,512] [--dtype=float32,bfloat16] [--rounds=5] [--steps=50]

Columns, all of which train every prefix's logits: `ours`; `ours, aligned`, which also aligns every
stream's features; `baseline`, the modules and the distiller of a clone of the PWL baseline
(cross_mode=all) in a bare loop; `best`, the same loss in PyTorch with torch.compile, channels
last, fused SGD, and CUDA graphs where they work. bfloat16 is autocast there. Two kinds of timing:
the step alone, on a batch that lies on the device, and end to end, with feeding and augmentation
(ours and best: set and augmentation on the device; baseline: Pillow in the processes of its
loader). PyTorch runs in a process of its own, in which idle threads sleep; --torch_python names
another interpreter for it, with torch and transformers. Timings are interleaved. First the losses
of three steps are compared; where they differ nothing is timed. Without --baseline_dir our own
columns are measured.

What all prefixes cost over plain distillation is measured by experiments.benchmarks.prefix_walk.
Prints a table and writes experiments/results/training_step/<name>.json.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
from absl import flags

from experiments import results_file
from experiments.benchmarks import step_cases
from experiments.benchmarks.compared_steps import drawn_work
from experiments.benchmarks.step_comparison import comparison, rows_of
from experiments.benchmarks.torch_side import PASSIVE, TorchSide, torch_side
from experiments.results_file import Row, table, write_results
from launch import cli
from pwl_jax.errors import UserError

_BASELINE = flags.DEFINE_string("baseline_dir", None, "A clone of the PWL baseline.")
_PYTHON = flags.DEFINE_string("torch_python", sys.executable, "Interpreter with PyTorch.")
_PAIRS = flags.DEFINE_list(
    "pairs",
    [],
    "Pairs of the registry (default elsewhere than on CPU: resnet, vgg, vit), or resnet_small, "
    "vgg_small, vit_small (default on CPU).",
)
_BATCH = flags.DEFINE_list("batch", [], "Examples a step, one number or more; 32 on CPU, else 128.")
_DTYPE = flags.DEFINE_list(
    "dtype", ["float32"], "float32, bfloat16 or both; bfloat16 takes PyTorch minutes on most CPUs."
)
_EXAMPLES = flags.DEFINE_integer("examples", 2048, "Images of the set.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Timings of each column.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 0, "Steps in a timing; 0: 3 on CPU, else 50.", lower_bound=0)
_DISPATCH = flags.DEFINE_integer(
    "steps_per_dispatch", 0, "Ours, end to end; 0: 1 on CPU, else 10.", lower_bound=0
)
_TF32 = flags.DEFINE_bool("tf32", True, "Whether a GPU may round float32 products to TF32.")
_END_TO_END = flags.DEFINE_bool("end_to_end", True, "Whether to time feeding and augmentation too.")
_NAME = flags.DEFINE_string("name", "training_step", "Name of the JSON file.")
_RESULTS = flags.DEFINE_string("results_dir", str(results_file.RESULTS), "Where results lie.")


def main() -> None:
    """Measures every pair and batch."""
    # PyTorch's process shares the device's memory.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    for dtype in _DTYPE.value:
        if dtype not in ("float32", "bfloat16"):
            raise UserError(f"--dtype has '{dtype}'; expected float32 or bfloat16")
    for text in _BATCH.value:
        if not text.isdigit() or not int(text):
            raise UserError(f"--batch has '{text}'; expected whole numbers, at least 1")
    cpu = jax.default_backend() == "cpu"
    if not cpu and not _TF32.value:
        jax.config.update("jax_default_matmul_precision", "highest")
    small, full = ["resnet_small", "vgg_small", "vit_small"], ["resnet", "vgg", "vit"]
    rows: list[Row] = []
    with _torch() as torch:
        more = {
            **step_cases.machine(),
            "tf32": "does not apply" if cpu else "on" if _TF32.value else "off",
            "pytorch": {**torch.machine, "environment": PASSIVE} if torch else None,
        }
        for name in _PAIRS.value or (small if cpu else full):
            for batch in _BATCH.value or ["32" if cpu else "128"]:
                rows += measured(name, int(batch), torch)
    path = write_results(
        "training_step", _NAME.value, rows, results=Path(_RESULTS.value), more=more
    )
    print(f"\nwritten to {path}")


def measured(name: str, batch: int, torch: TorchSide | None) -> list[Row]:
    """One pair and batch, its rows printed."""
    backend = jax.default_backend()
    compared = comparison(
        f"{name}, batch {batch}",
        {dtype: drawn_work(name, dtype, batch, _EXAMPLES.value) for dtype in _DTYPE.value},
        torch,
        end_to_end=_END_TO_END.value,
        steps_per_dispatch=_DISPATCH.value or (1 if backend == "cpu" else 10),
    )
    print("\n".join(compared.check(_TF32.value and backend != "cpu")), flush=True)
    seconds = compared.seconds(_ROUNDS.value, _STEPS.value or (3 if backend == "cpu" else 50))
    case, family = compared.case, compared.family
    rows = rows_of(case, family, batch, backend, seconds, compared.notes)
    print("\n".join(table(rows)), flush=True)
    return rows


@contextlib.contextmanager
def _torch() -> Iterator[TorchSide | None]:
    if _BASELINE.value is None:
        print("no --baseline_dir: our own columns alone\n", flush=True)
        yield None
        return
    with torch_side(_PYTHON.value, Path(_BASELINE.value), _TF32.value) as side:
        yield side


if __name__ == "__main__":
    cli.run(main)
