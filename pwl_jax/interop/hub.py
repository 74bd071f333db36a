"""Where a named checkpoint lies: on this machine, or on the Hugging Face hub."""

import re
from pathlib import Path

from pwl_jax.interop.safetensors_weights import InteropError

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(@[\w./-]+)?")


def checkpoint_path(name: str) -> Path:
    """A local file or folder, or the folder where `huggingface_hub` keeps what it downloaded.

    Args:
      name: a path; what is none is a name on the hub, `owner/model`, or `owner/model@revision`.

    Raises:
      InteropError: neither; or the hub cannot be reached or has nothing of this name.
    """
    path = Path(name)
    if path.exists():
        return path
    if not _HUB_NAME.fullmatch(name) or name.startswith(".") or path.suffix == ".safetensors":
        raise InteropError(f"'{name}' is no file or folder here, and no name on the hub")
    try:
        import huggingface_hub
    except ImportError as error:
        raise InteropError(
            f"'{name}' is no file or folder here; to fetch it from the hub, install pwl_jax[hub]"
        ) from error
    repository, _, revision = name.partition("@")
    try:
        found = huggingface_hub.snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=["*.json", "*.safetensors"],
        )
    except Exception as error:
        # The client raises what any of the libraries below it raises.
        reason = (str(error).strip().splitlines() or [""])[0] or type(error).__name__
        raise InteropError(
            f"'{name}' is no file or folder here, and could not be fetched from the hub: {reason}"
        ) from error
    return Path(found)
