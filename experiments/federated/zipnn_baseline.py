"""The same rounds with float32 weights packed by ZipNN: lossless, so only the bytes differ."""

import dataclasses
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.federated.messages import FederatedError
from experiments.federated.server import Round

_PROGRAM = Path(__file__).with_name("zipnn_sizes.py")
_SECONDS = 120


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
    bodies = [body for found in rounds for body in found.bodies]
    with tempfile.TemporaryDirectory(prefix="zipnn-") as folder:
        paths = []
        for number, body in enumerate(bodies):
            path = Path(folder) / f"{number}.f32"
            path.write_bytes(body)
            paths.append(str(path))
        try:
            done = subprocess.run(
                [python or sys.executable, str(_PROGRAM), *paths],
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise FederatedError(f"ZipNN by '{python or sys.executable}': {error}") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"status {done.returncode}"]
        if python is None and "No module named 'zipnn'" in lines[-1]:
            return None, "zipnn is not importable here; name an interpreter by --zipnn_python"
        raise FederatedError(f"ZipNN by '{python or sys.executable}': {lines[-1]}")
    answer = json.loads(done.stdout)
    sizes, at, packed = answer["bytes"], 0, []
    for found in rounds:
        count = len(found.bodies)
        saved = [len(b) - n for b, n in zip(found.bodies, sizes[at : at + count], strict=True)]
        at += count
        down = found.down_bytes - saved[0]
        up = found.up_bytes - sum(saved[1:]) / (count - 1)
        packed.append(
            dataclasses.replace(
                found, variant="zipnn", start_bytes=down, down_bytes=down, up_bytes=up, bodies=()
            )
        )
    return packed, answer["version"]
