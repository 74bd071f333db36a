"""Imported networks against transformers and timm: random weights, through the files they write."""

import jax
import numpy as np
import pytest

from pwl_jax.interop.imported_teacher import TeacherRequest
from pwl_jax.interop.position_embeddings import resized_positions
from pwl_jax.interop.teachers import read_teacher
from tests.interop import foreign_checkpoints
from tests.interop.foreign_logits import GOLDEN_LOGITS
from tests.interop.pretrained import library, logits_of, randomized

pytestmark = [
    pytest.mark.slow,
    # PyTorch and what stands on it warn of their own affairs.
    pytest.mark.filterwarnings("ignore"),
]

VIT = {"image_size": 16, "patch_size": 4, "hidden_size": 12, "intermediate_size": 20}
VIT |= {"num_attention_heads": 3, "num_hidden_layers": 5, "num_labels": 7}
RESNET = {"embedding_size": 6, "hidden_sizes": [8, 8, 16], "depths": [2, 1, 2], "num_labels": 7}
TIMM_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 12, "depth": 5, "num_classes": 7}

HUGGING_FACE = {
    "resnet basic": ("ResNetForImageClassification", "ResNetConfig", {"layer_type": "basic"}),
    "resnet bottleneck": ("ResNetForImageClassification", "ResNetConfig", {}),
    "resnet strides first": (
        "ResNetForImageClassification",
        "ResNetConfig",
        {"downsample_in_bottleneck": True, "downsample_in_first_stage": True},
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", {}),
    "vit without qkv bias, tanh": (
        "ViTForImageClassification",
        "ViTConfig",
        {"qkv_bias": False, "hidden_act": "gelu_pytorch_tanh", "layer_norm_eps": 0.1},
    ),
    "deit": ("DeiTForImageClassification", "DeiTConfig", {}),
    "deit with teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", {}),
}
TIMM = {
    "resnet18": {"layers": [1, 2, 1, 1], "channels": (4, 8, 8, 16), "num_classes": 7},
    "resnet50": {"layers": [1, 2, 1, 1], "channels": (4, 8, 8, 16), "num_classes": 7},
    "wide_resnet50_2": {"layers": [1, 1, 1, 1], "channels": (4, 8, 8, 16), "num_classes": 7},
    "vit_tiny_patch16_224": TIMM_VIT,
    "vit_small_patch16_224": {**TIMM_VIT, "num_heads": 2, "qkv_bias": False},
    "deit_tiny_distilled_patch16_224": TIMM_VIT,
}


def images_of(spec, count=3):
    rng = np.random.default_rng(1)
    return rng.normal(size=(count, *spec.input_shape)).astype(np.float32)


def agree(found, images, expected):
    """Within the tolerances of the issue, and never by both being flat."""
    logits = np.asarray(jax.jit(found.spec.build().apply)(found.variables, images).logits)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=2e-5)
    np.testing.assert_array_equal(logits.argmax(1), expected.argmax(1))
    assert np.ptp(expected, axis=0).max() > 0.1


def saved(case, tmp_path, naming="file"):
    """A Hugging Face model and the folder it was saved to, in either naming."""
    transformers = library("transformers")
    model_class, config_class, changes = HUGGING_FACE[case]
    base = RESNET if config_class == "ResNetConfig" else VIT
    config = getattr(transformers, config_class)(**{**base, **changes})
    model = randomized(getattr(transformers, model_class)(config))
    model.save_pretrained(tmp_path)
    if naming == "state":
        from safetensors.torch import save_file

        save_file(model.state_dict(), tmp_path / "model.safetensors")
    return model


@pytest.mark.parametrize("naming", ["file", "state"])
@pytest.mark.parametrize("case", HUGGING_FACE)
def test_hugging_face_logits(case, naming, tmp_path):
    model = saved(case, tmp_path, naming)
    size = (40, 24) if "resnet" in case else None
    found = read_teacher(f"hf:{tmp_path}", TeacherRequest(blocks=3, image_size=size))
    assert found.spec.build().num_blocks == 3
    images = images_of(found.spec)
    agree(found, images, logits_of(model, images))


