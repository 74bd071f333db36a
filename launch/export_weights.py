"""Writes the weights of one composition of a distilled pair, or of one network, to a single file.

  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --output=x.safetensors
  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --format=onnx --output=x.onnx
  python -m launch.export_weights --workdir=W/teacher --format=onnx --output=teacher.onnx

SSSS is the student alone, TTTT the teacher alone; a network that was trained alone needs no
--composition. A safetensors file holds the tensors that the composition reads, under their names in
the checkpoint. An ONNX file is the network itself, images to logits for any batch, in float32. Both
say in their metadata which pair, composition, classes and preprocessing they are of.

--fold_batch_norm folds every BatchNorm into the convolution before it: fewer tensors and faster
inference elsewhere, logits equal but for rounding.
"""

from typing import Any

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Workdir of a distillation, or of one network.", required=True
)
_COMPOSITION = flags.DEFINE_string(
    "composition", None, "One letter T or S a block, such as TTSS; not needed for one network."
)
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors", "onnx"], "Format of the file.")
_OUTPUT = flags.DEFINE_string(
    "output", None, "The file to write, ending in .<format>; one that exists is replaced.",
    required=True,
)  # fmt: skip
_FOLD = flags.DEFINE_bool(
    "fold_batch_norm", False, "Fold BatchNorms into the convolutions before them."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)


def main() -> None:
    """Runs the command from its flags."""
    _write_composition()


def _write_composition() -> None:
    from pwl_jax import interop
    from pwl_jax.export.exporter import as_hybrid
    from pwl_jax.ladder import Composition
    from pwl_jax.training import workdir

    path, where = _OUTPUT.value, _WORKDIR.value
    if not path.endswith(f".{_FORMAT.value}"):
        raise UserError(f"--output is '{path}'; expected a name that ends in .{_FORMAT.value}")
    which: Any = _CHECKPOINT.value
    config = workdir.read_config(where)
    composition = None
    if _COMPOSITION.value is not None:
        composition = Composition.parse(_COMPOSITION.value, config.pair.num_blocks)
    model: workdir.TrainedModel | workdir.TrainedNetwork
    if config.task != "distill":
        model = workdir.load_network(where, which)
        if composition not in (None, model.composition):
            raise UserError(
                f"'{where}' holds a {config.task} alone, which is {model.composition}; "
                f"--composition is {composition}"
            )
        composition = model.composition
    elif composition is None:
        raise UserError("--composition is missing; expected one letter T or S a block")
    else:
        model = workdir.load_model(where, which)
    weights = interop.ComposedWeights(
        config.pair,
        composition,
        as_hybrid(model)[1],
        workdir.class_names(config),
        workdir.preprocessing_of(config),
    )
    write = interop.write_weights
    if _FORMAT.value == "onnx":
        from pwl_jax.interop.onnx_weights import write_onnx as write
    size = write(path, weights, _FOLD.value)
    print(f"{composition} of step {model.step}, {size:,} bytes of weights: {path}")


if __name__ == "__main__":
    cli.run(main)
