"""load_dataset on good, damaged and missing files, and the committed files themselves."""

import hashlib
import importlib.util
import pickle
import shutil
import struct
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import pruning_utils

DATA = Path(pruning_utils.__file__).parent / "data"
NAMES = pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])


@NAMES
def test_the_committed_files_hold_the_original_bytes(name):
    spec = importlib.util.spec_from_file_location("build", DATA / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    with np.load(DATA / f"{name}.npz") as file:
        assert set(file) == set(build.MD5[name])
        for key, wanted in build.MD5[name].items():
            array = file[key]
            assert array.dtype == np.uint8
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            assert hashlib.md5(header + array.tobytes()).hexdigest() == wanted


@NAMES
def test_images_and_labels(name):
    data = pruning_utils.load_dataset(name)
    with np.load(DATA / f"{name}.npz") as file:
        for part, n in (("train", 60_000), ("test", 10_000)):
            x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
            assert (x.shape, x.dtype, x.min(), x.max()) == ((n, 784), np.float32, 0, 1)
            assert (y.shape, y.dtype) == ((n,), np.int32)
            np.testing.assert_allclose(x[:9] * 255, file[f"x_{part}"][:9].reshape(9, 784), rtol=1e-6)
            np.testing.assert_array_equal(y, file[f"y_{part}"])
    assert len(set(data.class_names)) == 10
    assert data.class_names[9] == ("9" if name == "mnist" else "Ankle boot")
    assert data._fields == ("x_train", "y_train", "x_test", "y_test", "class_names")
    assert isinstance(data, pruning_utils.Dataset)


@pytest.mark.parametrize("name", ["MNIST", "", None, 3, "../mnist", "cifar10"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"(?s)'mnist', 'fashion_mnist'"):
        pruning_utils.load_dataset(name)


@pytest.fixture
def lone(tmp_path, monkeypatch):
    """The module taken alone into another folder; returns the path where it looks for mnist.npz."""
    folder = tmp_path / "ein Ordner für äöü"
    (folder / "data").mkdir(parents=True)
    shutil.copy(pruning_utils.__file__, folder)
    monkeypatch.setattr(pruning_utils, "__file__", str(folder / "pruning_utils.py"))
    return folder / "data" / "mnist.npz"


def arrays(**changes):
    x, y = np.zeros((3, 28, 28), np.uint8), np.arange(3, dtype=np.uint8)
    good = {"x_train": x, "y_train": y, "x_test": x[:2] + 255, "y_test": y[:2]} | changes
    return {key: value for key, value in good.items() if value is not None}


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("unpickled",))


DAMAGES = {
    "truncated": lambda path: (np.savez_compressed(path, **arrays()), path.write_bytes(path.read_bytes()[:-40])),
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "objects": lambda path: np.savez(path, **arrays(y_test=np.array([Bomb(), Bomb()], object))),
    "lacks a key": lambda path: np.savez(path, **arrays(y_test=None)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_refused_and_nothing_in_it_is_run(damage, lone):
    DAMAGES[damage](lone)
    with pytest.raises(Exception, match=r"zip|pickle|Object arrays|y_test"):
        pruning_utils.load_dataset("mnist")


def test_a_lone_module_reads_a_small_file_beside_it_or_asks_keras(lone, monkeypatch):
    part = (np.full((2, 28, 28), 51, np.uint8), np.array([3, 4], np.uint8))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (part, part))
    data = pruning_utils.load_dataset("mnist")
    assert data.x_train.tolist() == [[pytest.approx(0.2)] * 784] * 2
    assert (data.y_test.tolist(), data.y_test.dtype) == ([3, 4], np.int32)
    np.savez_compressed(lone, **arrays())
    data = pruning_utils.load_dataset("mnist")
    assert data.x_train.shape == (3, 784)
    assert data.x_test.tolist() == [[1.0] * 784] * 2
    assert data.y_train.tolist() == [0, 1, 2]
