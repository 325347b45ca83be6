"""The network, reports, sweeps, ratios, latency, sizes and plots."""

import gc
import gzip
import math
import os
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import support as s
from keras import layers, ops
from support import array, bits, compile_, kernel, mlp, shake, stack

import pruning_utils as pu

X, Y = s.data(50)
METHODS = {"weight": pu.prune_weights, "unit": pu.prune_units}


# ------------------------------------------------------------------------------------------ the network


def test_the_network_of_the_walkthrough():
    model = pu.build_model(seed=1)
    assert isinstance(model, keras.Sequential)
    assert (model.name, model.count_params(), model.input_shape) == ("mlp", 2_386_000, (None, 784))
    assert [layer.name for layer in model.layers] == ["hidden_1", "hidden_2", "hidden_3", "hidden_4", "logits"]
    assert [layer.units for layer in model.layers] == [1000, 1000, 500, 200, 10]
    assert [layer.activation.__name__ for layer in model.layers] == ["relu"] * 4 + ["linear"]
    assert [layer.use_bias for layer in model.layers] == [False] * 5
    assert model.loss.get_config()["from_logits"]
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    assert "accuracy" in model.evaluate(X[:, :1].repeat(784, 1), Y, verbose=0, return_dict=True)
    assert pu.SPARSITIES == (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
    assert [v.path for v in model.weights] == [v.path for v in pu.build_model(seed=2).weights]


def test_options_of_the_network():
    one, two, other = (
        pu.build_model((5, 784), seed=7),
        pu.build_model((5, 784), seed=7),
        pu.build_model((5, 784), seed=8),
    )
    assert bits(one) == bits(two) != bits(other)
    assert bits(pu.build_model((5,))) != bits(pu.build_model((5,)))
    alike = pu.build_model((784, 784), seed=0)  # each layer has a seed of its own
    assert kernel(alike.layers[0]).tobytes() != kernel(alike.layers[1]).tobytes()
    model = pu.build_model([4], learning_rate=0.5, kernel_regularizer=keras.regularizers.L1L2(0.25, 0.5), loss="mse")
    (penalty,), values = model.losses, kernel(model.layers[0])  # not of the logits
    assert float(penalty) == pytest.approx(0.25 * abs(values).sum() + 0.5 * np.square(values).sum(), rel=1e-5)
    assert (model.loss, float(model.optimizer.learning_rate)) == ("mse", 0.5)
    assert pu.build_model((), optimizer="sgd").optimizer.name.lower().startswith("sgd")
    pu.build_model((3,), learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 10))


# --------------------------------------------------------------------------------------------- report


def test_report_by_hand():
    model = stack((4,), layers.Dense(3, name="a"), layers.BatchNormalization(name="n"), layers.Dense(2, name="b"))
    first, norm = (
        np.array([[0, 1, 2], [0, 0, 1], [0, 0, 0], [0, 0, 0]]),
        [np.ones(3), np.zeros(3), np.zeros(3), np.ones(3)],
    )
    model.set_weights([first, np.array([1.0, 0, -0.0]), *norm, np.ones((3, 2)), np.zeros(2)])
    report = pu.sparsity_report(model)
    assert list(report.columns) == ["layer", "parameters", "zeros", "sparsity", "units", "dead_units"]
    assert report["layer"].tolist() == ["a", "n", "b", "total"]
    assert report["parameters"].tolist() == [15, 12, 8, 35]
    assert report["zeros"].tolist() == [11, 6, 2, 19]
    assert report["sparsity"].tolist() == [11 / 15, 0.5, 0.25, 19 / 35]
    assert report["units"].fillna(-1).tolist() == [3, -1, 2, 5]
    assert report["dead_units"].fillna(-1).tolist() == [1, -1, 0, 1]
    assert [str(kind) for kind in report.dtypes[1:]] == ["Int64", "Int64", "float64", "Int64", "Int64"]
    assert pu.sparsity_report(stack((4,), layers.Flatten()))[["parameters", "zeros"]].iloc[-1].tolist() == [0, 0]


