"""Reports, sweeps, ratios, latency, sizes, progress, plots and files."""

import gzip
import io
import math
import os
import subprocess
import sys
import types
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from keras import layers
from support import EAGER, bits, compile_, data, kernel, mlp, shake

import pruning_utils
from pruning_utils import (
    SPARSITIES,
    FitProgress,
    build_model,
    compressed_size,
    measure_latency,
    plot_sweep,
    progress,
    prune_units,
    prune_weights,
    save,
    score,
    sparsity_report,
    sparsity_sweep,
)

X, Y = data(50)


# ------------------------------------------------------------------------------------------ the network


def test_the_network_of_the_walkthrough():
    model = build_model(seed=1)
    assert isinstance(model, keras.Sequential)
    assert model.count_params() == 2_386_000
    assert model.input_shape == (None, 784)
    assert [kernel(layer).shape[1] for layer in model.layers] == [1000, 1000, 500, 200, 10]
    assert [layer.activation.__name__ for layer in model.layers] == ["relu"] * 4 + ["linear"]
    assert not any(layer.use_bias for layer in model.layers)
    assert [layer.name for layer in model.layers] == ["hidden_1", "hidden_2", "hidden_3", "hidden_4", "logits"]
    assert model.loss.get_config()["from_logits"]
    assert abs(float(model.optimizer.learning_rate) - 1e-3) < 1e-9
    assert not model.losses
    assert SPARSITIES == (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)


def test_the_seed_decides_the_weights():
    one, two, other = build_model((5, 784), seed=7), build_model((5, 784), seed=7), build_model((5, 784), seed=8)
    assert bits(one) == bits(two) != bits(other)
    assert bits(build_model((5,))) != bits(build_model((5,)))
    same_shape = build_model((784, 784), seed=0)
    assert kernel(same_shape.layers[0]).tobytes() != kernel(same_shape.layers[1]).tobytes()


def test_each_layer_has_a_seed_of_its_own():
    for number, layer in enumerate(build_model((784, 784), seed=3).layers[:2]):
        initial = keras.initializers.GlorotUniform(3 + number)((784, 784))
        assert kernel(layer).tobytes() == np.asarray(keras.ops.convert_to_numpy(initial)).tobytes()


def test_options_of_the_network():
    model = build_model([4], learning_rate=0.5, l1=0.25, steps_per_execution=3, metrics=["mae"], loss="mse")
    assert float(model.optimizer.learning_rate) == 0.5
    assert float(model.losses[0]) == pytest.approx(0.25 * abs(kernel(model.layers[0])).sum(), rel=1e-5)
    assert len(model.losses) == 1
    (penalty,) = build_model([4], l2=0.5).losses
    assert 0 < float(penalty) < 0.5 * 784 * 4
    both = build_model([4], l1=0.25, l2=0.5)
    squares = 0.5 * np.square(kernel(both.layers[0])).sum()
    assert float(both.losses[0]) == pytest.approx(0.25 * abs(kernel(both.layers[0])).sum() + squares, rel=1e-5)
    assert model.steps_per_execution == 3
    assert model.loss == "mse"
    build_model((), learning_rate=keras.optimizers.schedules.CosineDecay(0.1, 10))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"hidden_units": 5}, TypeError, "hidden_units must be a list or tuple of sizes, not 5"),
        ({"hidden_units": "55"}, TypeError, "'55'"),
        ({"hidden_units": (5, 0)}, ValueError, "hidden_units must be a whole number of at least 1, not 0"),
        ({"hidden_units": (5.0,)}, ValueError, "5.0"),
        ({"hidden_units": (True,)}, ValueError, "True"),
        ({"l1": -1}, ValueError, "l1 must be a number of at least 0, not -1"),
        ({"l1": "x"}, ValueError, "'x'"),
        ({"l1": True}, ValueError, "True"),
        ({"l1": math.nan}, ValueError, "nan"),
        ({"l2": -0.5}, ValueError, "l2 must be a number of at least 0, not -0.5"),
        ({"l1": math.inf}, ValueError, "l1 must be a number of at least 0, not inf"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0, not -1"),
    ],
)
def test_network_misuse(arguments, error, message):
    with pytest.raises(error, match=message):
        build_model(**arguments)


# --------------------------------------------------------------------------------------------- report


def test_report_by_hand():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.BatchNormalization(name="n"), layers.Dense(2, name="b")]
    )
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
    assert report["units"].tolist()[:1] + report["units"].tolist()[2:] == [3, 2, 5]
    assert report["dead_units"].tolist()[:1] + report["dead_units"].tolist()[2:] == [1, 0, 1]
    assert report["units"].isna().tolist() == [False, True, False, False]
    assert report["dead_units"].isna().tolist() == [False, True, False, False]
    assert [str(kind) for kind in report.dtypes[1:]] == ["Int64", "Int64", "float64", "Int64", "Int64"]


def test_report_takes_units_from_the_last_axis_of_a_convolution():
    model = keras.Sequential([keras.Input((5, 5, 2)), layers.Conv2D(4, 3, name="c")])
    values = model.get_weights()
    values[0][..., 1:] = 0
    model.set_weights(values)
    assert sparsity_report(model)[["units", "dead_units"]].iloc[0].tolist() == [4, 3]


