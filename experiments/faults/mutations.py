"""Ways to damage a bundle: what chance does to its files, and what a hostile author can do.

A mutation takes a source of randomness and the bundle's files, and returns the files that it
changed; None for a file that it removed.
"""

import hashlib
import json
import random
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from pwl_jax.ladder import Bits, parse_bits
from pwl_jax.precision import (
    byte_count,
    decode_frame,
    encode_frame,
    encode_tensor,
    numpy_dtype,
    tensor_sha256,
)

Files = Mapping[str, bytes]
Changes = dict[str, bytes | None]
Mutation = Callable[[random.Random, Files], Changes]

_HEAD = 16
_HOSTILE: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 7, 9, 255, 1 << 31, 1 << 32, 1 << 62, 1 << 63, 1 << 64,
    10**30, 0.5, -0.0, 1e308, "", "NaN", "exact", "4", "same", "delta", "residual", "codes",
    "finer", "raw", "zstd", "float32", "bfloat16", "int64", "object", "../../etc/passwd",
    "/dev/zero", "shards/x", "\x00", "é", "a" * 5000, "0" * 64, "f" * 64, "teacher/0",
    "teacher/9", "encoder/0", "student/99999999999999999999", "TT", "T" * 5000, [], {},
    [0], [-1], [1 << 40], [1 << 62, 0], [1 << 20, 1 << 20], [1] * 40, ["raw", 0], [["raw", 0]],
    [["zstd", 1 << 62]], ["exact"], ["4", "exact"], {"": 0}, {"a": {"b": []}}, [[[[[[[[]]]]]]]],
)  # fmt: skip


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """One to three bits turned over."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 3)):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(rng: random.Random, data: bytes) -> bytes:
    """The end, or a piece, taken out."""
    start = rng.randrange(len(data) + 1)
    return data[:start] + (data[start + rng.randint(1, 64) :] if rng.random() < 0.5 else b"")


def insert(rng: random.Random, data: bytes) -> bytes:
    """Random bytes somewhere, or at the end."""
    at = rng.choice((rng.randrange(len(data) + 1), len(data)))
    return data[:at] + rng.randbytes(rng.randint(1, 64)) + data[at:]


def duplicate(rng: random.Random, data: bytes) -> bytes:
    """A piece twice."""
    start = rng.randrange(len(data) + 1)
    end = start + rng.randint(1, 200)
    return data[:end] + data[start:end] + data[end:]


def swap_pieces(rng: random.Random, data: bytes) -> bytes:
    """Two pieces of one length exchanged."""
    size = rng.randint(1, 32)
    if len(data) < 2 * size:
        return data[::-1]
    first = rng.randrange(len(data) - 2 * size + 1)
    second = rng.randrange(first + size, len(data) - size + 1)
    a, b = data[first : first + size], data[second : second + size]
    return data[:first] + b + data[first + size : second] + a + data[second + size :]


def overwrite(rng: random.Random, data: bytes) -> bytes:
    """A piece of zeros, ones or noise."""
    start, size = rng.randrange(len(data) + 1), rng.randint(1, 64)
    fill = rng.choice((bytes(size), b"\xff" * size, rng.randbytes(size)))
    return data[:start] + fill + data[start + size :]


PIECES = (flip_bits, cut, insert, duplicate, swap_pieces, overwrite)


def by_chance(damage: Callable[[random.Random, bytes], bytes]) -> Mutation:
    """Damages any file and mends no hash, as a bad disk or line does."""

    def mutation(rng: random.Random, files: Files) -> Changes:
        name = rng.choice(sorted(files))
        return {name: damage(rng, files[name])}

    return mutation


def remove_file(rng: random.Random, files: Files) -> Changes:
    """A file is missing."""
    return {rng.choice(sorted(files)): None}


def swap_files(rng: random.Random, files: Files) -> Changes:
    """Two files have each other's content."""
    first, second = rng.sample(sorted(files), 2)
    return {first: files[second], second: files[first]}


