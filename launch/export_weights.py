"""Writes the weights of one composition of a distilled pair to a single file.

  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --output=x.safetensors

SSSS is the student alone, TTTT the teacher alone. The file holds the tensors that the composition
reads, under their names in the checkpoint, and the pair's complete spec.
"""

from typing import Any

from absl import flags

from launch import cli, import_flag

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation.", required=True)
_COMPOSITION = flags.DEFINE_string(
    "composition", None, "One letter T or S a block, such as TTSS.", required=True
)
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors"], "Format of the file.")
_OUTPUT = flags.DEFINE_string("output", None, "The file to write.", required=True)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax import interop
    from pwl_jax.ladder import Composition
    from pwl_jax.training import workdir

    import_flag.import_modules()
    blocks = workdir.read_config(_WORKDIR.value).pair.num_blocks
    composition = Composition.parse(_COMPOSITION.value, blocks)
    which: Any = _CHECKPOINT.value
    model = workdir.load_model(_WORKDIR.value, which)
    weights = interop.ComposedWeights(model.config.pair, composition, model.variables)
    size = interop.write_weights(_OUTPUT.value, weights)
    print(f"{composition} of step {model.step}, {size:,} bytes of weights: {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
