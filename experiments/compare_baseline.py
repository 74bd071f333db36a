"""Our compositions beside those that the PyTorch baseline published: tables and a chart.

  python -m launch.evaluate --workdir=W/seed0 --orders=all --checkpoint=best,last
  python -m experiments.compare_baseline --workdirs=W/seed0,W/seed1,W/seed2 \
      --pair=resnet --data=cifar10 --output=reports/resnet_cifar10
  python -m experiments.compare_baseline --results=W --pair=resnet --data=cifar10 --output=DIR

Reads config.json and compositions.json of distillations that differ in their seed alone; --results
takes every folder below one that holds both. Ours is called the same work only where networks,
data, epochs and recipe are the baseline's; else the report says in what it differs. Writes
comparison.md, .csv, .json and .png into the output folder.
"""

from pathlib import Path

from absl import flags

from experiments.comparison import report
from experiments.comparison.comparison import compare
from experiments.comparison.published import published
from experiments.comparison.runs import read_runs, workdirs_below
from experiments.results_file import write_results
from launch import cli

_WORKDIRS = flags.DEFINE_list("workdirs", [], "Workdirs of distillations, one a seed.")
_RESULTS = flags.DEFINE_list("results", [], "Folders that hold such workdirs at any depth.")
_PAIR = flags.DEFINE_string("pair", None, "Published pair: vgg, resnet or vit.", required=True)
_DATA = flags.DEFINE_string("data", None, "Published data: cifar10 or cifar100.", required=True)
_OUTPUT = flags.DEFINE_string("output", None, "Folder of the report.", required=True)


def main() -> None:
    """Runs the command from its flags."""
    column = published(_PAIR.value or "", _DATA.value or "")
    paths = [*_WORKDIRS.value, *(p for folder in _RESULTS.value for p in workdirs_below(folder))]
    comparison = compare(read_runs(paths, column.pair, column.data), column)
    text, image = report.markdown(comparison), report.chart(comparison)
    folder = Path(_OUTPUT.value or "")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comparison.md").write_text(text)
    (folder / "comparison.png").write_bytes(image)
    report.write_csv(comparison, folder / "comparison.csv")
    rows, facts = report.result_rows(comparison), report.facts(comparison)
    write_results(folder.name, "comparison", rows, results=folder.parent, more=facts)
    print(text)


if __name__ == "__main__":
    cli.run(main)
