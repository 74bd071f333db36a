r"""A small ViT on CIFAR-10 for two CPU cores: the small scale, minutes instead of days.

Run:
  python -m launch.train_teacher --config=experiments/configs/vit_small_cifar10.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/vit_small_cifar10.py \
      --config.data.data_dir=D --teacher=W/teacher --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --orders=all

Needs: cifar10 prepared by TFDS as ArrayRecord below D; one CPU core for about 40 minutes in all:
10 epochs of the teacher, 3 of the distillation.
The pair: 408,010 and 54,890 parameters; patches of 4x4, the teacher 8 layers of width 64, the
student 4 of width 32.
The config's variant names another objective of experiments/objectives.py:
`--config=.../vit_small_cifar10.py:kd`.
Figures: those of `python -m experiments.reproduce`, in experiments/results.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config with our objective, or with another one; `runlocal` is digits in seconds."""
    return recipes.small("vit", "cifar10", variant)
