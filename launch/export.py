"""Writes a bundle: of a distilled pair, of one network, or of any tensors.

  python -m launch.export --workdir=W/pwl --bundle=B --bits=4,exact
  python -m launch.export --workdir=W/teacher --precision_only --bits=4,8,exact --bundle=B
  python -m launch.export --weights=x.safetensors --precision_only --bits=4,8,exact --bundle=B

Order and rungs are chosen on the validation split; the test split is only reported. Where the
data are not at hand, or with --nomeasure, the ladder keeps prefix order and has no accuracies.

With --precision_only a network (or a pair's teacher) climbs in precision alone. Tensors of a
safetensors file are read and written one by one; launch.restore gives them back.

Where the validation split is measured, tensors get more or fewer bits in the first stage by how
much they matter there: --base_budget=1.1 spends a tenth more bytes on codes than the same bits
everywhere take, --base_budget=0 gives all tensors the same bits.

With --against=OLD only what changed since that bundle is written, exactly, for clients that have
it. With --sign_key the manifest is signed; clients check it by --public_key.
"""

from typing import Any

from absl import flags

from launch import cli, coding_flags, import_flag
from pwl_jax.errors import UserError

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation, or of one network.")
_WEIGHTS = flags.DEFINE_string("weights", None, "A safetensors file, of any model.")
_PRECISION_ONLY = flags.DEFINE_bool(
    "precision_only", False, "A network by itself: no student, only precisions."
)
_BUNDLE = flags.DEFINE_string(
    "bundle", None, "Folder to write; an existing bundle is replaced.", required=True
)
_BASE_BUDGET = flags.DEFINE_float(
    "base_budget",
    None,
    "Bytes of the first codes, as a share of what the same bits everywhere take; 0: the same bits.",
)
_SIGN_KEY = flags.DEFINE_string("sign_key", None, "Ed25519 private key (PEM) to sign with.")
_AGAINST = flags.DEFINE_list(
    "against", [], "A bundle that clients have; if that is a delta, those before it as well."
)
_DATA = flags.DEFINE_string("data", None, "Data set; the one it was trained on where not given.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared it, or its folder.")
_MEASURE = flags.DEFINE_bool("measure", True, "Measure the rungs; needs the data.")
_ORDER = flags.DEFINE_enum(
    "order",
    "measured",
    ["measured", "prefix", "best"],
    "Order of swaps: the best if measurably better than prefix, prefix, or what launch.evaluate "
    "--best_order found.",
)
_PROGRAMS = flags.DEFINE_list(
    "programs",
    ["stablehlo", "onnx"],
    "Formats of the block programs: stablehlo for JAX, onnx for ONNX Runtime; or one of the two.",
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)
SPLITS: Any = ("validation", "test")
flags.mark_flags_as_mutual_exclusive(["workdir", "weights"], required=True)


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax.bundle import BundleReader

    against = None
    if _AGAINST.value:
        newest, *older = _AGAINST.value
        against = BundleReader.open(newest, against=older)
    if _WEIGHTS.value is not None:
        _export_tensors(_WEIGHTS.value, against)
    else:
        _export_model(_WORKDIR.value or "", against)


def _export_tensors(path: str, against: Any) -> None:
    from pwl_jax.bundle import BundleReader
    from pwl_jax.bundle.lazy_safetensors import SafetensorsFile
    from pwl_jax.bundle.tensor_bundle import write_tensor_bundle
    from pwl_jax.ladder import ladder_table

    if not _PRECISION_ONLY.value:
        raise UserError("--weights holds no pair; add --precision_only")
    if _BASE_BUDGET.value:
        raise UserError("--base_budget measures a network; --weights holds none to measure")
    tensors = SafetensorsFile(path)
    if not tensors:
        raise UserError(f"{path} holds no tensors")
    manifest = write_tensor_bundle(
        _BUNDLE.value,
        tensors,
        coding_flags.stages(delta=against is not None),
        quantization=coding_flags.quantization("first"),
        metadata=tensors.metadata,
        sign_key=_SIGN_KEY.value,
        against=against,
    )
    print(f"{len(manifest.tensors)} tensors")
    given = () if against is None else [against]
    print(ladder_table(BundleReader.open(_BUNDLE.value, against=given).ladder))


def _export_model(path: str, against: Any) -> None:
    import jax

    from pwl_jax.bundle import BundleReader
    from pwl_jax.data.sources import DataError
    from pwl_jax.export import DEFAULT_BUDGET, MOST_PLANNED, BundleOptions, export_bundle
    from pwl_jax.export.best_order import read_order
    from pwl_jax.ladder import EXACT, ladder_table
    from pwl_jax.training import workdir

    import_flag.import_modules()
    which: Any = _CHECKPOINT.value
    order: Any = _ORDER.value
    task = workdir.read_config(path).task
    model: workdir.TrainedModel | workdir.TrainedNetwork
    if task == "distill":
        pair = workdir.load_model(path, which)
        if order == "best":
            order = read_order(path, pair.hybrid.num_blocks, pair.step)
        model = workdir.teacher_of(pair) if _PRECISION_ONLY.value else pair
    elif _PRECISION_ONLY.value:
        model = workdir.load_network(path, which)
    else:
        raise UserError(f"'{path}' holds a {task} alone; add --precision_only, or distil it first")
    validation = test = None
    if _MEASURE.value:
        try:
            validation, test = (
                workdir.open_data(model.config, split, _DATA.value, _DATA_DIR.value)
                for split in SPLITS
            )
        except DataError as error:
            if _DATA.value or _DATA_DIR.value:
                raise
            print(f"nothing is measured: {error}")
    stages = coding_flags.stages(delta=against is not None)
    budget = _BASE_BUDGET.value
    if budget is None and validation and stages[0] != EXACT:
        weights = sum(leaf.size for leaf in jax.tree.leaves(model.variables))
        if weights <= MOST_PLANNED:
            budget = DEFAULT_BUDGET
        else:
            print(f"the same bits for all of {weights:,} weights; --base_budget plans them")
    options = BundleOptions(
        coding_flags.quantization("last"),
        budget or None,
        _SIGN_KEY.value,
        against,
        tuple(_PROGRAMS.value),
    )
    manifest = export_bundle(model, _BUNDLE.value, stages, validation, test, order, options)
    given = () if against is None else [against]
    print(ladder_table(BundleReader.open(_BUNDLE.value, against=given).ladder))
    print(f"{manifest.measured_on['selection']}")


if __name__ == "__main__":
    cli.run(main)
