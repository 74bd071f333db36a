r"""A small ViT on CIFAR-10, for minutes on two CPU cores: real weights for benchmarks.

Run:
  python -m launch.train_teacher --config=experiments/configs/vit_patch8_cifar10.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m experiments.benchmarks.precision --vit=W/teacher --data_dir=D

Needs: cifar10 prepared by TFDS as ArrayRecord below D. The teacher has 1.6 million parameters, 8
layers of width 128 over patches of 8x8; the student half the width and depth.
Figures: see experiments/results/precision.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config; its variant `runlocal` is the digits run that only shows that it works."""
    config = recipes.digits("vit_digits", teacher_epochs=2, distill_epochs=2)
    if variant == "runlocal":
        return config
    if variant:
        raise ValueError(f"unknown variant '{variant}'; expected none or runlocal")
    config.data.name = "cifar10"
    config.batch_size = 128
    config.augmentation.flip = True
    config.pair_overrides = {
        "classes": 10,
        "input_shape": (32, 32, 3),
        "patch": 8,
        "teacher": {"hidden": 128, "heads": 4, "mlp": 512},
        "student": {"hidden": 64, "heads": 4, "mlp": 256},
    }
    for section in (config.teacher, config.distill):
        section.epochs = 1
        section.eval_every_epochs = 1
        section.optimizer.learning_rate = 1e-3
        section.optimizer.warmup_steps = 100
    return config
