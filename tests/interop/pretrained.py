"""Tiny pre-trained networks of transformers and timm, with random weights, saved as they save."""

import importlib

import numpy as np
import pytest

DECLARED = []
"""What keeps declared operators alive."""


def library(name):
    """`transformers` or `timm`; skips the test where it, PyTorch or torchvision is not there."""
    torch = pytest.importorskip("torch")
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        if name == "timm":
            pytest.skip("timm needs torchvision")
    except RuntimeError:
        # Beside PyTorch for CPU it lacks its compiled operators: declared, and never called.
        library_of_operators = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library_of_operators.define(
                f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
            )
        DECLARED.append(library_of_operators)
    return pytest.importorskip(name)


def randomized(model, seed=0):
    """The model with every weight and statistic drawn so that no term hides at 0 or 1."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            shape = tuple(tensor.shape)
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1:
                values = rng.normal(0, 1 / np.sqrt(np.prod(shape[1:])), shape)
            elif name.endswith(("running_var", "weight")):
                values = rng.uniform(0.5, 1.5, shape)
            else:
                values = rng.normal(0, 0.3, shape)
            tensor.copy_(torch.from_numpy(values))
    return model.eval()


def logits_of(model, images):
    """The model's logits of NHWC images, as NumPy."""
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        found = model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))))
    return (found.logits if hasattr(found, "logits") else found).numpy()
