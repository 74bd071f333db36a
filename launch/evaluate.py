"""Measures compositions of a distilled pair, or a network trained alone, on the test set.

  python -m launch.evaluate --workdir=W/pwl --orders=prefix,suffix,contiguous,all
  python -m launch.evaluate --workdir=W/pwl --checkpoint=best,last
  python -m launch.evaluate --workdir=W/teacher

Writes compositions.json, .csv and .png into the workdir. A family of networks that is not the
library's is known by --import=my.module.
"""

from typing import Any

from absl import flags

from launch import cli, import_flag
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
_CHECKPOINTS = flags.DEFINE_list(
    "checkpoint", ["best"], "Best on the validation split, or the last, or both: best,last."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 256, "Images a step.", lower_bound=1)
flags.mark_flags_as_required(["workdir"])


flags.register_validator(
    "checkpoint",
    lambda names: names and len(set(names)) == len(names) and set(names) <= {"best", "last"},
    "expected best, last or best,last",
)


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax.training import composition_report, workdir
    from pwl_jax.training.checkpoints import held_result

    import_flag.import_modules()
    path = _WORKDIR.value or ""
    alone = workdir.read_config(path).task != "distill"
    if alone and _ORDERS.present:
        raise UserError(
            f"--orders is for pairs; '{path}' holds a {workdir.read_config(path).task} alone"
        )
    asked: list[Any] = _CHECKPOINTS.value
    held = [held_result(path, which) for which in asked]
    found = {which: _measured(path, which, alone) for which in dict.fromkeys(held)}
    rows = [row for rows, _ in found.values() for row in rows]
    for which, (those, title) in found.items():
        print(f"{title}, {which} checkpoint (step {those[0]['step']})")
        print(composition_report.composition_table(those))
    title = next(title for _, title in found.values())
    composition_report.write_report(path, rows, title)


def _measured(path: str, which: Any, alone: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows of one checkpoint, and what it was measured on."""
    from pwl_jax.ladder import compositions_of
    from pwl_jax.training import composition_report, workdir

    split: Any = _SPLIT.value
    model: workdir.TrainedModel | workdir.TrainedNetwork
    if alone:
        model = workdir.load_network(path, which)
    else:
        model = workdir.load_model(path, which)
        compositions = compositions_of(_ORDERS.value, model.hybrid.num_blocks)
        if not compositions:
            raise UserError("--orders names none; expected some of prefix, suffix, contiguous, all")
    source = workdir.open_data(model.config, split, _DATA.value, _DATA_DIR.value)
    if not len(source):
        raise UserError(f"split '{split}' of '{source.name}' holds no images")
    if isinstance(model, workdir.TrainedModel):
        found = workdir.measure(model, compositions, source, _BATCH_SIZE.value)
    else:
        found = workdir.measure_network(model, source, _BATCH_SIZE.value)
    rows = composition_report.composition_rows(
        model, found, checkpoint=which, data=source.name, split=split
    )
    return rows, f"{model.config.pair.name} on {source.name}, {split} split"


if __name__ == "__main__":
    cli.run(main)
