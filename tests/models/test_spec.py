"""Network specs as data: what is written is what is read, and nothing else is taken."""

import dataclasses
import json

import pytest

from pwl_jax.errors import UserError
from pwl_jax.models.registry import PAIRS
from pwl_jax.models.spec import NetworkSpec, SpecError
from pwl_jax.models.vgg import VGGSpec

SPECS = [spec for networks in PAIRS.values() for spec in networks]
DATA = {
    "family": "vgg",
    "input_shape": [16, 16, 1],
    "classes": 10,
    "dtype": "bfloat16",
    "widths": [4, 8],
    "depths": [1, 2],
}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.family)
def test_json_round_trip(spec):
    data = json.loads(json.dumps(spec.to_dict()))
    assert NetworkSpec.from_dict(data) == spec
    assert set(data) == {"family"} | {f.name for f in dataclasses.fields(spec)}


def test_reads_what_it_says():
    spec = NetworkSpec.from_dict(DATA)
    assert spec == VGGSpec(
        input_shape=(16, 16, 1), classes=10, dtype="bfloat16", widths=(4, 8), depths=(1, 2)
    )
    assert spec.to_dict() == DATA
    assert hash(spec) == hash(NetworkSpec.from_dict(DATA))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"family": "alexnet"}, r"family 'alexnet' is unknown.*lenet5.*--import=my\.module"),
        ({"family": None}, "family 'None' is unknown"),
        ({"depth": 3}, "unknown key 'depth' for VGGSpec; its keys are .*widths, depths"),
        ({"dtype": "float8"}, "dtype 'float8' is unknown; expected one of float32, bfloat16"),
        ({"classes": 0}, "classes is 0"),
        ({"input_shape": [16, 16]}, r"expected \(height, width, channels\)"),
        ({"input_shape": [16, 0, 1]}, r"expected \(height, width, channels\)"),
        ({"widths": 4, "depths": 1}, "expected one entry a block"),
    ],
)
def test_wrong_data_is_refused(change, message):
    with pytest.raises(SpecError, match=message):
        NetworkSpec.from_dict({**DATA, **change})


def test_a_missing_key_is_named():
    data = {k: v for k, v in DATA.items() if k != "classes"}
    with pytest.raises(UserError, match="missing key 'classes' for VGGSpec"):
        NetworkSpec.from_dict(data)


def test_a_family_is_defined_once():
    def define(module):
        return type(NetworkSpec)(
            "OwnSpec", (NetworkSpec,), {"__module__": module}, family="own_of_this_test"
        )

    try:
        define("mine")
        # As when a notebook's cell or a module is run again.
        again = define("mine")
        assert NetworkSpec.families["own_of_this_test"] is again
        with pytest.raises(SpecError, match="family 'own_of_this_test' is defined by mine already"):
            define("yours")
        assert NetworkSpec.families["own_of_this_test"] is again
    finally:
        NetworkSpec.families.pop("own_of_this_test", None)
