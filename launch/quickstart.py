"""The main job on an embedded real dataset, in a few minutes on two CPU cores.

  python -m launch.quickstart [--pair=lenet5|vgg|resnet|vit]

Trains a teacher on scikit-learn's digits, distils a progressive student, measures every
composition, exports a bundle, and loads it over a slow link while it answers. Writes
reports/quickstart/.
"""

import pathlib

from absl import flags

from launch import cli
from pwl_jax.errors import UserError

_PAIR = flags.DEFINE_string("pair", "vit", "Which pair: lenet5, vgg, resnet or vit.")
_OUTPUT = flags.DEFINE_string("output", "reports/quickstart", "Folder of workdirs and report.")


def main() -> None:
    """Runs the command from its flags."""
    from experiments import quickstart, quickstart_report

    output = pathlib.Path(_OUTPUT.value)
    outcome = quickstart.run(_PAIR.value, output)
    quickstart.write_ladder(outcome, output / "ladder.json")
    quickstart_report.write(outcome, output)
    print()
    print(quickstart_report.table(outcome))
    print()
    for line in quickstart_report.summary(outcome):
        print(line)
    print(f"report: {output / 'report.md'}")
    broken = quickstart.broken_promises(outcome)
    if broken:
        raise UserError("; ".join(broken))


if __name__ == "__main__":
    cli.run(main)
