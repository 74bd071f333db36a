"""A workdir answers as the bundle that is exported from it, to the bit (DESIGN's first promise)."""

import dataclasses

import numpy as np
import pytest

from launch import workdir_model
from launch.workdir_model import exact_rung, workdir_prediction
from pwl_jax.errors import UserError
from pwl_jax.export import export_bundle
from pwl_jax.export.programs import export_program
from pwl_jax.interop.onnx_graph import OnnxError
from pwl_jax.ladder import EXACT
from pwl_jax.runtime import LiveModel
from pwl_jax.runtime.jax_executor import JaxExecutor
from pwl_jax.runtime.onnx_executor import OnnxExecutor
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import Checkpoints
from tests.tiny_models import images_of, tiny_model, write_workdir


@pytest.mark.slow
@pytest.mark.parametrize("executor", [JaxExecutor, OnnxExecutor])
@pytest.mark.parametrize(
    ("family", "requests"), [("resnet", [(None, 67)]), ("vit", [(None, 3), ("STT", 2)])]
)
def test_workdir_and_bundle_give_the_same_bits(tmp_path, monkeypatch, family, requests, executor):
    batches, run = [], executor.run

    def recorded(executor, chain, batch):
        batches.append(len(batch))
        return run(executor, chain, batch)

    monkeypatch.setattr(executor, "run", recorded)
    model = tiny_model(family)
    write_workdir(tmp_path / "workdir", model)
    loaded = workdir.load_model(tmp_path / "workdir")
    export_bundle(loaded, tmp_path / "bundle", (4, EXACT), None, None)
    for rung, count in requests:
        images = images_of(model, count)
        answer = workdir_prediction(tmp_path / "workdir", images, rung, executor=executor.name)
        options = {"climb": False, "exact_batches": True, "warm_batches": ()}
        options["executor"] = executor.name
        with LiveModel.open(tmp_path / "bundle", rung=rung, **options) as live:
            expected = live.predict(images)
        # The same cuts, never padded: another batch shape may give other bits.
        cuts = [64, 3] if count == 67 else [count]
        assert batches == 2 * cuts
        batches.clear()
        assert answer.logits.tobytes() == expected.logits.tobytes()
        assert answer.logits.shape == (count, 10) and len(np.unique(answer.logits)) > count
        assert (answer.rung, answer.executor) == (expected.rung, expected.executor)
        assert answer.class_names == tuple("0123456789")


def test_images_are_prepared_as_the_bundle_would(tmp_path):
    write_workdir(tmp_path, tiny_model("vgg"))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 20, 3), dtype=np.uint8)
    prepared = workdir.preprocessing_of(tiny_model("vgg").config)(pixels)
    answers = [workdir_prediction(tmp_path, inputs, "SSS") for inputs in (pixels, prepared)]
    assert answers[0].logits.tobytes() == answers[1].logits.tobytes()
    for inputs, message in (
        (np.zeros((2, 9, 8, 1), np.float32), "8"),
        (np.zeros((0, 8, 8, 1), np.float32), "empty"),
    ):
        with pytest.raises(UserError, match=message):
            workdir_prediction(tmp_path, inputs, "SSS")


def test_exact_rungs():
    assert exact_rung(None, 4).name == "TTTT@exact"
    for text in ("TSTS", "TSTS@exact", "TSTS@x", "TSTS@x-x-x-x"):
        assert exact_rung(text, 4).name == "TSTS@exact"
    for text, message in {
        "TSTS@4": "a workdir holds exact weights only; expected TSTS@exact",
        "TSTS@x-x-x-4": "a workdir holds exact weights only",
        "TST": "has 3 blocks; this network has 4",
        "TSTS@": "'' is no precision",
        "T-TS": "is no composition",
    }.items():
        with pytest.raises(UserError, match=message):
            exact_rung(text, 4)


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_a_network_alone_answers_as_in_its_pair(tmp_path, network):
    pair = tiny_model("vgg")
    write_workdir(tmp_path / "pair", pair)
    variables = pair.variables[network]
    if network == "student":
        variables = {**variables, "batch_stats": variables["batch_stats"]["own"]}
    workdir.write_config(tmp_path / "alone", dataclasses.replace(pair.config, task=network))
    with Checkpoints(tmp_path / "alone") as checkpoints:
        checkpoints.save_result("best", 3, {network: variables})
    images = images_of(pair, 3)
    own = {"teacher": "TTT", "student": "SSS"}[network]
    answer = workdir_prediction(tmp_path / "alone", images)
    expected = workdir_prediction(tmp_path / "pair", images, own)
    assert answer.logits.tobytes() == expected.logits.tobytes()
    assert answer.rung == expected.rung == f"{own}@exact"
    with pytest.raises(UserError, match=f"holds a {network} alone, {own}; no weights for TSS"):
        workdir_prediction(tmp_path / "alone", images, "TSS")


def test_where_onnx_cannot_say_it_jax_answers(tmp_path, monkeypatch):
    def export(hybrid, variables, unit, format):
        if format == "onnx":
            raise OnnxError("no such operator")
        return export_program(hybrid, variables, unit, format)

    monkeypatch.setattr(workdir_model, "export_program", export)
    model = tiny_model("vgg")
    write_workdir(tmp_path, model)
    images = images_of(model, 2)
    assert workdir_prediction(tmp_path, images).executor == "jax"
    with pytest.raises(OnnxError, match="no such operator"):
        workdir_prediction(tmp_path, images, executor="onnxruntime")
