"""A reader written from docs/bundle_format.md alone; it shares no code with the library."""

import hashlib
import json
import math
import struct

import numpy as np
import zstandard

FLOATS = ("float16", "float32", "float64", "bfloat16")


def read_unit(folder, unit: str, stage: str, against=()) -> dict[str, tuple[str, bytes]]:
    """Type and little-endian bytes of each tensor at a stage; of a delta, given older bundles."""
    manifest = json.loads((folder / "manifest.json").read_bytes())
    older = previous(manifest, against)
    stages = manifest["stages"][unit]
    chains: dict[str, list] = {}
    for at in stages[: stages.index(stage) + 1]:
        entry = manifest["shards"][f"{unit}@{at}"]
        data = (folder / entry["file"]).read_bytes()
        assert len(data) == entry["bytes"]
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        if entry["file"].endswith(".safetensors"):
            return plain(data)
        for name, header, payload in payloads(data, unit, at):
            chains.setdefault(name, []).append((header, payload))
    decoded = {
        name: decode(chain, older(name) if chain[0][0]["kind"] in ("same", "delta") else None)
        for name, chain in chains.items()
    }
    for name, chain in chains.items():
        if chain[-1][0]["kind"] in ("exact", "residual", "same", "delta"):
            assert (
                hashlib.sha256(decoded[name][1]).hexdigest() == manifest["tensors"][name]["sha256"]
            )
    return decoded


def plain(data: bytes) -> dict[str, tuple[str, bytes]]:
    (length,) = struct.unpack_from("<Q", data)
    types = {"F32": "float32", "F16": "float16", "I64": "int64"}
    return {
        name: (types[entry["dtype"]], data[8 + length :][slice(*entry["data_offsets"])])
        for name, entry in json.loads(data[8 : 8 + length]).items()
    }


def previous(manifest: dict, against):
    """What finds a tensor in the bundle that a delta is told against."""

    def find(name: str) -> tuple[str, bytes]:
        wanted = manifest["against"]["manifest_sha256"]
        for folder in against:
            data = (folder / "manifest.json").read_bytes()
            if hashlib.sha256(data).hexdigest() != wanted:
                continue
            for unit, stages in json.loads(data)["stages"].items():
                if name in json.loads(data)["shards"][f"{unit}@{stages[0]}"]["tensors"]:
                    return read_unit(folder, unit, "exact", against)[name]
        raise AssertionError(f"no {name} in a bundle {wanted}")

    return find


def payloads(data: bytes, unit: str, stage: str):
    assert data[:8] == b"PWLP2U01"
    (length,) = struct.unpack_from("<Q", data, 8)
    header = json.loads(data[16 : 16 + length])
    assert (header["unit"], header["stage"]) == (unit, stage)
    at = 16 + length
    for tensor in header["tensors"]:
        name = tensor.pop("name")
        size = sum(stored for _, stored in tensor["parts"])
        yield name, tensor, data[at : at + size]
        at += size
    assert at == len(data)


def digest(header: dict, data: bytes) -> str:
    text = json.dumps(header, sort_keys=True, separators=(",", ":")).encode()
    return hashlib.sha256(text + b"\0" + data).hexdigest()


def parts_of(header: dict, data: bytes) -> list[bytes]:
    parts, at = [], 0
    for codec, stored in header["parts"]:
        piece = data[at : at + stored]
        at += stored
        assert codec in ("raw", "zstd")
        parts.append(zstandard.ZstdDecompressor().decompress(piece) if codec == "zstd" else piece)
    return parts


def joined(planes: list[bytes]) -> list[int]:
    return [int.from_bytes(element, "little") for element in zip(*planes, strict=True)]


def unzigzag(z: int) -> int:
    return (z >> 1) ^ -(z & 1)


def decode(chain: list, older: tuple[str, bytes] | None = None) -> tuple[str, bytes]:
    dtype, shape = chain[0][0]["dtype"], chain[0][0]["shape"]
    codes: list[int] = []
    scales = np.zeros(0, np.float32)
    patterns: list[int] = []
    width, bits = 0, 0
    for place, (header, data) in enumerate(chain):
        parts = parts_of(header, data)
        if place:
            assert header["base"] == digest(*chain[place - 1])
        match header["kind"]:
            case "same":
                assert hashlib.sha256(older[1]).hexdigest() == header["base"] and not parts
                return older
            case "delta":
                assert hashlib.sha256(older[1]).hexdigest() == header["base"]
                width = len(parts)
                patterns = changed(joined(parts), older[1], width)
            case "exact":
                width = len(parts)
                patterns = joined(parts)
                if dtype in FLOATS:
                    top = 8 * width - 1
                    patterns = [(p >> 1) | ((p & 1) << top) for p in patterns]
            case "codes":
                bits = header["bits"]
                stream = int.from_bytes(parts[0], "little")
                mask, half = (1 << bits) - 1, 1 << (bits - 1)
                count = math.prod(shape)
                codes = [((stream >> (i * bits)) & mask) - half for i in range(count)]
                scales = np.frombuffer(parts[1], "<f4")
                inner = math.prod(shape[header["axis"] + 1 :])
                channels = shape[header["axis"]]
                scales = np.array([scales[(i // inner) % channels] for i in range(count)])
            case "finer":
                step = header["bits"] - bits
                steps = [unzigzag(z) for z in joined(parts)]
                codes = [(c << step) + d for c, d in zip(codes, steps, strict=True)]
                scales = (scales * np.float32(2.0**-step)).astype(np.float32)
                bits = header["bits"]
            case "residual":
                patterns = restored(joined(parts), codes, values(codes, scales, dtype), len(parts))
                width = len(parts)
    if not width:
        patterns, width = values(codes, scales, dtype), {"float64": 8, "float32": 4}.get(dtype, 2)
    return dtype, b"".join(p.to_bytes(width, "little") for p in patterns)


def values(codes: list[int], scales: np.ndarray, dtype: str) -> list[int]:
    """Bit patterns of code * scale in the tensor's type."""
    product = np.array(codes, np.float32) * scales
    if dtype == "bfloat16":
        import ml_dtypes

        return product.astype(ml_dtypes.bfloat16).view("<u2").tolist()
    if dtype == "float16":
        product = np.clip(product, np.float32(-65504), np.float32(65504))
    typed = product.astype(dtype)
    return typed.view(f"<u{typed.itemsize}").tolist()


def changed(differences: list[int], older: bytes, width: int) -> list[int]:
    modulus, top = 1 << (8 * width), 1 << (8 * width - 1)

    def ordered(p: int) -> int:
        return p ^ (top - 1) if p & top else p

    before = [int.from_bytes(older[i : i + width], "little") for i in range(0, len(older), width)]
    return [
        ordered((unzigzag(d) + ordered(p)) % modulus)
        for d, p in zip(differences, before, strict=True)
    ]


def restored(coded: list[int], codes: list[int], approximation: list[int], width: int) -> list[int]:
    modulus, top = 1 << (8 * width), 1 << (8 * width - 1)

    def ordered(p: int) -> int:
        return p ^ (top - 1) if p & top else p

    originals = [0] * len(codes)
    for start in range(0, len(codes), 1 << 20):
        run = range(start, min(start + (1 << 20), len(codes)))
        for place, i in zip(run, sorted(run, key=lambda i: abs(codes[i])), strict=True):
            moved = (unzigzag(coded[place]) + ordered(approximation[i])) % modulus
            originals[i] = ordered(moved)
    return originals