def test_report_of_every_kind_of_layer():
    """Fault 7: a GRU of 8 units had 24 units."""
    model = s.zoo()
    report = pu.sparsity_report(model).set_index("layer")
    assert report.loc["total", "parameters"] == report["parameters"].iloc[:-1].sum() == model.count_params()
    assert report["units"].dropna().to_dict() == {"apart": 6, "out": 3, "total": 9}


def test_report_counts_shared_and_nested_weights_once():
    shared, inputs = layers.Dense(4, name="shared"), keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3, name="deep")], name="inner")
    report = pu.sparsity_report(keras.Model(inputs, layers.Dense(2, name="out")(inner(shared(shared(inputs))))))
    assert dict(zip(report["layer"], report["parameters"], strict=True)) == {
        "shared": 20,
        "deep": 15,
        "out": 8,
        "total": 43,
    }


# ---------------------------------------------------------------------------------------------- sweep


def compression(model, pruned):
    """By building the smaller network."""
    return model.count_params() / sum(np.count_nonzero(w) for w in pu.remove_dead_units(pruned).get_weights())


def test_sweep_equals_evaluate_on_pruned_models():
    hidden = [
        layers.Dense(n, activation="relu", kernel_regularizer=keras.regularizers.L1L2(0.01, 0.02)) for n in (20, 10)
    ]
    top = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    model = compile_(stack((6,), *hidden, layers.Dense(3)), metrics=["accuracy", top])
    table = pu.sparsity_sweep(model, X, Y, (0.0, 0.75), batch_size=7)
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert list(table.columns) == ["method", "sparsity", *logs, "compression_ratio", "theoretical_speedup"]
    assert table[["method", "sparsity"]].to_numpy().tolist() == [[m, f] for m in METHODS for f in (0, 0.75)]
    for row in table.to_dict("records"):
        pruned = METHODS[row.pop("method")](model, row.pop("sparsity"))
        logs = pruned.evaluate(X, Y, batch_size=13, verbose=0, return_dict=True)
        assert {key: row[key] for key in logs} == pytest.approx(logs, abs=1e-5)
        assert row["compression_ratio"] == pytest.approx(compression(model, pruned))
    assert pu.score(pruned, X, Y, dense=model, batch_size=7) == pytest.approx(row, abs=1e-6)
    assert row["theoretical_speedup"] >= (6 * 20 + 20 * 10 + 10 * 3) / (6 * 5 + 5 * 2 + 2 * 3)
    assert pu.score(model, X, Y)["theoretical_speedup"] == 1


def test_examples_come_as_evaluate_takes_them():
    model, sizes = stack((6,), layers.Dense(5), layers.Dense(3)), []

    @keras.saving.register_keras_serializable()
    def loss(y_true, y_pred):
        sizes.append(len(y_true))
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    model.compile(loss=loss, weighted_metrics=["accuracy"], run_eagerly=True)
    x, y = X[:40], Y[:40]
    pu.score(model, x, y)
    assert sizes[-2:] == [32, 8]
    pu.score(model, x, y, batch_size=20)
    assert sizes[-2:] == [20, 20]
    first = (np.arange(40) < 5).astype(float)
    alone = model.evaluate(x[:5], y[:5], verbose=0, return_dict=True)["accuracy"]
    assert pu.score(model, x, y, sample_weight=first)["accuracy"] == pytest.approx(alone)
    sweep = pu.sparsity_sweep(model, x, y, (0,), sample_weight=first, batch_size=40)
    assert sweep["accuracy"].tolist() == pytest.approx([alone, alone])
    with pytest.raises((TypeError, ValueError), match="ignored_layer"):
        pu.sparsity_sweep(model, x, y, (0,), ignored_layer="dense")


def test_sweep_of_a_model_without_units_has_the_rows_of_weights():
    model = compile_(stack((3, 2), layers.LSTM(4), layers.Dense(3)))
    with pytest.warns(UserWarning, match="no units to prune"), pytest.warns(UserWarning, match="not known.*'lstm"):
        table = pu.sparsity_sweep(model, X.reshape(-1, 3, 2), Y, (0, 0.5))
    assert table[["method", "sparsity"]].to_numpy().tolist() == [["weight", 0], ["weight", 0.5]]


