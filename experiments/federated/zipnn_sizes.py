"""Sizes of files under ZipNN: `PYTHON zipnn_sizes.py FILE...`, a program that stands alone.

Prints as JSON `{"version": str, "bytes": [int, ...]}`. Every file holds float32 values; each is
decompressed again and compared. In a process of its own, with a copy for each call: ZipNN changes
what it is given.
"""

import importlib.metadata
import json
import sys
import warnings
from pathlib import Path


def main(paths: list[str]) -> None:
    """Compresses every file; exits with status 1 where one does not come back as it was."""
    warnings.simplefilter("ignore")
    from zipnn import ZipNN

    sizes = []
    for path in paths:
        data = Path(path).read_bytes()
        coder = ZipNN(input_format="byte", bytearray_dtype="float32")
        packed = bytes(coder.compress(bytearray(data)))
        coder = ZipNN(input_format="byte", bytearray_dtype="float32")
        if bytes(coder.decompress(bytearray(packed))) != data:
            sys.exit(f"{path} does not come back as it was")
        sizes.append(len(packed))
    print(json.dumps({"version": importlib.metadata.version("zipnn"), "bytes": sizes}))


if __name__ == "__main__":
    main(sys.argv[1:])
