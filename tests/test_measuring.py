"""The network, reports, sweeps, ratios, latency, sizes and plots."""

import gzip
import math
import subprocess
import sys
import time
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from keras import layers, ops
from support import BACKEND, EAGER, array, bits, compile_, data, kernel, mlp, shake, stack, zoo

import pruning_utils
from pruning_utils import (
    COLORS,
    SPARSITIES,
    build_model,
    compressed_size,
    measure_latency,
    plot_sweep,
    prune_units,
    prune_weights,
    remove_dead_units,
    score,
    sparsity_report,
    sparsity_sweep,
)

X, Y = data(50)
METHODS = {"weight": prune_weights, "unit": prune_units}


# ------------------------------------------------------------------------------------------ the network


def test_the_network_of_the_walkthrough():
    model = build_model(seed=1)
    assert isinstance(model, keras.Sequential)
    assert (model.name, model.count_params(), model.input_shape) == ("mlp", 2_386_000, (None, 784))
    assert [layer.units for layer in model.layers] == [1000, 1000, 500, 200, 10]
    assert [layer.activation.__name__ for layer in model.layers] == ["relu"] * 4 + ["linear"]
    assert not any(layer.use_bias for layer in model.layers)
    assert [layer.name for layer in model.layers] == ["hidden_1", "hidden_2", "hidden_3", "hidden_4", "logits"]
    assert model.loss.get_config()["from_logits"]
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert "accuracy" in model.evaluate(X[:, :1].repeat(784, 1), Y, verbose=0, return_dict=True)
    assert not model.losses
    assert SPARSITIES == (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
    assert [v.path for v in model.weights] == [v.path for v in build_model(seed=2).weights]


def test_the_seed_decides_the_weights_of_each_layer_by_itself():
    one, two, other = build_model((5, 784), seed=7), build_model((5, 784), seed=7), build_model((5, 784), seed=8)
    assert bits(one) == bits(two) != bits(other)
    assert bits(build_model((5,))) != bits(build_model((5,)))
    same_shape = build_model((784, 784), seed=0)
    assert kernel(same_shape.layers[0]).tobytes() != kernel(same_shape.layers[1]).tobytes()


def test_options_of_the_network():
    options = {"steps_per_execution": 1, "metrics": ["mae"], "loss": "mse"}
    model = build_model([4], learning_rate=0.5, kernel_regularizer=keras.regularizers.L1L2(0.25, 0.5), **options)
    assert float(model.optimizer.learning_rate) == 0.5
    (penalty,) = model.losses  # not of the logits
    values = kernel(model.layers[0])
    assert float(penalty) == pytest.approx(0.25 * abs(values).sum() + 0.5 * np.square(values).sum(), rel=1e-5)
    assert model.loss == "mse"
    assert type(build_model((), optimizer="sgd").optimizer) is keras.optimizers.SGD
    build_model((3,), learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 10))


# --------------------------------------------------------------------------------------------- report


def test_report_by_hand():
    model = stack((4,), layers.Dense(3, name="a"), layers.BatchNormalization(name="n"), layers.Dense(2, name="b"))
    model.set_weights(
        [
            np.array([[0, 1, 2], [0, 0, 1], [0, 0, 0], [0, 0, 0]]),
            *(np.array([1.0, 0, -0.0]), np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)),
            *(np.ones((3, 2)), np.zeros(2)),
        ]
    )
    report = sparsity_report(model)
    assert list(report.columns) == ["layer", "parameters", "zeros", "sparsity", "units", "dead_units"]
    assert report["layer"].tolist() == ["a", "n", "b", "total"]
    assert report["parameters"].tolist() == [15, 12, 8, 35]
    assert report["zeros"].tolist() == [11, 6, 2, 19]
    assert report["sparsity"].tolist() == [11 / 15, 0.5, 0.25, 19 / 35]
    assert report["units"].fillna(-1).tolist() == [3, -1, 2, 5]
    assert report["dead_units"].fillna(-1).tolist() == [1, -1, 0, 1]
    assert [str(kind) for kind in report.dtypes[1:]] == ["Int64", "Int64", "float64", "Int64", "Int64"]


