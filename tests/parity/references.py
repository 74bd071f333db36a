"""The two PyTorch references that the same assertions run against.

`written_here` are the modules of these tests; `baseline` is a clone of the PWL baseline in the
folder that the environment variable PWL_BASELINE_DIR names, with transformers installed.
"""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from pwl_jax.models.registry import PairSpec
from pwl_jax.models.spec import NetworkSpec
from tests.parity import torch_networks, torch_objective, torch_transforms

BASELINE_DIR = os.environ.get("PWL_BASELINE_DIR", "")


@dataclasses.dataclass(frozen=True)
class Reference:
    """Where hybrids and the objective come from.

    Attributes:
      hybrid: PairSpec to a module with `teacher`, `student`, `encoders`, `decoders`, called as
        `(images, sources)`.
      distiller: `(hybrid, cross)` to a module that holds the hybrid as `swapnet`, called as
        `(images, labels, sources)`; gives every weighted term.
      images: files of images and a size to its evaluation's input, normalised as CIFAR-10.
    """

    hybrid: Callable[[PairSpec], nn.Module]
    distiller: Callable[[nn.Module, str], nn.Module]
    images: Callable[[list[Path], int], torch.Tensor]


def reference(name: str) -> Reference:
    """The reference of that name; skips the test where the clone is asked for and absent."""
    if name == "written_here":
        return Reference(
            torch_networks.hybrid, torch_objective.Distiller, torch_transforms.evaluation_images
        )
    if not BASELINE_DIR:
        pytest.skip("PWL_BASELINE_DIR names no clone of the baseline")
    pytest.importorskip("transformers")
    return Reference(baseline_hybrid, BaselineDistiller, baseline_images)


def baseline_module(name: str) -> Any:
    """A module of the clone."""
    if BASELINE_DIR not in sys.path:
        sys.path.append(BASELINE_DIR)
    return importlib.import_module(f"pwl_model.{name}")


def baseline_network(spec: NetworkSpec) -> nn.Module:
    """The baseline's own network of a spec."""
    fields = baseline_config(spec)
    name = {"lenet5": "LeNet5", "vgg": "VGG", "resnet": "ResNet", "vit": "ViT"}[spec.family]
    family = baseline_module(f"models.{spec.family}.block_{spec.family}")
    config = getattr(family, f"Block{name}Config")(**fields, num_labels=spec.classes)
    return getattr(family, f"Block{name}ForImageClassification")(config)


def baseline_config(spec: Any) -> dict[str, Any]:
    """A spec in the words of the baseline's configs."""
    if spec.family == "lenet5":
        flat = 25 * spec.channels[1]
        return {"cnn_channels": list(spec.channels), "fc_sizes": [flat, *spec.features]}
    if spec.family == "vgg":
        return {"hidden_sizes": list(spec.widths), "depths": list(spec.depths)}
    if spec.family == "resnet":
        return {
            "embedding_size": spec.stem_width,
            "hidden_sizes": list(spec.widths),
            "depths": list(spec.depths),
            "layer_type": "basic",
            "embedder_kernel_size": spec.stem_kernel,
            "embedder_kernel_stride": spec.stem_stride,
            "embedder_use_pooler": spec.stem_pool,
            "downsample_in_first_stage": spec.downsample_first,
        }
    return {
        "hidden_size": spec.hidden,
        "num_attention_heads": spec.heads,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "layers_per_block": spec.layers_per_block,
        "image_size": spec.input_shape[0],
        "patch_size": spec.patch,
    }


def baseline_hybrid(pair: PairSpec) -> nn.Module:
    """The baseline's SwapNet of a pair."""
    height, width, channels = pair.teacher.input_shape
    with contextlib.redirect_stdout(io.StringIO()):  # It prints the shapes of its features.
        return baseline_module("core.swap_net").SwapNet(
            baseline_network(pair.teacher),
            baseline_network(pair.student),
            input_shape=(channels, height, width),
            channel_last=pair.teacher.family == "vit",
        )


class Drawn:
    """Stands in for the module `random`: makes the baseline draw a given composition."""

    def __init__(self, sources: list[bool]) -> None:
        self.bits = iter(sources)

    def random(self) -> float:
        return 1.0

    def choice(self, options: list[bool]) -> bool:
        bit = next(self.bits)
        assert bit in options
        return bit


class BaselineDistiller(nn.Module):
    """The baseline's FeatureDistiller under the interface of `torch_objective.Distiller`."""

    def __init__(self, hybrid: nn.Module, cross: str) -> None:
        super().__init__()
        self.code = baseline_module("core.feature_distiller")
        self.inner = self.code.FeatureDistiller(hybrid, cross_mode=cross)

    @property
    def swapnet(self) -> nn.Module:
        return self.inner.swapnet

    def forward(
        self, images: torch.Tensor, labels: torch.Tensor, sources: list[bool]
    ) -> dict[str, torch.Tensor]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(self.code, "random", Drawn(sources))
            out = self.inner(images, labels)
        return {
            "hard": out.loss_hard,
            "soft": out.loss_soft,
            "sync": out.loss_feat_sync,
            "recon": out.loss_feat_recon,
            "cross": out.loss_cross,
        }


def baseline_images(paths: list[Path], size: int) -> torch.Tensor:
    """Through the clone's dataset class for CIFAR-10, its stage `eval`."""
    code = Path(BASELINE_DIR) / "pwl_model" / "lab" / "custom_data.py"
    spec = importlib.util.spec_from_file_location("baseline_custom_data", code)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    with pytest.MonkeyPatch.context() as patch:
        # Of the two packages that it imports, its evaluation needs the transforms alone.
        for name, members in (
            ("datasets", {"Image": None, "load_dataset": None}),
            ("torchvision", {"transforms": torch_transforms.transforms()}),
        ):
            patch.setitem(sys.modules, name, types.SimpleNamespace(**members))
        spec.loader.exec_module(module)

    def get_dataset(self: Any, split: str) -> list[dict[str, Any]]:
        assert split == "test"
        return [{"img": Image.open(path), "label": 0} for path in paths]

    files = type("Files", (module.CIFAR10TorchDataset,), {"get_dataset": get_dataset})
    dataset = files("eval", reshape_size=None if size == 32 else (3, size, size))
    return torch.stack([dataset[i]["pixel_values"] for i in range(len(paths))])