def test_ratios_of_a_subclassed_model_count_its_zeros():
    model = s.Subclassed(9)
    model.predict(X, verbose=0)
    compile_(shake(model, whole=True))
    pruned, size = pu.prune_weights(model, 0.5), sum(array(weight).size for weight in model.weights)
    ratios = [size / sum(np.count_nonzero(array(weight)) for weight in part.weights) for part in (model, pruned)]
    assert [pu.score(part, X, Y)["compression_ratio"] for part in (model, pruned)] == ratios
    assert math.isnan(pu.score(pruned, X, Y)["theoretical_speedup"])
    sweep = pu.sparsity_sweep(model, X, Y, iter([0, 0.5]))
    assert sweep["method"].tolist() == ["weight", "weight", "unit", "unit"]
    assert sweep["compression_ratio"][:2].tolist() == ratios


def symbolic_tensors():
    gc.collect()
    return sum(type(item) is keras.KerasTensor for item in gc.get_objects())


@pytest.mark.parametrize("nested", [False, True])
def test_no_call_is_left_on_the_layers_of_the_model(nested):
    """Each would keep its tensors alive."""
    model = compile_(stack((6,), mlp(compiled=False), layers.Dense(3))) if nested else mlp()
    whole = [pu.sparsity_report, pu.hold_sparsity, pu.remove_dead_units, lambda model: pu.score(model, X, Y)]
    pruned = [*METHODS.values(), lambda model, sparsity: pu.sparsity_sweep(model, X, Y, (sparsity,))]
    before = symbolic_tensors()
    for use in whole + [partial(method, sparsity=0.5) for method in pruned]:
        use(model)
        assert symbolic_tensors() == before, use


def test_the_ratios_of_a_sweep_are_those_of_its_points():
    convolutions = [layers.Conv2D(8, 3), layers.BatchNormalization(), layers.ReLU()]
    model = stack((6, 6, 1), *convolutions, layers.Conv2D(6, 3), layers.Flatten(), layers.Dense(4))
    compile_(model)
    x = np.random.default_rng(0).random((20, 6, 6, 1))
    for row in pu.sparsity_sweep(model, x, Y[:20], (0.5,)).itertuples():
        measured = pu.score(METHODS[row.method](model, 0.5), x, Y[:20], dense=model)
        assert (row.compression_ratio, row.theoretical_speedup) == tuple(measured.values())[-2:]


def test_a_sweep_names_the_layers_without_units_once():
    model = stack((6,), s.Mixing(6, name="mine"), layers.Dense(5, name="hidden"), layers.Dense(4))
    compile_(model)
    for call in (lambda: pu.sparsity_sweep(model, X[:, :6], Y, (0.5, 0.9)), lambda: pu.prune_units(model, 0.5)):
        with pytest.warns(UserWarning, match="'mine'") as caught:
            call()
        (warning,) = [one for one in caught if one.category is UserWarning]
        assert "hidden" not in str(warning.message)
        assert warning.filename == __file__ or "MUTANT_UNDER_TEST" in os.environ  # whose calls go a longer way
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pu.sparsity_sweep(model, X[:, :6], Y, (0.5,), ignored_layers="mine")


def test_the_progress_of_a_sweep_is_gone_when_it_ends(capsys):
    pu.sparsity_sweep(mlp(), X, Y, [0.5])
    shown = capsys.readouterr().err
    assert shown.startswith("\rsweep: ")
    assert shown.endswith("\r")


def test_sweep_takes_ignored_layers_scope_and_scores():
    model = mlp(units=(20, 10))
    noise = {v.path: np.random.default_rng(len(v.path)).random(tuple(v.shape)) for v in model.weights}
    for options in ({"scores": lambda v: noise[v.path]}, {"scope": "global"}, {"ignored_layers": ["d1"]}):
        for row in pu.sparsity_sweep(model, X, Y, [0.5], **options).itertuples():
            pruned = METHODS[row.method](model, 0.5, **options)
            assert row.loss == pytest.approx(pruned.evaluate(X, Y, verbose=0)[0], abs=1e-5)
    one, two = (pu.sparsity_sweep(model, X, Y, [0.5, 0.9], ignored_layers=names) for names in (["d1"], iter(["d1"])))
    pd.testing.assert_frame_equal(one, two)
    with pytest.raises(ValueError, match="'d9'"):
        pu.sparsity_sweep(model, X, Y, [0.5], ignored_layers=["d9"])
    with pytest.raises(ValueError, match=r"0\.5"):
        pu.sparsity_sweep(model, X, Y, [0, 50])


