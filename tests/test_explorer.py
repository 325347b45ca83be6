"""The explorer: the picture follows the controls, and without widgets nothing fails."""

import base64
import sys
import types

import numpy as np
import pytest
from support import bits, shake

import pruning_utils
from pruning_utils import Dataset, build_model, explore_pruning, prune_units, prune_weights, score


def dataset(n=12):
    rng = np.random.default_rng(0)
    x, y = rng.random((n, 784)).astype("float32"), rng.integers(0, 10, n).astype("int32")
    return Dataset(x, y, x, y, tuple("abcdefghij"))


class Control:
    def __init__(self, *children, **options):
        self.children, self.options = children, options
        self.value = options.get("value", options.get("options", [None])[0])

    def observe(self, callback, names):
        assert names == "value"
        self.changed = callback

    def set(self, value):
        self.value = value
        self.changed({"new": value})

    def _repr_mimebundle_(self):
        return {"application/vnd.jupyter.widget-view+json": {}}


@pytest.fixture
def widgets(monkeypatch):
    made, shown = {}, []

    def maker(kind):
        def make(*children, **options):
            made[kind] = Control(*children, **options)
            return made[kind]

        return make

    kinds = ("Image", "Dropdown", "ToggleButtons", "FloatSlider", "VBox", "HBox")
    monkeypatch.setitem(sys.modules, "ipywidgets", types.SimpleNamespace(**{kind: maker(kind) for kind in kinds}))
    display = types.ModuleType("IPython.display")
    display.display = lambda data, **options: shown.append((data, options))
    monkeypatch.setitem(
        sys.modules, "IPython", types.SimpleNamespace(display=display, get_ipython=lambda: None, version_info=(9, 0))
    )
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    return made, shown


@pytest.fixture
def titles(monkeypatch):
    """The titles of the figures drawn."""
    import matplotlib.figure

    seen, original = [], matplotlib.figure.Figure.suptitle
    monkeypatch.setattr(
        matplotlib.figure.Figure, "suptitle", lambda self, text: (seen.append(text), original(self, text))
    )
    return seen


def test_the_picture_follows_the_controls(widgets, titles):
    made, shown = widgets
    models, data = {"one": shake(build_model((6, 5))), "two": shake(build_model((4, 3)), 1)}, dataset()
    before = [bits(model) for model in models.values()]
    explore_pruning(models, {"one": data, "two": data}, sparsity=0.5, images=10)
    (bundle, options), first = shown[0], made["Image"].value
    assert first.startswith(b"\x89PNG")
    assert set(bundle) == {"application/vnd.jupyter.widget-view+json", "image/png", "text/plain"}
    assert base64.b64decode(bundle["image/png"]) == first
    assert bundle["text/plain"] == "the explorer, at one position"
    alt = "Accuracy over sparsity with the position marked, a kernel with what is left, eight images"
    assert options == {"raw": True, "metadata": {"image/png": {"alt": alt}}}
    slider = {"min": 0, "max": 0.99, "step": 0.01, "readout_format": ".0%"}
    assert made["Dropdown"].options == {"options": ["one", "two"], "description": "data set"}
    assert made["ToggleButtons"].options == {"options": ["weight", "unit"], "description": "prune by"}
    assert made["FloatSlider"].options == {"value": 0.5, "description": "sparsity"} | slider
    assert made["Image"].options == {"value": first, "format": "png"}
    assert made["HBox"].children == ([made[kind] for kind in ("Dropdown", "ToggleButtons", "FloatSlider")],)
    assert made["VBox"].children == ([made["HBox"], made["Image"]],)
    made["ToggleButtons"].set("unit")
    made["FloatSlider"].set(0.8)
    made["FloatSlider"].set(0.2)
    made["ToggleButtons"].set("weight")
    made["Dropdown"].set("two")
    made["Dropdown"].set("one")
    made["FloatSlider"].set(0.5)
    assert made["Image"].value == first
    for title, (name, method, sparsity) in zip(
        titles,
        [
            *(("one", "weight", 0.5), ("one", "unit", 0.5), ("one", "unit", 0.8), ("one", "unit", 0.2)),
            *(("one", "weight", 0.2), ("two", "weight", 0.2), ("one", "weight", 0.2), ("one", "weight", 0.5)),
        ],
        strict=True,
    ):
        prune = prune_units if method == "unit" else prune_weights
        wanted = score(prune(models[name], sparsity), data.x_test[:10], data.y_test[:10])
        assert title == (
            f"{name}, {sparsity:.0%} of the {method}s pruned: accuracy {wanted['accuracy']:.1%}, "
            f"loss {wanted['loss']:.3f} (10 test images)"
        )
    assert [bits(model) for model in models.values()] == before


