import pytest

from pwl_jax.bundle import BundleError
from pwl_jax.bundle.fetch_order import fetch_order
from pwl_jax.ladder import EXACT, Rung

STAGES = {f"{kind}/{i}": (4, EXACT) for kind in ("teacher", "student") for i in range(2)} | {
    "encoder/0": (EXACT,)
}
# Powers of two, so that a sum says what is in it.
SIZES = {
    "student/0@4": 1, "student/1@4": 2, "teacher/0@4": 4, "encoder/0@exact": 8,
    "teacher/1@4": 16, "teacher/0@exact": 32, "teacher/1@exact": 64,
    "student/0@exact": 128, "student/1@exact": 256,
}  # fmt: skip
PROGRAMS = {"student/0": ("a", 1000), "student/1": ("b", 2000), "teacher/0": ("a", 1000)}


def rungs(*names: str) -> list[Rung]:
    return [Rung.parse(name) for name in names]


def test_each_rung_adds_only_what_is_new():
    order = fetch_order(rungs("SS@4", "TS@4", "TT@4", "TT@x-4", "TT@exact"), STAGES, SIZES, {})
    assert [fetch.shards for fetch in order] == [
        ("student/0@4", "student/1@4"),
        ("teacher/0@4", "encoder/0@exact"),
        ("teacher/1@4",),
        ("teacher/0@exact",),
        ("teacher/1@exact",),
    ]
    assert [fetch.shard_bytes for fetch in order] == [3, 12, 16, 32, 64]
    assert [fetch.cumulative_bytes for fetch in order] == [3, 15, 31, 63, 127]


def test_an_exact_rung_reads_its_base_too():
    (fetch,) = fetch_order(rungs("TT@exact"), STAGES, SIZES, {})
    assert fetch.shards == ("teacher/0@4", "teacher/0@exact", "teacher/1@4", "teacher/1@exact")


def test_a_program_counts_once_with_the_first_rung_that_needs_it():
    order = fetch_order(rungs("SS@4", "TS@4", "TT@4"), STAGES, SIZES, PROGRAMS)
    # teacher/0 shares the file of student/0.
    assert [fetch.cumulative_bytes for fetch in order] == [3003, 3015, 3031]
    assert [fetch.shard_bytes for fetch in order] == [3, 12, 16]


def test_identity_converters_cost_nothing():
    stages = {unit: held for unit, held in STAGES.items() if unit != "encoder/0"}
    assert fetch_order(rungs("TS@4"), stages, SIZES, {})[0].shards == ("teacher/0@4", "student/1@4")


@pytest.mark.parametrize("name", ["SS@8", "TSS@4"])
def test_what_the_bundle_lacks_is_named(name):
    with pytest.raises(BundleError, match=rf"{name} needs \w+/\d@\d, which is not there"):
        fetch_order(rungs(name), STAGES, SIZES, {})
