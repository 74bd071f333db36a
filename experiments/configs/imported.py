r"""Distils from an imported teacher: the pair that an import left in a workdir.

Run:
  python -m launch.import_teacher --source=hf:NAME --blocks=6 --classes=10 --data=cifar10 \
      --data_dir=D --workdir=W/import
  python -m launch.train_teacher --config=experiments/configs/imported.py:W/import \
      --init=W/import --workdir=W/teacher
  python -m launch.distill --config=experiments/configs/imported.py:W/import --teacher=W/teacher \
      --workdir=W/pwl

The second command trains a new head, and the rest of the teacher with it; a teacher that keeps its
head needs none, and its workdir is then that of the import. The student has the teacher's widths
and one layer a block, and begins as the first layer of each of the teacher's. Another one is set by
its fields, as in --config.pair.student.hidden=192 --config.pair.student.heads=3
--config.pair.student.mlp=768 --config.distill.student_init=random.

A workdir of launch.import_baseline is taken as well.

Needs: the data set, prepared by TFDS; an accelerator for anything but a tiny teacher. No figures
were taken yet.
"""

from ml_collections import ConfigDict

from experiments.configs import recipes


def get_config(workdir: str) -> ConfigDict:
    """The config of the pair in a workdir."""
    return recipes.imported(workdir)
