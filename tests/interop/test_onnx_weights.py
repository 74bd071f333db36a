"""One composition as an ONNX model of its own: logits, metadata, and what is refused."""

import dataclasses
import json

import jax
import numpy as np
import onnx
import onnxruntime
import pytest

from pwl_jax.errors import UserError
from pwl_jax.interop import ComposedWeights, onnx_weights
from pwl_jax.interop.onnx_weights import write_onnx
from pwl_jax.ladder import Composition
from pwl_jax.training import workdir
from tests.tiny_models import images_of, tiny_model

CLASSES = ("ant", "bee")


def weights_of(family, composition, **fields):
    model = tiny_model(family, **fields)
    preprocessing = workdir.preprocessing_of(model.config)
    return ComposedWeights(
        model.config.pair, Composition.parse(composition), model.variables, CLASSES, preprocessing
    )


def reference(family, composition, images, **fields):
    model = tiny_model(family, **fields)
    mask = model.hybrid.mask_of(model.variables, Composition.parse(composition))
    apply = jax.jit(lambda variables: model.hybrid.apply(variables, images, mask).logits)
    return np.asarray(apply(model.variables))


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
    ("family", "composition"),
    [
        ("vgg", "TSS"),
        ("vgg", "SSS"),
        pytest.param("resnet", "TST", marks=pytest.mark.slow),
        pytest.param("vit", "STS", marks=pytest.mark.slow),
        pytest.param("lenet5", "TTTT", marks=pytest.mark.slow),
    ],
)
def test_onnx_runtime_gives_the_logits(family, composition, folded, tmp_path):
    if folded and family in ("vit", "lenet5"):
        with pytest.raises(UserError, match="no BatchNorm that could be folded"):
            write_onnx(tmp_path / "x.onnx", weights_of(family, composition), folded)
        assert list(tmp_path.iterdir()) == []
        return
    size = write_onnx(tmp_path / "x.onnx", weights_of(family, composition), folded)
    model = onnx.load(tmp_path / "x.onnx")
    onnx.checker.check_model(model, full_check=True)
    stored = {tensor.name: tensor for tensor in model.graph.initializer if "/" in tensor.name}
    assert size == sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in stored.values())
    if folded:
        assert not any("norm" in name or "batch_stats" in name for name in stored)
    session = onnxruntime.InferenceSession(tmp_path / "x.onnx")
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    images = images_of(tiny_model(family), 5)
    expected = reference(family, composition, images)
    for batch in (1, 5):
        (got,) = session.run(["logits"], {"images": images[:batch]})
        assert got.shape == (batch, 10)
        assert np.abs(got - expected[:batch]).max() <= 1e-5 * np.abs(expected).max()


def test_metadata_say_what_it_is_of(tmp_path):
    weights = weights_of("vgg", "TSS", statistics="shared")
    write_onnx(tmp_path / "x.onnx", weights)
    model = onnx.load(tmp_path / "x.onnx")
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert (said["format"], said["version"], said["composition"]) == ("pwl-onnx", "1", "TSS")
    assert json.loads(said["pair"]) == weights.pair.to_dict()
    assert tuple(json.loads(said["classes"])) == CLASSES
    assert json.loads(said["preprocessing"]) == weights.preprocessing.to_dict()
    assert "folded" not in said
    write_onnx(tmp_path / "y.onnx", weights, fold_batch_norm=True)
    said = {entry.key: entry.value for entry in onnx.load(tmp_path / "y.onnx").metadata_props}
    assert said["folded"] == "batch_norm"
    unknown = dataclasses.replace(weights, classes=(), preprocessing=None)
    write_onnx(tmp_path / "z.onnx", unknown)
    said = {entry.key for entry in onnx.load(tmp_path / "z.onnx").metadata_props}
    assert said == {"format", "version", "composition", "pair"}


def test_equal_weights_give_equal_bytes(tmp_path):
    for name in "ab":
        write_onnx(tmp_path / f"{name}.onnx", weights_of("vgg", "TSS"))
    a, b = ((tmp_path / f"{name}.onnx").read_bytes() for name in "ab")
    assert a == b and b".py" not in a


def test_too_many_weights_for_one_file(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_weights, "LARGEST_MODEL", 1000)
    with pytest.raises(
        UserError, match=r"[\d,]+ bytes of weights; one ONNX file holds at most 1,0"
    ):
        write_onnx(tmp_path / "x.onnx", weights_of("vgg", "TSS"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"cannot write .*No such file"):
        write_onnx(tmp_path / "no" / "x.onnx", weights_of("vgg", "SSS"))
