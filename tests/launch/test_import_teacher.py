"""From a pre-trained checkpoint to a bundle, by commands; and what goes wrong."""

import json

import numpy as np
import pytest

from experiments.configs import imported, recipes
from pwl_jax.training import workdir
from pwl_jax.training.checkpoints import CheckpointError
from pwl_jax.training.config import DataConfig, RunConfig, run_config
from tests import commands
from tests.interop.foreign_checkpoints import tensors_of, write

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A checkpoint, and the workdir that the command makes of it, with a head for digits."""
    root = tmp_path_factory.mktemp("import")
    write(root / "checkpoint", "timm:vit")
    result = import_teacher(root, "--classes=10", "--image_size=16", "--data=digits")
    assert result.returncode == 0, result.stderr
    (root / "said").write_text(result.stdout)
    return root


def import_teacher(root, *arguments, source="timm", blocks="2"):
    return commands.launched(
        "launch.import_teacher",
        f"--source={source}:{root}/checkpoint",
        f"--blocks={blocks}",
        f"--workdir={root}/teacher",
        *arguments,
    )


def fails(result, message):
    assert result.returncode == 1, result.stderr
    assert message in result.stderr
    assert result.stderr.startswith("launch.") and result.stderr.count("\n") == 1, result.stderr
    assert not result.stdout


def test_the_workdir_is_a_teachers(folder):
    model = workdir.load_network(folder / "teacher")
    spec = model.config.pair.teacher
    assert (spec.block_layers, spec.classes, spec.input_shape) == ((3, 2), 10, (16, 16, 3))
    assert spec.epsilon == 1e-6
    assert model.config.data == DataConfig(
        name="digits", mean=(0.5, 0.4, 0.3), std=(0.5, 0.25, 0.2)
    )
    preprocessing = workdir.preprocessing_of(model.config)
    assert (preprocessing.mean, preprocessing.std) == ((0.5, 0.4, 0.3), (0.5, 0.25, 0.2))
    fused = tensors_of("timm:vit")["blocks.2.attn.qkv.weight"]
    np.testing.assert_array_equal(
        model.variables["params"]["block0"]["layer2"]["attention"]["key"]["kernel"], fused[6:12].T
    )
    said = (folder / "said").read_text()
    record = json.loads((folder / "teacher" / "source.json").read_text())
    assert record["unused"] == ["head.bias", "head.weight"]
    for part in ("a teacher of 2 blocks", "head.bias, head.weight", "crops", "head is new"):
        assert part in said


def test_a_teacher_sees_the_images_it_was_trained_on(folder):
    run = workdir.read_config(folder / "teacher")
    other = RunConfig(task="distill", pair=run.pair, data=DataConfig(name="digits"))
    with pytest.raises(CheckpointError, match=r"takes images normalised by mean \(0.5, 0.4, 0.3\)"):
        workdir.load_teacher(folder / "teacher", other)


def test_the_config_of_a_workdir_takes_its_pair_and_its_images(folder):
    run = workdir.read_config(folder / "teacher")
    for task in ("teacher", "distill"):
        made = run_config(imported.get_config(str(folder / "teacher")), task)
        assert (made.pair, made.data) == (run.pair, run.data)
    assert made.student_init == "teacher_layers"
    assert RunConfig.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    # Fields that only imports set can be set on the command line of any config.
    config = recipes.digits("vit_digits", 1, 1)
    config.data.mean, config.data.std = (0.5,), (0.25,)
    assert run_config(config, "teacher").data.std == (0.25,)


@pytest.mark.parametrize(
    "task",
    [
        pytest.param("train_teacher", marks=pytest.mark.long),
        pytest.param("distill", marks=pytest.mark.slow),
    ],
)
def test_it_is_trained_on_and_distilled_from(folder, task, tmp_path):
    flag = {"train_teacher": "--init", "distill": "--teacher"}[task]
    result = commands.launched(
        f"launch.{task}",
        f"--config=experiments/configs/imported.py:{folder}/teacher",
        f"{flag}={folder}/teacher",
        f"--workdir={tmp_path}/run",
        f"--config.{task.removeprefix('train_')}.epochs=1",
        "--config.batch_size=512",
        f"--config.{task.removeprefix('train_')}.calibration_examples=0",
    )
    assert result.returncode == 0, result.stderr
    before = workdir.load_network(folder / "teacher").variables["params"]["block0"]
    if task == "train_teacher":
        after = workdir.load_network(tmp_path / "run").variables["params"]["block0"]
        change = np.abs(after["layer0"]["mlp_in"]["kernel"] - before["layer0"]["mlp_in"]["kernel"])
        assert 0 < change.max() < 0.01
        return
    model = workdir.load_model(tmp_path / "run")
    teacher = model.variables["teacher"]["params"]["block0"]
    np.testing.assert_array_equal(
        teacher["layer0"]["mlp_in"]["kernel"], before["layer0"]["mlp_in"]["kernel"]
    )
    exported = commands.launched(
        "launch.export", f"--workdir={tmp_path}/run", f"--bundle={tmp_path}/b", "--bits=exact"
    )
    assert exported.returncode == 0, exported.stderr
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    assert manifest["preprocessing"]["mean"] == [0.5, 0.4, 0.3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "holds something already"),
        ({"blocks": "7"}, "5 layers in 7 blocks; expected 1 to 5 blocks"),
        ({"blocks": ""}, "--blocks is ; expected whole numbers from 1 up"),
        ({"blocks": "9" * 5000}, "expected whole numbers from 1 up"),
        ({"blocks": "3,x"}, "--blocks is 3,x; expected whole numbers from 1 up"),
        ({"source": "hf"}, "model_type is None; supported: 'resnet', 'vit', 'deit'"),
    ],
)
def test_what_goes_wrong_is_one_line_and_leaves_the_workdir(folder, arguments, message):
    before = sorted(folder.rglob("*"))
    fails(import_teacher(folder, **arguments), message)
    assert sorted(folder.rglob("*")) == before