def test_report_of_every_kind_of_layer():
    """Fault 7: a GRU of 8 units had 24 units."""
    model = zoo()
    report = sparsity_report(model).set_index("layer")
    assert report.loc["total", "parameters"] == report["parameters"].iloc[:-1].sum() == model.count_params()
    assert report["units"].dropna().to_dict() == {"apart": 6, "out": 3, "total": 9}
    film = stack((5, 5, 3), layers.ConvLSTM1D(6, 2), layers.Flatten(), layers.Dense(2))
    assert sum((array(v) == 0).sum() for v in prune_weights(film, 0.5).weights) == (2 * 3 + 2 * 6) * 24 / 2


def test_report_counts_shared_and_nested_weights_once():
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="deep")], name="inner")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="out")(inner(shared(shared(inputs)))))
    report = sparsity_report(model)
    assert sorted(report["layer"]) == ["deep", "out", "shared", "total"]
    assert report["parameters"].iloc[-1] == model.count_params() == report["parameters"].iloc[:-1].sum()
    empty = sparsity_report(stack((4,), layers.Flatten()))
    assert empty[["parameters", "zeros"]].iloc[-1].tolist() == [0, 0]


# ---------------------------------------------------------------------------------------------- sweep


def ratios(model, pruned):
    """compression_ratio, by building the smaller network."""
    left = sum(np.count_nonzero(w) for w in remove_dead_units(pruned).get_weights())
    return model.count_params() / left


