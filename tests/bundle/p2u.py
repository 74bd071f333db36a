"""Shard files as bytes, in and out."""

import json
import struct
import tempfile
from pathlib import Path

import zstandard

from pwl_jax.bundle import VerifiedFile
from pwl_jax.bundle.shard_file import MAGIC, P2uSpool, payload_places
from pwl_jax.precision import canonical_json


def write_p2u(unit, stage, payloads):
    with tempfile.TemporaryDirectory() as folder:
        spool = P2uSpool(Path(folder) / "spool")
        for name in sorted(payloads):
            spool.add(name, payloads[name])
        data = b"".join(spool.pieces(unit, stage))
        spool.close()
        assert not list(Path(folder).iterdir())
    return data


def read_p2u(data, unit, stage, where):
    file = VerifiedFile.of_bytes(data, where)
    places = payload_places(file, unit, stage)
    return {name: place.payload(file, stage) for name, place in places.items()}


def split_p2u(data):
    (length,) = struct.unpack_from("<Q", data, 8)
    return json.loads(zstandard.decompress(data[16 : 16 + length])), data[16 + length :]


def join_p2u(header, data):
    return join_text(canonical_json(header), data)


def join_text(text, data):
    encoded = zstandard.compress(text)
    return MAGIC + struct.pack("<Q", len(encoded)) + encoded + data
