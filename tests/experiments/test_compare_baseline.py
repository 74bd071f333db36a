"""Ours beside the published tables: spreads are right, and what is not known is said."""

import csv
import json
from pathlib import Path

import pytest

from experiments.comparison import report
from experiments.comparison.comparison import Spread, compare
from experiments.comparison.published import published, work_differences
from experiments.comparison.runs import read_runs, workdirs_below
from experiments.configs import recipes
from pwl_jax.data.augmentation import AugmentationConfig
from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition
from pwl_jax.models import pair
from pwl_jax.training import workdir
from pwl_jax.training.config import DataConfig, RunConfig, run_config
from pwl_jax.training.optimizer import OptimizerConfig
from tests.commands import launched

ROOT = Path(__file__).parents[2]
RESNET = published("resnet", "cifar10")
PREFIXES = ("SSSS", "TSSS", "TTSS", "TTTS", "TTTT")


def config(seed=0, name="resnet", task="distill", data="cifar10", **changes):
    fields = {"validation_fraction": 0.0, **changes.pop("data_fields", {})}
    return RunConfig(
        task=task, pair=pair(name), data=DataConfig(name=data, **fields), seed=seed, **changes
    )


def rows_of(top1, checkpoint="last", step=7, **changes):
    return [
        {
            "composition": name,
            "top1": value,
            "loss": 1.0,
            "examples": 10_000,
            "live_bytes": 5,
            "checkpoint": checkpoint,
            "step": step,
            "data": "cifar10",
            "split": "test",
            "device": "cpu",
            **changes,
        }
        for name, value in top1.items()
    ]


def write_run(path, run, rows):
    workdir.write_config(path, run)
    (path / "compositions.json").write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return str(path)


def prefixes(*values):
    return dict(zip(PREFIXES, values, strict=True))


@pytest.fixture
def three(tmp_path):
    """Three seeds; the last one lacks a prefix of the best checkpoint."""
    paths = []
    for seed, shift in enumerate((0.0, 0.01, 0.03)):
        last = prefixes(*(value + shift for value in (0.8, 0.82, 0.81, 0.85, 0.9)))
        best = prefixes(*(value + shift for value in (0.81, 0.82, 0.83, 0.86, 0.9)))
        if seed == 2:
            del best["TTSS"]
        rows = rows_of(best, "best", 5) + rows_of(last | {"SSST": 0.5 + shift})
        paths.append(write_run(tmp_path / f"seed{seed}" / "pwl", config(seed), rows))
    return paths


def line_of(comparison, name):
    (line,) = (line for line in comparison.lines if line.label == name)
    return line


def test_spread_and_gain_over_seeds(three):
    # In any order of the workdirs.
    comparison = compare(read_runs(three[::-1], "resnet", "cifar10"), RESNET)
    line = line_of(comparison, "TTSS")
    assert line.published == 92.9 and list(line.ours["last"]) == [0, 1, 2]
    spread = Spread.of(list(line.ours["last"].values()))
    assert spread.mean == pytest.approx(82 + 1 / 3)
    # Squares of -4/3, -1/3 and 5/3, over n - 1.
    assert spread.deviation == pytest.approx(((16 + 1 + 25) / 9 / 2) ** 0.5)
    assert (spread.least, spread.greatest) == (pytest.approx(81), pytest.approx(84))
    gain = comparison.above_student(line, "last")
    assert gain.mean == pytest.approx(1) and gain.deviation == pytest.approx(0)
    assert comparison.published_above_student(line) == pytest.approx(0.6)
    assert line_of(comparison, "SSST").order == "suffix"
    assert line_of(comparison, "SSST").ours.keys() == {"last"}
    assert Spread.of([3.0]) == Spread(3.0, None, 3.0, 3.0, 1)


