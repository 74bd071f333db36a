"""The flags of every command that opens a bundle: whose it must be, and what it is told against."""

from typing import Any

from absl import flags

from pwl_jax.bundle import BundleReader

_PUBLIC_KEY = flags.DEFINE_string(
    "public_key", None, "Ed25519 public key (PEM); a bundle that it has not signed is refused."
)
_AGAINST = flags.DEFINE_list(
    "against", [], "Of a delta bundle: the bundle it is told against, and those before that."
)


def options() -> dict[str, Any]:
    """What the flags say, as arguments of `BundleReader.open` and `LiveModel.open`."""
    return {"public_key": _PUBLIC_KEY.value, "against": _AGAINST.value or ()}


def opened(bundle: str, cache_dir: str | None) -> BundleReader:
    """The bundle, opened as the flags say; raises UserError."""
    return BundleReader.open(bundle, cache_dir, **options())
