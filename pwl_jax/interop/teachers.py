"""Pre-trained networks from where people have them, as teachers."""

from pwl_jax.interop.hub import checkpoint_path
from pwl_jax.interop.huggingface import read_huggingface
from pwl_jax.interop.imported_teacher import ImportedTeacher, TeacherRequest
from pwl_jax.interop.safetensors_weights import InteropError
from pwl_jax.interop.timm import read_timm

_READERS = {"hf": read_huggingface, "timm": read_timm}


def read_teacher(source: str, request: TeacherRequest) -> ImportedTeacher:
    """A pre-trained checkpoint as a block network.

    Args:
      source: `hf:` or `timm:` before a path or a name on the hub.
      request: how it is grouped and what is replaced.

    Raises:
      UserError: no such checkpoint, or one that cannot be taken as it is; one line that says why.
    """
    kind, colon, name = source.partition(":")
    if not colon or not name or kind not in _READERS:
        raise InteropError(f"source is '{source}'; expected hf:NAME or timm:NAME")
    return _READERS[kind](checkpoint_path(name), request)