def test_report_counts_shared_and_nested_weights_once():
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared, layers.Dense(3, name="deep")], name="inner")
    inputs = keras.Input((4,))
    values = layers.LSTM(2, name="memory")(layers.Reshape((3, 1))(inner(shared(inputs))))
    model = keras.Model(inputs, layers.Dense(2, name="out")(values))
    report = sparsity_report(model)
    assert sorted(report["layer"]) == sorted(["shared", "deep", "lstm_cell", "out", "total"])
    assert report["parameters"].iloc[-1] == model.count_params() == report["parameters"].iloc[:-1].sum()


def test_report_of_a_model_without_weights():
    report = sparsity_report(keras.Sequential([keras.Input((4,)), layers.Flatten()]))
    assert report[["layer", "parameters", "zeros"]].to_numpy().tolist() == [["total", 0, 0]]


# ---------------------------------------------------------------------------------------------- sweep


def by_hand(model, x, y, batch_size):
    logs = model.evaluate(x, y, batch_size=batch_size, verbose=0, return_dict=True)
    return logs["accuracy"], logs["loss"]


@pytest.mark.parametrize(("l1", "batch_size", "sparsities"), [(0.0, 10_000, (0.75,)), (0.01, 7, (0.0, 0.75, 1))])
def test_sweep_equals_evaluate_on_pruned_models(l1, batch_size, sparsities):
    model = mlp(units=(20, 10), compiled=False)
    if l1:
        model = keras.Sequential([keras.Input((6,))])
        for units, penalty in ((20, "l1"), (10, "l1l2"), (3, None)):
            model.add(layers.Dense(units, activation="relu", kernel_regularizer=penalty))
        shake(model)
    compile_(model, **EAGER if l1 else {})
    before = bits(model)
    table = sparsity_sweep(model, X, Y, sparsities, batch_size=batch_size)
    assert bits(model) == before
    assert list(table.columns) == ["method", "sparsity", "accuracy", "loss", "compression_ratio", "theoretical_speedup"]
    assert table["method"].tolist() == ["weight"] * len(sparsities) + ["unit"] * len(sparsities)
    assert table["sparsity"].tolist() == list(sparsities) * 2
    for row in table.itertuples():
        pruned = (prune_weights if row.method == "weight" else prune_units)(model, row.sparsity)
        accuracy, loss = by_hand(pruned, X, Y, 13)
        assert abs(accuracy - row.accuracy) < 1 / 50 - 1e-6
        assert abs(loss - row.loss) < 1e-5
        nonzero = sum(np.count_nonzero(w) for w in pruned.get_weights())
        assert row.compression_ratio == model.count_params() / nonzero
        adds = sum(np.count_nonzero(kernel(layer)) for layer in pruned.layers)
        assert row.theoretical_speedup == sum(kernel(layer).size for layer in model.layers) / adds
        one = score(pruned, X, Y, dense=model, batch_size=batch_size)
        assert one == {key: getattr(row, key) for key in one}
    assert score(model, X, Y)["theoretical_speedup"] == 1
    same = sparsity_sweep(model, X.astype("float64"), Y.tolist(), sparsities, batch_size=batch_size)
    pd.testing.assert_frame_equal(table, same)


def models_tested(model, monkeypatch, x=X):
    """The models that are tested to score `model`: their sizes, and whether they run eagerly."""
    seen, test = [], keras.Model.test_on_batch
    record = lambda self, *a, **o: (seen.append((self.count_params(), self.run_eagerly)), test(self, *a, **o))[1]  # noqa: E731
    monkeypatch.setattr(type(model), "test_on_batch", record)
    score(model, x, Y)
    return seen


def test_dead_units_are_not_computed_where_they_are_at_least_half(monkeypatch):
    half, less = (prune_units(mlp(units=(20, 10), bias=False), sparsity) for sparsity in (0.5, 0.45))
    assert models_tested(half, monkeypatch) == [(6 * 10 + 10 * 5 + 5 * 3, True)]
    assert models_tested(less, monkeypatch) == [(6 * 20 + 20 * 10 + 10 * 3, False)]
    assert half.run_eagerly is False
    stack = [layers.Conv2D(8, 2, name="c"), layers.Flatten(), layers.Dense(3)]
    images = compile_(shake(keras.Sequential([keras.Input((3, 2, 1)), *stack])))
    seen = models_tested(prune_units(images, 0.5), monkeypatch, X.reshape(-1, 3, 2, 1))
    assert seen == [(4 * 4 + 4 + 2 * 4 * 3 + 3, True)]


def test_what_can_not_be_made_smaller_is_tested_as_it_is(monkeypatch):
    penalized = keras.Sequential([keras.Input((6,)), layers.Dense(8, kernel_regularizer="l2"), layers.Dense(3)])
    branches = (inputs := keras.Input((6,)), layers.Dense(8)(inputs), layers.Dense(8)(inputs))
    joined = keras.Model(branches[0], layers.Dense(3)(layers.Add()(branches[1:])))
    alone = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    for model in (penalized, joined, alone):
        pruned = model if model is alone else prune_units(compile_(shake(model)), 0.9)
        assert models_tested(compile_(pruned), monkeypatch) == [(model.count_params(), False)]


