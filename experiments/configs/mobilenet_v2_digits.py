r"""MobileNetV2, a family that is not in the library, on scikit-learn's digits.

Run (docs/bring_your_own_network.md has it to the end):
  python -m launch.train_teacher --config=experiments/configs/mobilenet_v2_digits.py \
      --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/mobilenet_v2_digits.py \
      --teacher=W/teacher --workdir=W/pwl
  python -m launch.evaluate --workdir=W/pwl --import=experiments.examples.mobilenet_v2

Needs: nothing but two CPU cores, about two minutes in all.
Figures (top-1 of the prefixes, last checkpoint, 540 test images, seed 0, JAX 0.10.2 on CPU):
88.3 % student, 83.0, 87.2, 94.4, 97.6 % teacher.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes
from experiments.examples import mobilenet_v2


def get_config(variant: str = "") -> ConfigDict:
    """The config; its variant `runlocal` takes two epochs each."""
    epochs = (2, 2) if variant == "runlocal" else (12, 12)
    config = recipes.digits(mobilenet_v2.digits_pair(), *epochs, distill_rate=0.01)
    config.teacher.optimizer.learning_rate = 0.01
    return config
