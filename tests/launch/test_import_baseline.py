"""import_baseline, what takes its workdir, and the way back by export_weights."""

import numpy as np
import pytest

from pwl_jax.bundle.safetensors_file import read_safetensors
from pwl_jax.training import workdir
from tests.commands import failed, launched
from tests.interop import baseline_reference as reference
from tests.tiny_models import tiny_model, write_workdir
from tests.tiny_runs import config_file


def content(folder):
    return read_safetensors((folder / "model.safetensors").read_bytes(), "")


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """The folder that holds `theirs`, a pair's checkpoint, and `w`, its workdir."""
    root = tmp_path_factory.mktemp("imported")
    reference.write_pair(root / "theirs", "vit", naming="4")
    arguments = [f"--checkpoint={root / 'theirs'}", f"--workdir={root / 'w'}", "--data=digits"]
    result = launched("launch.import_baseline", *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"baseline_vit, teacher and student, 3 blocks, 10 classes, for digits: {root / 'w'}",
        "kept for the way back, as nothing reads them: 4 tensors",
    ]
    return root


def test_the_workdir_is_a_distillation_like_any_other(imported):
    model = workdir.load_model(imported / "w")
    assert (model.step, model.config.data.name) == (0, "digits")
    assert model.config.pair.statistics == "shared"
    assert model.config.pair.teacher.final_norm is False


@pytest.mark.slow
def test_predict_answers_by_any_composition(imported, tmp_path):
    images = reference.images_of()
    np.save(tmp_path / "x.npy", images)
    for composition in ("STS", "TTT"):
        arguments = [f"--workdir={imported / 'w'}", f"--input={tmp_path / 'x.npy'}"]
        output = [f"--rung={composition}", f"--output={tmp_path / 'y.npy'}"]
        result = launched("launch.predict", *arguments, *output)
        assert (result.returncode, result.stderr) == (0, "")
        tensors = reference.pair_tensors("vit", naming="4")
        expected = reference.logits("vit", tensors, composition, images, naming="4")
        ours = np.load(tmp_path / "y.npy")
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=2e-5)


@pytest.mark.slow
def test_evaluate_measures_every_composition_and_export_makes_a_bundle(imported, tmp_path):
    result = launched("launch.evaluate", f"--workdir={imported / 'w'}", "--orders=all")
    assert (result.returncode, result.stderr) == (0, "")
    assert all(name in result.stdout for name in ("SSS", "TSS", "STS", "TTT"))
    arguments = [f"--workdir={imported / 'w'}", f"--bundle={tmp_path / 'b'}", "--measure=false"]
    result = launched("launch.export", *arguments, "--bits=4,exact")
    assert (result.returncode, result.stderr) == (0, "")
    assert "TTT@exact" in result.stdout


def test_export_gives_back_the_checkpoint(imported, tmp_path):
    flags = [f"--workdir={imported / 'w'}", "--format=baseline"]
    result = launched("launch.export_weights", *flags, f"--output={tmp_path / 'back'}")
    assert (result.returncode, result.stderr) == (0, "")
    theirs, ours = content(imported / "theirs"), content(tmp_path / "back")
    assert ours.keys() == theirs.keys()
    assert all(ours[name].tobytes() == tensor.tobytes() for name, tensor in theirs.items())
    for role in ("teacher", "student"):
        path = f"{role}_config/config.json"
        assert (tmp_path / "back" / path).read_bytes() == (imported / "theirs" / path).read_bytes()


@pytest.mark.slow
def test_names_of_another_version_of_transformers_can_be_had(imported, tmp_path):
    flags = [f"--workdir={imported / 'w'}", "--format=baseline", "--transformers=5"]
    result = launched("launch.export_weights", *flags, f"--output={tmp_path / 'new'}")
    assert (result.returncode, result.stderr) == (0, "")
    assert content(tmp_path / "new").keys() == reference.pair_tensors("vit").keys()