@pytest.mark.parametrize("batch_size", [7, 2_500])
def test_sweep_equals_evaluate_on_pruned_models(batch_size):
    penalty = keras.regularizers.L1L2(0.01, 0.02)
    model = stack(
        (6,), *(layers.Dense(n, activation="relu", kernel_regularizer=penalty) for n in (20, 10)), layers.Dense(3)
    )
    compile_(model, metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")])
    table = sparsity_sweep(model, X, Y, (0.0, 0.75, 1), batch_size=batch_size)
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(table.columns) == ["method", "sparsity", *logs, "compression_ratio", "theoretical_speedup"]
    assert table["method"].tolist() == ["weight"] * 3 + ["unit"] * 3
    assert table["sparsity"].tolist() == [0, 0.75, 1] * 2
    for row in table.to_dict("records"):
        pruned = METHODS[row.pop("method")](model, row.pop("sparsity"))
        logs = pruned.evaluate(X, Y, batch_size=13, verbose=0, return_dict=True)
        assert {key: row[key] for key in logs} == pytest.approx(logs, abs=1e-5)
        assert row["compression_ratio"] == pytest.approx(ratios(model, pruned))
        assert score(pruned, X, Y, dense=model, batch_size=batch_size) == pytest.approx(row, abs=1e-6)
    assert score(model, X, Y)["theoretical_speedup"] == 1
    assert row["theoretical_speedup"] >= (6 * 20 + 20 * 10 + 10 * 3) / (10 * 3)


def test_sweep_leaves_the_model_as_it_was():
    model = mlp(units=(20, 10), **{"run_eagerly": False})
    model.fit(X, Y, verbose=0)
    logs = model.evaluate(X, Y, verbose=0)
    names = ("optimizer", "train_function", "test_function", "predict_function", "loss", "stop_training")
    before = bits(model), [bits(layer) for layer in []], [getattr(model, name) for name in names]
    state = [array(v).tobytes() for v in model.optimizer.variables]
    for take in (
        lambda: sparsity_sweep(model, X, Y, [0, 0.5]),
        lambda: score(prune_units(model, 0.5), X, Y, dense=model),
    ):
        take()
        assert (bits(model), [], [getattr(model, name) for name in names]) == before
        assert [array(v).tobytes() for v in model.optimizer.variables] == state
    assert model.evaluate(X, Y, verbose=0) == logs
    model.fit(X, Y, verbose=0)


CALLS = []


@keras.saving.register_keras_serializable("tests")
def interrupting(y_true, y_pred):
    CALLS.append(1)
    if len(CALLS) == 3:
        raise KeyboardInterrupt
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


def test_an_interrupted_sweep_leaves_the_model_as_it_was():
    model = mlp(loss=interrupting, run_eagerly=True)
    before, optimizer, functions = bits(model), model.optimizer, (model.test_function, model.train_function)
    CALLS.clear()
    with pytest.raises(KeyboardInterrupt):
        sparsity_sweep(model, X, Y, SPARSITIES)
    assert bits(model) == before
    assert (model.optimizer, (model.test_function, model.train_function)) == (optimizer, functions)
    assert math.isfinite(model.evaluate(X, Y, verbose=0)[0])


def test_sweep_takes_ignored_layers_scope_and_scores():
    model = mlp(units=(20, 10))
    noise = {v.path: np.random.default_rng(len(v.path)).random(tuple(v.shape)) for v in model.weights}
    for options in ({"scores": lambda v: noise[v.path]}, {"scope": "global"}, {"ignored_layers": ["d1"]}):
        table = sparsity_sweep(model, X, Y, [0.5], **options)
        for row in table.itertuples():
            pruned = METHODS[row.method](model, 0.5, **options)
            assert row.loss == pytest.approx(pruned.evaluate(X, Y, verbose=0)[0], abs=1e-5)
            assert row.compression_ratio == pytest.approx(ratios(model, pruned))
    with pytest.raises(ValueError, match="'d9'"):
        sparsity_sweep(model, X, Y, [0.5], ignored_layers=["d9"])
    with pytest.raises(ValueError, match=r"0\.5"):
        sparsity_sweep(model, X, Y, [0, 50])


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 5

    def __getitem__(self, index):
        part = slice(10 * index, 10 * index + 10)
        return X[part], Y[part]


def as_dataset():
    tf = pytest.importorskip("tensorflow", reason="tf.data needs TensorFlow")
    return mlp(), tf.data.Dataset.from_tensor_slices((X, Y)).batch(16), None


def as_batches():
    return mlp(), Batches(), None


def two_inputs():
    inputs = [keras.Input((6,)), keras.Input((6,))]
    values = layers.Dense(3)(layers.Dense(8, name="d1")(layers.Add()(inputs)))
    return compile_(shake(keras.Model(inputs, values))), [X, X[::-1]], Y


def two_inputs_and_outputs_by_name():
    inputs = {name: keras.Input((6,), name=name) for name in "ab"}
    values = layers.Dense(8, activation="relu", name="d1")(layers.Concatenate()([*inputs.values()]))
    outputs = {"one": layers.Dense(3, name="one")(values), "two": layers.Dense(1, name="two")(values)}
    model = shake(keras.Model(inputs, outputs))
    losses = {"one": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "two": "mse"}
    compile_(model, loss=losses, metrics={"one": ["accuracy"]})
    return model, {"a": X, "b": X}, {"one": Y, "two": Y / 2}


def labels_per_pixel():
    model = stack((4, 4, 2), layers.Conv2D(8, 3, padding="same", name="d1"), layers.Conv2D(3, 1))
    rng = np.random.default_rng(0)
    return compile_(model), rng.normal(size=(50, 4, 4, 2)).astype("float32"), rng.integers(0, 3, (50, 4, 4))


def float_labels_without_accuracy():
    return mlp(outputs=1, loss="mse", metrics=["mae"]), X, X[:, 0] * 1.5


def no_metrics():
    return mlp(metrics=None), X, Y


def stateful():
    inputs = keras.Input(batch_shape=(10, 6, 1))
    values = layers.Dense(8, name="d1")(layers.LSTM(3, stateful=True)(inputs))
    return compile_(shake(keras.Model(inputs, layers.Dense(3)(values)))), X[..., None], Y


def subclassed():
    class Own(keras.Model):
        def __init__(self, **options):
            super().__init__(**options)
            self.one, self.two = layers.Dense(8, name="d1"), layers.Dense(3)

        def call(self, inputs):
            return self.two(self.one(inputs))

    model = compile_(Own())
    model(ops.convert_to_tensor(X))
    return shake(model), X, Y


MEASURED = [as_dataset, as_batches, two_inputs, two_inputs_and_outputs_by_name, labels_per_pixel]
MEASURED += [float_labels_without_accuracy, no_metrics, stateful, subclassed]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("make", MEASURED)
def test_whatever_evaluate_takes_can_be_measured(make):
    """Fault 6."""
    model, x, y = make()
    size = 10 if make is stateful else 25
    table = sparsity_sweep(model, x, y, [0, 0.5], **{} if y is None else {"batch_size": size})
    batches = {} if y is None else {"batch_size": size}
    for row in table.to_dict("records"):
        pruned = METHODS[row["method"]](model, row["sparsity"])
        logs = pruned.evaluate(x, y, verbose=0, return_dict=True, **batches)
        assert set(row) == {"method", "sparsity", *logs, "compression_ratio", "theoretical_speedup"}
        assert {key: row[key] for key in logs} == pytest.approx(logs, rel=1e-4, abs=1e-5)
        one = score(METHODS[row["method"]](model, row["sparsity"]), x, y, dense=model, **batches)
        assert one == pytest.approx({key: row[key] for key in one}, rel=1e-4, abs=1e-5, nan_ok=True)
        assert row["compression_ratio"] >= 1
        if make is subclassed:  # whose calls can't be followed
            assert math.isnan(row["theoretical_speedup"])
        else:
            assert (row["theoretical_speedup"] > 1) == (row["sparsity"] > 0)


@pytest.mark.parametrize(
    ("layer", "shape", "adds"),
    [
        (layers.Dense(5), (7, 3), 7 * 15),
        (layers.Conv2D(4, 3, padding="same", strides=2), (8, 8, 2), 16 * 4 * 18),
        (layers.Conv1D(4, 3), (8, 2), 6 * 24),
        (layers.Conv3D(2, 2), (3, 3, 3, 2), 8 * 32),
        (layers.Conv2D(4, 3, groups=2), (5, 5, 2), 9 * 4 * 9),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 2), 9 * 4 * 9),
        (layers.Conv2DTranspose(4, 3, strides=2), (5, 5, 2), 25 * 2 * 4 * 9),
        (layers.SeparableConv2D(4, 3), (5, 5, 2), 9 * (2 * 9 + 2 * 4)),
    ],
)
def test_multiply_adds_by_hand(layer, shape, adds):
    """Half of the weights of a Dense layer behind `layer` are zero: the speedup tells the multiply-adds of `layer`."""
    model = stack(shape, layer, layers.Flatten(), layers.Dense(5, name="last"))
    model.compile("sgd", "mse", **EAGER)
    last = model.get_layer("last").kernel
    sparse = keras.models.clone_model(model)
    sparse.set_weights(model.get_weights())
    sparse.compile("sgd", "mse", **EAGER)
    sparse.get_layer("last").kernel.assign(array(last) * (np.arange(array(last).size).reshape(last.shape) % 5 > 1))
    n = array(last).size
    found = score(sparse, np.ones((2, *shape)), np.ones((2, 5)), dense=model)
    assert found["theoretical_speedup"] == pytest.approx((adds + n) / (adds + 0.6 * n))
    assert found["compression_ratio"] == pytest.approx(model.count_params() / (model.count_params() - 0.4 * n))


