"""Measures compositions of a distilled pair, or a network trained alone, on the test set.

  python -m launch.evaluate --workdir=W/pwl --orders=prefix,suffix,contiguous,all
  python -m launch.evaluate --workdir=W/pwl --checkpoint=best,last
  python -m launch.evaluate --workdir=W/teacher

Writes compositions.json, .csv and .png into the workdir. A family of networks that is not the
library's is known by --import=my.module.

With --best_order it also measures all compositions of a pair on the validation split, finds the
order of swaps with the largest area under accuracy over bytes, and writes order.json, which
launch.export --order=best takes. With --recalibrate=IMAGES every composition has BatchNorm
statistics of its own, from so many training images, which no bundle holds:
compositions_recalibrated.json.
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
_BEST_ORDER = flags.DEFINE_bool(
    "best_order", False, "Find the best order of swaps on the validation split; order.json."
)
_RECALIBRATE = flags.DEFINE_integer(
    "recalibrate", 0, "Training images for statistics of each composition; 0: not.", lower_bound=0
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
    for flag in (_ORDERS, _BEST_ORDER, _RECALIBRATE):
        if alone and flag.present:
            task = workdir.read_config(path).task
            raise UserError(f"--{flag.name} is for pairs; '{path}' holds a {task} alone")
    asked: list[Any] = _CHECKPOINTS.value
    held = [held_result(path, which) for which in asked]
    found = {which: _measured(path, which, alone) for which in dict.fromkeys(held)}
    rows = [row for rows, _ in found.values() for row in rows]
    for which, (those, title) in found.items():
        print(f"{title}, {which} checkpoint (step {those[0]['step']})")
        print(composition_report.composition_table(those))
    title = next(title for _, title in found.values())
    name = "compositions"
    if _RECALIBRATE.value:
        title, name = f"{title}, recalibrated", f"{name}_recalibrated"
    composition_report.write_report(path, rows, title, name)
    if _BEST_ORDER.value:
        _find_order(path, next(iter(found)))


def _find_order(path: str, which: Any) -> None:
    """Writes the best order of one checkpoint's pair, and says what it is worth."""
    from pwl_jax.export.best_order import find_best_order, write_order
    from pwl_jax.training import workdir

    model = workdir.load_model(path, which)
    source = workdir.open_data(model.config, "validation", _DATA.value, _DATA_DIR.value)
    found = find_best_order(model, source, _BATCH_SIZE.value)
    write_order(path, found)
    print(
        f"best order: {', '.join(map(str, found.order))}: area {100 * found.area:.2f} %, of the "
        f"prefixes {100 * found.prefix_area:.2f} % ({found.examples} validation images)"
    )


def _measured(path: str, which: Any, alone: bool) -> tuple[list[dict[str, Any]], str]:
    """The rows of one checkpoint, and what it was measured on."""
    from pwl_jax.ladder import compositions_of
    from pwl_jax.training import composition_report, workdir
    from pwl_jax.training.recalibration import measure_recalibrated

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
    if isinstance(model, workdir.TrainedModel) and _RECALIBRATE.value:
        own_dir = None if _DATA.value else _DATA_DIR.value
        training = workdir.open_data(model.config, "train", data_dir=own_dir)
        found = measure_recalibrated(
            model, compositions, source, training, _RECALIBRATE.value, _BATCH_SIZE.value
        )
    elif isinstance(model, workdir.TrainedModel):
        found = workdir.measure(model, compositions, source, _BATCH_SIZE.value)
    else:
        found = workdir.measure_network(model, source, _BATCH_SIZE.value)
    rows = composition_report.composition_rows(
        model, found, checkpoint=which, data=source.name, split=split
    )
    return rows, f"{model.config.pair.name} on {source.name}, {split} split"


if __name__ == "__main__":
    cli.run(main)