CALLS = []  # what is left of them until an interruption


@keras.saving.register_keras_serializable("tests")
def interrupting(y_true, y_pred):
    if CALLS and CALLS.pop() == "the last":
        raise KeyboardInterrupt
    return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)


@pytest.mark.parametrize("options", [{"run_eagerly": False}, {"run_eagerly": True, "loss": interrupting}])
def test_sweep_leaves_the_model_as_it_was_even_if_interrupted(options):
    model = mlp(**options)
    model.fit(X, Y, verbose=0)
    logs = model.evaluate(X, Y, verbose=0)
    names = ("optimizer", "train_function", "test_function", "predict_function", "loss")
    before = bits(model), [getattr(model, name) for name in names]
    state = [array(v).tobytes() for v in model.optimizer.variables]
    if "loss" in options:
        CALLS.extend(["the last", "one", "two"])
        with pytest.raises(KeyboardInterrupt):
            pu.sparsity_sweep(model, X, Y, pu.SPARSITIES)
    else:
        pu.sparsity_sweep(model, X, Y, [0.5])
        pu.score(pu.prune_units(model, 0.5), X, Y, dense=model)
    assert (bits(model), [getattr(model, name) for name in names]) == before
    assert [array(v).tobytes() for v in model.optimizer.variables] == state
    assert model.evaluate(X, Y, verbose=0) == pytest.approx(logs)


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
    return mlp(metrics=None), Batches(), None


def several_inputs_and_outputs_by_name():
    inputs = {name: keras.Input((6,), name=name) for name in "ab"}
    values = layers.Dense(8, activation="relu")(layers.Concatenate()([*inputs.values()]))
    outputs = {"one": layers.Dense(3, name="one")(values), "two": layers.Dense(1, name="two")(values)}
    losses = {"one": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "two": "mse"}
    model = compile_(shake(keras.Model(inputs, outputs)), loss=losses, metrics={"one": ["accuracy"]})
    return model, {"a": X, "b": X}, {"one": Y, "two": Y / 2}


def labels_per_pixel():
    model = stack((4, 4, 2), layers.Conv2D(8, 3, padding="same"), layers.Conv2D(3, 1))
    rng = np.random.default_rng(0)
    return compile_(model), rng.normal(size=(50, 4, 4, 2)).astype("float32"), rng.integers(0, 3, (50, 4, 4))


def float_labels_without_accuracy():
    return mlp(outputs=1, loss="mse", metrics=["mae"]), X, X[:, 0] * 1.5


def stateful():
    inputs = keras.Input(batch_shape=(10, 6, 1))
    values = layers.Dense(8)(layers.LSTM(3, stateful=True)(inputs))
    return compile_(shake(keras.Model(inputs, layers.Dense(3)(values)))), X[..., None], Y


def subclassed():
    model = compile_(s.Subclassed())
    model(ops.convert_to_tensor(X))
    return shake(model), X, Y


MEASURED = [as_dataset, as_batches, several_inputs_and_outputs_by_name, labels_per_pixel]
MEASURED += [float_labels_without_accuracy, stateful, subclassed]


@pytest.mark.filterwarnings("ignore:.*units:UserWarning")
@pytest.mark.parametrize("make", MEASURED)
def test_whatever_evaluate_takes_can_be_measured(make):
    """Fault 6."""
    model, x, y = make()
    batches = {} if y is None else {"batch_size": 10}
    for row in pu.sparsity_sweep(model, x, y, [0.5], **batches).to_dict("records"):
        method, sparsity = METHODS[row.pop("method")], row.pop("sparsity")
        logs = method(model, sparsity).evaluate(x, y, verbose=0, return_dict=True, **batches)
        assert set(row) == {*logs, "compression_ratio", "theoretical_speedup"}
        assert {key: row[key] for key in logs} == pytest.approx(logs, rel=1e-4, abs=1e-5)
        assert row["compression_ratio"] > 1
        assert row["theoretical_speedup"] > 1 or make is subclassed
    assert pu.score(method(model, sparsity), x, y, dense=model, **batches) == pytest.approx(row, rel=1e-4, nan_ok=True)


