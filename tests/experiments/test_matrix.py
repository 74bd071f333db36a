"""The comparison at equal budget: its units, its budget, and what its tables say."""

import json
import sys

import pytest

from experiments import objectives, results_file
from experiments.matrix import report, tables, units, work
from experiments.matrix.children import Children
from experiments.matrix.summary import Case, cases, falls, kinds, targets
from experiments.matrix.units import Budget, MatrixError, Unit, planned
from pwl_jax.errors import UserError
from pwl_jax.ladder import Composition
from pwl_jax.training.config import RunConfig, differences

BLOCKS = 3
NAMES = [str(c) for c in Composition.all(BLOCKS)]


def measured(unit, student, mixed, recalibrated=None, teacher=0.9):
    """What a unit's process would have left: all mixed compositions alike, 0..1."""

    def top1(value):
        return {name: student if "T" not in name else value for name in NAMES if "S" in name}

    hybrids = mixed is not None
    plain = top1(mixed) if hybrids else {"SSS": student}
    last = {"checkpoint": "last", "step": 7, "statistics": "per_stream", "top1": plain}
    results = [last]
    if recalibrated is not None:
        results.append({**last, "statistics": "per_composition", "top1": top1(recalibrated)})
    return {
        "unit": unit.name,
        "budget": {
            "epochs": 2,
            "batch_size": 128,
            "steps": 702,
            "gflop_a_step": 1.5,
            "train_seconds": 60.0 + unit.seed,
        },
        "config": {
            "pair": {"name": "resnet_small"},
            "data": {"name": "cifar10", "validation_fraction": 0.1},
            "epochs": 2,
            "batch_size": 128,
        },
        "parameters": {"teacher": 701754, "student": 78082},
        "test_examples": 10_000,
        "results": results,
        "teacher": {"top1": teacher, "same_bits": True, "equal_logits": 10_000},
        "versions": {"jax": "0.0"},
        "device": {"cpu": "some", "cores": 2},
        "platform": "cpu",
        "date": "2026-01-01",
    }


def comparison():
    """Two seeds of five objectives."""
    found = {}
    for seed in (0, 1):
        shift = 0.01 * seed
        for objective, student, mixed, recalibrated in (
            ("alone", 0.60, None, None),
            ("kd", 0.64, None, None),
            ("random", 0.50, 0.40, 0.44),
            ("all", 0.64, 0.50, 0.60),
            ("ours", 0.66, 0.70, 0.70),
            ("any_order", 0.655, 0.70, 0.70),
        ):
            unit = Unit(seed, "resnet", objective)
            values = [None if v is None else v + shift for v in (student, mixed, recalibrated)]
            found[unit] = measured(unit, *values)
    return found


def test_names_of_units_are_read_back_and_others_refused():
    unit = Unit(2, "vit", "any_order")
    assert Unit.parse(unit.name) == unit
    assert Unit(0, "resnet", "stitched").trained == Unit(0, "resnet", "alone")
    for wrong in ("resnet/ours", "resnet/ours/seedx", "mlp/ours/seed0", "resnet/theirs/seed0"):
        with pytest.raises(MatrixError, match="is no unit"):
            Unit.parse(wrong)


def test_units_come_seed_by_seed_and_each_family_has_its_objectives():
    found = planned(["resnet", "vgg"], [], [0, 1], "comparison")
    assert [unit.seed for unit in found] == sorted(unit.seed for unit in found)
    assert {u.objective for u in found if u.family == "vgg"} == {"kd", "all", "ours"}
    assert {u.objective for u in found if u.family == "resnet"} == set(objectives.COMPARED)
    # What stitching takes was trained before.
    names = [unit.objective for unit in found]
    assert names.index("alone") < names.index("stitched")
    assert len(planned(["vit"], ["kd"], [5], "comparison")) == 1
    ablation = planned(["resnet"], [], [0], "ablation")
    assert set(objectives.ABLATIONS) < {unit.objective for unit in ablation}
    with pytest.raises(MatrixError, match="families has 'mlp'"):
        planned(["mlp"], [], [0], "comparison")


def test_weights_found_for_ours_never_reach_the_baselines_objectives():
    def weights(objective, family="vit"):
        found = units.distill_config(Unit(0, family, objective), Budget("cifar10"), "D").objective
        return (found.w_sync, found.w_recon, found.w_cross, found.ramps)

    assert weights("all") == weights("random") == (1.0, 1.0, 2.0, ())
    for objective in ("ours", "any_order"):
        assert weights(objective) != weights("all")
        assert weights(objective, "resnet") == weights("all", "resnet") == (1.0, 1.0, 2.0, ())
    assert weights("next_rung") == weights("ours")
    assert weights("light_mixed") == weights("any_order")