def test_sweep_with_random_criterion_and_ignored_layers():
    model = mlp(units=(20, 10))
    table = sparsity_sweep(model, X, Y, [0.5], criterion="random", seed=3, ignored_layers="d1")
    for row in table.itertuples():
        prune = prune_weights if row.method == "weight" else prune_units
        pruned = prune(model, 0.5, criterion="random", seed=3, ignored_layers="d1")
        assert row.loss == pytest.approx(by_hand(pruned, X, Y, 50)[1], abs=1e-5)


def test_the_random_criterion_starts_from_seed_zero():
    model = mlp(units=(20, 10), **EAGER)
    tables = [sparsity_sweep(model, X, Y, [0.5], criterion="random", **o) for o in ({}, {"seed": 0})]
    pd.testing.assert_frame_equal(*tables)


def test_sweep_compares_with_all_parameters_even_if_some_are_zero_already(capsys):
    model = prune_weights(mlp(units=(10,), bias=False), 0.5)  # 30 of 60 weights, none of 30
    table = sparsity_sweep(model, X, Y, [0.0])
    assert table["compression_ratio"].tolist() == table["theoretical_speedup"].tolist() == [90 / 60] * 2
    assert capsys.readouterr().err.startswith("sweep: 1 of 2, ")


def test_memory_is_bounded_by_batches_of_2500(monkeypatch):
    sizes, test = [], keras.Model.test_on_batch
    record = lambda self, x, y, **options: (sizes.append(len(y)), test(self, x, y, **options))[1]  # noqa: E731
    monkeypatch.setattr(keras.Sequential, "test_on_batch", record)
    x, y = np.ones((2_501, 6), "float32"), np.zeros(2_501, int)
    score(mlp(), x, y)
    sparsity_sweep(mlp(), x, y, [0.0])
    assert sizes == [2_500, 1] * 2


def test_other_losses_and_labels():
    one_hot = np.eye(3)[Y]
    for loss, labels in (("sparse_categorical_crossentropy", Y[:, None]), ("categorical_crossentropy", one_hot)):
        model = mlp(compiled=False)
        model.compile("sgd", loss, metrics=["acc"], **EAGER)
        logs = model.evaluate(X, labels, verbose=0, return_dict=True)
        result = score(model, X, labels)
        assert result["loss"] == pytest.approx(logs["loss"], abs=1e-5)
        assert result["accuracy"] == pytest.approx(logs["acc"], abs=1e-6)
    model = mlp(compiled=False)
    model.compile("sgd", keras.losses.sparse_categorical_crossentropy, metrics=["accuracy"], **EAGER)
    with pytest.raises(ValueError, match="labels must be in"):
        score(model, X, Y + 1)

    class Nameless:
        def __call__(self, y, p):
            return keras.ops.mean(p, -1)

    for loss in (lambda y, p: keras.ops.mean(p, -1), Nameless()):
        model.compile("sgd", loss, metrics=["accuracy"], **EAGER)
        score(model, X, one_hot)
    model = keras.Sequential([keras.Input((7, 2)), layers.Dense(3, activation="softmax")])
    model.compile("sgd", "categorical_crossentropy", metrics=["accuracy"], **EAGER)
    score(model, np.ones((2, 7, 2)), np.eye(3)[np.zeros((2, 7), int)])


def test_the_accuracy_is_chosen_among_metrics():
    model = mlp(metrics=[keras.metrics.SparseTopKCategoricalAccuracy(3), "sparse_categorical_accuracy"])
    wanted = model.evaluate(X, Y, verbose=0, return_dict=True)
    assert wanted["sparse_categorical_accuracy"] < wanted["sparse_top_k_categorical_accuracy"] == 1
    assert score(model, X, Y)["accuracy"] == pytest.approx(wanted["sparse_categorical_accuracy"], abs=1e-6)
    model = mlp(metrics=[keras.metrics.SparseTopKCategoricalAccuracy(3, name="a_loose_accuracy"), "accuracy"])
    assert score(model, X, Y)["accuracy"] == pytest.approx(wanted["sparse_categorical_accuracy"], abs=1e-6)


def test_score_leaves_no_metric_state_behind():
    model = mlp()
    score(model, X, Y)
    model.reset_metrics()
    first = model.evaluate(X, Y, verbose=0)
    score(model, X[:5], Y[:5])
    assert model.evaluate(X, Y, verbose=0) == first


def ratio(model, pruned, shape):
    """theoretical_speedup by the module's counting, without a loss."""
    x = keras.ops.convert_to_tensor(np.ones((1, *shape), "float32"))
    dense = pruning_utils._sizes(model, pruning_utils._uses(model, x))[0]
    return dense[1], pruning_utils._sizes(pruned, pruning_utils._uses(pruned, x))[1][1]


