"""Build mnist.npz and fashion_mnist.npz from the four IDX files of each data set.

    python build.py mnist FOLDER
    python build.py fashion_mnist FOLDER

FOLDER holds train-images-idx3-ubyte and its three siblings, plain or gzipped. README.md says where to
get them. Every file's MD5 sum is checked, so the result is the original data or nothing.
"""

import gzip
import hashlib
import sys
from pathlib import Path

import numpy as np

FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}
MD5 = {
    "mnist": {
        "x_train": "6bbc9ace898e44ae57da46a324031adb",
        "y_train": "a25bea736e30d166cdddb491f175f624",
        "x_test": "2646ac647ad5339dbf082846283269ea",
        "y_test": "27ae3e4e09519cfbb04c329615203637",
    },
    "fashion_mnist": {
        "x_train": "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "y_train": "9018921c3c673c538a1fc5bad174d6f9",
        "x_test": "8181f5470baa50b63fa0f6fddb340f0a",
        "y_test": "15d484375f8d13e6eb1aabb0c3f46965",
    },
}


def read_idx(path):
    """The bytes of the IDX file `path`, unpacked if only `path`.gz is there."""
    if path.exists():
        return path.read_bytes()
    return gzip.decompress(path.with_name(path.name + ".gz").read_bytes())


def parse_idx(raw):
    """The uint8 array in IDX bytes: two zero bytes, type 8 (uint8), rank, big-endian sizes, data."""
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"not an IDX file of uint8: it starts with {raw[:4]!r}")
    rank = raw[3]
    shape = np.frombuffer(raw, ">i4", rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def build(name, folder):
    """Write NAME.npz beside this script from the IDX files in `folder`."""
    arrays = {}
    for key, file in FILES.items():
        raw = read_idx(Path(folder) / file)
        found = hashlib.md5(raw).hexdigest()
        if found != MD5[name][key]:
            raise ValueError(f"{file}: MD5 {found}, but the original has {MD5[name][key]}")
        arrays[key] = parse_idx(raw)
    target = Path(__file__).with_name(f"{name}.npz")
    np.savez_compressed(target, **arrays)
    print(target.name, {key: array.shape for key, array in arrays.items()})


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in MD5:
        sys.exit(__doc__)
    build(sys.argv[1], sys.argv[2])