def test_every_objective_has_the_same_budget():
    free = (
        "objective.",
        "pair.statistics:",
        "calibration_examples:",
        "converter_init:",
        "calibration_over:",
    )
    for family in units.FAMILIES:
        budget = Budget("cifar10", epochs=3)
        ours = units.distill_config(Unit(0, family, "ours"), budget, "D")
        assert ours.epochs == 3 and ours.data.data_dir == "D"
        for objective in objectives.OBJECTIVES:
            config = units.distill_config(Unit(0, family, objective), budget, "D")
            differing = [d for d in differences(config, ours) if not d.startswith(free)]
            assert differing == [], objective
            assert RunConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_full_scale_is_the_baselines_recipe():
    budget = Budget("cifar10", scale="full", steps_per_dispatch=20)
    config = units.distill_config(Unit(1, "resnet", "all"), budget, None)
    assert config.pair.name == "resnet" and config.pair.statistics == "shared"
    assert (config.epochs, config.seed, config.steps_per_dispatch) == (160, 1, 20)
    assert units.teacher_config("resnet", budget, None).steps_per_dispatch == 20


def test_compositions_count_where_they_belong():
    assert kinds("SSSS") == {"student"} and kinds("TTTT") == set()
    assert kinds("TTSS") == {"prefixes", "mixed", "worst mixed"}
    assert kinds("SSTT") == {"suffixes", "mixed", "worst mixed"}
    assert kinds("STTS") == {"contiguous", "mixed", "worst mixed"}
    assert kinds("STST") == {"mixed", "worst mixed"}


def test_values_of_a_case():
    top1 = dict(zip(NAMES, (50, 40, 45, 60, 52, 30, 66, 80), strict=True))
    assert NAMES == ["SSS", "SST", "STS", "STT", "TSS", "TST", "TTS", "TTT"]
    case = Case("resnet", "ours", "last", "per_stream", {0: top1})
    assert case.values("student") == [50]
    assert case.values("prefixes") == [(52 + 66) / 2]
    assert case.values("suffixes") == [(40 + 60) / 2]
    assert case.values("contiguous") == [45]
    assert case.values("mixed") == [pytest.approx((40 + 45 + 60 + 52 + 30 + 66) / 6)]
    assert case.values("worst mixed") == [30]
    # Of SST, STT and STS below 55: 15, 0 and 10.
    assert case.drop(55) == pytest.approx(25 / 3)
    assert case.prefixes(80) == [("SSS", 50), ("TSS", 52), ("TTS", 66), ("TTT", 80)]


def test_a_fall_is_more_than_the_standard_error():
    # The error of 50 % on 10,000 images is half a point.
    assert falls([("SS", 50.0), ("TS", 49.6), ("TT", 60.0)], 10_000) == []
    assert falls([("SS", 50.0), ("TS", 49.4), ("TT", 60.0)], 10_000) == ["TS"]


def test_targets_of_what_was_measured():
    found = {target.name: target for target in targets("resnet", cases(comparison()))}
    student = found["student, ours: KD or DKD"]
    # Of two seeds a point apart, the deviation is a point over the root of two.
    assert student.value == pytest.approx(66.5)
    assert student.bound == pytest.approx(64.5 - 0.5**0.5)
    assert student.met
    assert found["mean prefix, ours: random"].bound == pytest.approx(44.5)
    drop = found["drop of suffixes and contiguous, any order: a tenth of all, recalibrated"]
    assert drop.value == 0 and drop.bound == pytest.approx((66.5 - 60.5) / 10)
    mixed = found["all mixed, any order: all, recalibrated, and 5"]
    assert (mixed.value, mixed.bound, mixed.met) == (pytest.approx(70.5), pytest.approx(65.5), True)
    assert found["student, any order: ours less 0.5"].met
    # What was not measured is no target yet.
    assert "mean prefix, ours: stitched" not in found


def test_the_wider_of_two_spreads_counts():
    given = [
        Case("lenet5", objective, "last", "shared", {seed: {"SS": 50.0, "TS": v, "TT": 70.0}
             for seed, v in enumerate(values)})
        for objective, values in (("ours", (61.0, 61.0)), ("all", (59.0, 61.0)))
    ]  # fmt: skip
    found = {target.name: target for target in targets("lenet5", given)}
    above = found["mean prefix, ours: all, recalibrated"]
    assert above.bound == pytest.approx(60 + 2**0.5) and not above.met