@pytest.mark.parametrize(
    ("stack", "shape", "wanted"),
    [
        ([layers.Dense(5), layers.Dense(2)], (3,), 15 + 10),
        ([layers.Dense(5)], (7, 3), 7 * 15),
        ([layers.Conv2D(4, 3, padding="same", strides=2)], (8, 8, 2), 16 * 4 * 18),
        ([layers.Conv1D(4, 3)], (8, 2), 6 * 24),
        ([layers.Conv2D(4, 3, groups=2)], (5, 5, 2), 9 * 4 * 9),
        ([layers.DepthwiseConv2D(3, depth_multiplier=2)], (5, 5, 2), 9 * 4 * 9),
        ([layers.DepthwiseConv1D(3, depth_multiplier=2)], (5, 2), 3 * 4 * 3),
        ([layers.Conv2DTranspose(4, 3, strides=2)], (5, 5, 2), 25 * 2 * 4 * 9),
        ([layers.EinsumDense("abc,cde->abde", (None, 4, 5))], (7, 3), 7 * 60),
        ([layers.EinsumDense("abcd,cde->abe", (None, 5))], (7, 3, 4), 7 * 60),
    ],
)
def test_multiply_adds_by_hand(stack, shape, wanted):
    model = keras.Sequential([keras.Input(shape), *stack])
    for layer in stack:
        layer.kernel.assign(np.ones(layer.kernel.shape))
    assert ratio(model, model, shape) == (wanted, wanted)
    layer = stack[0]
    half = np.ones(layer.kernel.shape)
    half.ravel()[: half.size // 3] = 0
    layer.kernel.assign(half)
    dense, sparse = ratio(model, model, shape)
    assert dense == wanted
    assert sparse == wanted - (half.size // 3) * (wanted - (10 if len(stack) > 1 else 0)) / half.size
    assert "call" not in vars(layer)


def test_a_shared_layer_counts_as_often_as_it_is_used():
    shared = layers.Dense(4)
    inputs = keras.Input((4,))
    model = shake(keras.Model(inputs, layers.Dense(2, use_bias=False)(shared(shared(inputs)))))
    assert ratio(model, model, (4,)) == (2 * 16 + 8, 2 * 16 + 8)
    assert pruning_utils._sizes(model, {}).tolist() == [[28, 0], [28, 0]]


def test_layers_may_take_more_than_their_inputs():
    class Scaled(layers.Dense):
        def call(self, inputs, scale, *, shift):
            return super().call(inputs) * scale + shift

    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = Scaled(5), layers.Dense(3)

        def call(self, inputs):
            return self.two(self.one(inputs, inputs[:, :1], shift=1.0))

    model = compile_(Own())
    model(keras.ops.convert_to_tensor(X))
    assert score(model, X, Y)["loss"] == pytest.approx(by_hand(model, X, Y, 50)[1], abs=1e-5)


def test_without_a_dense_model_the_ratios_compare_a_model_with_itself_without_zeros():
    model = pruning_utils.prune_weights(mlp(units=(10,), bias=False), 0.5)  # 30 of 60 weights, none of 30
    assert score(model, X, Y)["compression_ratio"] == score(model, X, Y)["theoretical_speedup"] == 90 / 60


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_ratios_of_a_network_of_zeros_are_infinite():
    model = mlp(units=(4,), bias=False)
    model.set_weights([w * 0 for w in model.get_weights()])
    result = score(model, X, Y)
    assert result["compression_ratio"] == result["theoretical_speedup"] == math.inf


def test_a_subclassed_model_can_be_scored():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.one, self.two = layers.Dense(5), layers.Dense(3)

        def call(self, inputs):
            return self.two(self.one(inputs))

    model = Own()
    compile_(model)
    model(keras.ops.convert_to_tensor(X))
    assert score(model, X, Y)["theoretical_speedup"] == 1
    assert len(sparsity_sweep(model, X, Y, [0.0, 0.5])) == 4


def two_inputs():
    one, two = keras.Input((6,)), keras.Input((6,))
    values = layers.Dense(4)(layers.Add()([one, two]))
    return compile_(keras.Model([one, two], layers.Dense(3)(values)))


def no_accuracy():
    return mlp(metrics=[keras.metrics.SparseTopKCategoricalAccuracy(2)])


def uncompiled():
    return mlp(compiled=False)


def with_nan():
    model = mlp()
    model.layers[0].kernel.assign(kernel(model.layers[0]) * np.nan)
    return model


def upside_down():
    stack = [layers.Conv1DTranspose(2, 2), layers.Flatten(), layers.Dense(3)]
    return compile_(keras.Sequential([keras.Input((4, 1)), *stack]))


def one_hot_loss():
    return mlp(loss="categorical_crossentropy")


SCORE_MISUSE = [
    (lambda: "model", {}, TypeError, "keras.Model, not str"),
    (lambda: keras.Sequential([layers.Dense(2)]), {}, ValueError, "not built"),
    (uncompiled, {}, ValueError, "not compiled"),
    (no_accuracy, {}, ValueError, "accuracy"),
    (two_inputs, {}, ValueError, "several inputs"),
    (mlp, {"x": X[:, :5]}, ValueError, r"x has shape \(50, 5\), but model .* takes \(None, 6\)"),
    (mlp, {"x": X[0]}, ValueError, r"x has shape \(6,\)"),
    (mlp, {"x": X[None]}, ValueError, r"x has shape \(1, 50, 6\)"),
    (mlp, {"x": X[:0], "y": Y[:0]}, ValueError, "no examples"),
    (mlp, {"x": 3.0}, ValueError, "no examples"),
    (mlp, {"x": [["a"] * 6] * 50}, TypeError, "x must be an array of numbers"),
    (mlp, {"x": None}, TypeError, "x must be an array of numbers, not of object"),
    (mlp, {"y": Y[:49]}, ValueError, r"x has 50 examples, but y has shape \(49,\)"),
    (mlp, {"y": 3}, ValueError, "x has 50 examples"),
    (mlp, {"y": None}, TypeError, "y must be an array of numbers"),
    (mlp, {"y": np.eye(3)[Y]}, ValueError, "one integer label per example"),
    (mlp, {"y": Y / 2}, ValueError, "one integer label per example, not y of float64"),
    (mlp, {"y": Y + 1}, ValueError, r"labels must be in \[0, 3\), but y has 1 to 3"),
    (mlp, {"y": Y - 1}, ValueError, "but y has -1 to 1"),
    (one_hot_loss, {}, ValueError, "one-hot labels of 3 classes"),
    (one_hot_loss, {"y": np.eye(4)[Y]}, ValueError, r"not y of shape \(50, 4\)"),
    (mlp, {"batch_size": 0}, ValueError, "batch_size must be a whole number of at least 1, not 0"),
    (mlp, {"batch_size": 2.5}, ValueError, "2.5"),
]
SWEEP_MISUSE = [
    (mlp, {"sparsities": (0.5, 0.5)}, ValueError, "must increase"),
    (mlp, {"sparsities": (0.5, 0.2)}, ValueError, "must increase"),
    (mlp, {"sparsities": ()}, ValueError, "must increase"),
    (mlp, {"sparsities": (0, 50)}, ValueError, "fraction"),
    (mlp, {"sparsities": 0.5}, TypeError, "sequence of numbers .* not 0.5"),
    (mlp, {"sparsities": "0.5"}, TypeError, "sequence of numbers"),
    (mlp, {"sparsities": None}, TypeError, "sequence of numbers"),
    (mlp, {"ignored_layers": ["d5"]}, ValueError, "d5"),
    (mlp, {"criterion": "best"}, ValueError, "'best'"),
    (with_nan, {}, ValueError, "'d1' holds NaN"),
    (upside_down, {"x": np.ones((50, 4, 1))}, ValueError, "last axis"),
]


@pytest.mark.parametrize(("make", "options", "error", "message"), SCORE_MISUSE + SWEEP_MISUSE)
def test_sweep_misuse(make, options, error, message):
    model = make()
    before = bits(model) if isinstance(model, keras.Model) else None
    with pytest.raises(error, match=message):
        sparsity_sweep(model, **{"x": X, "y": Y, "sparsities": (0, 0.5)} | options)
    assert before is None or bits(model) == before


@pytest.mark.parametrize(("make", "options", "error", "message"), SCORE_MISUSE)
def test_score_misuse(make, options, error, message):
    with pytest.raises(error, match=message):
        score(make(), **{"x": X, "y": Y} | options)


def test_score_refuses_a_dense_model_that_is_none():
    with pytest.raises(TypeError, match=r"keras.Model, not str"):
        score(mlp(), X, Y, dense="dense")


# ------------------------------------------------------------------------------------ latency and size


def test_latency_table(monkeypatch):
    model = mlp()
    table = measure_latency(model, X, [1, 50], seconds=0.05)
    assert list(table.columns) == ["batch_size", "milliseconds", "images_per_second", "calls"]
    assert table["batch_size"].tolist() == [1, 50]
    assert (table["calls"] >= 5).all()
    assert (table["milliseconds"] > 0).all()
    np.testing.assert_allclose(table["milliseconds"] * table["images_per_second"], [1e3, 5e4])
    assert len(measure_latency(model, X, [])) == 0


class Clock:
    """A model whose calls take the given seconds on a clock of our own."""

    def __init__(self, monkeypatch, model, durations):
        self.now, self.calls, self.durations = 100.0, [], durations
        monkeypatch.setattr("pruning_utils.time", types.SimpleNamespace(perf_counter=lambda: self.now))
        monkeypatch.setattr(model, "predict_on_batch", self.call)

    def call(self, batch):
        self.now += self.durations(len(self.calls))
        self.calls.append(len(batch))


def test_latency_is_the_median_without_the_warm_up(monkeypatch):
    model = mlp()
    clock = Clock(monkeypatch, model, lambda call: 9.0 if call < 2 else 0.25)
    table = measure_latency(model, X, [10], seconds=1)
    assert table.to_numpy().tolist() == [[10, 250.0, 40.0, 5]]
    assert clock.calls == [10] * 7


def test_latency_repeats_until_the_median_is_known_or_the_time_is_up(monkeypatch):
    model = mlp()
    Clock(monkeypatch, model, lambda call: 0.125 if call % 2 else 0.25)
    # the quartiles lie 0.125 apart, and the median of an odd number of calls is 0.25: 0.93 * 0.125 / √n < 0.02 * 0.25
    assert measure_latency(model, X, [10], seconds=1000)["calls"].tolist() == [541]
    assert measure_latency(model, X, [10], seconds=10)["calls"][0] == pytest.approx(54, abs=1)
    Clock(monkeypatch, model, lambda call: 0.001)
    assert measure_latency(model, X, [10], seconds=1)["calls"][0] == pytest.approx(101, abs=1)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"model": "model"}, TypeError, "keras.Model, not str"),
        ({"model": keras.Sequential([layers.Dense(2)])}, ValueError, "not built"),
        ({"x": X[:0]}, ValueError, "no examples"),
        ({"x": X[:, :2]}, ValueError, r"x has shape \(50, 2\)"),
        ({"x": "x"}, TypeError, "x must be an array"),
        ({"batch_sizes": (1, 51)}, ValueError, "batch size 51 is more than the 50 examples"),
        ({"batch_sizes": (0,)}, ValueError, "batch size must be a whole number of at least 1, not 0"),
        ({"batch_sizes": (1.5,)}, ValueError, "1.5"),
        ({"batch_sizes": 5}, TypeError, "sequence of whole numbers, not 5"),
        ({"seconds": 0}, ValueError, "seconds must be a number above 0, not 0"),
        ({"seconds": "1"}, ValueError, "'1'"),
        ({"seconds": True}, ValueError, "True"),
        ({"seconds": math.inf}, ValueError, "inf"),
        ({"seconds": math.nan}, ValueError, "nan"),
    ],
)
def test_latency_misuse(options, error, message, monkeypatch):
    model = mlp()
    monkeypatch.setattr(model, "predict_on_batch", None)
    with pytest.raises(error, match=message):
        measure_latency(**{"model": model, "x": X, "batch_sizes": (1,)} | options)