@pytest.mark.slow
def test_a_teacher_alone_is_evaluated_distilled_from_and_exported(tmp_path):
    config = {**reference.CONFIGS["vgg"][0], "in_channels": 3}
    tensors = reference.network_tensors("vgg")
    reference.write(tmp_path / "theirs", tensors, alone=config)
    arguments = [f"--checkpoint={tmp_path / 'theirs'}", f"--workdir={tmp_path / 'w'}"]
    result = launched("launch.import_baseline", *arguments, "--data=digits")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("baseline_vgg, teacher alone, 3 blocks, 10 classes, for digits")
    result = launched("launch.evaluate", f"--workdir={tmp_path / 'w'}")
    assert (result.returncode, result.stderr) == (0, "")
    pair = workdir.read_config(tmp_path / "w").pair.to_dict()
    assert pair["student"] == pair["teacher"] | {"depths": [1, 1, 1]}
    pair["student"]["widths"] = [4, 4, 4]
    run = config_file(tmp_path / "c.py", pair=pair, epochs=1, augmentation={})
    arguments = [f"--config={run}", f"--teacher={tmp_path / 'w'}", f"--workdir={tmp_path / 'pwl'}"]
    result = launched("launch.distill", *arguments)
    assert result.returncode == 0, result.stderr
    flags = [f"--workdir={tmp_path / 'pwl'}", "--format=baseline"]
    result = launched("launch.export_weights", *flags, f"--output={tmp_path / 'out'}")
    assert (result.returncode, result.stderr) == (0, "")
    out = content(tmp_path / "out")
    for name, tensor in tensors.items():
        if not name.endswith("num_batches_tracked"):
            assert out[f"swapnet.teacher.{name}"].tobytes() == tensor.tobytes(), name


@pytest.mark.slow
def test_statistics_per_stream_go_out_as_the_students_own_and_it_is_said(tmp_path):
    model = tiny_model("vgg")
    write_workdir(tmp_path / "w", model)
    flags = [f"--workdir={tmp_path / 'w'}", "--format=baseline", f"--output={tmp_path / 'out'}"]
    result = launched("launch.export_weights", *flags)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("the baseline has one set of running averages and gets the")
    mean = model.variables["student"]["batch_stats"]["own"]["block2"]["norm0"]["mean"]
    out = content(tmp_path / "out")["swapnet.student.vgg.blocks.2.0.1.running_mean"]
    assert out.tobytes() == np.asarray(mean).tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"checkpoint": "/no/such"}, "cannot read /no/such/config.json: No such file or directory"),
        pytest.param(
            {"data": None},
            "--data is missing; the networks have 7 classes",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            {"workdir": "full"},
            "holds something already; expected a workdir of its own",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_mistakes_end_in_one_line_and_write_nothing(tmp_path, change, message):
    tensors = reference.network_tensors("vgg")
    for name in ("classifier.2.weight", "classifier.2.bias"):
        tensors[name] = tensors[name][:7]
    labels = {str(i): f"label{i}" for i in range(7)}
    config = {**reference.CONFIGS["vgg"][0], "id2label": labels}
    reference.write(tmp_path / "theirs", tensors, alone=config)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes").write_text("mine")
    flags = {"checkpoint": tmp_path / "theirs", "workdir": "w", "data": "seven", **change}
    flags["workdir"] = tmp_path / flags["workdir"]
    given = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    assert failed(launched("launch.import_baseline", *given), message)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["full", "theirs"]
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["notes"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--format=baseline", "--composition=TSS"], "--composition is not for --format=baseline"),
        (["--transformers=4", "--composition=TSS"], "--transformers is for --format=baseline"),
        ([], "--composition is missing; expected one letter T or S a block"),
    ],
)
def test_which_flags_go_together(imported, tmp_path, flags, message):
    given = [f"--workdir={imported / 'w'}", f"--output={tmp_path / 'out.safetensors'}", *flags]
    assert failed(launched("launch.export_weights", *given), message)


@pytest.mark.slow
def test_a_vit_with_its_final_norm_cannot_go_out(tmp_path):
    write_workdir(tmp_path / "w", tiny_model("vit"))
    flags = [f"--workdir={tmp_path / 'w'}", "--format=baseline", f"--output={tmp_path / 'out'}"]
    result = launched("launch.export_weights", *flags)
    assert failed(result, "expected a ViT trained with final_norm=False")
    assert not (tmp_path / "out").exists()
