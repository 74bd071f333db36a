"""Writes the tensors of a bundle to one safetensors file, restored to the original bit.

  python -m launch.restore --bundle=B --output=weights.safetensors
  python -m launch.restore --bundle=B --output=weights.safetensors --stage=4

Base codes and updates are read and joined; each tensor is checked against the hash of the original.
With --stage=4 the tensors are written as a receiver of the 4-bit codes sees them, which no hash of
the original can vouch for; what is only stored exactly stays exact. Tensors are written one by
one, so memory is what the largest of them takes.

  python -m launch.restore --bundle=NEW --against=OLD --output=weights.safetensors

A delta bundle holds what changed since another one, which --against names.
"""

from absl import flags

from launch import bundle_flags, cli
from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.safetensors_file import SafetensorsLayout
from pwl_jax.bundle.tensor_bundle import metadata_of
from pwl_jax.bundle.whole_file import written_whole
from pwl_jax.errors import UserError
from pwl_jax.ladder import EXACT, Bits, Unit, parse_bits
from pwl_jax.precision import byte_count

_BUNDLE = flags.DEFINE_string("bundle", None, "Folder or address of the bundle.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "The safetensors file to write.", required=True)
_STAGE = flags.DEFINE_string("stage", EXACT, "Precision to restore: 2 to 8 bits, or exact.")
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Where files fetched from an address are kept.")


def main() -> None:
    """Runs the command from its flags."""
    stage = parse_bits(_STAGE.value)
    reader = bundle_flags.opened(_BUNDLE.value, _CACHE_DIR.value)
    chosen = stages_at(reader, stage)
    declared = {name: (entry.dtype, entry.shape) for name, entry in reader.manifest.tensors.items()}
    layout = SafetensorsLayout(declared, metadata_of(reader.manifest))
    with written_whole(_OUTPUT.value) as file:
        layout.write_header(file)
        for unit, here in chosen.items():
            for name, array in reader.each_tensor(unit, here):
                layout.write_tensor(file, name, array)
                # Else it would be held while the next is decoded.
                del array
    size = sum(byte_count(dtype, shape) for dtype, shape in declared.values())
    proof = "each equal to the original by its hash" if stage == EXACT else f"at {stage} bits"
    print(f"{len(declared)} tensors, {size:,} bytes, {proof}: {_OUTPUT.value}")


def stages_at(reader: BundleReader, stage: Bits) -> dict[Unit, Bits]:
    """The precision to read each unit at: `stage`, or exact where the unit has nothing else.

    Raises:
      UserError: no unit, or only some of those with several precisions, have `stage`.
    """
    held = {Unit.parse(unit): list(stages) for unit, stages in reader.manifest.stages.items()}
    chosen: dict[Unit, Bits] = {}
    for unit, stages in held.items():
        chosen[unit] = stage if stages != [EXACT] else EXACT
        if chosen[unit] not in stages:
            offered = ", ".join(map(str, stages))
            raise UserError(f"the bundle has no stage {stage} of {unit}; it has {offered}")
    if stage != EXACT and stage not in chosen.values():
        raise UserError(f"the bundle has no stage {stage}; all it holds is exact")
    return chosen


if __name__ == "__main__":
    cli.run(main)
