r"""Makes a workdir of a checkpoint of the PyTorch baseline (5yearsKim/ProgressiveWeightLoading).

  python -m launch.import_baseline --checkpoint=ckpts/resnet/checkpoint-62500 --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --orders=all
  python -m launch.export_weights --workdir=W/pwl --format=baseline --output=DIR   # and back

The folder holds model.safetensors and either teacher_config/ and student_config/, or config.json of
a network by itself, which becomes a teacher. LeNet-5, VGG, ResNet and ViT of any widths and depths
compute what they compute there. PyTorch is not needed.
"""

from typing import Literal

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Checkpoint folder of the baseline.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir to make: a new or an empty folder.")
_DATA = flags.DEFINE_string(
    "data",
    None,
    "Images it is for, as launch.evaluate names them; cifar10 or cifar100 by the number of classes "
    "where not given.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where TFDS prepared them, or the folder that holds them."
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size", None, "Height and width of images, if not 32; a ViT's config says.", lower_bound=1
)
flags.mark_flags_as_required(["checkpoint", "workdir"])

_DATA_OF_CLASSES = {10: "cifar10", 100: "cifar100"}


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax.interop import baseline, baseline_folder
    from pwl_jax.models.registry import PairSpec
    from pwl_jax.models.shallow import shallow
    from pwl_jax.training import imported, workdir
    from pwl_jax.training.config import DataConfig, RunConfig

    found = baseline.read_checkpoint(_CHECKPOINT.value, _IMAGE_SIZE.value)
    task: Literal["distill", "teacher"]
    if isinstance(found, baseline.ImportedPair):
        task, pair, variables = "distill", found.pair, found.variables
    else:
        spec = found.spec
        name = f"baseline_{spec.family}"
        pair = PairSpec(name=name, teacher=spec, student=shallow(spec), statistics="shared")
        task, variables = "teacher", {"teacher": found.variables}
    data = _DATA.value or _DATA_OF_CLASSES.get(pair.teacher.classes)
    if data is None:
        raise UserError(
            f"--data is missing; the networks have {pair.teacher.classes} classes, expected the "
            "name of images with as many"
        )
    config = RunConfig(task=task, pair=pair, data=DataConfig(name=data, data_dir=_DATA_DIR.value))
    workdir.preprocessing_of(config)
    imported.write_result(_WORKDIR.value, config, variables, baseline_folder.kept_files(found.kept))
    print(
        f"{pair.name}, {'teacher and student' if task == 'distill' else 'teacher alone'}, "
        f"{pair.num_blocks} blocks, {pair.teacher.classes} classes, for {data}: {_WORKDIR.value}"
    )
    if found.kept.tensors:
        print(f"kept for the way back, as nothing reads them: {len(found.kept.tensors)} tensors")


if __name__ == "__main__":
    cli.run(main)