def test_ratios_count_what_is_left_once_dead_units_are_gone():
    model = compile_(
        stack(
            (6, 6, 1),
            *(
                layers.Conv2D(8, 3, padding="same", use_bias=False, name="a"),
                layers.BatchNormalization(),
                layers.ReLU(),
            ),
            *(layers.DepthwiseConv2D(3, padding="same", use_bias=False), layers.Conv2D(4, 1, use_bias=False, name="b")),
            *(layers.Flatten(), layers.Dense(3, use_bias=False)),
        )
    )
    images = np.random.default_rng(0).normal(size=(50, 6, 6, 1)).astype("float32")
    for prune, sparsity in ((prune_units, 0.5), (prune_weights, 0.5), (prune_weights, 0.9)):
        pruned = prune(model, sparsity)
        found = score(pruned, images, Y, dense=model)
        assert found["compression_ratio"] == pytest.approx(ratios(model, pruned))
    found = score(prune_units(model, 0.5), images, Y, dense=model)
    dense = 36 * (9 * 8 + 9 * 8 + 8 * 4) + 36 * 4 * 3
    assert found["theoretical_speedup"] == pytest.approx(dense / (36 * (9 * 4 + 9 * 4 + 4 * 2) + 36 * 2 * 3))


def test_without_a_dense_model_a_model_is_compared_with_itself_without_zeros():
    model = prune_weights(mlp(units=(10,), bias=False), 0.5)  # 30 of 60 weights, none of 30
    found = score(model, X, Y)
    nonzero = sum(np.count_nonzero(w) for w in remove_dead_units(model).get_weights())
    assert found["compression_ratio"] == found["theoretical_speedup"] == 90 / nonzero


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_ratios_of_a_network_of_zeros_are_infinite():
    model = mlp(units=(4,), bias=False)
    model.set_weights([w * 0 for w in model.get_weights()])
    found = score(model, X, Y)
    assert found["compression_ratio"] == found["theoretical_speedup"] == math.inf


