"""Programs joined without a library that knows ONNX, judged by one that does."""

import onnx
import pytest
from onnx import helper, parser

from pwl_jax.ladder import Unit
from pwl_jax.runtime.onnx_chain import chain, link
from pwl_jax.runtime.protobuf import bytes_field, fields, number_field
from tests import tiny_bundle as tiny

TENSORS = tiny.all_tensors()
PLAIN = """
<ir_version: 8, opset_import: ["" : 18]>
plain (float[N, 2] w0, float[N, 2] x) => (float[N, 2] y) { s = Add (x, w0) y = Clip (s, , w0) }
"""
BRANCHING = """
<ir_version: 8, opset_import: ["" : 18]>
branching (bool w0, float[2] x) => (float[2] y) {
  y = If (w0) <then_branch = a () => (float[2] p) { p = Neg (x) },
               else_branch = b () => (float[2] q) { q = Abs (x) }>
}
"""


def test_fields_of_all_forms_and_sizes():
    message = b"".join(
        (number_field(1, 0), number_field(3, 2**63 - 1), bytes_field(200, b"z" * 300), b"\x15ABCD")
    )
    parts = list(fields(message))
    assert b"".join(part.raw for part in parts) == message
    assert [part.number for part in parts] == [1, 3, 200, 2]
    assert [part.value for part in parts] == [0, 2**63 - 1, b"z" * 300, b"ABCD"]
    with pytest.raises(ValueError, match="field 1 is a number"):
        _ = parts[0].data
    for cut in (1, 5, len(message) - 1):
        with pytest.raises(ValueError, match="no protocol buffer"):
            list(fields(message[:cut] if cut != 5 else b"\x0f"))


def test_a_chain_is_a_model_that_onnx_accepts():
    units = [Unit("student", i) for i in range(tiny.BLOCKS)]
    links = [link(tiny.onnx_model(unit), f"{unit}/") for unit in units]
    constants = {
        f"{unit}/w{i}": TENSORS[name]
        for unit in units
        for i, name in enumerate(tiny.arguments(unit))
    }
    model = onnx.load_from_string(chain(links, constants))
    for name, array in constants.items():
        # The checker wants values in the file, where our sessions are given them in memory.
        (tensor,) = (t for t in model.graph.initializer if t.name == name)
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(model)
    assert [value.name for value in model.graph.input] == ["student/0/x"]
    assert [value.name for value in model.graph.output] == ["student/2/y"]
    count = sum(len(onnx.load_from_string(tiny.onnx_model(unit)).graph.node) for unit in units)
    assert len(model.graph.node) == count + len(units) - 1


def test_absent_inputs_of_a_node_stay_absent():
    program = parser.parse_model(PLAIN)
    model = onnx.load_from_string(chain([link(program.SerializeToString(), "p/")], {}))
    assert list(model.graph.node[1].input) == ["p/s", "", "p/w0"]


def test_what_could_not_be_renamed_is_refused():
    branching = parser.parse_model(BRANCHING).SerializeToString()
    with pytest.raises(ValueError, match="holds a graph"):
        link(branching, "p/")
    program = parser.parse_model(PLAIN)
    nodes = [helper.make_node("Neg", ["a"], ["b"])]
    program.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], nodes, [helper.make_opsetid("", 18)])
    )
    with pytest.raises(ValueError, match="field 25 of an ONNX model"):
        link(program.SerializeToString(), "p/")
    program = parser.parse_model(PLAIN)
    program.graph.sparse_initializer.add()
    with pytest.raises(ValueError, match="field 15 of an ONNX graph"):
        link(program.SerializeToString(), "p/")
    renamed = parser.parse_model(PLAIN.replace("=> (float[N, 2] y)", "=> (float[N, 2] s)"))
    with pytest.raises(ValueError, match=r"gives s; expected the input x and the output y"):
        link(renamed.SerializeToString(), "p/")


def test_what_a_program_declares():
    takes = link(parser.parse_model(PLAIN).SerializeToString(), "p/").takes
    assert takes == {"w0": ("float32", (None, 2)), "x": ("float32", (None, 2))}
    scalar = PLAIN.replace("float[N, 2] w0", "float w0")
    assert link(parser.parse_model(scalar).SerializeToString(), "p/").takes["w0"].shape == ()
    text = PLAIN.replace("float[N, 2] w0", "string[N, 2] w0")
    with pytest.raises(ValueError, match="its input w0 is of type 8, which no shard holds"):
        link(parser.parse_model(text).SerializeToString(), "p/")


@pytest.mark.parametrize("where", ["initializer", "attribute"])
def test_constants_of_other_files_are_refused(where):
    """Nobody has verified what lies beside a program."""
    outside = onnx.TensorProto(name="c", data_type=onnx.TensorProto.FLOAT, dims=[2])
    outside.data_location = onnx.TensorProto.EXTERNAL
    outside.external_data.add(key="location", value="elsewhere")
    model = parser.parse_model(PLAIN)
    if where == "initializer":
        model.graph.initializer.append(outside)
    else:
        model.graph.node.append(helper.make_node("Constant", [], ["c"], value=outside))
    with pytest.raises(ValueError, match="one of its constants lies in another file"):
        link(model.SerializeToString(), "a/")