def test_what_rises_and_what_is_not_known(three):
    rising = compare(read_runs(three, "resnet", "cifar10"), RESNET).rising()
    assert rising == {
        "published": "no, falls at TSSS",
        "ours, last": "no, falls at TTSS; of 3 seeds by themselves, 0",
        "ours, best": "not known, for want of TTSS; of 3 seeds by themselves, 2",
    }


def test_the_report_shows_gaps_and_counts(three):
    text = report.markdown(compare(read_runs(three, "resnet", "cifar10"), RESNET))
    cells = {
        row[0]: row
        for row in ([cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines())
        if row
    }
    assert cells["TTSS"][1:] == [
        "92.9", "+0.6", "82.33 ± 1.53 (81.00 to 84.00)", "+1.0",
        "83.50 ± 0.71 (83.00 to 84.00), 2 of 3 seeds", "+2.0",
    ]  # fmt: skip
    assert cells["SSST"][1:] == ["88.8", "-3.5", "51.33 ± 1.53 (50.00 to 53.00)", "-30.0", "-", "-"]
    # Published, and not measured here.
    assert cells["STTS"][1:] == ["89.1", "-3.2", "-", "-", "-", "-"]
    assert cells["2"] == ["2", "seed2/pwl", "7", "5", "6 compositions"]
    assert "contradict" in text and "three" not in text
    assert "Other compositions" not in text


def test_the_title_states_the_scale(three):
    comparison = compare(read_runs(three[:1], "resnet", "cifar10"), RESNET)
    assert report.title(comparison) == (
        "resnet (5,338,762 and 1,241,226 parameters) on 100 % of cifar10's training images, 160 "
        "epochs of batches of 128, 10,000 test images, seed 0; device of the evaluation: cpu"
    )
    assert "One seed: there is no spread." in report.markdown(comparison)


def test_the_same_work_is_only_what_has_networks_data_epochs_and_recipe():
    recipe = {
        "augmentation": AugmentationConfig(flip=True, crop_padding=-1, rotation=15.0),
        "optimizer": OptimizerConfig(clip_norm=1.0),
    }
    assert work_differences(config(**recipe), RESNET, 10_000) == []
    changed = config(name="resnet_quarter", epochs=10, batch_size=64, **recipe)
    assert work_differences(changed, RESNET, 2000) == [
        "smaller student of 78,954 parameters (1,241,226)",
        "epochs 10 (160)",
        "batch size 64 (128)",
        "2,000 test images (10,000)",
    ]
    held_out = config(data_fields={"validation_fraction": 0.1}, **recipe)
    assert "validation fraction 0.1 (0.0)" in work_differences(held_out, RESNET, 10_000)
    slower = {**recipe, "optimizer": OptimizerConfig(clip_norm=0.0, learning_rate=0.01)}
    assert work_differences(config(**slower), RESNET, 10_000) == [
        "learning rate 0.01 (0.05)",
        "clip norm 0.0 (1.0)",
    ]
    vit = work_differences(config(name="vit", **recipe), published("vit", "cifar10"), 10_000)
    assert vit[:3] == [
        "teacher with another final norm",
        "student with another final norm",
        "6 blocks (published: 4)",
    ]


@pytest.mark.parametrize("name", ["resnet", "vgg", "vit"])
@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_the_configs_that_name_the_recipe_are_the_recipe_but_for_validation(name, data):
    run = run_config(recipes.baseline(name, data, ""), "distill")
    found = work_differences(run, published(name, data), 10_000)
    networks = ("teacher with", "student with", f"{run.pair.num_blocks} blocks")
    assert [text for text in found if not text.startswith(networks)] == [
        "validation fraction 0.1 (0.0)"
    ]


def test_a_column_that_is_not_the_same_work_says_so(tmp_path):
    path = write_run(tmp_path / "run", config(epochs=10), rows_of(prefixes(*[0.5] * 5)))
    comparison = compare(read_runs([path], "resnet", "cifar10"), RESNET)
    text = report.markdown(comparison)
    assert (
        "**Ours: not the same work: epochs 10 (160), clip norm 0.0 (1.0), flip False (True),"
        in text
    )
    assert "ours, last (not the same work)" in text
    for row in report.result_rows(comparison):
        assert ("not the same work" in row.note) == row.metric.startswith("top-1")


def test_other_blocks_stand_side_by_side_only_at_both_ends(tmp_path):
    vit = published("vit", "cifar10")
    top1 = {str(c): 0.5 + i / 100 for i, c in enumerate(Composition.prefixes(6))}
    path = write_run(tmp_path / "run", config(name="vit"), rows_of(top1))
    comparison = compare(read_runs([path], "vit", "cifar10"), vit)
    paired = {line.label: line.published for line in comparison.lines if line.composition}
    assert paired == {
        "SSSSSS (SSSS)": 94.3, "TSSSSS": None, "TTSSSS": None, "TTTSSS": None, "TTTTSS": None,
        "TTTTTS": None, "TTTTTT (TTTT)": 97.4,
    }  # fmt: skip
    alone = {line.label: line.published for line in comparison.lines if not line.composition}
    assert alone["TTSS (theirs)"] == 96.4 and len(alone) == 9
    assert not any(line.ours for line in comparison.lines if not line.composition)
    assert comparison.rising() == {"published": "yes", "ours, last": "yes"}
    assert "6 blocks (published: 4)" in comparison.note


def test_files_without_checkpoints_are_not_taken_for_last_or_best(tmp_path):
    names = ("composition", "top1", "loss", "examples", "live_bytes")
    rows = [{n: row[n] for n in names} for row in rows_of(prefixes(*[0.5] * 5))]
    path = write_run(tmp_path / "run", config(), rows)
    comparison = compare(read_runs([path], "resnet", "cifar10"), RESNET)
    assert comparison.checkpoints == ["not recorded"]
    assert "ours, not recorded" in report.markdown(comparison)
    assert "device of the evaluation: not recorded" in report.title(comparison)


GOOD = rows_of(prefixes(*[0.5] * 5))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": "[{"}, "compositions.json' cannot be read"),
        ({"rows": "{}"}, "holds no list of compositions"),
        ({"rows": "[]"}, "holds no list of compositions"),
        ({"rows": "[3]"}, "3 is no row; expected composition, top1 and examples"),
        ({"rows": [GOOD[0], GOOD[0]]}, "has SSSS twice for checkpoint last"),
        ({"rows": rows_of({"SSS": 0.5})}, "compositions.json': .*has 3 blocks"),
        ({"rows": rows_of({"TXSS": 0.5})}, "compositions.json': .*TXSS"),
        ({"rows": rows_of({"SSSS": 92.3})}, "top1 of SSSS is 92.3; expected 0 to 1"),
        ({"rows": rows_of({"SSSS": None})}, "top1 of SSSS is None"),
        ({"rows": rows_of({"SSSS": float("nan")})}, "top1 of SSSS is nan"),
        ({"rows": rows_of({"SSSS": 0.5}, examples=0)}, "examples of SSSS is 0"),
        ({"rows": rows_of({"SSSS": 0.5}, split="validation")}, "on split validation, not test"),
        ({"rows": rows_of({"SSSS": 0.5}, data="digits")}, "on data digits, not cifar10"),
        ({"rows": rows_of({"SSSS": 0.5}, "first")}, "checkpoint 'first' is unknown"),
        ({"rows": GOOD + rows_of({"STSS": 0.5}, examples=5)}, r"on \[5, 10000\] images"),
        ({"run": config(1, task="teacher")}, "holds a teacher alone"),
        ({"run": config(1, "vgg"), "rows": "[]"}, "holds no list"),
        ({"run": config(1, "vit"), "rows": rows_of({"S" * 6: 0.5})}, "not of family 'resnet'"),
        ({"run": config(1, data="digits"), "rows": []}, "holds no list"),
        ({"run": config(0)}, "both have seed 0; a spread needs different seeds"),
        ({"run": config(1, "resnet_half")}, "differ in more than the seed: pair"),
        ({"run": config(1, epochs=10)}, "differ in more than the seed: epochs: 10, there 160"),
        ({"rows": rows_of({"SSSS": 0.5}, examples=50)}, "was measured on 50 images"),
    ],
)
def test_runs_that_do_not_go_together_are_named(tmp_path, change, message):
    first = write_run(tmp_path / "a", config(), GOOD)
    other = write_run(tmp_path / "b", change.get("run", config(1)), change.get("rows", GOOD))
    with pytest.raises(UserError, match=message):
        read_runs([first, other], "resnet", "cifar10")


def test_missing_files_and_tables_are_named(tmp_path):
    workdir.write_config(tmp_path / "run", config())
    for paths, message in (
        ([str(tmp_path / "run")], "no list of compositions at"),
        ([str(tmp_path / "none")], "no run's config at"),
        ([], "no workdirs"),
    ):
        with pytest.raises(UserError, match=message):
            read_runs(paths, "resnet", "cifar10")
    with pytest.raises(UserError, match=r"no compositions\.json below"):
        workdirs_below(str(tmp_path))
    with pytest.raises(UserError, match="nothing is published of 'lenet5' on 'cifar10'; there are"):
        published("lenet5", "cifar10")


def test_the_published_tables_are_whole():
    names = {str(c) for order in (Composition.prefixes, Composition.suffixes,
                                  Composition.contiguous) for c in order(4)}  # fmt: skip
    for data in ("cifar10", "cifar100"):
        for family in ("vgg", "resnet", "vit"):
            top1 = published(family, data).top1
            assert set(top1) == names
            assert max(top1.values()) == top1["TTTT"]


@pytest.mark.slow
def test_the_command(three, tmp_path):
    flags = ["--pair=resnet", "--data=cifar10", f"--output={tmp_path / 'out'}"]
    done = launched(
        "experiments.compare_baseline",
        f"--workdirs={','.join(three[:2])}",
        f"--results={tmp_path / 'seed2'}",
        *flags,
    )
    assert (done.returncode, done.stderr) == (0, "")
    out = tmp_path / "out"
    assert done.stdout.strip() == (out / "comparison.md").read_text().strip()
    assert (out / "comparison.png").read_bytes().startswith(b"\x89PNG")
    table = list(csv.DictReader((out / "comparison.csv").read_text().splitlines()))
    (row,) = (r for r in table if (r["composition"], r["checkpoint"]) == ("TTSS", "best"))
    assert (row["published_top1"], row["mean"], row["seeds"]) == ("92.9", "83.5", "2")
    (gap,) = (r for r in table if (r["composition"], r["checkpoint"]) == ("STTS", "last"))
    assert (gap["published_top1"], gap["mean"], gap["note"]) == ("89.1", "", "")
    document = json.loads((out / "comparison.json").read_text())
    assert {"command", "versions", "device", "date", "rows", "runs", "note"} <= set(document)
    assert str(tmp_path) not in json.dumps(document)
    (samples,) = (
        r["samples"]
        for r in document["rows"]
        if (r["case"], r["metric"]) == ("TTTT", "top-1, last checkpoint")
    )
    assert samples == [90, 91, 93]


@pytest.mark.slow
def test_a_mistake_is_one_line_and_writes_nothing(three, tmp_path):
    flags = ["--pair=resnet", "--data=cifar10", f"--output={tmp_path / 'out'}"]
    done = launched("experiments.compare_baseline", f"--workdirs={three[0]},{three[0]}", *flags)
    assert done.returncode == 1 and "both have seed 0" in done.stderr
    assert done.stderr.count("\n") == 1 and not done.stdout
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").write_text("mine")
    done = launched("experiments.compare_baseline", f"--workdirs={three[0]}", *flags)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
    assert "out: File exists" in done.stderr
