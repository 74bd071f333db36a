r"""A narrow VGG-BN on CIFAR-10 for two CPU cores: the small scale, minutes instead of days.

Run:
  python -m launch.train_teacher --config=experiments/configs/vgg_small_cifar10.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/vgg_small_cifar10.py \
      --config.data.data_dir=D --teacher=W/teacher --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --orders=all

Needs: cifar10 prepared by TFDS as ArrayRecord below D; one CPU core for about 22 minutes in all:
8 epochs of the teacher, 4 of the distillation.
The pair: five blocks; the teacher a quarter of the baseline's width, the student half of that
with one convolution a block.
The config's variant names another objective of experiments/objectives.py:
`--config=.../vgg_small_cifar10.py:kd`.
Figures: those of `python -m experiments.reproduce`, in experiments/results.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config with our objective, or with another one; `runlocal` is digits in seconds."""
    return recipes.small("vgg", "cifar10", variant)
