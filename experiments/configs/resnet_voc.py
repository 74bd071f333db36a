r"""ResNet on PASCAL-VOC 2007, the labels of whole images: a multi-label network by itself.

Run:
  python -m launch.train_teacher --config=experiments/configs/resnet_voc.py \
      --config.data.data_dir=D --workdir=W/teacher
  python -m launch.evaluate --workdir=W/teacher

Needs: voc/2007 prepared by TFDS as ArrayRecord below D, and an accelerator. The pair's teacher has
5.3 million parameters; images are resized to 224x224 and not cropped. Labels include objects that
VOC calls difficult, and training takes TFDS's split `train` alone, 2501 images: figures do not
compare with those of the challenge. `--config.data.name=voc/2012` has no public test labels; its
validation split takes their place.
Figures: not measured. The variant `:runlocal` shows in seconds on two CPU cores that the whole
path works, on pictures of several digits.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config, or its variant `runlocal`."""
    if variant == "runlocal":
        return recipes.multi_label("resnet_digits", "multi_digits", {"classes": 10}, epochs=2)
    overrides = {"classes": 20, "input_shape": (224, 224, 3), **recipes.LARGE_IMAGES}
    return recipes.multi_label("resnet", "voc/2007", overrides, epochs=200, flip=True)
