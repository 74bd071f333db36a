"""export --precision_only of one network, on workdirs that no training made."""

import dataclasses

import jax
import numpy as np
import pytest

from pwl_jax.bundle import BundleReader
from pwl_jax.bundle.lazy_safetensors import SafetensorsFile
from pwl_jax.ladder import EXACT
from tests.commands import done, failed, launched
from tests.export.networks import named, network_of, write_network
from tests.tiny_models import tiny_model, write_workdir


def with_data(model, **fields):
    data = dataclasses.replace(model.config.data, **fields)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, data=data))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Workdirs of a pair and of networks alone. Do not change them."""
    folder = tmp_path_factory.mktemp("networks")
    write_workdir(folder / "pair", tiny_model("vgg"))
    teacher = network_of("teacher")
    write_network(folder / "teacher", teacher)
    write_network(folder / "unsplit", with_data(teacher, validation_fraction=0.0))
    write_network(folder / "multi", network_of("student", data="multi_digits"))
    params = jax.tree.map(np.array, teacher.variables["params"])
    params["head"]["dense"]["kernel"] *= np.float32(1.5)
    newer = dataclasses.replace(teacher, variables={**teacher.variables, "params": params})
    write_network(folder / "newer", newer)
    return folder


def test_a_teacher_alone_needs_precision_only(folder, tmp_path):
    result = launched("launch.export", f"--workdir={folder}/teacher", f"--bundle={tmp_path}/b")
    assert failed(result, "holds a teacher alone; add --precision_only, or distil it first")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("source", ["pair", "teacher"])
def test_a_network_by_itself_measured_within_the_default_budget(folder, tmp_path, source):
    flags = [f"--workdir={folder}/{source}", "--precision_only", "--bits=4,8,exact"]
    shown = done(launched("launch.export", *flags, f"--bundle={tmp_path}/b"))
    assert [line.split()[0] for line in shown.splitlines()[1:4]] == ["TTT@4", "TTT@8", "TTT@exact"]
    assert shown.splitlines()[-1] == (
        "one network: every precision is a rung; each tensor's bits were chosen on the validation "
        "split within 110% of the bytes of 4 bits; test is only reported"
    )
    assert "not measured" not in shown and "top-1 %" in shown
    target = tmp_path / "y.safetensors"
    done(launched("launch.restore", f"--bundle={tmp_path}/b", f"--output={target}"))
    restored, expected = SafetensorsFile(target), named(network_of("teacher"))
    assert set(restored) == expected.keys()
    for name, array in expected.items():
        assert restored[name].tobytes() == np.asarray(array).tobytes()


@pytest.mark.slow
def test_the_same_bits_for_all_and_no_split_to_choose_on(folder, tmp_path):
    """Without a validation split the default budget is not spent, and nothing fails."""
    flags = ["--precision_only", "--bits=4,exact"]
    chosen = "bits were chosen"
    uniform = [f"--workdir={folder}/teacher", "--base_budget=0", f"--bundle={tmp_path}/uniform"]
    assert chosen not in done(launched("launch.export", *flags, *uniform))
    unsplit = [f"--workdir={folder}/unsplit", f"--bundle={tmp_path}/unsplit"]
    assert chosen not in done(launched("launch.export", *flags, *unsplit))
    shards = [BundleReader.open(tmp_path / name).manifest.shards for name in ("uniform", "unsplit")]
    assert shards[0] == shards[1]


@pytest.mark.slow
def test_a_multi_label_network_is_told_in_mean_average_precision(folder, tmp_path):
    flags = [f"--workdir={folder}/multi", "--precision_only", f"--bundle={tmp_path}/b"]
    shown = done(launched("launch.export", *flags))
    assert "validation mAP %" in shown and "SSS@4" in shown and "top-1" not in shown
    again = done(launched("launch.inspect", f"--bundle={tmp_path}/b", "--verify"))
    assert shown.splitlines()[:3] == again.splitlines()[-5:-2]


@pytest.mark.slow
def test_a_newer_checkpoint_as_a_delta(folder, tmp_path):
    flags = ["--precision_only", "--measure=false"]
    done(
        launched("launch.export", f"--workdir={folder}/teacher", f"--bundle={tmp_path}/old", *flags)
    )
    new = [f"--workdir={folder}/newer", f"--bundle={tmp_path}/new", f"--against={tmp_path}/old"]
    shown = done(launched("launch.export", *new, "--precision_only"))
    assert "TTT@exact" in shown and "TTT@4" not in shown and "bits were chosen" not in shown
    restored = tmp_path / "y.safetensors"
    done(launched("launch.restore", f"--bundle={tmp_path}/new", new[2], f"--output={restored}"))
    old, found = named(network_of("teacher")), SafetensorsFile(restored)
    changed = [name for name in found if found[name].tobytes() != np.asarray(old[name]).tobytes()]
    assert changed == ["teacher/params/head/dense/kernel"]
    reader = BundleReader.open(tmp_path / "new", against=[tmp_path / "old"])
    assert {entry.stage for entry in reader.manifest.shards.values()} == {EXACT}
    budget = launched("launch.export", *new, "--precision_only", "--base_budget=1.2")
    assert failed(budget, "a delta has none")


@pytest.mark.slow
def test_budgets_that_cannot_be_kept(folder, tmp_path):
    flags = [f"--workdir={folder}/teacher", "--precision_only", f"--bundle={tmp_path}/b"]
    for arguments, message in (
        (["--base_budget=1.1", "--measure=false"], "expected validation data"),
        (["--base_budget=0.01"], "the fewest bits take"),
        (["--base_budget=-1"], "base_budget is -1.0"),
        (["--base_budget=1.1", "--bits=exact"], "stages begin with exact"),
    ):
        assert failed(launched("launch.export", *flags, *arguments), message)
    assert not list(tmp_path.iterdir())
