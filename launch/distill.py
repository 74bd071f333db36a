r"""Distils a progressive student: every prefix is trained in every step, the teacher is frozen.

  python -m launch.distill --config=experiments/configs/resnet_cifar10.py \
      --teacher=W/teacher --workdir=W/pwl

The same command resumes a run that was stopped. --dry_run prints shapes, parameters, FLOPs and
memory of a step and runs nothing; --profile=10,5 traces five steps.
"""

from absl import flags
from ml_collections import config_flags

from launch import cli, training_flags
from pwl_jax.errors import UserError
from pwl_jax.training.config import run_config

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file; see its docstring.")
_TEACHER = flags.DEFINE_string("teacher", None, "Workdir of the trained teacher.")
flags.mark_flags_as_required(["config"])


def main() -> None:
    """Runs the command from its flags."""
    config = run_config(training_flags.config(_CONFIG), "distill")
    if _TEACHER.value is None and not training_flags.DRY_RUN.value:
        raise UserError("--teacher is missing; expected the workdir that launch.train_teacher left")
    training_flags.run(config, _TEACHER.value)


if __name__ == "__main__":
    cli.run(main)
