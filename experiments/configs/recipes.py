"""What the configs share: the PyTorch baseline's recipe, and a short one for digits."""

from ml_collections import ConfigDict, config_dict


def baseline(pair: str, data: str, variant: str) -> ConfigDict:
    """The baseline's published recipe (REFERENCE: SGD, lr 0.05, cosine, batch 128, 160 epochs).

    Args:
      pair: registry name.
      data: TFDS name.
      variant: empty, or `runlocal` for a run of seconds on digits that only shows that it works.
    """
    if variant == "runlocal":
        config = digits(f"{pair}_digits", teacher_epochs=2, distill_epochs=2)
        return config
    if variant:
        raise ValueError(f"unknown variant '{variant}'; expected none or runlocal")
    optimizer = {"name": "sgd", "learning_rate": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
    classes = {"cifar10": 10, "cifar100": 100, "imagenet2012": 1000}[data]
    config = ConfigDict(
        {
            "pair": pair,
            "pair_overrides": {"classes": classes},
            "data": {"name": data, "validation_fraction": 0.1},
            "augmentation": {"flip": True, "crop_padding": -1},
            "batch_size": 128,
            "seed": 0,
            "sync_batch_norm": True,
            "eval_every_epochs": 1,
            "checkpoint_every_steps": 0,
            "teacher": {"epochs": 160, "optimizer": optimizer},
            "distill": {
                "epochs": 160,
                "optimizer": optimizer,
                "objective": {"cross": "all", "align_streams": True, "mixed_compositions": 0},
                "converter_init": "random",
                "calibration_examples": 10_000,
            },
        }
    )
    config.data.data_dir = config_dict.placeholder(str)
    return config


def digits(
    pair: str, teacher_epochs: int, distill_epochs: int, distill_rate: float = 3e-3
) -> ConfigDict:
    """Seconds on two CPU cores: scikit-learn's digits, AdamW, small crops.

    Args:
      pair: registry name.
      teacher_epochs, distill_epochs: budgets.
      distill_rate: peak learning rate of the distillation.
    """
    optimizer = {
        "name": "adamw",
        "learning_rate": 3e-3,
        "weight_decay": 1e-2,
        "warmup_steps": 20,
    }
    config = ConfigDict(
        {
            "pair": pair,
            "data": {"name": "digits", "validation_fraction": 0.1},
            "augmentation": {"flip": False, "crop_padding": -1},
            "batch_size": 64,
            "seed": 0,
            "sync_batch_norm": True,
            "checkpoint_every_steps": 0,
            "eval_batch_size": 128,
            "teacher": {"epochs": teacher_epochs, "eval_every_epochs": 5, "optimizer": optimizer},
            "distill": {
                "epochs": distill_epochs,
                "eval_every_epochs": 10,
                "optimizer": {**optimizer, "learning_rate": distill_rate, "converter_rate": 1.0},
                # Feature terms at a tenth: at full weight they take these tiny students' capacity
                # from the logits (BUILD_NOTES).
                "objective": {"w_sync": 0.1, "w_recon": 0.1, "w_align": 0.1},
                "converter_init": "least_squares",
                "calibration_examples": 1_024,
            },
        }
    )
    config.data.data_dir = config_dict.placeholder(str)
    return config