def test_biases_come_back_when_less_is_pruned():
    import keras
    from keras import layers
    from support import compile_

    stack = [layers.Dense(5, activation="relu"), layers.Dense(4, activation="relu"), layers.Dense(10)]
    model = compile_(shake(keras.Sequential([keras.Input((784,)), *stack])))
    picture = pruning_utils._explorer("biased", model, dataset(), 12)
    first = picture("weight", 0.25)
    picture("unit", 0.9)
    assert picture("weight", 0.25) == first


def test_a_convolution_is_shown_as_a_matrix_too(monkeypatch):
    import keras
    import matplotlib.axes
    from keras import layers
    from support import compile_, kernel

    convolution = layers.Conv2D(3, 5, strides=5)
    stack = [layers.Reshape((28, 28, 1)), convolution, layers.Flatten(), layers.Dense(10)]
    model, shown = compile_(shake(keras.Sequential([keras.Input((784,)), *stack]))), []
    imshow = matplotlib.axes.Axes.imshow
    monkeypatch.setattr(
        matplotlib.axes.Axes,
        "imshow",
        lambda self, a, **options: (shown.append((a, options)), imshow(self, a, **options)),
    )
    pruning_utils._explorer("images", model, dataset(), 12)("weight", 0.4)
    (picture, options), *images = shown
    assert picture.shape == (25, 3)
    assert (picture == 0).sum() == 30
    order = np.argsort(abs(kernel(convolution)).reshape(25, 3), axis=None)
    assert (picture.ravel()[order[:30]] == 0).all()
    assert (np.diff(picture.ravel()[order[30:]]) >= 0).all()
    assert picture.ravel()[order[30]] >= 0.2  # what is left can be seen
    assert picture.max() <= 1 == options["vmax"]
    assert options["vmin"] == 0
    assert [image.shape for image, _ in images] == [(28, 28)] * 8


def test_accuracy_may_have_another_name(titles):
    model = shake(build_model((6, 5), metrics=["sparse_categorical_accuracy"]))
    pruning_utils._explorer("one", model, dataset(), 12)("weight", 0.5)
    wanted = score(prune_weights(model, 0.5), dataset().x_test, dataset().y_test)
    assert f"accuracy {wanted['accuracy']:.1%}" in titles[0]


def test_it_starts_at_nine_tenths_of_the_weights_on_two_thousand_images(widgets, titles):
    explore_pruning({"one": shake(build_model((4, 3)))}, {"one": dataset(2_001)})
    assert titles[0].startswith("one, 90% of the weights pruned: ")
    assert titles[0].endswith(" (2,000 test images)")


def test_without_widgets_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert explore_pruning({"one": build_model((4, 3))}, {"one": dataset()}) is None
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("models", "datasets", "options", "error", "message"),
    [
        ({}, {}, {}, ValueError, "same names, at least one"),
        ({"one": None}, {"two": None}, {}, ValueError, r"\['one'\] and datasets \['two'\]"),
        ({"one": None}, {"one": None}, {"sparsity": 90}, ValueError, "fraction"),
        ({"one": None}, {"one": dataset()}, {}, TypeError, "keras.Model, not NoneType"),
    ],
)
def test_explorer_misuse(models, datasets, options, error, message):
    with pytest.raises(error, match=message):
        explore_pruning(models, datasets, **options)
