r"""VGG-BN on CIFAR-10, the PyTorch baseline's pair and recipe.

Run:
  python -m launch.train_teacher --config=experiments/configs/vgg_cifar10.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/vgg_cifar10.py \
      --config.data.data_dir=D --teacher=W/teacher --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --orders=all

Needs: cifar10 prepared by TFDS as ArrayRecord below D, and an accelerator for the full 160 epochs.
The pair is 14.7 and 3.9 million parameters.
Figures: not measured at full size yet. The variant `:runlocal` shows in under a minute on two CPU
cores that the whole path works, on scikit-learn's digits.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant `runlocal`."""
    return recipes.baseline("vgg", "cifar10", variant)
