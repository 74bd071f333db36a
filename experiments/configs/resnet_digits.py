"""resnet on scikit-learn's digits: what `make demo` can run."""
from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(variant: str = "") -> ConfigDict:
    """The config; the variant `runlocal` takes two epochs."""
    epochs = (2, 2) if variant == "runlocal" else (20, 60)
    return recipes.digits("resnet_digits", *epochs)