def test_a_part_of_a_comparison_says_so(tmp_path):
    found = comparison()
    every = [*found, Unit(0, "resnet", "dkd"), Unit(1, "resnet", "dkd")]
    text = report.write(every, found, "trial", tmp_path)
    assert text.startswith("# trial: partial: 12 of 14 runs")
    scale = (
        "resnet_small (701,754 and 78,082 parameters) on 90 % of cifar10, 2 epochs of batches of "
        "128, 10,000 test images, seeds 0, 1, cpu"
    )
    assert f"## {scale}" in text
    assert "all 10,000 test images, in all 12 runs: yes" in text
    assert "| all, recalibrated | 64.50 ± 0.71 | 60.50 ± 0.71 |" in text
    assert (tmp_path / "trial" / "README.md").read_text() == text + "\n"
    assert (tmp_path / "trial" / "resnet.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "trial" / "trial.csv").read_text().splitlines()
    assert "resnet,random,1,last,per_composition,STS,45.00" in table
    whole = json.loads((tmp_path / "trial" / "trial.json").read_text())
    assert whole["state"] == "partial: 12 of 14 runs" and whole["titles"] == {"resnet": scale}
    assert report.write(list(found), found, "trial", tmp_path).startswith("# trial: all runs")
    assert "0 of 14 runs" in report.write(every, {}, "nothing", tmp_path)


def test_a_teacher_that_differs_is_said(tmp_path):
    found = comparison()
    next(iter(found.values()))["teacher"]["equal_logits"] = 9_999
    assert "in all 12 runs: NO" in report.write(list(found), found, "trial", tmp_path)


def test_the_time_of_the_steps_alone(tmp_path):
    lines = [
        {"step": 1, "train/loss": 2.0},
        {"step": 2, "train/loss": 2.0, "speed/step_ms": 100.0},
        {"step": 2, "validation/SS/top1": 0.5},
        {"step": 3, "train/loss": 2.0, "speed/step_ms": 400.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert work.train_seconds(tmp_path) == pytest.approx(2 * 0.1 + 0.4)


@pytest.fixture
def children(tmp_path):
    import signal

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield lambda seconds: Children(seconds, tmp_path)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_processes_run_until_the_time_is_over(children):
    waits = [sys.executable, "-c", "import time; time.sleep(60)"]
    some = children(0.5)
    assert not some.run(waits)
    assert not some.run([sys.executable, "-c", ""])
    assert children(None).run([sys.executable, "-c", ""])
    with pytest.raises(UserError, match="ended with status 3"):
        children(None).run([sys.executable, "-c", "raise SystemExit(3)"])


def test_every_table_has_a_command():
    for name in tables.TABLES:
        module, *given = tables.command_of(name, "W", "D")
        assert module in (tables.MATRIX, tables.PRECISION)
        assert "--data_dir=D" in given
    assert "--workdir=W/resnet/ours/seed0" in tables.command_of("resnet_precision", "W", None)
    kept = {folder.name for folder in results_file.RESULTS.glob("*_small_cifar10*")}
    assert "resnet_small_cifar10" in kept <= {given["name"] for _, given in tables.TABLES.values()}


@pytest.mark.slow
def test_a_unit_is_trained_measured_and_not_done_twice(tmp_path, monkeypatch):
    budget = Budget("digits", epochs=1, teacher_epochs=1)
    stitched = Unit(0, "lenet5", "stitched")
    assert work.run_unit(stitched, budget, tmp_path, None)
    assert work.done(stitched, budget, tmp_path)
    assert not work.done(stitched.trained, budget, tmp_path)
    found = work.read([stitched], budget, tmp_path)[stitched]
    (last,) = (r for r in found["results"] if r["checkpoint"] == "last")
    assert set(last["top1"]) == {str(c) for c in Composition.all(4)}
    assert found["teacher"]["same_bits"]
    assert found["teacher"]["equal_logits"] == found["test_examples"] == 540
    assert last["top1"]["TTTT"] == found["teacher"]["top1"]
    monkeypatch.setattr(work.loop, "train", None)
    assert work.run_unit(stitched, budget, tmp_path, None)

    # Another budget is refused: of what was measured, of a run that is needed, of the teacher.
    longer = Budget("digits", epochs=2, teacher_epochs=1)
    with pytest.raises(MatrixError, match=r"stitched/seed0' holds a run with another config \(epo"):
        work.read([stitched], longer, tmp_path)
    with pytest.raises(MatrixError, match="alone/seed0' holds a run with another config"):
        work.run_unit(stitched.trained, longer, tmp_path, None)
    taught = Budget("digits", epochs=1, teacher_epochs=2)
    with pytest.raises(MatrixError, match="teacher' holds a run with another config"):
        work.run_unit(Unit(1, "lenet5", "kd"), taught, tmp_path, None)