def test_compressed_size():
    model = mlp(units=(100, 50))
    size = compressed_size(model)
    raw = b"".join(w.tobytes() for w in model.get_weights())
    assert size["raw_bytes"] == len(raw) == 4 * model.count_params()
    assert size["gzip_bytes"] == len(gzip.compress(raw, 6, mtime=0))
    sparse = compressed_size(prune_weights(model, 0.9))
    assert sparse["raw_bytes"] == size["raw_bytes"]
    assert sparse["gzip_bytes"] < size["gzip_bytes"] / 2
    assert compressed_size(keras.Sequential([keras.Input((2,)), layers.Flatten()]))["raw_bytes"] == 0
    half = keras.Sequential([keras.Input((6,)), layers.Dense(4, dtype="float16")])
    assert compressed_size(half)["raw_bytes"] == 2 * half.count_params()


@pytest.mark.parametrize("measure", [compressed_size, sparsity_report])
def test_size_and_report_misuse(measure):
    with pytest.raises(TypeError, match=r"keras.Model, not int"):
        measure(3)
    with pytest.raises(ValueError, match="not built"):
        measure(keras.Sequential([layers.Dense(2)]))


# ------------------------------------------------------------------------------------------- progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_in_a_terminal_leaves_an_empty_line(monkeypatch, capsys):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    assert list(progress(iter("abc"), "letters")) == ["a", "b", "c"]
    assert screen.getvalue().startswith("\rletters: 1 of 3, 0 s left")
    assert "3 of 3" in screen.getvalue()
    assert screen.getvalue().endswith("\r" + " " * 79 + "\r")
    assert "\n" not in screen.getvalue()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", [Terminal, io.StringIO])
