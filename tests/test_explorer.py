"""The explorer: the picture follows the controls, and without widgets nothing fails."""

import base64
import io
import itertools
import sys
import types

import numpy as np
import pytest
from support import EAGER, bits, kernel, predict, shake

import pruning_utils
from pruning_utils import Dataset, build_model, explore_pruning, prune_units, prune_weights, score, sparsity_sweep


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
        matplotlib.figure.Figure,
        "suptitle",
        lambda self, text: (seen.extend([text] if text else []), original(self, text))[1],
    )
    return seen


def test_the_picture_follows_the_controls(widgets, titles):
    made, shown = widgets
    models = {"one": shake(build_model((6, 5), **EAGER)), "two": shake(build_model((4, 3), **EAGER), 1)}
    data = dataset()
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


@pytest.fixture
def figures(monkeypatch):
    """The figures made, in which each picture is drawn anew."""
    import matplotlib.figure

    seen, original = [], matplotlib.figure.Figure.subplots
    monkeypatch.setattr(
        matplotlib.figure.Figure, "subplots", lambda self, *a, **o: (seen.append(self), original(self, *a, **o))[1]
    )
    return seen


def test_the_picture_shows_the_curves_a_kernel_and_eight_images(figures):
    model, data = shake(build_model((80, 70, 6, 5), **EAGER)), dataset()
    picture = pruning_utils._explorer("one", model, data, 12)
    png = picture("unit", 0.5)
    pruned = prune_units(model, 0.5)
    curve, matrix, tiles = figures[0].axes
    for line, method in zip(curve.get_lines(), ("weight", "unit"), strict=False):
        rows = sparsity_sweep(model, data.x_test, data.y_test).query("method == @method")
        assert list(line.get_xdata()) == list(rows.sparsity)
        assert list(line.get_ydata()) == list(rows.accuracy)
        assert (line.get_label(), line.get_color()) == (f"{method}s", pruning_utils.COLORS[method])
        assert line.get_alpha() == (1 if method == "unit" else 0.3)
    here = curve.get_lines()[2]
    assert list(here.get_xdata()) == [0.5]
    assert list(here.get_ydata()) == [score(pruned, data.x_test, data.y_test)["accuracy"]]
    assert (here.get_marker(), here.get_markersize(), here.get_color()) == ("o", 12, pruning_utils.COLORS["unit"])
    assert (curve.get_xlabel(), curve.get_ylabel()) == ("sparsity", "test accuracy")
    assert (*curve.get_xlim(), *curve.get_ylim()) == (-0.03, 1.03, 0, 1.02)
    assert curve.get_legend()._loc == 3  # lower left, where no curve is

    left = abs(kernel(pruned.layers[2]))[:60]
    np.testing.assert_allclose(matrix.get_images()[0].get_array(), np.where(left, 0.2 + 0.8 * left / left.max(), 0))
    assert (matrix.get_title(), matrix.title.get_fontsize()) == ("hidden_3: |w|, white = pruned", 10)
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("units", "inputs")
    assert not [*matrix.get_xticks(), *matrix.get_yticks()]
    assert {axis.get_images()[0].get_cmap().name for axis in (matrix, tiles)} == {"gray_r"}

    guesses = predict(pruned, data.x_test[:8]).argmax(axis=1)
    canvas, texts = tiles.get_images()[0].get_array(), tiles.texts
    for i, (text, guess, x, y) in enumerate(zip(texts, guesses, data.x_test, data.y_test, strict=False)):
        row, column = i // 4 * 36, i % 4 * 36
        assert (canvas[row + 8 : row + 36, column + 4 : column + 32] == x.reshape(28, 28)).all()
        assert text.get_position() == (column + 18, row + 6)
        assert text.get_text() == f"{'✓' if guess == y else '✗'} {data.class_names[guess]}"
        assert text.get_color() == pruning_utils.COLORS["weight" if guess == y else "unit"]
        assert (text.get_fontsize(), text.get_ha()) == (9, "center")
    assert (len(texts), canvas.shape) == (8, (72, 144))
    assert canvas.sum() == pytest.approx(data.x_test[:8].sum())  # and nothing between them
    assert not tiles.axison
    assert 0 < (guesses == data.y_test[:8]).sum() < 8

    assert np.frombuffer(png[16:24], ">u4").tolist() == [960, 288]
    boxes = [axis.get_tightbbox() for axis in figures[0].axes] + [figures[0]._suptitle.get_window_extent()]
    assert all(0 <= box.x0 < box.x1 <= 960 and 0 <= box.y0 < box.y1 <= 288 for box in boxes)  # nothing is cut off
    assert not any(one.overlaps(two) for one, two in itertools.combinations(boxes, 2))
    assert min(box.x0 for box in boxes) < 20
    assert max(box.x1 for box in boxes) > 935


