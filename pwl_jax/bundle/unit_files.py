"""The tensors of one unit at one stage, read one by one from its shards."""

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from pwl_jax.bundle.entries import FileEntry, ShardEntry
from pwl_jax.bundle.errors import BundleError
from pwl_jax.bundle.manifest import Manifest
from pwl_jax.bundle.safetensors_file import read_safetensors
from pwl_jax.bundle.shard_file import LARGEST_HEADER, PayloadPlace, payload_places
from pwl_jax.bundle.verified_file import CHUNK, VerifiedFile
from pwl_jax.ladder import EXACT, Bits, Unit
from pwl_jax.precision import (
    PrecisionError,
    byte_count,
    decode_tensor,
    dtype_name,
    is_exact,
    tensor_sha256,
)

# A file of a few bytes can declare a tensor of any size; nothing larger is ever allocated. The
# largest tensor of a published model, the 128256 x 16384 bfloat16 embedding of Llama 3.1 405B, has
# 3.91 GiB.
LARGEST_TENSOR = 4 << 30
MOST_AXES = 32
# Kinds of payload that tell a tensor against the one of the same name in another bundle.
_AGAINST = ("delta", "same")


class Previous(NamedTuple):
    """Where a delta bundle finds the tensors that it is told against."""

    manifest: Manifest
    tensor: Callable[[str], np.ndarray]


class UnitFiles:
    """A unit's verified shards, from its first stage to the one asked for, held open.

    Memory is what one tensor takes to decode, and the shards' headers; converters are held whole.
    """

    def __init__(
        self,
        manifest: Manifest,
        unit: Unit,
        stage: Bits,
        open_file: Callable[[FileEntry], VerifiedFile],
        previous: Previous | None = None,
        largest_tensor: int = LARGEST_TENSOR,
    ) -> None:
        """Opens and verifies the shards and reads their headers.

        Raises:
          BundleError: no such unit or stage, or a missing or damaged file.
        """
        self._manifest, self._stage, self._previous = manifest, stage, previous
        self._largest = largest_tensor
        stages = manifest.stages.get(str(unit), ())
        if stage not in stages:
            held = ", ".join(map(str, stages)) or "nothing"
            raise BundleError(f"this bundle has no {unit} at {stage} (it has {held})")
        self._where = manifest.shards[f"{unit}@{stage}"].file
        self._chains: dict[str, list[tuple[VerifiedFile, Bits, PayloadPlace]]] = {}
        self._plain: dict[str, np.ndarray] = {}
        self._open = contextlib.ExitStack()
        try:
            for at in stages[: stages.index(stage) + 1]:
                self._add(manifest.shards[f"{unit}@{at}"], unit, at, open_file)
            for name, chain in self._chains.items():
                for _, _, place in chain:
                    self._check_header(name, place)
        except BaseException:
            self.close()
            raise

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the unit's tensors, in the order of its first shard."""
        return (*self._plain, *self._chains)

    def tensor(self, name: str) -> np.ndarray:
        """One tensor in its original type; checked against the original's hash if complete.

        Raises:
          BundleError: damaged, or told against a tensor that is not there.
        """
        if name in self._plain:
            array = self._plain[name]
            self._check_tensor(name, array, complete=True)
            return array
        chain = self._chains[name]
        headers = [place.header for _, _, place in chain]
        try:
            # A generator would hold no payload longer, but the decoder wants a sequence.
            payloads = [place.payload(file, at) for file, at, place in chain]
            if headers[0]["kind"] in _AGAINST:
                previous = self._previous_tensor(name)
                array = decode_tensor(payloads, max_bytes=self._largest, previous=previous)
            else:
                array = decode_tensor(payloads, max_bytes=self._largest)
        except PrecisionError as error:
            raise BundleError(f"{self._where}: tensor '{name}': {error}") from error
        self._check_tensor(name, array, self._stage == EXACT or is_exact(headers[-1]))
        return array

    def each(self) -> Iterator[tuple[str, np.ndarray]]:
        """All tensors, one at a time."""
        for name in self.names:
            yield name, self.tensor(name)

    def close(self) -> None:
        """Closes the files."""
        self._open.close()

    def __enter__(self) -> "UnitFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _add(
        self,
        entry: ShardEntry,
        unit: Unit,
        stage: Bits,
        open_file: Callable[[FileEntry], VerifiedFile],
    ) -> None:
        self._check_declared(entry)
        file = self._open.enter_context(open_file(entry))
        if entry.file.endswith(".safetensors"):
            self._plain = read_safetensors(bytes(file.read(0, file.size)), entry.file)
            names = list(self._plain)
        else:
            places = payload_places(file, unit, stage)
            names = list(places)
            for name, place in places.items():
                self._chains.setdefault(name, []).append((file, stage, place))
        if sorted(names) != sorted(entry.tensors):
            raise BundleError(f"{entry.file} does not hold the tensors that the manifest lists")

    def _previous_tensor(self, name: str) -> np.ndarray:
        ours = self._manifest.tensors[name]
        if self._previous is None:
            raise BundleError(
                f"{self._where}: tensor '{name}' is told against another bundle, but the manifest "
                "names none"
            )
        theirs = self._previous.manifest.tensors.get(name)
        if theirs is None or (theirs.dtype, theirs.shape) != (ours.dtype, ours.shape):
            raise BundleError(
                f"{self._where}: tensor '{name}' is told against one that the other bundle does "
                "not hold in this type and shape"
            )
        return self._previous.tensor(name)

    def _check_declared(self, entry: ShardEntry) -> None:
        total = 0
        for name in entry.tensors:
            tensor = self._manifest.tensors[name]
            # Without the zeros, so that they cannot hide sizes that no array can have.
            shape = [size for size in tensor.shape if size]
            too_large = byte_count(tensor.dtype, shape) > self._largest
            if len(tensor.shape) > MOST_AXES or too_large:
                raise BundleError(
                    f"{entry.file}: tensor '{name}' declares a shape {list(tensor.shape)[:8]} of "
                    f"more than {self._largest} bytes"
                )
            total += byte_count(tensor.dtype, shape)
        # Else a manifest of a few bytes could have a disk filled from a server without an end.
        if entry.bytes > 2 * total + LARGEST_HEADER + CHUNK:
            raise BundleError(
                f"{entry.file} declares {entry.bytes} bytes for tensors of {total} bytes"
            )

    def _check_header(self, name: str, place: PayloadPlace) -> None:
        expected, header = self._manifest.tensors[name], place.header
        if (header["dtype"], tuple(header["shape"])) != (expected.dtype, expected.shape):
            raise BundleError(f"{self._where}: tensor '{name}' is not as the manifest declares it")
        for codec, _ in header["parts"]:
            if codec not in self._manifest.codecs:
                raise BundleError(
                    f"{self._where}: tensor '{name}' uses codec '{codec}', which the manifest does "
                    "not name"
                )

    def _check_tensor(self, name: str, array: np.ndarray, complete: bool) -> None:
        expected = self._manifest.tensors[name]
        # Without ml_dtypes an array of bit patterns stands for bfloat16.
        width = byte_count(expected.dtype, expected.shape)
        same_type = dtype_name(array) == expected.dtype or array.nbytes == width
        if array.shape != expected.shape or not same_type:
            raise BundleError(f"{self._where}: tensor '{name}' is not as the manifest declares it")
        if complete and tensor_sha256(array) != expected.sha256:
            raise BundleError(f"{self._where}: tensor '{name}' does not hash to the original")