def test_each_line_of_progress_is_shown_at_once(kind, monkeypatch):
    screen, shown = kind(), []
    screen.flush = lambda: shown.append(screen.getvalue())
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.delitem(sys.modules, "IPython", raising=False)
    list(progress([1, 2], "work"))
    assert shown[0].strip() == "work: 1 of 2, 0 s left"
    assert "work: 2 of 2, 0 s left" in shown[1]
    shell = types.SimpleNamespace(kernel=object())
    display = types.SimpleNamespace(clear_output=lambda wait=False: None)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    monkeypatch.setattr("sys.stdout", screen)
    before = screen.getvalue()
    del shown[:]
    list(progress([1, 2], "work"))
    lines = ["work: 1 of 2, 0 s left", "work: 2 of 2, 0 s left", ""]
    assert shown == [before + "".join(lines[: n + 1]) for n in range(3)]


def test_progress_tells_the_time_left(monkeypatch, capsys):
    clock = iter([10.0, 14.0, 18.0, 22.0])
    monkeypatch.setattr("pruning_utils.time", types.SimpleNamespace(perf_counter=lambda: next(clock)))
    list(progress([1, 2, 3], "work"))
    assert capsys.readouterr().err == "work: 1 of 3, 8 s left\nwork: 2 of 3, 4 s left\nwork: 3 of 3, 0 s left\n"


def test_progress_clears_up_after_an_error(monkeypatch):
    screen = Terminal()
    monkeypatch.setattr("sys.stderr", screen)
    with pytest.raises(KeyError):  # noqa: PT012
        for step in progress([1, 2], "work"):
            if step == 2:
                raise KeyError(step)
    assert "1 of 2" in screen.getvalue()
    import gc

    gc.collect()
    assert screen.getvalue().endswith(" " * 79 + "\r")


