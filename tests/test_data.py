"""load_dataset on good, damaged and missing files, and the committed files themselves."""

import hashlib
import importlib.util
import pickle
import shutil
import struct
import sys
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

import pruning_utils

DATA = Path(pruning_utils.__file__).parent / "data"


def builder():
    spec = importlib.util.spec_from_file_location("build", DATA / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_the_committed_files_hold_the_original_bytes(name):
    sums = builder().MD5[name]
    with np.load(DATA / f"{name}.npz") as file:
        assert set(file) == set(sums)
        for key, wanted in sums.items():
            array = file[key]
            assert array.dtype == np.uint8
            header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}i", *array.shape)
            assert hashlib.md5(header + array.tobytes()).hexdigest() == wanted


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_images_and_labels(name):
    data = pruning_utils.load_dataset(name)
    with np.load(DATA / f"{name}.npz") as file:
        for part, n in (("train", 60_000), ("test", 10_000)):
            x, y = getattr(data, f"x_{part}"), getattr(data, f"y_{part}")
            assert x.shape == (n, 784)
            assert x.dtype == np.float32
            assert (x.min(), x.max()) == (0, 1)
            assert y.shape == (n,)
            assert y.dtype == np.int32
            np.testing.assert_array_equal(x[:9] * 255, file[f"x_{part}"][:9].reshape(9, 784))
            np.testing.assert_array_equal(y, file[f"y_{part}"])
    assert len(set(data.class_names)) == 10
    assert data.class_names[9] == ("9" if name == "mnist" else "Ankle boot")
    assert data._fields == ("x_train", "y_train", "x_test", "y_test", "class_names")


@pytest.mark.parametrize("name", ["MNIST", "", None, 3, ["mnist"], "../mnist", "cifar10"])
def test_unknown_names(name):
    with pytest.raises(ValueError, match=r"unknown data set .*choose one of 'mnist', 'fashion_mnist'"):
        pruning_utils.load_dataset(name)


@pytest.fixture
def lone(tmp_path, monkeypatch):
    """The module taken alone into another folder; returns the path where it looks for mnist.npz."""
    folder = tmp_path / "ein Ordner für äöü"
    (folder / "data").mkdir(parents=True)
    shutil.copy(pruning_utils.__file__, folder)
    monkeypatch.setattr(pruning_utils, "__file__", str(folder / "pruning_utils.py"))
    return folder / "data" / "mnist.npz"


def arrays(n=3, **changes):
    x, y = np.zeros((n, 28, 28), np.uint8), np.arange(n, dtype=np.uint8)
    good = {"x_train": x, "y_train": y, "x_test": x[:2] + 255, "y_test": y[:2]} | changes
    return {key: value for key, value in good.items() if value is not None}


def test_a_small_file_is_read(lone):
    np.savez_compressed(lone, **arrays())
    data = pruning_utils.load_dataset("mnist")
    assert data.x_train.shape == (3, 784)
    assert data.x_test.tolist() == [[1.0] * 784] * 2
    assert data.y_train.tolist() == [0, 1, 2]


class Bomb:
    def __reduce__(self):
        return (sys.exit, ("unpickled",))


def npy(path):
    with path.open("wb") as file:
        np.save(file, np.ones(3))


def text_inside(path):
    with zipfile.ZipFile(path, "w") as file:
        for key in arrays():
            file.writestr(key, "text")


def objects(path):
    np.savez(path, **arrays(y_test=np.array([Bomb(), Bomb()], object)))


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: (np.savez_compressed(path, **arrays()), path.write_bytes(path.read_bytes()[:-40])),
    "cut in half": lambda path: (np.savez(path, **arrays()), path.write_bytes(path.read_bytes()[:2000])),
    "flipped": lambda path: (
        np.savez(path, **arrays()),
        path.write_bytes(path.read_bytes().replace(b"\0" * 500, b"\1" * 500, 1)),
    ),
    "text": lambda path: path.write_text("<html>404</html>"),
    "folder": lambda path: path.mkdir(),
    "array": npy,
    "text inside": text_inside,
    "pickle": lambda path: path.write_bytes(pickle.dumps(Bomb())),
    "objects": objects,
    "lacks a key": lambda path: np.savez(path, **arrays(y_test=None)),
    "other keys": lambda path: np.savez(path, a=np.ones(2)),
    "floats": lambda path: np.savez(path, **arrays(x_train=np.zeros((3, 28, 28)))),
    "flat": lambda path: np.savez(path, **arrays(x_train=np.zeros((3, 784), np.uint8))),
    "fewer labels": lambda path: np.savez(path, **arrays(y_train=np.zeros(2, np.uint8))),
    "one-hot": lambda path: np.savez(path, **arrays(y_train=np.eye(3, dtype=np.uint8))),
    "ten": lambda path: np.savez(path, **arrays(y_test=np.array([0, 10], np.uint8))),
    "float labels": lambda path: np.savez(path, **arrays(y_test=np.array([0, 0.5]))),
    "no images": lambda path: np.savez(path, **arrays(n=0)),
    "scalar": lambda path: np.savez(path, **arrays(x_train=np.uint8(3))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_says_what_to_do(damage, lone):
    DAMAGES[damage](lone)
    with pytest.raises(ValueError, match=r"data/mnist.npz is damaged \(.*git checkout -- data/mnist.npz") as caught:
        pruning_utils.load_dataset("mnist")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_what_is_wrong_with_a_file_is_named(lone):
    for change, message in [
        ({"y_test": None}, r"\(KeyError: "),
        ({"y_train": np.zeros(2, np.uint8)}, r"\(ValueError: images uint8 \(3, 28, 28\) with labels uint8 \(2,\)\)"),
    ]:
        np.savez(lone, **arrays(**change))
        with pytest.raises(ValueError, match=message):
            pruning_utils.load_dataset("mnist")


def test_a_lone_module_asks_keras(lone, monkeypatch):
    part = (np.full((2, 28, 28), 51, np.uint8), np.array([3, 4], np.uint8))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (part, part))
    data = pruning_utils.load_dataset("mnist")
    assert data.x_train.tolist() == [[pytest.approx(0.2)] * 784] * 2
    assert data.y_test.tolist() == [3, 4]
    assert data.y_test.dtype == np.int32


def test_a_lone_module_without_network_says_so(lone, monkeypatch):
    def offline():
        raise Exception("URL fetch failure: no route to host")

    monkeypatch.setattr(keras.datasets.mnist, "load_data", offline)
    with pytest.raises(
        OSError, match=r"neither in data/mnist.npz .* \(Exception: URL fetch.* Check the network"
    ) as caught:
        pruning_utils.load_dataset("mnist")
    assert caught.value.__suppress_context__