def by_author(damage: Callable[[random.Random, bytes], bytes]) -> Mutation:
    """Damages a shard and makes its name and the manifest fit, so that it reaches the decoder."""

    def mutation(rng: random.Random, files: Files) -> Changes:
        manifest = json.loads(files["manifest.json"])
        entry = manifest["shards"][rng.choice(sorted(manifest["shards"]))]
        return _rewritten(manifest, {entry["file"]: damage(rng, files[entry["file"]])})

    return mutation


def edit_header(rng: random.Random, data: bytes) -> bytes:
    """A .p2u file with values of its header exchanged for hostile ones."""
    split = _split(data)
    if split is None:
        return overwrite(rng, data)
    header, rest = split
    for _ in range(rng.randint(1, 2)):
        # Mostly inside an entry; the frame around them is small.
        target = header["tensors"] if rng.random() < 0.9 and header["tensors"] else header
        if isinstance(target, (dict, list)):
            _edit(rng, target)
    return _join(header, rest)


def shuffle_payloads(rng: random.Random, data: bytes) -> bytes:
    """A .p2u file whose entries are in another order, doubled or dropped; the data stay."""
    split = _split(data)
    if split is None or not split[0]["tensors"]:
        return flip_bits(rng, data)
    header, rest = split
    entries = header["tensors"]
    match rng.randrange(4):
        case 0:
            rng.shuffle(entries)
        case 1:
            entries.append(rng.choice(entries))
        case 2:
            entries.pop(rng.randrange(len(entries)))
        case _:
            first, second = rng.choice(entries), rng.choice(entries)
            first["name"], second["name"] = second["name"], first["name"]
    return _join(header, rest)


def change_data(rng: random.Random, data: bytes) -> bytes:
    """A .p2u file with a whole header and damaged payloads of the same size."""
    split = _split(data)
    if split is None or not split[1]:
        return flip_bits(rng, data)
    header, rest = split
    changed = rng.choice((flip_bits, swap_pieces, overwrite))(rng, rest)
    return _join(header, changed[: len(rest)].ljust(len(rest), b"\0"))


def swap_shards(rng: random.Random, files: Files) -> Changes:
    """A shard holds what belongs to another one, hashes fitting."""
    manifest = json.loads(files["manifest.json"])
    first, second = rng.sample(sorted(manifest["shards"]), 2)
    a, b = manifest["shards"][first]["file"], manifest["shards"][second]["file"]
    return _rewritten(manifest, {a: files[b]})


def other_shape(rng: random.Random, files: Files) -> Changes:
    """A tensor with another type or shape, in the manifest and in all its shards alike."""
    manifest = json.loads(files["manifest.json"])
    name = rng.choice(sorted(manifest["tensors"]))
    tensor = manifest["tensors"][name]
    if rng.random() < 0.5:
        tensor["dtype"] = rng.choice(("float32", "int32", "uint32", "float64", "bfloat16", "int8"))
    else:
        shape = tensor["shape"]
        tensor["shape"] = rng.choice(
            (
                shape[::-1],
                [*shape, 1],
                [1 << 20, 1 << 9],
                [1 << 40],
                [0, 1 << 50],
                [],
                [3],
                [1] * 33,
            )
        )
    changed: dict[str, bytes] = {}
    for entry in manifest["shards"].values():
        split = _split(files[entry["file"]])
        if split is None or name not in entry["tensors"]:
            continue
        for record in split[0]["tensors"]:
            if record["name"] == name:
                record |= {"dtype": tensor["dtype"], "shape": tensor["shape"]}
        changed[entry["file"]] = _join(*split)
    return _rewritten(manifest, changed)


