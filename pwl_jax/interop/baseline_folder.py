"""Checkpoint folders for the PyTorch baseline, and what an import keeps for writing them again.

A pair becomes `teacher_config/config.json`, `student_config/config.json` and `model.safetensors`,
one network `config.json` and `model.safetensors`: what the baseline's trainers leave and its
`eval_swapnet.py` loads. An imported workdir holds, below `import/`, the configs as they were and
`unused.safetensors`; from these, export gives back every tensor byte for byte.
"""

import json
from collections.abc import Mapping
from typing import Any

from etils import epath

from pwl_jax.bundle import safetensors_file
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.interop.baseline import (
    CONFIG,
    PREFIX,
    ROLES,
    WEIGHTS,
    Kept,
    network_tensors_of,
    tensors_of,
)
from pwl_jax.interop.baseline_configs import config_of
from pwl_jax.interop.baseline_layouts import VIT_LAYER
from pwl_jax.interop.safetensors_weights import InteropError, read_tensors
from pwl_jax.models.block_network import Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.models.spec import NetworkSpec
from pwl_jax.precision import canonical_json

FOLDER, UNUSED = "import", "unused.safetensors"

NOTHING_KEPT = Kept(tensors={}, configs={}, metadata={"format": "pt"}, prefix=PREFIX, naming="5")
"""For networks that were not imported: named as transformers 5 does, counters and norm as fresh."""


def write_pair(
    folder: epath.PathLike, pair: PairSpec, variables: Variables, kept: Kept = NOTHING_KEPT
) -> int:
    """Writes a pair as a checkpoint folder of the baseline.

    Of statistics per stream it gets the student's own, the only ones that the baseline has.

    Args:
      folder: one that does not exist yet, or is empty.
      pair, variables: the hybrid's.
      kept: what the import of it kept, if it was imported.

    Returns:
      Bytes of the tensors.

    Raises:
      InteropError: the baseline has no such networks, or the folder cannot be written; nothing is
        left there then.
    """
    configs = {
        f"{role}_config/{CONFIG}": config_of(spec)
        for role, spec in zip(ROLES, (pair.teacher, pair.student), strict=True)
    }
    tensors = tensors_of(pair, variables, kept.tensors, prefix=kept.prefix, naming=kept.naming)
    return _write(epath.Path(folder), configs, tensors, kept)


def write_network(
    folder: epath.PathLike, spec: NetworkSpec, variables: Variables, kept: Kept = NOTHING_KEPT
) -> int:
    """Writes one network as a checkpoint folder of the baseline; as `write_pair`."""
    configs = {CONFIG: config_of(spec)}
    tensors = network_tensors_of(spec, variables, kept.tensors, naming=kept.naming)
    return _write(epath.Path(folder), configs, tensors, kept)


def kept_files(kept: Kept) -> dict[str, bytes]:
    """What an imported workdir holds beside its checkpoint: content by path below the workdir."""
    metadata = {
        "prefix": kept.prefix,
        "naming": kept.naming,
        "metadata": canonical_json(dict(kept.metadata)).decode(),
    }
    unused = safetensors_file.write_safetensors(kept.tensors, metadata)
    return {
        f"{FOLDER}/{UNUSED}": unused,
        **{f"{FOLDER}/{path}": content for path, content in kept.configs.items()},
    }


def read_kept(workdir: epath.PathLike) -> Kept:
    """What `kept_files` left in a workdir; `NOTHING_KEPT` where it was not imported.

    Raises:
      InteropError: a file there is damaged.
    """
    root = epath.Path(workdir) / FOLDER
    if not (root / UNUSED).exists():
        return NOTHING_KEPT
    tensors, metadata = read_tensors(root / UNUSED)
    paths = [CONFIG, *(f"{role}_config/{CONFIG}" for role in ROLES)]
    try:
        if metadata["naming"] not in VIT_LAYER:
            raise ValueError(f"naming {metadata['naming']!r}")
        return Kept(
            tensors=tensors,
            configs={path: (root / path).read_bytes() for path in paths if (root / path).exists()},
            metadata=json.loads(metadata["metadata"]),
            prefix=metadata["prefix"],
            naming=metadata["naming"],
        )
    except (KeyError, ValueError, OSError) as error:
        raise InteropError(f"{root} is no longer what the import left: {error}") from error


def _write(
    root: epath.Path, configs: Mapping[str, Any], tensors: Mapping[str, Any], kept: Kept
) -> int:
    files = {path: (json.dumps(made, indent=2) + "\n").encode() for path, made in configs.items()}
    files |= {path: content for path, content in kept.configs.items() if path in files}
    files[WEIGHTS] = safetensors_file.write_safetensors(tensors, kept.metadata)
    existed = root.exists()
    if existed and (not root.is_dir() or any(root.iterdir())):
        raise InteropError(f"'{root}' holds something already; expected a folder of its own")
    written: list[epath.Path] = []
    try:
        for path, content in files.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            written.append(root / path)
            # The weights come last, whole or not at all: a folder without them is no checkpoint.
            with written_whole(root / path) as file:
                file.write(content)
    except BaseException as error:
        _remove(root, written, existed)
        if isinstance(error, OSError):
            raise InteropError(f"cannot write {root}: {error.strerror or error}") from error
        raise
    return sum(tensor.nbytes for tensor in tensors.values())


def _remove(root: epath.Path, written: list[epath.Path], existed: bool) -> None:
    if not existed:
        if root.exists():
            root.rmtree()
        return
    for path in written:
        if path.parent != root:
            path.parent.rmtree()
        elif path.exists():
            path.unlink()
