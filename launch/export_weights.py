"""Writes the weights of one composition of a distilled pair, or of one network, to a single file.

  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --output=x.safetensors
  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --format=onnx --output=x.onnx
  python -m launch.export_weights --workdir=W/teacher --format=onnx --output=teacher.onnx
  python -m launch.export_weights --workdir=W/pwl --format=baseline --output=DIR

SSSS is the student alone, TTTT the teacher alone; a network that was trained alone needs no
--composition. A safetensors file holds the tensors that the composition reads, under their names in
the checkpoint. An ONNX file is the network itself, images to logits for any batch, in float32. Both
say in their metadata which pair, composition, classes and preprocessing they are of.

--fold_batch_norm folds every BatchNorm into the convolution before it: fewer tensors and faster
inference elsewhere, logits equal but for rounding.

--format=baseline writes a whole pair, or a network trained alone, as a checkpoint folder of the
PyTorch baseline, which its eval_swapnet.py evaluates.
"""

import dataclasses
from typing import Any

from absl import flags

from launch import cli, import_flag
from pwl_jax.errors import UserError

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Workdir of a distillation, or of one network.", required=True
)
_COMPOSITION = flags.DEFINE_string(
    "composition", None, "One letter T or S a block, such as TTSS; not needed for one network."
)
_FORMAT = flags.DEFINE_enum("format", "safetensors", ["safetensors", "onnx", "baseline"], "Format.")
_OUTPUT = flags.DEFINE_string(
    "output",
    None,
    "The file to write, ending in .<format>, one that exists is replaced; or a new folder.",
    required=True,
)
_FOLD = flags.DEFINE_bool(
    "fold_batch_norm", False, "Fold BatchNorms into the convolutions before them."
)
_TRANSFORMERS = flags.DEFINE_enum(
    "transformers",
    None,
    ["4", "5"],
    "Version that will read a ViT with --format=baseline; the import's, or 5, where not given.",
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)


def main() -> None:
    """Runs the command from its flags."""
    import_flag.import_modules()
    if _FORMAT.value == "baseline":
        _write_baseline()
    else:
        _write_composition()


def _write_composition() -> None:
    if _TRANSFORMERS.value is not None:
        raise UserError("--transformers is for --format=baseline alone")
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


def _write_baseline() -> None:
    from pwl_jax.interop import baseline_folder
    from pwl_jax.training import workdir

    if _COMPOSITION.value is not None:
        raise UserError("--composition is not for --format=baseline, which takes the whole pair")
    if _FOLD.value:
        raise UserError("--fold_batch_norm is not for --format=baseline, which keeps them")
    which: Any = _CHECKPOINT.value
    kept = baseline_folder.read_kept(_WORKDIR.value)
    naming: Any = _TRANSFORMERS.value
    if naming is not None:
        kept = dataclasses.replace(kept, naming=naming)
    config = workdir.read_config(_WORKDIR.value)
    if config.task == "distill":
        pair = workdir.load_model(_WORKDIR.value, which)
        size = baseline_folder.write_pair(_OUTPUT.value, config.pair, pair.variables, kept)
        by_stream = pair.variables["student"]["batch_stats"]
        if config.pair.statistics == "per_stream" and by_stream["own"]:
            print(
                "the baseline has one set of running averages and gets the student's own: "
                "compositions with a student block behind a teacher's compute something else there"
            )
    else:
        network = workdir.load_network(_WORKDIR.value, which)
        spec = getattr(config.pair, str(config.task))
        size = baseline_folder.write_network(_OUTPUT.value, spec, network.variables, kept)
    print(f"{config.pair.name}, {size:,} bytes of tensors: {_OUTPUT.value}")


if __name__ == "__main__":
    cli.run(main)
