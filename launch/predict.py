r"""Classifies images by any rung of a bundle, or by any composition of a training workdir.

  python -m launch.predict --bundle=B --input=image.png
  python -m launch.predict --bundle=https://host/bundle --input=batch.npy --output=logits.npy \
      --rung=TTSS@4
  python -m launch.predict --workdir=W/pwl --input=batch.npy --rung=TSTS
  python -m launch.predict --workdir=W/teacher --input=image.png

A float32 .npy is taken as a normalised batch [N, height, width, channels], as it is; images and
uint8 arrays are prepared as the bundle says. Without --rung the bundle's best rung answers, or the
workdir's teacher; a workdir holds exact weights only. Only what a rung reads is fetched.
"""

from typing import Any

from absl import flags

from launch import bundle_flags, cli, files, import_flag
from pwl_jax.runtime import LiveModel, Prediction, executor_names

_BUNDLE = flags.DEFINE_string("bundle", None, "Folder or address of the bundle to answer from.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Training workdir to answer from.")
_INPUT = flags.DEFINE_string(
    "input", None, "Image file, or .npy array, to classify.", required=True
)
_RUNG = flags.DEFINE_string(
    "rung", None, "Rung to answer from, such as TTSS@4; a bare TTSS means its most exact rung."
)
_OUTPUT = flags.DEFINE_string("output", None, "Where to write float32 logits as .npy.")
_EXECUTOR = flags.DEFINE_enum(
    "executor", "auto", ["auto", *executor_names()], "What computes the answer."
)
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Where files fetched from an address are kept.")
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Of a workdir: best on the validation split, or last."
)
flags.mark_flags_as_mutual_exclusive(["bundle", "workdir"], required=True)

ROWS_PRINTED = 20


def main() -> None:
    """Runs the command from its flags."""
    inputs = files.read_input(_INPUT.value)
    if _BUNDLE.value is not None:
        prediction = _from_bundle(_BUNDLE.value, inputs)
    else:
        prediction = _from_workdir(_WORKDIR.value or "", inputs)
    if _OUTPUT.value:
        files.write_array(_OUTPUT.value, prediction.logits)
    print_prediction(prediction)


def _from_workdir(path: str, inputs: Any) -> Prediction:
    # Answering from a bundle must not import what trains.
    from launch.workdir_model import workdir_prediction

    import_flag.import_modules()
    which: Any = _CHECKPOINT.value
    return workdir_prediction(path, inputs, _RUNG.value, which, _EXECUTOR.value)


def _from_bundle(path: str, inputs: Any) -> Prediction:
    with LiveModel.open(
        path,
        executor=_EXECUTOR.value,
        cache_dir=_CACHE_DIR.value,
        rung=_RUNG.value,
        climb=False,
        exact_batches=True,
        warm_batches=(),
        **bundle_flags.options(),
    ) as model:
        return model.predict(inputs)


def print_prediction(prediction: Prediction) -> None:
    """Prints the rung and, for the first images, class and probability."""
    print(f"rung {prediction.rung}, executor {prediction.executor}")
    probabilities = prediction.probabilities
    for row, index in enumerate(prediction.classes[:ROWS_PRINTED]):
        label = prediction.label(int(index))
        print(f"{row:5d}  {label}  {100 * probabilities[row, index]:.1f} %")
    if len(prediction.classes) > ROWS_PRINTED:
        print(f"  ... and {len(prediction.classes) - ROWS_PRINTED} more")


if __name__ == "__main__":
    cli.run(main)