def other_name(rng: random.Random, files: Files) -> Changes:
    """A tensor by another name, in the manifest and in its shards alike."""
    manifest = json.loads(files["manifest.json"])
    name = rng.choice(sorted(manifest["tensors"]))
    new = rng.choice(("", "__metadata__", "../x", "/", "\x00", "a" * 4000, "\u2028", "\ud800"))
    manifest["tensors"][new] = manifest["tensors"].pop(name)
    changed: dict[str, bytes] = {}
    for entry in manifest["shards"].values():
        if name not in entry["tensors"]:
            continue
        entry["tensors"] = sorted(new if each == name else each for each in entry["tensors"])
        split = _split(files[entry["file"]])
        if split is not None:
            for record in split[0]["tensors"]:
                record["name"] = new if record["name"] == name else record["name"]
            changed[entry["file"]] = _join(*split)
    return _rewritten(manifest, changed)


def other_content(rng: random.Random, files: Files) -> Changes:
    """A tensor with other numbers, well coded; in half of the cases the manifest says so too."""
    manifest = json.loads(files["manifest.json"])
    unit = rng.choice([unit for unit in sorted(manifest["stages"]) if "encoder" not in unit])
    stages: list[Bits] = [parse_bits(stage) for stage in manifest["stages"][unit]]
    shards = [manifest["shards"][f"{unit}@{stage}"] for stage in stages]
    name = rng.choice(shards[0]["tensors"])
    tensor = manifest["tensors"][name]
    noise = rng.randbytes(byte_count(tensor["dtype"], tensor["shape"]))
    array = np.frombuffer(noise, numpy_dtype(tensor["dtype"])).reshape(tensor["shape"])
    payloads = {payload.stage: payload for payload in encode_tensor(array, stages)}
    changed: dict[str, bytes] = {}
    for stage, entry in zip(stages, shards, strict=True):
        split = _split(files[entry["file"]])
        assert split is not None
        header, rest = split
        at, pieces = 0, []
        for place, record in enumerate(header["tensors"]):
            size = sum(stored for _, stored in record["parts"])
            pieces.append(rest[at : at + size])
            at += size
            if record["name"] == name and stage in payloads:
                header["tensors"][place] = {"name": name, **payloads[stage].header}
                pieces[-1] = bytes(payloads[stage].data)
        changed[entry["file"]] = _join(header, b"".join(pieces))
    if rng.random() < 0.5:
        tensor["sha256"] = tensor_sha256(array)
    return _rewritten(manifest, changed)


def edit_manifest(rng: random.Random, files: Files) -> Changes:
    """Values of the manifest exchanged for hostile ones."""
    manifest = json.loads(files["manifest.json"])
    if rng.random() < 0.7:
        # Its sums notice most changes elsewhere before anything else is looked at.
        manifest["ladder"] = []
    for _ in range(rng.randint(1, 2)):
        _edit(rng, manifest)
    return {"manifest.json": _text(manifest)}


def edit_hashes(rng: random.Random, files: Files) -> Changes:
    """A hash of a tensor, or of the bundle that a delta is told against, exchanged for another."""
    manifest = json.loads(files["manifest.json"])
    tensors = manifest["tensors"]
    name, other = rng.choice(sorted(tensors)), rng.choice(sorted(tensors))
    if "against" in manifest and rng.random() < 0.4:
        match rng.randrange(3):
            case 0:
                del manifest["against"]
            case 1:
                manifest["against"]["manifest_sha256"] = tensors[other]["sha256"]
            case _:
                manifest["against"] = rng.choice(_HOSTILE)
    elif rng.random() < 0.2:
        manifest["against"] = {"manifest_sha256": tensors[other]["sha256"]}
    else:
        tensors[name]["sha256"] = tensors[other]["sha256"]
    return {"manifest.json": _text(manifest)}


