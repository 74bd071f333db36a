"""What the columns of first_inference read: one pair with drawn weights, in every form.

A case is a folder. It holds the bundles `exact`, whose blocks come in full, and `coded`, whose
blocks come in 4 bits first; `image.npy`, one normalised image; and of each network of the pair

  <network>.onnx                        one model
  <network>.optimized.onnx, .int8.onnx  rewritten beforehand by ONNX Runtime, and quantized by it
  <network>.torch/                      a checkpoint folder of the PyTorch baseline
  <network>.jax.safetensors, .json      our variables by their path, and the architecture's spec
"""

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict

from experiments.benchmarks.step_cases import drawn_variables
from pwl_jax.bundle.safetensors_file import write_safetensors
from pwl_jax.export.exporter import export_bundle
from pwl_jax.hybrid import HybridNetwork
from pwl_jax.hybrid.masks import entry_name
from pwl_jax.interop.baseline_folder import write_network
from pwl_jax.interop.onnx_lowering import lowered
from pwl_jax.interop.onnx_weights import write_onnx
from pwl_jax.interop.safetensors_weights import ComposedWeights
from pwl_jax.ladder import EXACT, Composition
from pwl_jax.models.block_network import BlockNetwork, Variables
from pwl_jax.models.registry import PairSpec
from pwl_jax.training import workdir
from pwl_jax.training.config import DataConfig, RunConfig

NETWORKS = ("student", "teacher")
BITS = 4
LARGEST_CODED = 100_000_000
"""Weights up to which a pair is also written in 4 bits and in int8, which takes minutes beyond."""

_NORMALISED = DataConfig(name="cifar10", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
_CALIBRATION_IMAGES = 8


def write_case(folder: Path, pair: PairSpec) -> bool:
    """Writes the case of a pair into an empty folder.

    Returns:
      Whether it has its low-precision forms, `coded` and int8.
    """
    hybrid = HybridNetwork.from_pair(pair)
    variables = drawn_variables(hybrid)
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, *pair.teacher.input_shape)).astype(np.float32)
    np.save(folder / "image.npy", image)
    coded = sum(leaf.size for leaf in jax.tree.leaves(variables)) <= LARGEST_CODED
    config = RunConfig(task="distill", pair=pair, data=_NORMALISED)
    model = workdir.TrainedModel(config, hybrid, variables, step=0)
    export_bundle(model, folder / "exact", (EXACT,), None, None)
    if coded:
        export_bundle(model, folder / "coded", (BITS, EXACT), None, None)
    for network in NETWORKS:
        prefix = hybrid.num_blocks if network == "teacher" else 0
        composition = Composition.prefix(hybrid.num_blocks, prefix)
        write_onnx(folder / f"{network}.onnx", ComposedWeights(pair, composition, variables))
        if coded:
            write_int8(folder / f"{network}.onnx", rng, image.shape)
        spec, alone = getattr(pair, network), network_alone(variables, network)
        write_network(folder / f"{network}.torch", spec, alone)
        flat = flatten_dict(alone, sep="/")
        (folder / f"{network}.jax.safetensors").write_bytes(write_safetensors(flat))
        (folder / f"{network}.json").write_text(json.dumps(spec.to_dict()))
    return coded


def network_alone(variables: Variables, network: str) -> dict[str, Any]:
    """A network's own `{"params", "batch_stats"}` out of the hybrid's tree."""
    tree = dict(variables[network])
    if network == "student" and tree.get("batch_stats"):
        tree["batch_stats"] = tree["batch_stats"][entry_name(None)]
    return tree


def write_alone(path: Path, network: BlockNetwork) -> None:
    """A network by itself with drawn weights as ONNX, and in int8 beside it."""
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    leaves, structure = jax.tree.flatten(shapes)
    rng = np.random.default_rng(0)
    arrays = {
        f"w{i}": _drawn(rng, leaf.shape, getattr(key[-1], "key", ""))
        for i, (key, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(shapes))
    }

    def logits(*arguments: jax.Array) -> jax.Array:
        *weights, images = arguments
        return network.apply(jax.tree.unflatten(structure, weights), images).logits

    images = ("images", network.input_shape, np.float32)
    model = lowered(logits, arrays, images, "logits", {}, arrays)
    path.write_bytes(model.SerializeToString())
    write_int8(path, rng, (1, *network.input_shape))
    assert len(leaves) == len(arrays)


def write_int8(path: Path, rng: np.random.Generator, shape: tuple[int, ...]) -> None:
    """`<name>.optimized.onnx` and `<name>.int8.onnx` beside `<name>.onnx`, by ONNX Runtime's tools.

    Convolutions statically, from a few drawn images; a network without them but for its first
    layer dynamically, which is what ONNX Runtime advises for transformers.
    """
    import onnx
    from onnxruntime import quantization

    class Calibration(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            images = (rng.normal(size=shape).astype(np.float32) for _ in range(_CALIBRATION_IMAGES))
            self.images: Iterator[Mapping[str, np.ndarray]] = ({"images": i} for i in images)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.images, None)

    prepared, target = path.with_suffix(".optimized.onnx"), path.with_suffix(".int8.onnx")
    logging.disable(logging.WARNING)
    try:
        quantization.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        nodes = onnx.load(prepared).graph.node
        if sum(node.op_type == "Conv" for node in nodes) > 1:
            quantization.quantize_static(prepared, target, Calibration(), per_channel=True)
        else:
            quantization.quantize_dynamic(prepared, target, per_channel=True)
    finally:
        logging.disable(logging.NOTSET)


def _drawn(rng: np.random.Generator, shape: tuple[int, ...], name: str) -> np.ndarray:
    if name in ("scale", "var"):
        return np.ones(shape, np.float32)
    if len(shape) < 2:
        return np.zeros(shape, np.float32)
    return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)