# ------------------------------------------------------------------------------------ latency and size


def test_latency_table():
    model, start = mlp(), time.perf_counter()
    table = measure_latency(model, X, [1, 50], seconds=0.05)
    assert time.perf_counter() - start < 5
    assert list(table.columns) == ["batch_size", "milliseconds", "images_per_second", "calls"]
    assert table["batch_size"].tolist() == [1, 50]
    assert (table["calls"] >= 2).all()
    assert (table["milliseconds"] > 0).all()
    np.testing.assert_allclose(table["milliseconds"] * table["images_per_second"], [1e3, 5e4])
    model, x, _ = two_inputs()
    assert len(measure_latency(model, x, [2], seconds=0.01)) == 1


def test_compressed_size():
    model = mlp(units=(100, 50))
    size, sparse = compressed_size(model), compressed_size(prune_weights(model, 0.9))
    raw = b"".join(w.tobytes() for w in model.get_weights())
    assert size["raw_bytes"] == sparse["raw_bytes"] == len(raw) == 4 * model.count_params()
    assert size["gzip_bytes"] == pytest.approx(len(gzip.compress(raw, 6, mtime=0)), rel=0.02)
    assert sparse["gzip_bytes"] < size["gzip_bytes"] / 2
    assert compressed_size(stack((2,), layers.Flatten()))["raw_bytes"] == 0
    half = keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="float16")])
    assert compressed_size(half)["raw_bytes"] == 2 * half.count_params()


# ----------------------------------------------------------------------------------------------- plots


