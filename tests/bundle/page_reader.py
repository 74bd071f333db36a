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
        if chain[-1][0]["kind"] not in ("codes", "finer"):
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
    header = json.loads(zstandard.decompress(data[16 : 16 + length]))
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


def unzigzag(z: int) -> int:
    return (z >> 1) ^ -(z & 1)


def unpacked(data: bytes, f: int, n: int) -> list[int]:
    size = -(-n * f // 8)
    assert len(data) == size
    return [(data[i % size] >> (f * (i // size))) & ((1 << f) - 1) for i in range(n)]


def flags(data: bytes, n: int) -> list[bool]:
    assert len(data) == -(-n // 8)
    return [bool(data[i // 8] >> (i % 8) & 1) for i in range(n)]


def planes(parts: list[bytes], m: int, w: int, zeros: bool) -> list[int]:
    kept = flags(parts.pop(0), m) if zeros else [True] * m
    columns = [parts.pop(0) for _ in range(w)]
    present = iter(int.from_bytes(element, "little") for element in zip(*columns, strict=True))
    return [next(present) if flag else 0 for flag in kept]


def decode(chain: list, older: tuple[str, bytes] | None = None) -> tuple[str, bytes]:
    dtype, shape = chain[0][0]["dtype"], chain[0][0]["shape"]
    n = math.prod(shape)
    w = {"bfloat16": 2}.get(dtype) or np.dtype(dtype).itemsize
    size = 1 << (15 if n < 1 << 17 else 16 if n < 1 << 18 else 17)
    slices = [range(i, min(i + size, n)) for i in range(0, n, size)]
    codes: list[int] = []
    scales = offsets = np.zeros(0, np.float32)
    patterns: list[int] = []
    bits = 0
    for place, (header, data) in enumerate(chain):
        parts = parts_of(header, data)
        if place:
            assert header["base"] == digest(*chain[place - 1])
        if older is not None:
            assert hashlib.sha256(older[1]).hexdigest() == header["base"]
        match header["kind"]:
            case "same":
                assert not parts
                return older
            case "delta":
                for run in slices:
                    steps = planes(parts, len(run), w, header["zeros"])
                    patterns += changed(steps, older[1], run, w, dtype in FLOATS)
            case "exact":
                for run in slices:
                    patterns += planes(parts, len(run), w, header["zeros"])
                if dtype in FLOATS:
                    patterns = [(p >> 1) | ((p & 1) << (8 * w - 1)) for p in patterns]
            case "codes":
                bits = header["bits"]
                codes, scales, offsets = base(header, parts, slices, shape)
            case "finer":
                step = header["bits"] - bits
                steps = [
                    unzigzag(z) for r in slices for z in planes(parts, len(r), 2, header["zeros"])
                ]
                codes = [(c << step) + d for c, d in zip(codes, steps, strict=True)]
                scales = (scales * np.float32(2.0**-step)).astype(np.float32)
                bits, offsets = header["bits"], np.zeros_like(scales)
            case "residual":
                for run in slices:
                    patterns += restored(parts, header, codes, scales, run, w)
        assert not parts
    if not patterns:
        patterns = values(codes, scales, offsets, dtype)
    return dtype, b"".join(p.to_bytes(w, "little") for p in patterns)


def changed(steps: list[int], older: bytes, run: range, w: int, floats: bool) -> list[int]:
    top = 1 << (8 * w - 1)

    def ordered(p: int) -> int:
        return p ^ (top - 1) if floats and p & top else p

    before = [int.from_bytes(older[i * w : i * w + w], "little") for i in run]
    moved = [(unzigzag(z) + ordered(p)) % (2 * top) for z, p in zip(steps, before, strict=True)]
    return [ordered(p) for p in moved]


def base(header: dict, parts: list[bytes], slices: list[range], shape: list[int]):
    n, axis, group = math.prod(shape), header["axis"], header["group"]
    if axis is None:
        rows, columns, by_row = 1, n, True
    elif axis == 0 and len(shape) > 1:
        rows, columns, by_row = shape[0], n // shape[0], True
    else:
        rows, columns, by_row = n // shape[-1], shape[-1], False
    groups = -(-(columns if by_row else rows) // group)
    count = groups * (rows if by_row else columns)
    channels = rows if by_row else columns
    stored = np.array(planes(parts, count + channels, 2, False), np.uint32)
    assert stored.max() < 1 << 12
    by_group = (stored << 20).view(np.float32)
    offsets = [by_group[count + (i // columns if by_row else i % columns)] for i in range(n)]
    zeros = list(parts.pop(0)) if header["affine"] else [1 << (header["bits"] - 1)] * count

    def place(i: int) -> int:
        row, column = divmod(i, columns)
        return row * groups + column // group if by_row else row // group * columns + column

    codes = []
    for run in slices:
        fields = [f for f in (8, 4, 2, 1) if header["bits"] & f]
        numbers = [0] * len(run)
        for f in fields:
            field = unpacked(parts.pop(0), f, len(run))
            numbers = [(a << f) | b for a, b in zip(numbers, field, strict=True)]
        codes += [number - zeros[place(i)] for i, number in zip(run, numbers, strict=True)]
    scales = np.array([by_group[place(i)] for i in range(n)], np.float32)
    return codes, scales, np.array(offsets, np.float32)


def values(codes: list[int], scales: np.ndarray, offsets: np.ndarray, dtype: str) -> list[int]:
    """Bit patterns of code * scale + offset in the tensor's type."""
    product = np.array(codes, np.float32) * scales + offsets
    if dtype == "bfloat16":
        import ml_dtypes

        return product.astype(ml_dtypes.bfloat16).view("<u2").tolist()
    if dtype == "float16":
        product = np.clip(product, np.float32(-65504), np.float32(65504))
    typed = product.astype(dtype)
    return typed.view(f"<u{typed.itemsize}").tolist()


def restored(
    parts: list[bytes],
    header: dict,
    codes: list[int],
    scales: np.ndarray,
    run: range,
    w: int,
) -> list[int]:
    absent: set[int] = set()
    if header["zeros"]:
        zeros = [i for i in run if codes[i] == 0]
        kept = flags(parts.pop(0), len(zeros))
        absent = {i for i, flag in zip(zeros, kept, strict=True) if not flag}
    present = [i for i in run if i not in absent]
    ordered = sorted(present, key=lambda i: min(abs(codes[i]), 15))
    nibbles, highest = parts.pop(0), parts.pop(0)
    assert (len(nibbles), len(highest)) == (-(-len(present) // 2), len(present))
    difference = {
        i: (nibbles[k // 2] >> (4 * (k % 2)) & 15) << 4 | highest[k] << 8
        for k, i in enumerate(ordered)
    }
    for i, low in zip(present, unpacked(parts.pop(0), 4, len(present)), strict=True):
        difference[i] |= low
    rest = list(zip(*(parts.pop(0) for _ in range(w - 2)), strict=True)) or [()] * len(present)
    found = {}
    for i, below in zip(present, rest, strict=True):
        halves = 2 * codes[i] + (1 if codes[i] < 0 else -1)
        edge = np.float32(halves / 2) * scales[i]
        kind = {"float16": np.float16, "float64": np.float64}.get(header["dtype"], np.float32)
        top = int.from_bytes(np.asarray(edge, kind).tobytes()[-2:], "little")
        word = (top + difference[i]) % (1 << 16)
        found[i] = int.from_bytes(bytes(below), "little") | word << (8 * (w - 2))
    return [found.get(i, 0) for i in run]