def test_progress_in_a_notebook_clears_its_output(monkeypatch, capsys):
    calls = []
    display = types.SimpleNamespace(clear_output=lambda wait=False: calls.append(wait))
    shell = types.SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell, display=display))
    list(progress([1, 2], "work"))
    assert calls == [True, True, False]
    assert capsys.readouterr().out.startswith("work: 1 of 2")
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: None, display=display))
    list(progress([1], "work"))
    assert len(calls) == 3
    assert "1 of 1" in capsys.readouterr().err


def test_fit_progress(capsys):
    model, callback = mlp(optimizer="sgd", **EAGER), FitProgress("the network")
    for _ in range(2):
        model.fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
        lines = capsys.readouterr().err.splitlines()
        assert [line.split(",")[0] for line in lines] == [f"the network: {n} of 3" for n in (1, 2, 3)]
    stop = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: setattr(model, "stop_training", True))
    model.fit(X, Y, epochs=5, verbose=0, callbacks=[FitProgress(), stop])
    assert capsys.readouterr().err.startswith("training: 1 of 5")


# ----------------------------------------------------------------------------------------------- plots


def table(**columns):
    rows = [
        (m, s, 0.9 - 0.05 * (s > 0.6) * (m == "unit"), s, 1 / (1 - s))
        for m in ("weight", "unit")
        for s in (0, 0.5, 0.8)
    ]
    names = ["method", "sparsity", "accuracy", "loss", "compression_ratio"]
    return pd.DataFrame(rows, columns=names).assign(**columns)


def curves(axis, points=3):
    """The lines of data, without the empty ones that stand for them in the legend."""
    return [line for line in axis.get_lines() if len(line.get_xdata()) == points]


def test_plot_of_a_sweep():
    figure = plot_sweep(table())
    accuracy, loss = figure.axes
    assert accuracy.get_ylabel() == "test accuracy"
    assert loss.get_ylabel() == "test loss"
    assert accuracy.get_xlabel() == loss.get_xlabel() == "sparsity (fraction pruned in each hidden layer)"
    assert (
        figure.get_suptitle()
        == "less than one point of accuracy lost with 80% of the weights or 50% of the units pruned"
    )
    assert accuracy.get_ylim() == (0, 1.02)
    assert loss.get_ylim()[0] == 0
    assert loss.get_legend() is None
    assert {text.get_text() for text in accuracy.get_legend().get_texts()} == {"weight", "unit"}
    figure.canvas.draw()
    left, right = accuracy.get_tightbbox(), loss.get_tightbbox()
    assert left.x1 < right.x0 < right.x1 <= 1200  # side by side, and nothing overlaps or is cut off
    assert 0 <= left.y0 < left.y1 < figure._suptitle.get_window_extent().y0
    assert list(figure.get_size_inches()) == [12, 4.5]
    assert figure._suptitle.get_fontsize() == 14
    assert figure.get_layout_engine() is not None  # which makes room for labels of any length
    plt.close(figure)


def test_the_lines_of_a_plot():
    figure = plot_sweep(table())
    for axis, column in zip(figure.axes, ("accuracy", "loss"), strict=True):
        weight, unit = curves(axis)
        for line, method in ((weight, "weight"), (unit, "unit")):
            rows = table()[table().method == method]
            assert list(line.get_xdata()) == list(rows.sparsity)
            assert list(line.get_ydata()) == list(rows[column])
            assert line.get_color() == {"weight": "#0072B2", "unit": "#D55E00"}[method]
            assert (line.get_linewidth(), line.get_markersize()) == (2.2, 8)
        assert weight.get_linestyle() != unit.get_linestyle()  # apart without colour, too
        assert weight.get_marker() != unit.get_marker()
        assert "None" not in (weight.get_marker(), unit.get_marker())
        assert axis.xaxis.get_gridlines()[0].get_alpha() == 0.3
    plt.close(figure)


def test_plot_against_parameters_left_with_stages_and_a_data_set():
    both = pd.concat(
        [table(stage="one-shot", dataset="MNIST"), table(stage="fine-tuned", dataset="MNIST", accuracy=0.9)]
    )
    figure = plot_sweep(both, x="parameters_left")
    assert figure.axes[0].get_xscale() == figure.axes[1].get_xscale() == "log"
    assert figure.axes[0].xaxis_inverted()
    assert {axis.get_xlabel() for axis in figure.axes} == {"fraction of all parameters left (log scale)"}
    assert (
        figure.get_suptitle()
        == "MNIST: less than one point of accuracy lost with 80% of the weights or 80% of the units pruned, fine-tuned"
    )
    points = sorted({x for line in figure.axes[0].get_lines() for x in line.get_xdata()})
    np.testing.assert_allclose(points, [0.2, 0.5, 1.0])
    looks = {(line.get_color(), line.get_linestyle()) for line in curves(figure.axes[0])}
    assert len(looks) == 4  # a colour per method, a style per stage
    assert len({colour for colour, _ in looks}) == len({style for _, style in looks}) == 2
    assert plot_sweep(both, title="Mine").get_suptitle() == "Mine"
    figure = plot_sweep(both.assign(parameters_left=0.3 + both.sparsity / 2), x="parameters_left")
    points = sorted({x for line in figure.axes[0].get_lines() for x in line.get_xdata()})
    np.testing.assert_allclose(points, [0.3, 0.55, 0.7])
    plt.close("all")


