r"""Makes a pre-trained Hugging Face or timm network a teacher, in a workdir of its own.

  python -m launch.import_teacher --source=hf:google/vit-base-patch16-224 --blocks=6 --workdir=W
  python -m launch.import_teacher --source=timm:resnet50.safetensors --blocks=3,4,6,3 --workdir=W

After hf: or timm: stands a folder (config.json, model.safetensors or its shards), for timm also a
bare .safetensors file, or a name on the Hugging Face hub. ResNet, ViT and DeiT; docs/teachers.md
lists what is supported. launch.distill --teacher=W takes the result, with a config whose pair has
this teacher: experiments/configs/imported.py makes one.
"""

import json
import re

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_SOURCE = flags.DEFINE_string("source", None, "hf:NAME or timm:NAME.", required=True)
_BLOCKS = flags.DEFINE_list(
    "blocks", None, "Number of blocks, or the layers of each, as in 3,4,6,3.", required=True
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Workdir to make: a new or an empty folder.", required=True
)
_CLASSES = flags.DEFINE_integer(
    "classes", None, "Replace the head by a random one of so many classes, to be trained.", 1
)
_IMAGE_SIZE = flags.DEFINE_list(
    "image_size", None, "Another input: its side, or height,width. A ViT's positions are resized."
)
_HEADS = flags.DEFINE_integer(
    "heads", None, "Attention heads, for a timm file that does not say it.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of a new head.")
_DATA = flags.DEFINE_string(
    "data", "imagenet2012", "The data set whose classes it tells apart, for launch.evaluate."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared it, or the folder.")


def main() -> None:
    """Runs the command from its flags."""
    blocks = _numbers("blocks", _BLOCKS.value or [""])
    size = _numbers("image_size", _IMAGE_SIZE.value or [])
    if len(size) > 2:
        raise UserError(f"--image_size has {len(size)} numbers; expected a side, or height,width")
    from pwl_jax.interop.imported_teacher import TeacherRequest
    from pwl_jax.interop.teachers import read_teacher
    from pwl_jax.models.registry import PairSpec
    from pwl_jax.models.shallow import shallow
    from pwl_jax.training.config import DataConfig, RunConfig
    from pwl_jax.training.imported import write_result
    from pwl_jax.training.workdir import preprocessing_of

    request = TeacherRequest(
        blocks=blocks[0] if len(blocks) == 1 else blocks,
        classes=_CLASSES.value,
        image_size=(size[0], size[-1]) if size else None,
        heads=_HEADS.value,
        seed=_SEED.value,
    )
    found = read_teacher(_SOURCE.value, request)
    said = found.normalization
    name = _SOURCE.value.rstrip("/").rpartition("/")[2].rpartition(":")[2]
    pair = PairSpec(name=name, teacher=found.spec, student=shallow(found.spec))
    data = DataConfig(name=_DATA.value, data_dir=_DATA_DIR.value, mean=said.mean, std=said.std)
    config = RunConfig(task="teacher", pair=pair, data=data)
    # Refuses what is no mean and deviation of these images, before anything is written.
    preprocessing_of(config)
    record = {"source": _SOURCE.value, "unused": found.unused, "notes": said.notes}
    write_result(
        _WORKDIR.value,
        config,
        {"teacher": found.variables},
        {"source.json": json.dumps(record, indent=2).encode() + b"\n"},
    )
    print(f"{_SOURCE.value}: a teacher of {pair.num_blocks} blocks in {_WORKDIR.value}")
    if found.unused:
        print(f"  not needed: {', '.join(found.unused)}")
    for note in said.notes:
        print(f"  note: {note}")
    if said.mean is None:
        print(f"  note: it does not say how images are normalised; taken as '{_DATA.value}' has it")
    if request.classes is not None:
        print("  note: the head is new and random; train it before anything is distilled from it")


def _numbers(flag: str, values: list[str]) -> tuple[int, ...]:
    if any(not re.fullmatch(r"0*[1-9]\d{0,8}", value, re.ASCII) for value in values):
        raise UserError(f"--{flag} is {','.join(values)}; expected whole numbers from 1 up")
    return tuple(map(int, values))


if __name__ == "__main__":
    cli.run(main)
