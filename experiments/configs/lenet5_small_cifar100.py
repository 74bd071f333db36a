r"""LeNet-5 on CIFAR-100 for two CPU cores: the small scale, minutes instead of days.

Run:
  python -m launch.train_teacher --config=experiments/configs/lenet5_small_cifar100.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/lenet5_small_cifar100.py \
      --config.data.data_dir=D --teacher=W/teacher --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --orders=all

Needs: cifar100 prepared by TFDS as ArrayRecord below D; one CPU core for about 7 minutes in all:
12 epochs of the teacher, 8 of the distillation.
The pair: The baseline's pair.
The config's variant names another objective of experiments/objectives.py:
`--config=.../lenet5_small_cifar100.py:kd`.
Figures: not measured.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config with our objective, or with another one; `runlocal` is digits in seconds."""
    return recipes.small("lenet5", "cifar100", variant)
