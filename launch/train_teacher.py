r"""Trains a pair's teacher by itself; the same command resumes a run that was stopped.

--init=W begins with the teacher in another workdir instead of random weights.

python -m launch.train_teacher --config=experiments/configs/resnet_cifar10.py \
      --workdir=W/teacher
"""

from absl import flags
from ml_collections import config_flags

from launch import cli, training_flags
from pwl_jax.training.config import run_config

_CONFIG = config_flags.DEFINE_config_file("config", help_string="Config file; see its docstring.")
_NETWORK = flags.DEFINE_enum(
    "network", "teacher", ["teacher", "student"], "Which of the pair's networks to train alone."
)
_INIT = flags.DEFINE_string(
    "init", None, "Workdir of a teacher to go on from, as launch.import_teacher leaves one."
)
flags.mark_flags_as_required(["config"])


def main() -> None:
    """Runs the command from its flags."""
    config = run_config(training_flags.config(_CONFIG), _NETWORK.value)
    training_flags.run(config, _INIT.value)


if __name__ == "__main__":
    cli.run(main)
