"""Against the PyTorch baseline itself: what its classes save and load. Needs its clone and torch.

`PWL_BASELINE_DIR` names the clone; without it, or without torch and transformers, all is skipped.
"""

import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import read_safetensors
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.interop import baseline, baseline_folder
from pwl_jax.ladder import compositions_of
from tests.interop import baseline_reference as reference

CLONE = os.environ.get("PWL_BASELINE_DIR")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CLONE, reason="PWL_BASELINE_DIR names no clone of the baseline"),
]
FAMILIES = tuple(case for case in reference.CONFIGS if case != "resnet_stem")

# In processes of their own: its imports warn, and take long, so that one process does many jobs.
WORKER = """
import json, sys
from pathlib import Path
import numpy as np, torch
from safetensors.torch import load_model, save_file
from pwl_model.core import FeatureDistiller, SwapNet

NAMES = {"lenet5": "LeNet5", "vgg": "VGG", "resnet": "ResNet", "vit": "ViT"}

def randomised(module):
    for name, tensor in module.state_dict().items():
        if not tensor.is_floating_point():
            tensor.fill_(17)
        elif name.endswith(("running_var", "weight")) and tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5)
        else:
            tensor.normal_(0, tensor[0].numel() ** -0.5 if tensor.ndim > 1 else 0.2)

def run(case, folder, fields, images, output):
    family = case.partition("_")[0]
    module = __import__(f"pwl_model.models.{family}", fromlist=["x"])
    config_class = getattr(module, f"Block{NAMES[family]}Config")
    model_class = getattr(module, f"Block{NAMES[family]}ForImageClassification")
    folder, roles = Path(folder), ("teacher", "student")
    if fields:
        configs = [config_class(**each) for each in fields]
    else:
        paths = [folder / f"{role}_config" / "config.json" for role in roles]
        configs = [config_class.from_pretrained(path) for path in paths]
    swapnet = SwapNet(*map(model_class, configs), (3, 32, 32), channel_last=family == "vit")
    distiller = FeatureDistiller(swapnet)
    if fields:
        randomised(distiller)
        # What its trainer writes of a model that is no PreTrainedModel.
        folder.mkdir()
        save_file(distiller.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
        for role in roles:
            getattr(swapnet, role).config.save_pretrained(folder / f"{role}_config")
        swapnet.teacher.save_pretrained(folder / "alone")
    else:
        load_model(distiller, folder / "model.safetensors")
    swapnet.eval()
    blocks = swapnet.num_blocks
    x = torch.from_numpy(np.ascontiguousarray(np.load(images).transpose(0, 3, 1, 2)))
    with torch.no_grad():
        logits = {
            f"{n:0{blocks}b}".replace("0", "S").replace("1", "T"):
                swapnet(x, [bit == "1" for bit in f"{n:0{blocks}b}"]).numpy()
            for n in range(2 ** blocks)
        }
    np.savez(output, **logits)

torch.manual_seed(0)
for job in json.load(sys.stdin):
    run(**job)
"""


def run_baseline(root, folders, fields=None):
    """Logits of every composition by folder, of checkpoints that are there or, with fields, made.

    Args:
      root: where images and results are put.
      folders: family by folder.
      fields: of the configs of teacher and student, by family.
    """
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    np.save(root / "images.npy", reference.images_of())
    jobs = [
        {
            "case": family,
            "folder": str(folder),
            "fields": fields and fields[family],
            "images": str(root / "images.npy"),
            "output": f"{folder}.npz",
        }
        for folder, family in folders.items()
    ]
    result = subprocess.run(
        [sys.executable, "-c", WORKER],
        env={**os.environ, "PYTHONPATH": str(CLONE), "CUDA_VISIBLE_DEVICES": ""},
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return {folder: dict(np.load(f"{folder}.npz")) for folder in folders}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`<family>`: what the baseline saved; `<family>_back`: imported and exported; `<family>_new`:
    exported as if it had been trained here. Each with its logits in `<folder>.npz`."""
    root = tmp_path_factory.mktemp("baseline")
    fields = {
        family: [
            {k: v for k, v in config.items() if k != "model_type"}
            | {"num_labels": reference.CLASSES}
            for config in reference.CONFIGS[family]
        ]
        for family in FAMILIES
    }
    run_baseline(root, {root / family: family for family in FAMILIES}, fields)
    made = {}
    for family in FAMILIES:
        found = baseline.read_checkpoint(root / family)
        for kind, kept in (("back", [found.kept]), ("new", [])):
            folder = root / f"{family}_{kind}"
            baseline_folder.write_pair(folder, found.pair, found.variables, *kept)
            made[folder] = family
    run_baseline(root, made)
    return root


def logits_in(path):
    return dict(np.load(path))


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_saved_computes_the_same_here(root, family):
    found = baseline.read_checkpoint(root / family)
    assert isinstance(found, baseline.ImportedPair)
    hybrid = HybridNetwork.from_pair(found.pair)
    apply = jax.jit(lambda variables, images, mask: hybrid.apply(variables, images, mask).logits)
    theirs = logits_in(root / f"{family}.npz")
    compositions = compositions_of(["all"], hybrid.num_blocks)
    assert set(map(str, compositions)) == set(theirs)
    for composition in compositions:
        mask = jax.tree.map(np.asarray, hybrid.mask_of(found.variables, composition))
        ours = np.asarray(apply(found.variables, reference.images_of(), mask))
        expected = theirs[str(composition)]
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-5, err_msg=str(composition))
        assert (ours.argmax(-1) == expected.argmax(-1)).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_what_it_saved_goes_back_byte_for_byte(root, family):
    ours, theirs = (
        read_safetensors((root / name / "model.safetensors").read_bytes(), "")
        for name in (f"{family}_back", family)
    )
    assert ours.keys() == theirs.keys()
    for name, tensor in theirs.items():
        assert (tensor.dtype, tensor.shape) == (ours[name].dtype, ours[name].shape)
        assert tensor.tobytes() == ours[name].tobytes(), name


@pytest.mark.parametrize("kind", ["back", "new"])
@pytest.mark.parametrize("family", FAMILIES)
def test_its_classes_load_what_was_exported_and_compute_the_same(root, family, kind):
    ours, theirs = (logits_in(root / f"{name}.npz") for name in (f"{family}_{kind}", family))
    assert ours.keys() == theirs.keys()
    for composition, logits in theirs.items():
        assert logits.tobytes() == ours[composition].tobytes()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_teacher_that_it_saved_alone_is_read(root, family):
    pair, alone = (baseline.read_checkpoint(root / name) for name in (family, f"{family}/alone"))
    assert alone.spec == pair.pair.teacher
    jax.tree.map(np.testing.assert_array_equal, alone.variables, pair.variables["teacher"])
