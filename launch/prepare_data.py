r"""Downloads a data set that TFDS knows and writes it as training reads it (ArrayRecord).

  python -m launch.prepare_data --dataset=cifar10 --data_dir=D
  python -m launch.train_teacher --config=experiments/configs/resnet_cifar10.py \
      --config.data.data_dir=D --workdir=W/teacher

TensorFlow is only needed for sets whose images are arrays that are stored as JPEG. What was
downloaded stays in D/downloads and may be deleted.
"""

import sys

from absl import flags

from launch import cli

_DATASET = flags.DEFINE_string("dataset", None, "Name in TFDS, as cifar10 or voc/2007.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder to write the set below.")
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder of archives that must be downloaded by hand, as ImageNet's."
)
flags.mark_flags_as_required(["dataset", "data_dir"])


def main() -> None:
    """Runs the command from its flags."""
    import tensorflow_datasets as tfds

    from pwl_jax.data.prepare import prepare

    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    dataset, data_dir = str(_DATASET.value), str(_DATA_DIR.value)
    splits = prepare(dataset, data_dir, _MANUAL_DIR.value)
    counts = ", ".join(f"{name} {count:,}" for name, count in splits.items())
    print(f"{dataset} is prepared in {data_dir}: {counts} examples")


if __name__ == "__main__":
    cli.run(main)
