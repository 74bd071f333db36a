import pytest

from pwl_jax.ladder import Ladder, LadderRung, Rung, ladder_table


def rung(name, **measured):
    return LadderRung(Rung.parse(name), measured.pop("top1", None), measured.pop("top1_test", None),
                      ("teacher/0@4",), 1000, 2500, **measured)  # fmt: skip


@pytest.mark.parametrize(
    ("field", "metric"),
    [
        ("top1", "top-1 %"),
        ("top1_test", "top-1 %"),
        ("mean_average_precision", "mAP %"),
        ("mean_average_precision_test", "mAP %"),
    ],
)
def test_the_metric_is_named_whichever_split_it_was_measured_on(field, metric):
    head, first, second = ladder_table(
        Ladder((rung("T@4", **{field: 0.125}), rung("T@exact")))
    ).splitlines()
    assert f"validation {metric}" in head and f"test {metric}" in head
    assert first.split()[:1] == ["T@4"] and first.split()[-2:] == ["1,000", "2,500"]
    assert "12.50" in first and "12.50" not in second
    assert (first.index("12.50") < first.index("not measured")) == (not field.endswith("_test"))


def test_tensors_without_a_ladder():
    assert ladder_table(Ladder(())) == "no ladder: this bundle only holds tensors"
