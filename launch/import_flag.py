"""--import, of every command that reads a spec: how network families of one's own become known."""

import importlib

from absl import flags

from pwl_jax.errors import UserError

_MODULES = flags.DEFINE_list(
    "import",
    [],
    "Python modules to import first, such as my.networks: they define families of networks.",
)


def import_modules() -> None:
    """Imports what the flag names. Code of the user's runs, so only they can ask for it.

    Raises:
      UserError: a module that is missing or fails.
    """
    for name in _MODULES.value:
        try:
            importlib.import_module(name)
        except Exception as error:  # A module is a program: it may raise anything.
            raise UserError(f"--import={name} fails: {type(error).__name__}: {error}") from error