def edit_text(rng: random.Random, files: Files) -> Changes:
    """The manifest's text with what JSON does not know, repeats, or cannot hold."""
    text = files["manifest.json"].decode()
    places = [at for at, letter in enumerate(text) if letter in ":,[{"]
    at = rng.choice(places) + 1
    junk = rng.choice(
        ("NaN", "-Infinity", "1e999", "9" * 5000, "[" * 3000, '"\\ud800"', '{"a":1,"a":2}', "01",
         "\x00", "'a'", "/**/", "[" * 200 + "]" * 200, '"blocks":2,', "[[],[]],", "\ufeff")
    )  # fmt: skip
    rest = text[at:] if rng.random() < 0.5 else text[at:].partition(",")[2]
    return {"manifest.json": (text[:at] + junk + rest).encode("utf-8", "surrogatepass")}


def damage_signature(rng: random.Random, files: Files) -> Changes:
    """A signature that is damaged, missing, of another size, or another file's content."""
    name = "manifest.json.sig"
    data = files.get(name, bytes(64))
    return {
        name: rng.choice(
            (flip_bits(rng, data), cut(rng, data), insert(rng, data), None, b"", bytes(64),
             data * 5, rng.randbytes(64), rng.randbytes(1 << 16), files["manifest.json"])
        )
    }  # fmt: skip


MUTATIONS: dict[str, Mutation] = {
    **{f"chance: {damage.__name__}": by_chance(damage) for damage in PIECES},
    "chance: remove_file": remove_file,
    "chance: swap_files": swap_files,
    **{f"author: {damage.__name__}": by_author(damage) for damage in PIECES},
    "author: edit_header": by_author(edit_header),
    "author: shuffle_payloads": by_author(shuffle_payloads),
    "author: change_data": by_author(change_data),
    "author: swap_shards": swap_shards,
    "author: other_shape": other_shape,
    "author: other_name": other_name,
    "author: other_content": other_content,
    "manifest: edit_values": edit_manifest,
    "manifest: edit_hashes": edit_hashes,
    "manifest: edit_text": edit_text,
    "signature": damage_signature,
}


def _rewritten(manifest: dict[str, Any], changed: Mapping[str, bytes]) -> Changes:
    """Shards under the names of their new content, and the manifest that lists them so."""
    changes: Changes = {}
    for old, data in changed.items():
        sha256 = hashlib.sha256(data).hexdigest()
        new = f"shards/{sha256}.{old.rpartition('.')[2]}"
        changes[new] = data
        for entry in manifest["shards"].values():
            if entry["file"] == old:
                entry |= {"file": new, "sha256": sha256, "bytes": len(data)}
    # Its sums would no longer fit, and the manifest be refused before a shard is read.
    manifest["ladder"] = []
    changes["manifest.json"] = _text(manifest)
    return changes


def _edit(rng: random.Random, value: Any) -> None:
    """Changes one place somewhere below `value`."""
    while True:
        keys = list(value) if isinstance(value, dict) else range(len(value))
        if not keys:
            return
        key = rng.choice(keys)
        below = value[key]
        if isinstance(below, (dict, list)) and below and rng.random() < 0.85:
            value = below
            continue
        match rng.randrange(8):
            case 0:
                del value[key]
            case 1 if isinstance(value, list):
                value.insert(key, rng.choice(value))
            case 2 if isinstance(value, dict):
                value[rng.choice(("extra", "kind", "", "exact", str(key) + "0"))] = below
            case 3 if type(below) is int:
                value[key] = below + rng.choice((-1, 1, 8, -8, 1 << 32))
            case 4:
                # A value from the same level, of the right sort more often than not.
                value[key] = value[rng.choice(keys)]
            case _:
                value[key] = rng.choice(_HOSTILE)
        return


def _split(data: bytes) -> tuple[dict[str, Any], bytes] | None:
    if not data.startswith(b"PWLP2U01"):
        return None
    (length,) = struct.unpack_from("<Q", data, 8)
    return json.loads(decode_frame(data[_HEAD : _HEAD + length], 1 << 24)), data[_HEAD + length :]


def _join(header: Mapping[str, Any], rest: bytes) -> bytes:
    encoded = encode_frame(_text(header))
    return b"PWLP2U01" + struct.pack("<Q", len(encoded)) + encoded + rest


def _text(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