FIRST = "channels_first"  # which TensorFlow runs on GPUs alone


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
        (layers.TimeDistributed(layers.Dense(4)), (3, 5, 2), 15 * 8),
        (layers.TimeDistributed(layers.Conv1D(4, 3, strides=2)), (3, 7, 2), 3 * 3 * 24),
        (layers.Embedding(7, 4), (6,), 0),
        *([] if s.BACKEND == "tensorflow" else [(layers.Conv2D(4, 3, data_format=FIRST), (2, 7, 5), 15 * 4 * 18)]),
    ],
)
def test_multiply_adds_by_hand(layer, shape, adds):
    """Two fifths of the weights behind `layer` are zero: the speedup tells the multiply-adds of `layer`."""
    model = stack(shape, layer, layers.Flatten(), layers.Dense(5, name="last"))
    model.compile("sgd", "mse", **s.EAGER)
    sparse = pu.prune_weights(model, 0)
    last = sparse.get_layer("last").kernel
    n = math.prod(last.shape)
    last.assign(array(last) * (np.arange(n).reshape(last.shape) % 5 > 1))
    found = pu.score(sparse, np.ones((2, *shape)), np.ones((2, 5)), dense=model)
    assert found["theoretical_speedup"] == pytest.approx((adds + n) / (adds + 0.6 * n))
    assert found["compression_ratio"] == pytest.approx(model.count_params() / (model.count_params() - 0.4 * n))


def test_where_it_is_not_known_how_often_a_matrix_is_applied_there_is_no_speedup():
    one, two, frames = keras.Input((4, 6)), keras.Input((9, 6)), keras.Input((3, 5, 6))
    inner = keras.Sequential([keras.Input((5, 6)), layers.Dense(4), layers.Flatten(), layers.Dense(2)])
    attention = layers.MultiHeadAttention(2, 3)
    for inputs, values in (
        ([one, two], attention(one, two)),
        (frames, layers.TimeDistributed(inner)(frames)),
        (one, layers.MultiHeadAttention(2, 3)(one, one)),
    ):
        model = shake(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(values))))
        model.compile("sgd", "mse", **s.EAGER)
        x = keras.tree.map_structure(lambda tensor: np.ones((2, *tensor.shape[1:])), inputs)
        assert math.isnan(pu.score(model, x, np.ones((2, 2)))["theoretical_speedup"]) == (inputs is not one)


def test_ratios_count_what_is_left_once_dead_units_are_gone():
    first = layers.Conv2D(8, 3, padding="same", use_bias=False), layers.BatchNormalization(), layers.ReLU()
    then = layers.DepthwiseConv2D(3, padding="same", use_bias=False), layers.Conv2D(4, 1, use_bias=False)
    model = compile_(stack((6, 6, 1), *first, *then, layers.Flatten(), layers.Dense(3, use_bias=False)))
    images = np.ones((50, 6, 6, 1))
    for prune, sparsity in ((pu.prune_weights, 0.9), (pu.prune_units, 0.5)):
        pruned = prune(model, sparsity)
        found = pu.score(pruned, images, Y, dense=model)
        assert found["compression_ratio"] == pytest.approx(compression(model, pruned))
        small = pu.score(pu.remove_dead_units(pruned), images, Y, dense=model)
        assert small == pytest.approx(found, rel=1e-4)
    dense = 36 * (9 * 8 + 9 * 8 + 8 * 4) + 36 * 4 * 3
    assert found["theoretical_speedup"] == pytest.approx(dense / (36 * (9 * 4 + 9 * 4 + 4 * 2) + 36 * 2 * 3))


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_without_a_dense_model_a_model_is_compared_with_itself_without_zeros():
    model = pu.prune_weights(mlp(units=(10,), bias=False), 0.5)  # 30 of 60 weights, none of 30
    found = pu.score(model, X, Y)
    assert found["compression_ratio"] == found["theoretical_speedup"] == compression(model, model)
    model.set_weights([w * 0 for w in model.get_weights()])
    found = pu.score(model, X, Y)
    assert found["compression_ratio"] == found["theoretical_speedup"] == math.inf


# ------------------------------------------------------------------------------------ latency and size


