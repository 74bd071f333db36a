"""export, export_weights and predict --workdir, on a workdir that no training made."""

import json

import numpy as np
import onnxruntime
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.interop import read_weights
from pwl_jax.ladder import Composition
from tests.commands import failed, launched
from tests.export.networks import network_of, write_network
from tests.tiny_models import images_of, tiny_model, write_workdir


def run(command, **flags):
    given = (f"--{name}={value}" for name, value in flags.items() if value is not None)
    return launched(f"launch.{command}", *given)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A workdir. Do not change it."""
    path = tmp_path_factory.mktemp("trained") / "workdir"
    write_workdir(path, tiny_model("vgg"))
    return path


@pytest.mark.slow
def test_a_bundle_and_its_workdir_predict_the_same(trained, tmp_path):
    made = run("export", workdir=trained, bundle=tmp_path / "b", bits="4,exact", measure="false")
    assert (made.returncode, made.stderr) == (0, "")
    assert "TTT@exact" in made.stdout and "no validation split" in made.stdout
    assert BundleReader.open(tmp_path / "b").ladder[0].name == "SSS@4"
    np.save(tmp_path / "x.npy", images_of(tiny_model("vgg"), 5))
    for executor, name in (("auto", "onnxruntime"), ("jax", "jax")):
        for source, place in {"bundle": tmp_path / "b", "workdir": trained}.items():
            output = tmp_path / f"{source}.npy"
            flags = {source: place, "input": tmp_path / "x.npy", "output": output}
            answer = run("predict", **flags, executor=executor)
            assert (answer.returncode, answer.stderr) == (0, "")
            assert answer.stdout.startswith(f"rung TTT@exact, executor {name}\n")
        assert (tmp_path / "bundle.npy").read_bytes() == (tmp_path / "workdir.npy").read_bytes()


def test_weights_of_a_composition(trained, tmp_path):
    output = tmp_path / "x.safetensors"
    result = run("export_weights", workdir=trained, composition="TSS", output=output)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("TSS of step 3, ")
    assert str(read_weights(output, tiny_model("vgg").config.pair).composition) == "TSS"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.slow
def test_one_composition_as_onnx_with_folded_norms(trained, tmp_path):
    output = tmp_path / "x.onnx"
    flags = {"workdir": trained, "composition": "TSS", "format": "onnx", "fold_batch_norm": "true"}
    result = run("export_weights", **flags, output=output)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("TSS of step 3, ") and list(tmp_path.iterdir()) == [output]
    model = tiny_model("vgg")
    images = images_of(model, 3)
    mask = model.hybrid.mask_of(model.variables, Composition.parse("TSS"))
    expected = np.asarray(model.hybrid.apply(model.variables, images, mask).logits)
    session = onnxruntime.InferenceSession(output)
    (got,) = session.run(["logits"], {"images": images})
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == [str(digit) for digit in range(10)]
    assert json.loads(said["preprocessing"])["input_shape"] == [8, 8, 1]


@pytest.mark.slow
def test_a_teacher_alone_needs_no_composition(tmp_path):
    write_network(tmp_path / "w", network_of("teacher"))
    output = tmp_path / "x.safetensors"
    result = run("export_weights", workdir=tmp_path / "w", output=output)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("TTT of step 3, ")
    assert str(read_weights(output).composition) == "TTT"
    result = run("export_weights", workdir=tmp_path / "w", composition="TSS", output=output)
    assert result.returncode == 1
    assert "holds a teacher alone, which is TTT; --composition is TSS" in result.stderr


@pytest.mark.parametrize(
    ("command", "change", "status", "message"),
    [
        ("export_weights", {"composition": "TSSS"}, 1, "this network has 3"),
        ("export_weights", {"format": "tflite"}, 2, "value should be one of"),
        ("export_weights", {"format": "onnx"}, 1, "expected a name that ends in .onnx"),
        ("export_weights", {"output": "out"}, 1, "expected a name that ends in .safetensors"),
        ("export_weights", {"composition": None}, 1, "--composition is missing"),
        ("export_weights", {"workdir": "/no/such"}, 1, "no run's config at '/no/such/config.json'"),
        ("export", {"programs": "tflite"}, 1, "programs is 'tflite'; expected some of stablehlo,"),
        ("export", {"bits": "8,4,exact"}, 1, "[8, 4, 'exact']"),
        ("predict", {"rung": "TSS@4"}, 1, "a workdir holds exact weights only"),
        ("predict", {"workdir": "/no/such"}, 1, "no run's config at '/no/such/config.json'"),
    ],
)
def test_mistakes_end_in_one_line(trained, tmp_path, command, change, status, message):
    np.save(tmp_path / "x.npy", images_of(tiny_model("vgg"), 1))
    own = {
        "export_weights": {"composition": "TSS", "output": tmp_path / "out.safetensors"},
        "export": {"bundle": tmp_path / "out", "measure": "false"},
        "predict": {"input": tmp_path / "x.npy", "output": tmp_path / "out"},
    }
    result = run(command, **{"workdir": trained, **own[command], **change})
    assert failed(result, message, status)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


@pytest.mark.slow
def test_what_export_refuses_leaves_all_as_it_was(trained, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "notes.txt").write_text("kept")
    workdir = f"--workdir={trained}"
    for arguments, message in (
        ([workdir, f"--bundle={folder}"], "mine"),
        ([workdir, f"--bundle={tmp_path / 'new'}", "--bits=9,exact"], "'9' is no precision"),
        ([workdir, f"--bundle={tmp_path / 'new'}", "--bits=4"], "exact"),
    ):
        assert failed(launched("launch.export", *arguments), message)
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert (folder / "notes.txt").read_text() == "kept"
