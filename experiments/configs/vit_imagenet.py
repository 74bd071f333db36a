r"""ViT-tiny/16 on ImageNet, the baseline's pair with 1000 classes: so far only run dry.

Run:
  python -m launch.distill --config=experiments/configs/vit_imagenet.py --dry_run
  python -m launch.train_teacher --config=experiments/configs/vit_imagenet.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/vit_imagenet.py \
      --config.data.data_dir=D --teacher=W/teacher --workdir=W/pwl

Needs: imagenet2012 prepared by TFDS as ArrayRecord below D, and several accelerators; the dry run
needs neither and takes a minute or two on two CPU cores.
Figures: none, it was never trained.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config; its variant `runlocal` is the digits run that only shows that it works."""
    return recipes.imagenet("vit", variant)