def test_latency_table():
    start = time.perf_counter()
    table = pu.measure_latency(mlp(), X, [1, 50], seconds=0.05)
    assert time.perf_counter() - start < 9
    assert list(table.columns) == ["batch_size", "milliseconds", "images_per_second", "calls"]
    assert table["batch_size"].tolist() == [1, 50]
    assert (table[["calls", "milliseconds"]] > 0).all(axis=None)
    np.testing.assert_allclose(table["milliseconds"] * table["images_per_second"], [1e3, 5e4])
    assert pu.measure_latency(mlp(), X, [1, 50], seconds=0)["calls"].tolist() == [5, 5]
    assert pu.measure_latency(mlp(), X, [1], seconds=1)["calls"][0] > 5
    model, x, _ = several_inputs_and_outputs_by_name()
    assert len(pu.measure_latency(model, x, [2], seconds=0.01)) == 1
    model, sizes = mlp(), []
    model.predict_on_batch = lambda batch: (sizes.append(len(batch)), time.sleep(0.01 if len(sizes) > 2 else 0.2))
    (row,) = pu.measure_latency(model, X, [7], seconds=0.1).itertuples()
    assert sizes == [7] * (row.calls + 3)
    assert 5 <= row.calls <= 10
    assert 10 <= row.milliseconds < 50
    with pytest.raises(ValueError, match=r"\[51\] are not between 1 and the 50"):
        pu.measure_latency(model, X, [1, 51])
    assert len(sizes) == row.calls + 3  # nothing was timed before


def test_compressed_size():
    model = mlp(units=(100, 50))
    size, sparse = pu.compressed_size(model), pu.compressed_size(pu.prune_weights(model, 0.9))
    raw = b"".join(w.tobytes() for w in model.get_weights())
    assert size["raw_bytes"] == sparse["raw_bytes"] == len(raw) == 4 * model.count_params()
    assert size["gzip_bytes"] == pytest.approx(len(gzip.compress(raw, 6, mtime=0)), rel=0.02)
    assert sparse["gzip_bytes"] < size["gzip_bytes"] / 2
    assert pu.compressed_size(stack((2,), layers.Flatten()))["raw_bytes"] == 0
    half = keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="float16")])
    assert pu.compressed_size(half)["raw_bytes"] == 2 * half.count_params()


# ----------------------------------------------------------------------------------------------- plots


def table(**columns):
    methods, sparsities = [m for m in METHODS for _ in range(3)], np.tile([0, 0.5, 0.9], 2)
    accuracy = 0.9 - 0.05 * (sparsities > 0.6) * np.array([m == "unit" for m in methods])
    ratios = dict.fromkeys(("compression_ratio", "theoretical_speedup"), 1 / (1 - sparsities))
    rows = {"method": methods, "sparsity": sparsities, "accuracy": accuracy, "loss": sparsities + 0.1} | ratios
    return pd.DataFrame(rows).assign(**columns)


def curves(axis, color):
    return [line for line in axis.get_lines() if line.get_color() == color and len(line.get_xdata()) == 3]


