"""Puts a written bundle in its place, so that at every moment there is the old one or the new."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.integrity import sha256_of
from pwl_jax.bundle.manifest import MANIFEST_NAME, Manifest
from pwl_jax.bundle.signature import MOST_SIGNATURES, SIGNATURE_BYTES, SIGNATURE_NAME
from pwl_jax.bundle.staging import StagingFolder

_FOLDERS = ("shards", "programs")


def held_manifest(target: Any) -> str | None:
    """SHA-256 of the manifest of the bundle at `target`; None where there is nothing.

    Raises:
      BundleError: there is something else.
      OSError: it cannot be looked at.
    """
    if not target.exists():
        return None
    if not target.is_dir():
        raise BundleError(f"{target} is a file; a bundle is a folder")
    if (target / MANIFEST_NAME).exists():
        data = (target / MANIFEST_NAME).read_bytes()
        try:
            Manifest.from_json(data, str(target / MANIFEST_NAME))
        except BundleError as error:
            raise BundleError(f"{target} is not replaced: {error}") from error
        return sha256_of(data)
    if any(True for _ in target.iterdir()):
        raise BundleError(f"{target} holds files but no bundle; name a new folder")
    return None


def put_in_place(
    folder: StagingFolder,
    target: Any,
    manifest: Manifest,
    signed: bytes | None,
    move: Callable[[str], None],
    *,
    whole: bool,
) -> None:
    """Moves what was written to `target`: all files first, the manifest last.

    Files of the bundle that is replaced stay until the next replacement, for readers that have
    its manifest open; older ones go. Signatures are put beside those of the manifest in place
    before it is replaced, and stand alone afterwards.

    Args:
      folder: what was written, the manifest included.
      target: a local folder, or what `etils.epath` makes of an address.
      manifest: of the new bundle.
      signed: the manifest's signature, if it has one.
      move: moves the file of a name from one to the other.
      whole: both lie on one disk, so that a first bundle is put in place by one rename.

    Raises:
      BundleError: there is something else at `target` by now.
      OSError: it cannot be written.
    """
    if whole and held_manifest(target) is None:
        if signed is not None:
            (folder.path / SIGNATURE_NAME).write_bytes(signed)
        folder.release()
        # mkdtemp's folder is closed to everybody else.
        folder.path.chmod(0o755)
        # An empty folder may be there already.
        folder.path.replace(target)
        return
    replaced: list[str] = []
    if (target / MANIFEST_NAME).exists():
        replaced = _files(Manifest.from_json((target / MANIFEST_NAME).read_bytes()))
    files = _files(manifest)
    for name in files:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        move(name)
    if signed is not None:
        _write_whole(target / SIGNATURE_NAME, signed + _signatures(target))
    move(MANIFEST_NAME)
    if signed is not None:
        _write_whole(target / SIGNATURE_NAME, signed)
    elif (target / SIGNATURE_NAME).exists():
        (target / SIGNATURE_NAME).unlink()
    for inner in (target / inner for inner in _FOLDERS):
        for file in list(inner.iterdir()) if inner.is_dir() else ():
            if f"{inner.name}/{file.name}" not in {*files, *replaced}:
                with contextlib.suppress(OSError):
                    file.unlink()


def _files(manifest: Manifest) -> list[str]:
    files = [entry.file for entry in manifest.shards.values()]
    files += [entry.file for entries in manifest.programs.values() for entry in entries]
    return list(dict.fromkeys(files))


def _signatures(target: Any) -> bytes:
    """The signatures there, as many as may stay beside a new one."""
    path = target / SIGNATURE_NAME
    data = path.read_bytes() if path.exists() else b""
    whole = len(data) % SIGNATURE_BYTES == 0
    return data[: (MOST_SIGNATURES - 1) * SIGNATURE_BYTES] if whole else b""


def _write_whole(path: Any, data: bytes) -> None:
    if not isinstance(path, Path):
        path.write_bytes(data)
        return
    part = path.with_name(f".{path.name}.part")
    part.write_bytes(data)
    part.replace(path)
