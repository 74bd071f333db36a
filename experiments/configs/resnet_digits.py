r"""ResNet on scikit-learn's digits: the job of `python -m launch.quickstart --pair=resnet`.

Run:
  python -m launch.train_teacher --config=experiments/configs/resnet_digits.py --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/resnet_digits.py --teacher=W/teacher \
      --workdir=W/pwl

Needs: nothing but two CPU cores, about 1.5 minutes in all.
Figures (top-1 of the prefixes, last checkpoint, 540 test images, seed 0, JAX 0.10.2 on CPU):
94.6 % student, 95.9, 96.3, 97.8, 97.4 % teacher.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config; its variant `runlocal` takes two epochs each."""
    epochs = (2, 2) if variant == "runlocal" else (30, 30)
    return recipes.digits("resnet_digits", *epochs, distill_rate=0.005)