def test_plot_of_a_sweep():
    figure = pu.plot_sweep(table(), title="Mine")
    assert figure.get_suptitle() == "Mine"
    assert set(pu.COLORS) == {"weight", "unit"}
    for method, color in pu.COLORS.items():
        (line,) = curves(figure.axes[0], color)
        rows = table()[table().method == method].sort_values("sparsity", ascending=False)
        order = np.argsort(line.get_xdata())
        np.testing.assert_allclose(np.asarray(line.get_xdata())[order], [0.1, 0.5, 1])
        np.testing.assert_allclose(np.asarray(line.get_ydata())[order], rows.accuracy)
        assert all(len(curves(axis, color)) == 1 for axis in figure.axes)
    figure.canvas.draw()
    assert len({axis.get_position().y0 for axis in figure.axes}) == 1  # side by side
    assert figure.get_figwidth() > 3 * figure.get_figheight()
    for axis in figure.axes:
        assert axis.get_xscale() == "log"
        assert axis.get_xlabel() == "sparsity: % pruned in each hidden layer"
        assert [tick.get_text() for tick in axis.get_xticklabels()] == ["90", "50", "0"]
        assert axis.get_xlim()[0] > axis.get_xlim()[1]  # from dense to sparse
        assert axis.get_xticklabels()[0].get_fontsize() < axis.get_yticklabels()[0].get_fontsize()
        assert not [*axis.xaxis.get_minorticklocs(), *axis.yaxis.get_minorticklocs()]
        assert axis.get_xgridlines()[0].get_alpha() == axis.get_ygridlines()[0].get_alpha() == 0.3
        assert {(line.get_marker(), line.get_linewidth()) for line in curves(axis, pu.COLORS["unit"])} == {("o", 2)}
    assert [axis.get_ylabel() for axis in figure.axes] == [
        "test accuracy",
        "test error (log scale)",
        "test loss (log scale)",
    ]
    assert figure.axes[0].get_ylim() == (0, 1.02)
    assert [axis.get_yscale() for axis in figure.axes] == ["linear", "log", "log"]
    ticks = pu.plot_sweep(table(accuracy=[0.99, 0.9, 0.1] * 2)).axes[1].get_yticks()
    assert {0.02, 0.05, 0.1, 0.2, 0.5} <= {round(tick, 6) for tick in ticks}
    numbers = [axis.yaxis.get_major_formatter()(0.5, 0).replace(".0", "") for axis in figure.axes]
    assert numbers == ["50%", "50%", "0.5"]
    assert [axis.get_legend() is None for axis in figure.axes] == [True, True, False]
    assert pu.plot_sweep(table()).get_suptitle() == "Accuracy, error and loss over sparsity"
    legend = figure.axes[2].get_legend()
    assert {"weight", "unit"} <= {text.get_text() for text in legend.get_texts()}
    assert legend.get_texts()[0].get_fontsize() < 10
    assert legend.handlelength == 4
    assert legend.get_window_extent().x0 > figure.axes[2].get_window_extent().x1  # it hides nothing
    assert abs(legend.get_window_extent().y1 - figure.axes[2].get_window_extent().y1) < 20
    assert legend.get_window_extent().x1 < figure.bbox.x1  # and is not cut off
    plt.close("all")
    with pytest.raises(ValueError, match="loss"):
        pu.plot_sweep(table().drop(columns="loss"))


def test_line_styles_stand_for_a_column_and_seeds_are_averaged():
    both = pd.concat([table(stage="one-shot", kind="x"), table(stage="fine-tuned", kind="x", accuracy=0.8)])
    for options, styles in (({}, 2), ({"style": "kind"}, 1)):
        axis = pu.plot_sweep(both, **options).axes[0]
        assert len({line.get_linestyle() for line in curves(axis, pu.COLORS["weight"])}) == styles
    axis = pu.plot_sweep(pd.concat([table(accuracy=0.6), table(accuracy=0.8)])).axes[0]
    (line,) = curves(axis, pu.COLORS["weight"])
    np.testing.assert_allclose(line.get_ydata(), 0.7)
    assert axis.collections or axis.containers  # and their spread is drawn
    plt.close("all")


# ----------------------------------------------------------------------------- the same numbers twice

SAME = """
import hashlib, keras, numpy as np, sys
from pruning_utils import build_model, sparsity_sweep
x = np.random.default_rng(0).random((64, 784)).astype("float32")
table = sparsity_sweep(build_model((40, 20), seed=5), x, x[:, :10].argmax(1), (0.9,))
print(hashlib.sha256(table.to_csv(index=False).encode()).hexdigest(), "seaborn" in sys.modules)
print("tensorflow" in sys.modules or keras.backend.backend())
"""


def test_two_processes_give_the_same_table_to_the_last_bit_and_load_no_more_than_they_need(capsys):
    root = Path(pu.__file__).parent
    one, two = subprocess.run(
        [sys.executable, "-c", SAME], cwd=root, capture_output=True, text=True
    ).stdout.splitlines()
    exec(SAME, {})
    assert one == f"{capsys.readouterr().out.split()[0]} False"
    assert two == ("True" if s.BACKEND == "tensorflow" else s.BACKEND)
    source = Path(pu.__file__).read_text(encoding="utf-8")
    words = ("import tensorflow", "tf.keras", "keras.src", "import torch", "import jax")
    assert not any(word in source for word in words)