def test_what_is_drawn_anew_makes_the_same_picture_as_drawing_everything(figures):
    import matplotlib.image

    picture = pruning_utils._explorer("one", shake(build_model((80, 70, 6, 5), **EAGER)), dataset(), 12)
    picture("weight", 0.25)
    moved = matplotlib.image.imread(io.BytesIO(picture("unit", 0.5)))
    for artist in figures[0].findobj():
        artist.set_animated(False)
    file = io.BytesIO()
    figures[0].savefig(file)
    file.seek(0)
    whole = matplotlib.image.imread(file)
    assert (moved == whole).all()


def test_there_may_be_fewer_than_eight_images(figures):
    pruning_utils._explorer("one", shake(build_model((4, 3), **EAGER)), dataset(5), 12)("weight", 0.5)
    tiles = figures[0].axes[2]
    assert len(tiles.texts) == 5
    assert tiles.get_images()[0].get_array().sum() == pytest.approx(dataset(5).x_test.sum())


def test_a_large_kernel_is_shown_in_part_and_an_empty_one_is_white(figures):
    picture = pruning_utils._explorer("one", shake(build_model((80, 70, 5), **EAGER)), dataset(), 12)
    shown = figures[0].axes[1].get_images()[0]
    picture("weight", 0.5)
    assert shown.get_array().shape == (60, 60)
    picture("weight", 1.0)
    assert shown.get_array().shape == (60, 60)
    assert (shown.get_array() == 0).all()


def test_biases_go_with_their_units_and_come_back_when_less_is_pruned(titles):
    import keras
    from keras import layers
    from support import compile_

    stack = [layers.Dense(5, activation="relu"), layers.Dense(4, activation="relu"), layers.Dense(10)]
    model = compile_(shake(keras.Sequential([keras.Input((784,)), *stack])))
    picture = pruning_utils._explorer("biased", model, dataset(), 12)
    first = picture("weight", 0.25)
    picture("unit", 0.75)
    wanted = score(prune_units(model, 0.75), dataset().x_test, dataset().y_test)
    assert f"loss {wanted['loss']:.3f} (" in titles[1]
    assert picture("weight", 0.25) == first


def test_a_convolution_is_shown_as_a_matrix_too(figures):
    import keras
    from keras import layers
    from support import compile_

    convolution = layers.Conv2D(3, 5, strides=5)
    stack = [layers.Reshape((28, 28, 1)), convolution, layers.Flatten(), layers.Dense(10)]
    model = compile_(shake(keras.Sequential([keras.Input((784,)), *stack])))
    pruning_utils._explorer("images", model, dataset(), 12)("weight", 0.4)
    image = figures[0].axes[1].get_images()[0]
    picture = image.get_array()
    assert picture.shape == (25, 3)
    assert (picture == 0).sum() == 30
    order = np.argsort(abs(kernel(convolution)).reshape(25, 3), axis=None)
    assert (picture.ravel()[order[:30]] == 0).all()
    assert (np.diff(picture.ravel()[order[30:]]) >= 0).all()
    assert picture.ravel()[order[30]] >= 0.2  # what is left can be seen
    assert picture.max() <= 1
    assert image.get_clim() == (0, 1)


def test_accuracy_may_have_another_name(titles):
    model = shake(build_model((6, 5), metrics=["sparse_categorical_accuracy"], **EAGER))
    pruning_utils._explorer("one", model, dataset(), 12)("weight", 0.5)
    wanted = score(prune_weights(model, 0.5), dataset().x_test, dataset().y_test)
    assert f"accuracy {wanted['accuracy']:.1%}" in titles[0]


def test_it_starts_at_nine_tenths_of_the_weights_on_two_thousand_images(widgets, titles):
    explore_pruning({"one": shake(build_model((4, 3), **EAGER))}, {"one": dataset(2_001)})
    assert titles[0].startswith("one, 90% of the weights pruned: ")
    assert titles[0].endswith(" (2,000 test images)")


def test_without_widgets_nothing_is_shown(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert explore_pruning({"one": build_model((4, 3), **EAGER)}, {"one": dataset()}) is None
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
