"""`pwl COMMAND [flags]`: the commands for those who have a bundle, under one name.

  pwl predict --bundle=B --input=image.png
  pwl inspect --bundle=B --verify
  pwl restore --bundle=B --output=x.safetensors
  pwl serve   --bundle=B --port=8000

`pwl COMMAND --help` lists a command's flags. Each is also `python -m launch.COMMAND`.
"""

import runpy
import sys

COMMANDS = ("inspect", "predict", "restore", "serve")
_HELP = ("--help", "-help", "-h", "help")
_EXIT_USAGE = 2


def main() -> None:
    """Runs the command that the first argument names, with the arguments after it."""
    name = sys.argv[1] if len(sys.argv) > 1 else ""
    if name in COMMANDS:
        del sys.argv[0]
        runpy.run_module(f"launch.{name}", run_name="__main__", alter_sys=True)
    elif name in _HELP:
        print(__doc__)
    else:
        problem = f"unknown command '{name}'" if name else "no command"
        print(f"pwl: {problem}; expected one of {', '.join(COMMANDS)}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)


if __name__ == "__main__":
    main()
