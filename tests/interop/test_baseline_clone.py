"""Against the PyTorch baseline itself: what its classes save and load. Needs its clone and torch.

`PWL_BASELINE_DIR` names the clone; without it, or without torch and transformers, all is skipped.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import read_safetensors
from pwl_jax.interop import baseline, baseline_folder
from pwl_jax.ladder import compositions_of
from tests.interop import baseline_reference as reference

CLONE = os.environ.get("PWL_BASELINE_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLONE, reason="PWL_BASELINE_DIR names no clone of the baseline"),
]
FAMILIES = ("lenet5", "vgg", "resnet", "vit")

# In a process of its own: its imports warn, and hold threads that JAX's tests need.
WORKER = """
import json, os, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_model, save_file
from pwl_model.core import FeatureDistiller, SwapNet

task, family, folder, given, output = sys.argv[1:]
names = {"lenet5": "LeNet5", "vgg": "VGG", "resnet": "ResNet", "vit": "ViT"}
module = __import__(f"pwl_model.models.{family}", fromlist=["x"])
config_class = getattr(module, f"Block{names[family]}Config")
model_class = getattr(module, f"Block{names[family]}ForImageClassification")
folder = Path(folder)
torch.manual_seed(0)

def model(role, fields=None):
    if fields is not None:
        return model_class(config_class(**fields))
    return model_class(config_class.from_pretrained(folder / f"{role}_config" / "config.json"))

def randomised(module):
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(17)
        elif name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2)

shape = (3, 32, 32)
if task == "save":
    fields = json.loads(given)
    teacher, student = model("teacher", fields[0]), model("student", fields[1])
else:
    teacher, student = model("teacher"), model("student")
swapnet = SwapNet(teacher, student, input_shape=shape, channel_last=family == "vit")
distiller = FeatureDistiller(swapnet)
if task == "save":
    randomised(distiller)
    # What its trainer writes of a model that is no PreTrainedModel.
    folder.mkdir()
    save_file(distiller.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    for role in ("student", "teacher"):
        getattr(swapnet, role).config.save_pretrained(folder / f"{role}_config")
    teacher.save_pretrained(folder / "alone")
    images = np.random.default_rng(1).normal(size=(3, 32, 32, 3)).astype(np.float32)
else:
    load_model(distiller, folder / "model.safetensors")
    images = np.load(given)
swapnet.eval()
blocks = swapnet.num_blocks
compositions = [[bool(n >> i & 1) for i in range(blocks)] for n in range(2 ** blocks)]
with torch.no_grad():
    x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    logits = {"".join("ST"[t] for t in c): swapnet(x, c).numpy() for c in compositions}
np.savez(output, images=images, **logits)
"""


def run_baseline(task, family, folder, given, output):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    result = subprocess.run(
        [sys.executable, "-c", WORKER, task, family, folder, given, output],
        env={**os.environ, "PYTHONPATH": str(CLONE), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return np.load(output)


@pytest.fixture(scope="module", params=FAMILIES)
def saved(request, tmp_path_factory):
    """A family, what the baseline saved of it, and its logits by composition."""
    folder = tmp_path_factory.mktemp("baseline") / request.param
    configs = [
        {k: v for k, v in config.items() if k != "model_type"} | {"num_labels": reference.CLASSES}
        for config in reference.CONFIGS[request.param]
    ]
    output = folder.parent / f"{request.param}.npz"
    found = run_baseline("save", request.param, folder, json.dumps(configs), output)
    return request.param, folder, found


def our_logits(pair, variables, images):
    import jax

    from pwl_jax.hybrid import HybridNetwork

    hybrid = HybridNetwork.from_pair(pair)
    apply = jax.jit(lambda variables, images, mask: hybrid.apply(variables, images, mask).logits)
    return {
        str(c): np.asarray(
            apply(variables, images, jax.tree.map(np.asarray, hybrid.mask_of(variables, c)))
        )
        for c in compositions_of(["all"], hybrid.num_blocks)
    }


def assert_same_logits(ours, theirs):
    assert ours.keys() == set(theirs.files) - {"images"}
    for composition, logits in ours.items():
        expected = theirs[composition]
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-5, err_msg=composition)
        assert (logits.argmax(-1) == expected.argmax(-1)).all()


def tensors_in(folder: Path):
    return read_safetensors((folder / "model.safetensors").read_bytes(), "")


def test_what_it_saved_computes_the_same_and_goes_back_byte_for_byte(saved, tmp_path):
    family, folder, theirs = saved
    found = baseline.read_checkpoint(folder)
    assert isinstance(found, baseline.ImportedPair)
    assert_same_logits(our_logits(found.pair, found.variables, theirs["images"]), theirs)
    baseline_folder.write_pair(tmp_path / "back", found.pair, found.variables, found.kept)
    ours, original = tensors_in(tmp_path / "back"), tensors_in(folder)
    assert ours.keys() == original.keys()
    for name, tensor in original.items():
        assert (tensor.dtype, tensor.shape) == (ours[name].dtype, ours[name].shape)
        assert tensor.tobytes() == ours[name].tobytes(), name
    alone = baseline.read_checkpoint(folder / "alone")
    assert isinstance(alone, baseline.ImportedNetwork)
    assert alone.spec == found.pair.teacher
    back = run_baseline("load", family, tmp_path / "back", images(tmp_path), tmp_path / "x.npz")
    for composition in theirs.files:
        assert back[composition].tobytes() == theirs[composition].tobytes()


def images(folder: Path) -> Path:
    np.save(folder / "images.npy", reference.images_of())
    return folder / "images.npy"


def test_what_was_made_here_is_evaluated_there(saved, tmp_path):
    """Fresh configs, no kept tensors: as of a pair that was trained here."""
    family, folder, _ = saved
    found = baseline.read_checkpoint(folder)
    baseline_folder.write_pair(tmp_path / "ours", found.pair, found.variables)
    theirs = run_baseline("load", family, tmp_path / "ours", images(tmp_path), tmp_path / "x.npz")
    assert_same_logits(our_logits(found.pair, found.variables, theirs["images"]), theirs)
