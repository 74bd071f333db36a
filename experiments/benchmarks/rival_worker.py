"""Compressors that have an interpreter of their own: ZipNN, constriction, torchao.

Run as a file, without this repository's packages. One JSON request a line on stdin, one JSON answer
a line on stdout; arrays travel as files. An answer holds `error` where a package is missing or
fails. ZipNN changes its input in place and needs whole elements, so it gets copies.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_ITEM_BYTES = {"float32": 4, "bfloat16": 2}


def has(request: dict[str, Any]) -> dict[str, Any]:
    """Imports `package`; its version."""
    import importlib
    import importlib.metadata

    importlib.import_module(request["package"])
    return {"version": importlib.metadata.version(request["package"])}


def zipnn(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes and seconds of ZipNN, one thread, on the file `path` of elements of `dtype`."""
    from zipnn import ZipNN

    data = Path(request["path"]).read_bytes()
    whole = len(data) - len(data) % _ITEM_BYTES[request["dtype"]]
    coder = ZipNN(input_format="byte", bytearray_dtype=request["dtype"], threads=1)
    copy = bytearray(data[:whole])
    start = time.perf_counter()
    coded = coder.compress(copy)
    middle = time.perf_counter()
    size = len(coded)
    decoded = coder.decompress(coded)
    end = time.perf_counter()
    if bytes(decoded) != data[:whole]:
        raise ValueError("ZipNN did not give back what it was given")
    return {
        "bytes": size + len(data) - whole,
        "encode_seconds": middle - start,
        "decode_seconds": end - middle,
    }


def arithmetic(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes and seconds of a range coder with one static model for each group of symbols.

    `path` is an .npz of u16 arrays. A model costs four bytes for each symbol that occurs.
    """
    import constriction

    queue, models = constriction.stream.queue, constriction.stream.model
    size, encoding, decoding = 0, 0.0, 0.0
    with np.load(request["path"]) as groups:
        for symbols in groups.values():
            present, ranks, counts = np.unique(symbols, return_inverse=True, return_counts=True)
            size += 4 * present.size
            if present.size < 2:
                continue
            probabilities = (counts / symbols.size).astype(np.float32)
            wide = ranks.astype(np.int32)
            start = time.perf_counter()
            encoder = queue.RangeEncoder()
            encoder.encode(wide, models.Categorical(probabilities, perfect=False))
            coded = encoder.get_compressed()
            middle = time.perf_counter()
            decoder = queue.RangeDecoder(coded)
            model = models.Categorical(probabilities, perfect=False)
            decoded = decoder.decode(model, symbols.size)
            end = time.perf_counter()
            if not np.array_equal(decoded, wide):
                raise ValueError("the range coder did not give back what it was given")
            size += coded.nbytes
            encoding += middle - start
            decoding += end - middle
    return {"bytes": size, "encode_seconds": encoding, "decode_seconds": decoding}


def torchao(request: dict[str, Any]) -> dict[str, Any]:
    """Bytes and relative squared error of torchao's 4-bit weights of a matrix f32 [in, out]."""
    import torch
    from torchao.quantization import IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerGroup

    matrix = np.load(request["path"])
    layer = torch.nn.Linear(*matrix.shape, bias=False)
    layer.weight = torch.nn.Parameter(torch.from_numpy(np.ascontiguousarray(matrix.T)))
    config = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(request["group"]))
    quantize_(layer, config)
    values = layer.weight.dequantize().detach().numpy().T
    scales = layer.weight.scale
    return {
        "bytes": matrix.size // 2 + scales.numel() * scales.element_size(),
        "squared_error": float(np.square(values - matrix, dtype=np.float64).sum()),
    }


METHODS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "has": has,
    "zipnn": zipnn,
    "arithmetic": arithmetic,
    "torchao": torchao,
}


def main() -> None:
    """Answers requests until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    # What the packages print must not come between the answers.
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = METHODS[request["method"]](request)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