def test_both_namings_are_read(tmp_path):
    """What transformers writes today are the names of 4; its modules have those of 5."""
    model = saved("vit", tmp_path)
    from safetensors import safe_open

    with safe_open(tmp_path / "model.safetensors", "np") as file:
        written = set(file.keys())
    assert written != set(model.state_dict()), "one naming is no longer tested: write it by hand"


@pytest.mark.parametrize("architecture", TIMM)
def test_timm_logits(architecture, tmp_path):
    timm = library("timm")
    from timm.models import save_for_hf

    model = randomized(timm.create_model(architecture, **TIMM[architecture]))
    save_for_hf(model, tmp_path, safe_serialization=True)
    size = (40, 24) if "resnet" in architecture else None
    request = TeacherRequest(blocks=4, image_size=size)
    found = read_teacher(f"timm:{tmp_path}", request)
    images = images_of(found.spec)
    agree(found, images, logits_of(model, images))
    if "resnet" not in architecture:
        assert found.spec.epsilon == model.norm.eps
    assert found.normalization.mean == tuple(model.pretrained_cfg["mean"])
    # The bare file holds all but the number of heads.
    heads = None if "resnet" in architecture else found.spec.heads
    bare = read_teacher(
        f"timm:{tmp_path}/model.safetensors", TeacherRequest(4, image_size=size, heads=heads)
    )
    assert bare.spec == found.spec


def test_position_embeddings_are_resized_as_in_transformers(tmp_path):
    model = saved("deit", tmp_path)
    torch = pytest.importorskip("torch")
    for size in ((24, 20), (8, 12)):
        found = read_teacher(f"hf:{tmp_path}", TeacherRequest(blocks=3, image_size=size))
        images = images_of(found.spec)
        nchw = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        with torch.no_grad():
            expected = model(nchw, interpolate_pos_encoding=True).logits.numpy()
        agree(found, images, expected)


@pytest.mark.parametrize("new", [(7, 9), (3, 2), (4, 6), (14, 4)])
def test_position_embeddings_are_resized_as_in_timm(new):
    library("timm")
    from timm.layers import resample_abs_pos_embed

    torch = pytest.importorskip("torch")
    positions = np.random.default_rng(0).normal(size=(1, 2 + 4 * 6, 5)).astype(np.float32)
    expected = resample_abs_pos_embed(
        torch.from_numpy(positions), list(new), [4, 6], num_prefix_tokens=2
    )
    found = resized_positions(positions, 2, (4, 6), new, antialias=True)
    # PyTorch computes its weights in float32.
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5, atol=1e-5)


def test_half_precision_is_taken_as_it_is(tmp_path):
    torch = pytest.importorskip("torch")
    model = saved("vit", tmp_path)
    model.to(torch.bfloat16).save_pretrained(tmp_path)
    found = read_teacher(f"hf:{tmp_path}", TeacherRequest(blocks=3))
    images = images_of(found.spec)
    agree(found, images, logits_of(model.to(torch.float32), images))


@pytest.mark.parametrize("case", foreign_checkpoints.CHECKPOINTS)
def test_handmade_checkpoints_are_what_the_libraries_have(case, tmp_path):
    """The tests without PyTorch stand on these names and shapes, and on these logits."""
    torch = pytest.importorskip("torch")
    config, _ = foreign_checkpoints.CHECKPOINTS[case]
    kind = case.partition(":")[0]
    library("timm" if kind == "timm" else "transformers")
    foreign_checkpoints.write(tmp_path, case)
    if kind == "timm":
        import timm

        model = timm.create_model(config["architecture"], **config["model_args"])
        tensors = foreign_checkpoints.tensors_of(case)
        model.load_state_dict({name: torch.from_numpy(v) for name, v in tensors.items()})
    else:
        import transformers

        two = "two heads" in case
        name = {"resnet": "ResNet", "vit": "ViT", "deit": "DeiT"}[config["model_type"]]
        name += "ForImageClassification" + ("WithTeacher" if two else "")
        model, loading = getattr(transformers, name).from_pretrained(
            tmp_path, output_loading_info=True, num_labels=foreign_checkpoints.CLASSES
        )
        assert not any(loading.values()), loading
    images = foreign_checkpoints.images(16 if "resnet" in case else 8)
    expected = logits_of(model.eval(), images)
    np.testing.assert_allclose(GOLDEN_LOGITS[case], expected[0], rtol=1e-5, atol=1e-5)
