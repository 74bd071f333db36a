r"""ResNet on the chest X-rays of the NIH (ChestX-ray14): a multi-label network by itself.

Run:
  python -m launch.train_teacher --config=experiments/configs/resnet_chest.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.evaluate --workdir=W/teacher

Needs: a folder D with `Data_Entry_2017.csv`, the images (in D, `images` or `images_*/images`) and,
for the official split, `train_val_list.txt` and `test_list.txt`; and an accelerator. Validation
never shares a patient with training. The pair's teacher has 5.3 million parameters; images are
resized to 224x224 and not mirrored, as the heart lies on one side. Any other folder with a table
of labels works the same way: `--config.data.name=folder:NAME --config.pair_overrides.classes=C`.
Figures: not measured. The variant `:runlocal` shows in seconds on two CPU cores that the whole
path works, on pictures of several digits.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant `runlocal`."""
    if variant == "runlocal":
        return recipes.multi_label("resnet_digits", "multi_digits", {"classes": 10}, epochs=2)
    overrides = {"classes": 14, "input_shape": (224, 224, 1), **recipes.LARGE_IMAGES}
    return recipes.multi_label(
        "resnet", "folder:chest", overrides, epochs=20, batch_size=128, learning_rate=1e-3
    )
