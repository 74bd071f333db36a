r"""Writes the weights of one composition of a distilled pair to a single file.

  python -m launch.export_weights --workdir=W/pwl --composition=TTSS --output=x.safetensors
  python -m launch.export_weights --workdir=W/pwl --format=baseline --output=DIR

SSSS is the student alone, TTTT the teacher alone. The file holds the tensors that the composition
reads, under their names in the checkpoint, and the pair's complete spec.

--format=baseline writes a whole pair, or a network trained alone, as a checkpoint folder of the
PyTorch baseline, which its eval_swapnet.py evaluates.
"""

import dataclasses
from typing import Any

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation.", required=True)
_COMPOSITION = flags.DEFINE_string(
    "composition", None, "One letter T or S a block, such as TTSS; not with --format=baseline."
)
_FORMAT = flags.DEFINE_enum(
    "format", "safetensors", ["safetensors", "baseline"], "Format of the file or folder."
)
_OUTPUT = flags.DEFINE_string("output", None, "The file or folder to write.", required=True)
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
    if _FORMAT.value == "baseline":
        _write_baseline()
    else:
        _write_composition()


def _write_composition() -> None:
    from pwl_jax import interop
    from pwl_jax.ladder import Composition
    from pwl_jax.training import workdir

    if _COMPOSITION.value is None:
        raise UserError("--composition is missing; expected one letter T or S a block")
    blocks = workdir.read_config(_WORKDIR.value).pair.num_blocks
    composition = Composition.parse(_COMPOSITION.value, blocks)
    which: Any = _CHECKPOINT.value
    model = workdir.load_model(_WORKDIR.value, which)
    weights = interop.ComposedWeights(model.config.pair, composition, model.variables)
    size = interop.write_weights(_OUTPUT.value, weights)
    print(f"{composition} of step {model.step}, {size:,} bytes of weights: {_OUTPUT.value}")


def _write_baseline() -> None:
    from pwl_jax.interop import baseline_folder
    from pwl_jax.training import workdir

    if _COMPOSITION.value is not None:
        raise UserError("--composition is not for --format=baseline, which takes the whole pair")
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
