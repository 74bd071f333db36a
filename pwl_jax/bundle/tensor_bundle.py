"""Tensors of any model as a bundle: no network, no programs, only precision."""

import os
from collections.abc import Mapping, Sequence

import numpy as np

from pwl_jax.bundle import signature, strict_json
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.manifest import Manifest
from pwl_jax.bundle.reader import BundleReader
from pwl_jax.bundle.writer import BundleWriter
from pwl_jax.ladder import EXACT, Bits, Composition, Rung, Unit
from pwl_jax.precision import Quantization

METADATA_FIELD = "safetensors_metadata"
"""Where the manifest's `pair` keeps what the file said beside its tensors."""


def metadata_of(manifest: Manifest) -> dict[str, str] | None:
    """What the safetensors file, of which a bundle was made, said beside its tensors.

    Raises:
      BundleError: the manifest has something else there.
    """
    if METADATA_FIELD not in manifest.pair:
        return None
    where = f"pair['{METADATA_FIELD}']"
    found = strict_json.items(manifest.pair[METADATA_FIELD], where)
    return {
        name: strict_json.typed(text, str, f"{where}['{name}']") for name, text in found.items()
    }


def write_tensor_bundle(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray],
    stages: Sequence[Bits],
    *,
    quantization: Quantization = Quantization(),
    metadata: Mapping[str, str] | None = None,
    sign_key: signature.Key = None,
    against: BundleReader | None = None,
    created_with: Mapping[str, str] | None = None,
) -> Manifest:
    """Writes a bundle of one block, all tensors of which come in the same stages.

    Its rungs are `T@4`, `T@8`, `T@exact` for stages (4, 8, "exact").

    Args:
      path: folder of the bundle; an existing bundle is replaced.
      tensors: by name; each is asked for once, so that a mapping which loads them takes little
        memory.
      stages: ascending, the last one "exact".
      quantization: how codes are chosen.
      metadata: kept, and given back with the tensors.
      sign_key, against: see `BundleWriter`; with `against` the only stage is "exact".
      created_with: versions.

    Raises:
      UserError: stages or tensors that cannot be coded, or a path that cannot be written.
    """
    stages = stages if against is None else (EXACT,)
    if tuple(stages[-1:]) != (EXACT,):
        raise BundleError(f"stages {list(stages)} do not end in exact, such as [4, 'exact']")
    composition = Composition.prefix(1, 1)
    with BundleWriter(path, sign_key=sign_key, against=against) as writer:
        writer.add_unit(Unit("teacher", 0), tensors, stages, quantization=quantization)
        return writer.finish(
            pair={METADATA_FIELD: dict(metadata)} if metadata else {},
            preprocessing=None,
            classes=(),
            blocks=1,
            ladder=[Rung.uniform(composition, stage) for stage in stages],
            created_with=created_with,
        )
