"""Writes the bundle of a distilled pair: measures rungs, orders them, encodes, writes programs.

  python -m launch.export --workdir=W/pwl --bundle=B --bits=4,exact

Order and rungs are chosen on the validation split; the test split is only reported. Where the
data are not at hand, or with --nomeasure, the ladder keeps prefix order and has no accuracies.
"""

from typing import Any

from absl import flags

from launch import cli

_WORKDIR = flags.DEFINE_string("workdir", None, "Workdir of a distillation.", required=True)
_BUNDLE = flags.DEFINE_string(
    "bundle", None, "Folder to write; an existing bundle is replaced.", required=True
)
_BITS = flags.DEFINE_list(
    "bits", ["4", "exact"], "Precisions every block comes in, ascending, the last one exact."
)
_DATA = flags.DEFINE_string("data", None, "Data set; the one it was distilled on where not given.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS prepared it.")
_MEASURE = flags.DEFINE_bool("measure", True, "Measure the rungs; needs the data.")
_ORDER = flags.DEFINE_enum(
    "order", "measured", ["measured", "prefix"], "Order of swaps: the best measured, or prefix."
)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "last"], "Best on the validation split, or the last."
)


def main() -> None:
    """Runs the command from its flags."""
    from pwl_jax.bundle import BundleReader
    from pwl_jax.data.sources import DataError
    from pwl_jax.export import export_bundle
    from pwl_jax.export.report import ladder_table
    from pwl_jax.ladder import parse_bits
    from pwl_jax.training import workdir

    bits = [parse_bits(text) for text in _BITS.value]
    which: Any = _CHECKPOINT.value
    order: Any = _ORDER.value
    model = workdir.load_model(_WORKDIR.value, which)
    validation = test = None
    if _MEASURE.value:
        try:
            validation = workdir.open_data(model.config, "validation", _DATA.value, _DATA_DIR.value)
            test = workdir.open_data(model.config, "test", _DATA.value, _DATA_DIR.value)
        except DataError as error:
            if _DATA.value or _DATA_DIR.value:
                raise
            print(f"nothing is measured: {error}")
    manifest = export_bundle(model, _BUNDLE.value, bits, validation, test, order)
    print(ladder_table(BundleReader.open(_BUNDLE.value).ladder))
    print(f"{manifest.measured_on['selection']}")


if __name__ == "__main__":
    cli.run(main)
