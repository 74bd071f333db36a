"""The programs whose first answers are compared: each a process from its start to its logits."""

import dataclasses
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from experiments.benchmarks.first_case import BITS
from pwl_jax.errors import UserError

WORKERS = Path(__file__).parent / "first_workers"
ROOT = Path(__file__).parents[2]
CLOSE = 1e-5
"""Of the largest |logit|: how far apart exact columns of one network may answer."""


class ColumnError(UserError):
    """A column that fails, or that answers otherwise than the others."""


@dataclasses.dataclass(frozen=True)
class Column:
    """One program.

    Attributes:
      name: for tables.
      worker: file in `first_workers`.
      arguments: before the image and the file of the logits.
      network: whose logits it gives in full precision, and must agree with others about.
      python: the interpreter.
    """

    name: str
    worker: str
    arguments: tuple[str, ...]
    network: str | None = None
    python: str = sys.executable


def columns_of(
    case: Path, blocks: int, coded: bool, torch_python: str | None, clone: Path | None
) -> list[Column]:
    """All columns of a case.

    Args:
      case: see `first_case`.
      blocks: of its networks.
      coded: whether it has its low-precision forms.
      torch_python: an interpreter with PyTorch, if there is one.
      clone: of the baseline, if there is one.
    """
    student, teacher = "S" * blocks, "T" * blocks
    columns = []
    for executor in ("onnxruntime", "jax"):
        for rung, bundle, network in (
            (f"{student}@exact", "exact", "student"),
            (f"{student}@{BITS}", "coded", None),
            (f"{teacher}@exact", "exact", "teacher"),
        ):
            if coded or bundle == "exact":
                given = (str(case / bundle), rung, executor)
                name = f"ours, {executor}, {named(rung)}"
                columns.append(Column(name, "live_bundle.py", given, network))
    for network in ("student", "teacher"):
        for form in ("", ".optimized", ".int8"):
            if coded or not form:
                name = f"ONNX Runtime, {network}" + form.replace(".", ", ")
                model = str(case / f"{network}{form}.onnx")
                exact = None if form == ".int8" else network
                columns.append(Column(name, "bare_onnx.py", (model,), exact))
        variables, spec = case / f"{network}.jax.safetensors", case / f"{network}.json"
        files = (str(variables), str(spec))
        columns.append(Column(f"JAX jit, {network}", "plain_jax.py", files, network))
        if torch_python is not None:
            folder, name = str(case / f"{network}.torch"), f"PyTorch, {network}"
            columns.append(Column(name, "plain_torch.py", (folder,), network, torch_python))
    if torch_python is not None and clone is not None:
        arguments = (str(clone.resolve()), str(case / "teacher.torch"))
        columns.append(
            Column("baseline, teacher", "baseline_torch.py", arguments, "teacher", torch_python)
        )
    for form in ("", ".int8"):
        file = case / f"mobilenet_v2{form}.onnx"
        if file.exists():
            name = "ONNX Runtime, MobileNetV2" + form.replace(".", ", ")
            columns.append(Column(name, "bare_onnx.py", (str(file),)))
    return columns


def named(rung: str) -> str:
    """What stands in a column's name for a rung."""
    composition, _, bits = rung.partition("@")
    network = "student" if composition[0] == "S" else "teacher"
    return f"{network}" if bits == "exact" else f"{network} in {bits} bits"


def timed(
    columns: Sequence[Column], case: Path, rounds: int, environment: dict[str, str]
) -> dict[str, list[float]]:
    """Seconds from a process's start to its logits, by column, interleaved.

    A round before, which is not timed, fills the page cache and the cache of executables, and
    compares the logits.

    Raises:
      ColumnError: a column fails, or answers otherwise than the others of its network.
    """
    answers = {column.name: first_answer(column, case, environment)[1] for column in columns}
    _check_agreement(columns, answers)
    seconds: dict[str, list[float]] = {column.name: [] for column in columns}
    for _ in range(rounds):
        for column in columns:
            seconds[column.name].append(first_answer(column, case, environment)[0])
    return seconds


def first_answer(
    column: Column, case: Path, environment: dict[str, str]
) -> tuple[float, np.ndarray]:
    """Seconds until a new process has its logits, and the logits."""
    output = case / "logits.npy"
    files = [str(WORKERS / column.worker), *column.arguments, str(case / "image.npy"), str(output)]
    # Python's clock is the machine's, the same in every process.
    began = time.monotonic()
    done = subprocess.run(
        [column.python, *files], capture_output=True, text=True, env=environment, check=False
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no message"]
        raise ColumnError(f"'{column.name}' failed: {said[-1]}")
    return float(done.stdout.split()[-1]) - began, np.load(output)


def environment(cache: Path) -> dict[str, str]:
    """Of all columns: executables in a folder of their own, modules compiled as once installed."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPATH": str(ROOT), "PWL_EXECUTABLE_CACHE": str(cache)}


def can_import(python: str, modules: Iterable[str]) -> bool:
    """Whether an interpreter has these modules."""
    code = f"import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, {[*modules]})))"
    try:
        return not subprocess.run([python, "-c", code], capture_output=True, check=False).returncode
    except OSError:
        return False


def _check_agreement(columns: Sequence[Column], answers: dict[str, np.ndarray]) -> None:
    first: dict[str, str] = {}
    for column in columns:
        if column.network is None:
            continue
        other = first.setdefault(column.network, column.name)
        expected = answers[other]
        apart = np.abs(answers[column.name] - expected).max() / np.abs(expected).max()
        if not apart <= CLOSE:
            raise ColumnError(
                f"'{column.name}' and '{other}' are {apart:.1e} of the largest logit apart; "
                f"expected at most {CLOSE}"
            )