def test_the_title_counts_from_the_dense_network_and_does_not_round_a_whole_point_away():
    rows = table(accuracy=[0.9, 0.89, 0.88, 0.9, 0.895, 0.891])
    wanted = "less than one point of accuracy lost with 0% of the weights or 80% of the units pruned"
    for order in (rows, rows[::-1], rows.iloc[[1, 0, 2, 5, 3, 4]]):
        figure = plot_sweep(order)
        assert set(figure.get_suptitle().split()) == set(wanted.split())
        plt.close(figure)
    assert plot_sweep(rows).get_suptitle() == wanted
    one = pd.DataFrame([("unit", 0.5, 0.9, 0.1, 2.0, "MNIST", "once")], columns=[*rows.columns, "dataset", "stage"])
    title = "MNIST: less than one point of accuracy lost with 50% of the units pruned, once"
    assert plot_sweep(one).get_suptitle() == title
    plt.close("all")


@pytest.mark.parametrize(
    ("results", "options", "error", "message"),
    [
        ([1, 2], {}, TypeError, "DataFrame .* not list"),
        (None, {}, TypeError, "not NoneType"),
        (table().drop(columns="loss"), {}, ValueError, r"results lack \['loss'\]"),
        (table()[:0], {}, ValueError, "results lack rows"),
        (table(method="filter"), {}, ValueError, r"methods must be among .* not \['filter'\]"),
        (table(), {"x": "speed"}, ValueError, "x must be 'sparsity' or 'parameters_left', not 'speed'"),
    ],
)
def test_plot_misuse(results, options, error, message):
    with pytest.raises(error, match=message):
        plot_sweep(results, **options)
    assert not plt.get_fignums()


# ----------------------------------------------------------------------------------------------- files


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_save_writes_tables_figures_and_models(tmp_path):
    folder = tmp_path / "mit Leerzeichen und Ümläuten"
    folder.mkdir()
    assert save(table(), folder / "a.csv") == folder / "a.csv"
    pd.testing.assert_frame_equal(pd.read_csv(folder / "a.csv"), table())
    assert b"\r" not in (folder / "a.csv").read_bytes()
    assert (folder / "a.csv").read_text(encoding="utf-8").startswith("method,")  # no index
    figure = plot_sweep(table())
    for name in ("b.png", "b.svg", "b.pdf"):
        assert isinstance(save(figure, str(folder / name)), Path)
    assert (folder / "b.png").read_bytes().startswith(b"\x89PNG")
    assert b"Software" not in (folder / "b.png").read_bytes()
    assert plt.imread(folder / "b.png").shape[:2] == (495, 1320)  # 110 dots per inch
    plt.close(figure)
    model = mlp()
    save(model, folder / "c.keras")
    assert bits(keras.models.load_model(folder / "c.keras")) == bits(model)
    assert files(folder) == ["a.csv", "b.pdf", "b.png", "b.svg", "c.keras"]
    save(table()[:1], folder / "a.csv")
    assert len(pd.read_csv(folder / "a.csv")) == 1


def test_save_whole_or_not_at_all(tmp_path, monkeypatch):
    save(table(), tmp_path / "a.csv")
    before = (tmp_path / "a.csv").read_bytes()

    def interrupted(self, path, **options):
        Path(path).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(pd.DataFrame, "to_csv", interrupted)
    for name in ("a.csv", "new.csv"):
        with pytest.raises(KeyboardInterrupt):
            save(table(), tmp_path / name)
    assert files(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == before


def test_save_misuse(tmp_path, monkeypatch):
    for item in ({}, None, "text", layers.Dense(2)):
        wanted = f"^expected a figure, a DataFrame or a keras.Model, not {type(item).__name__}$"
        with pytest.raises(TypeError, match=wanted):
            save(item, tmp_path / "a.csv")
    with pytest.raises(OSError, match=r"the folder .*missing.* is missing or read-only"):
        save(table(), tmp_path / "missing" / "a.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(OSError, match=r"folder.csv"):
        save(table(), tmp_path / "folder.csv")
    with pytest.raises(ValueError, match="keras"):
        save(mlp(), tmp_path / "model.txt")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(OSError, match="read-only"):
        save(table(), tmp_path / "a.csv")
    assert files(tmp_path) == ["folder.csv"]


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
    assert not any(
        word in source for word in ("import tensorflow", "tf.keras", "keras.src", "import torch", "import jax")
    )
    code = "import sys, pruning_utils; print('seaborn' in sys.modules or 'tensorflow' in sys.modules)"
    if keras.backend.backend() != "tensorflow":
        root = Path(pruning_utils.__file__).parent
        done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True)
        assert done.stdout == "False\n"
