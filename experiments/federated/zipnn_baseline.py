"""The same rounds with float32 weights packed by ZipNN: lossless, so only the bytes differ."""

import dataclasses
import sys
from collections.abc import Sequence

from experiments.benchmarks.json_worker import WorkerError
from experiments.benchmarks.rivals import rivals
from experiments.federated.messages import FederatedError
from experiments.federated.server import Round


def zipnn_rounds(rounds: Sequence[Round], python: str | None) -> tuple[list[Round] | None, str]:
    """The rounds of float32 weights as they would be with every body packed.

    Args:
      rounds: with their raw bodies.
      python: an interpreter that has zipnn; None tries this one.

    Returns:
      The rounds and ZipNN's version; None and why, where this interpreter has no zipnn.

    Raises:
      FederatedError: the interpreter that was named cannot do it.
    """
    named = python or sys.executable
    try:
        with rivals(named) as others:
            if "zipnn" in others.missing:
                if python is None:
                    return (
                        None,
                        "zipnn is not importable here; name an interpreter by --zipnn_python",
                    )
                raise WorkerError(others.missing["zipnn"])
            packed = []
            for found in rounds:
                answers = [others.zipnn([memoryview(body)], "float32") for body in found.bodies]
                sizes = [answer["bytes"] for answer in answers if answer]
                packed.append(_packed(found, sizes))
            return packed, others.versions["zipnn"]
    except WorkerError as error:
        raise FederatedError(f"ZipNN by '{named}': {error}") from error


def _packed(found: Round, sizes: Sequence[int]) -> Round:
    down, *up = (len(body) - size for body, size in zip(found.bodies, sizes, strict=True))
    bytes_down = found.down_bytes - down
    return dataclasses.replace(
        found,
        variant="zipnn",
        start_bytes=bytes_down,
        down_bytes=bytes_down,
        up_bytes=found.up_bytes - sum(up) / len(up),
        bodies=(),
    )
