"""Measures compositions of a distilled pair, or a network trained alone, on the test set.

  python -m launch.evaluate --workdir=W/pwl --orders=prefix,suffix,contiguous,all
  python -m launch.evaluate --workdir=W/teacher

Writes compositions.json, .csv and .png into the workdir.
"""

from typing import Any

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation, or of one network.")
_ORDERS = flags.DEFINE_list(
    "orders", ["prefix"], "Which compositions of a pair: prefix, suffix, contiguous, all."
)
_DATA = flags.DEFINE_string("data", None, "Data set; the one it was trained on where not given.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS prepared it, or the folder that holds it."
)
_SPLIT = flags.DEFINE_enum("split", "test", ["test", "validation", "train"], "Which images.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a step.", lower_bound=1)
flags.mark_flags_as_required(["workdir"])


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax.ladder import compositions_of
    from pwl_jax.training import composition_report, workdir

    which: Any = _CHECKPOINT.value
    split: Any = _SPLIT.value
    model: workdir.TrainedModel | workdir.TrainedNetwork
    if workdir.read_config(_WORKDIR.value).task == "distill":
        model = workdir.load_model(_WORKDIR.value, which)
        compositions = compositions_of(_ORDERS.value, model.hybrid.num_blocks)
        if not compositions:
            raise UserError("--orders names none; expected some of prefix, suffix, contiguous, all")
    else:
        model = workdir.load_network(_WORKDIR.value, which)
        if _ORDERS.present:
            raise UserError(
                f"--orders is for pairs; '{_WORKDIR.value}' holds a {model.config.task} alone"
            )
    source = workdir.open_data(model.config, split, _DATA.value, _DATA_DIR.value)
    if not len(source):
        raise UserError(f"split '{_SPLIT.value}' of '{source.name}' holds no images")
    if isinstance(model, workdir.TrainedModel):
        found = workdir.measure(model, compositions, source, _BATCH_SIZE.value)
    else:
        found = workdir.measure_network(model, source, _BATCH_SIZE.value)
    rows = composition_report.composition_rows(model, found)
    title = (
        f"{model.config.pair.name} on {source.name}, {_SPLIT.value} split, "
        f"{_CHECKPOINT.value} checkpoint (step {model.step})"
    )
    print(title)
    print(composition_report.composition_table(rows))
    composition_report.write_report(_WORKDIR.value, rows, title)


if __name__ == "__main__":
    cli.run(main)