def table(**columns):
    rows = [
        (m, s, 0.9 - 0.05 * (s > 0.6) * (m == "unit"), s + 0.1, 1 / (1 - s), 1 / (1 - s))
        for m in ("weight", "unit")
        for s in (0, 0.5, 0.9)
    ]
    names = ["method", "sparsity", "accuracy", "loss", "compression_ratio", "theoretical_speedup"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def curves(axis, color, points=3):
    return [line for line in axis.get_lines() if line.get_color() == color and len(line.get_xdata()) == points]


def test_plot_of_a_sweep():
    figure = plot_sweep(table(), title="Mine")
    accuracy, other, *_ = figure.axes
    assert figure.get_suptitle() == "Mine" or accuracy.get_title() == "Mine"
    assert set(COLORS) == {"weight", "unit"}
    for method, color in COLORS.items():
        (line,), (lower,) = curves(accuracy, color), curves(other, color)
        rows = table()[table().method == method]
        np.testing.assert_allclose(sorted(line.get_ydata()), sorted(rows.accuracy))
        kept = np.asarray(line.get_xdata(), float)
        np.testing.assert_allclose(sorted(kept), [0.1, 0.5, 1])
        assert len(lower.get_ydata()) == 3
        if method == "unit":
            assert line.get_ydata()[int(np.argmin(kept))] == pytest.approx(0.85)
    figure.canvas.draw()
    for axis in (accuracy, other):
        assert axis.get_xscale() == "log"
        assert axis.get_xlabel()
        assert axis.get_ylabel()
        assert sum(any(s in tick.get_text() for s in ("0.5", "50")) for tick in axis.get_xticklabels()) == 1
        assert axis.xaxis_inverted() == accuracy.xaxis_inverted()
    texts = [text.get_text() for axis in figure.axes if axis.get_legend() for text in axis.get_legend().get_texts()]
    assert any("weight" in text for text in texts)
    assert any("unit" in text for text in texts)
    plt.close("all")


def test_line_styles_stand_for_a_column_and_seeds_are_averaged():
    once, tuned = table(stage="one-shot", kind="x"), table(stage="fine-tuned", kind="x", accuracy=0.8)
    for options, styles in (({}, 2), ({"style": "kind"}, 1)):
        (axis, *_) = plot_sweep(pd.concat([once, tuned]), **options).axes
        assert len({line.get_linestyle() for line in curves(axis, COLORS["weight"])}) == styles
    seeds = pd.concat([table(accuracy=0.6), table(accuracy=0.8)])
    (axis, *_) = plot_sweep(seeds).axes
    (line,) = curves(axis, COLORS["weight"])
    np.testing.assert_allclose(line.get_ydata(), 0.7)
    assert axis.collections or axis.containers  # and their spread is drawn
    plt.close("all")


# ----------------------------------------------------------------------------- the same numbers twice

SAME = """
import hashlib, keras, numpy as np
from pruning_utils import build_model, sparsity_sweep
keras.utils.set_random_seed(5)
x = np.random.default_rng(0).random((256, 784)).astype("float32")
y = (x[:, :10]).argmax(1)
model = build_model((40, 20), seed=5)
model.fit(x, y, epochs=2, batch_size=64, verbose=0)
table = sparsity_sweep(model, x, y, (0.5, 0.9))
print(hashlib.sha256(table.to_csv(index=False).encode()).hexdigest())
"""


def test_two_processes_give_the_same_table_to_the_last_bit(capsys):
    root = Path(pruning_utils.__file__).parent
    other = subprocess.run([sys.executable, "-c", SAME], cwd=root, capture_output=True, text=True).stdout
    exec(SAME, {})
    assert capsys.readouterr().out == other
    assert len(other) == 65


def test_the_module_names_no_backend_and_no_private_module():
    source = Path(pruning_utils.__file__).read_text(encoding="utf-8")
    words = ("import tensorflow", "tf.keras", "keras.src", "import torch", "import jax")
    assert not any(word in source for word in words)
    if BACKEND != "tensorflow":
        code = "import sys, pruning_utils; print('seaborn' in sys.modules or 'tensorflow' in sys.modules)"
        root = Path(pruning_utils.__file__).parent
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        assert done.stdout == "False\n"
