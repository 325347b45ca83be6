"""prune_weights and prune_units on the models that people bring."""

import gc
import math
import weakref

import keras
import numpy as np
import pytest
import support as s
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops
from support import array, bits, kernel, mlp, oracle_units, oracle_weights, predict, shake, stack

from pruning_utils import hold_sparsity, prune_units, prune_weights, sparsity_report

BOTH = pytest.mark.parametrize("prune", [prune_weights, prune_units])
ORACLES = {prune_weights: oracle_weights, prune_units: oracle_units}
X, Y = s.data()


def check(model, pruned, masks):
    """`masks` say what stays, by the end of each variable's path; all else must be as in `model`, bit for bit."""
    found = set()
    for old, new in zip(model.weights, pruned.weights, strict=True):
        assert (old.dtype, old.trainable, old is new) == (new.dtype, new.trainable, False)
        before, after = array(old), array(new)
        name = next((name for name in masks if f"/{old.path}".endswith(f"/{name}")), None)
        keep = np.ones(before.shape, bool) if name is None else np.broadcast_to(masks[name], before.shape)
        found.add(name)
        assert not after[~keep].any(), old.path
        assert after[keep].tobytes() == before[keep].tobytes(), old.path
    assert found >= set(masks)


def masks_of(prune, model, names, sparsity):
    """What the oracle keeps of these Dense layers, with their biases where whole units go."""
    masks = {f"{name}/kernel": ORACLES[prune](kernel(model.get_layer(name)), sparsity) for name in names}
    if prune is prune_units:
        masks |= {f"{name}/bias": masks[f"{name}/kernel"][0] for name in names}
    return masks


# ----------------------------------------------------------------------------------------- properties


@BOTH
@settings(max_examples=8)
@given(sparsity=st.sampled_from([0.0, 1.0]) | st.floats(0, 1))
def test_counts_are_exact_and_all_else_is_untouched(prune, sparsity):
    model = shake(mlp(units=(9, 5)), whole=True)
    before = bits(model)
    pruned = prune(model, sparsity)
    check(model, pruned, masks_of(prune, model, ["d1", "d2"], sparsity))
    assert bits(model) == before
    assert (type(pruned), pruned.name) == (type(model), model.name)


@BOTH
def test_zero_changes_no_bit_twice_is_once_and_more_includes_less(prune):
    model, before = mlp(units=(20, 10)), None
    weights = model.get_weights()
    weights[0][:2] = -0.0
    model.set_weights(weights)
    assert bits(prune(model, 0)) == bits(model)
    for sparsity in (0.1, 0.4, 0.9, 1):
        pruned = prune(model, sparsity)
        assert bits(prune(pruned, sparsity)) == bits(pruned)
        now = np.concatenate([w.ravel() == 0 for w in pruned.get_weights()])
        assert before is None or not (before & ~now).any()
        before = now
    assert s.living(pruned) == {"d1": 0, "d2": 0, "out": 3}


@BOTH
def test_a_small_layer_is_not_emptied_of_its_units(prune):
    """Fault 1: the network said one thing for every input."""
    model = stack(
        (6, 6, 1), layers.Conv2D(4, 3, name="c"), layers.Flatten(), layers.Dense(1, name="d"), layers.Dense(3)
    )
    pruned = prune(model, 0.9)
    assert s.living(pruned)["d"] == 1
    assert prune is prune_weights or s.living(pruned)["c"] == 1
    assert np.ptp(predict(pruned, s.inputs_for(model))[0], axis=0).max() > 0


# --------------------------------------------------------------------------- which weights, which units


def test_every_matrix_is_pruned_whatever_its_name_frozen_or_not_and_nothing_else():
    model = s.zoo()
    names = ("kernel", "recurrent_kernel", "embeddings", "depthwise_kernel", "pointwise_kernel", "mixing")
    matrices = [v for v in model.weights if v.path.split("/")[-1] in names and "out/" not in v.path]
    assert len(matrices) == 21
    masks = {v.path: oracle_weights(array(v), 0.5) for v in matrices}
    before = bits(model)
    check(model, prune_weights(model, 0.5), masks)
    assert bits(model) == before
    model.trainable = False
    masks = {path: mask for path, mask in masks.items() if "both/" not in path and "each/" not in path}
    check(model, prune_weights(model, 0.5, ignored_layers=["both", "each"]), masks)


def test_layers_without_units_we_know_are_named_once():
    with pytest.warns(UserWarning, match="units") as caught:
        pruned = prune_units(s.zoo(), 0.5)
    (message,) = [str(one.message) for one in caught if one.category is UserWarning]
    assert all(f"'{name}'" in message for name in ("words", "both", "gated", "attend", "mix", "film"))
    assert not any(f"'{name}'" in message for name in ("apart", "norm", "slopes", "out"))
    assert s.living(pruned)["apart"] == 3
    with pytest.raises(ValueError, match="nothing to prune"):
        prune_units(stack((4,), s.Mixing(4, name="mine"), layers.Dense(2)), 0.5)


def test_a_deleted_unit_takes_along_what_would_speak_for_it():
    """Bias, normalization, what belongs to the channel in a depthwise convolution and PReLU; and not a bit more."""
    model = stack(
        (8, 8, 2),
        *(layers.Conv2D(6, 3, name="c"), layers.BatchNormalization(name="n"), layers.ReLU()),
        *(layers.DepthwiseConv2D(3, name="w"), layers.BatchNormalization(scale=False, name="m")),
        *(layers.SeparableConv2D(5, 2, name="s"), layers.BatchNormalization(center=False, name="k")),
        *(layers.Conv2DTranspose(7, 2, name="t"), layers.PReLU(shared_axes=[1, 2], name="p")),
        *(layers.GlobalAveragePooling2D(), layers.Dense(4, name="d"), layers.Dense(3, name="out")),
    )
    shake(model, whole=True)
    kept = {
        name: oracle_units(matrix, 0.5).reshape(-1, matrix.shape[-1])[0] for name, matrix in s.columns(model).items()
    }
    silent = ("n/gamma", "n/beta", "n/moving_mean", "w/bias", "m/beta", "m/moving_mean", "c/kernel", "c/bias")
    masks = dict.fromkeys(silent, kept["c"]) | {"w/kernel": kept["c"][:, None], "t/kernel": kept["t"][:, None]}
    masks |= dict.fromkeys(("s/pointwise_kernel", "s/bias", "k/gamma", "k/moving_mean"), kept["s"])
    masks |= {"t/bias": kept["t"], "p/alpha": kept["t"], "d/kernel": kept["d"], "d/bias": kept["d"]}
    check(model, prune_units(model, 0.5), masks)


@pytest.mark.parametrize("rank", [1, 2, 3])
@pytest.mark.parametrize("kind", ["Conv{}D", "Conv{}DTranspose", "SeparableConv{}D"])
def test_units_of_every_convolution(kind, rank):
    conv = getattr(layers, kind.format(rank), None)
    if conv is None:
        pytest.skip("Keras has no such layer")
    model = stack(
        (*[5] * rank, 2), conv(6, 2, name="c", use_bias=rank > 1), layers.Flatten(), layers.Dense(3, name="out")
    )
    before, pruned = s.columns(shake(model, whole=True))["c"], prune_units(model, 0.5)
    assert (s.columns(pruned)["c"] == before * oracle_units(before, 0.5)).all()
    assert sparsity_report(pruned).set_index("layer").loc["c", ["units", "dead_units"]].tolist() == [6, 3]


def tied(join=None, between=lambda values: values):
    """Two layers a and b of eight units each, tied, then c, then the output."""
    inputs = keras.Input((6,))
    one, two = layers.Dense(8, name="a")(inputs), between(layers.Dense(8, name="b")(inputs))
    values = layers.Dense(5, name="c")((join or layers.Add())([one, two]))
    return shake(keras.Model(inputs, layers.Dense(3, name="out")(values)), whole=True)


@pytest.mark.parametrize("tie", ["Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum"])
def test_tied_units_go_together(tie):
    model = tied(getattr(layers, tie)(), layers.BatchNormalization(name="n"))
    kept = oracle_units(np.concatenate([kernel(model.get_layer(name)) for name in "ab"]), 0.4)[0]
    ends = ("a/kernel", "a/bias", "b/kernel", "b/bias", "n/gamma", "n/beta", "n/moving_mean")
    alone = masks_of(prune_units, model, ["c"], 0.4)
    check(model, prune_units(model, 0.4), alone | dict.fromkeys(ends, kept))
    check(model, prune_units(model, 0.4, ignored_layers=["a"]), alone)
    assert s.living(prune_units(model, 0.99)) == {"a": 1, "b": 1, "c": 1, "out": 3}


def test_a_tie_can_connect_a_part_of_a_layer_and_empties_none():
    inputs = keras.Input((6,))
    parts = [layers.Dense(n, name=name)(inputs) for name, n in (("a", 4), ("b", 6))]
    values = layers.Add()([layers.Concatenate()(parts), layers.Dense(10, name="whole")(inputs)])
    model = shake(keras.Model(inputs, layers.Dense(3, name="out")(values)))
    for sparsity in (0.3, 0.5, 0.8, 0.99):
        left = s.alive(prune_units(model, sparsity))
        assert (np.concatenate([left["a"], left["b"]]) == left["whole"]).all()
        assert left["a"].any()
        assert left["b"].any()
        assert sparsity > 0.5 or left["whole"].sum() == 10 - s.half_even(sparsity, 10)


def heads(between):
    inputs = keras.Input((6,), name="x")
    values = layers.Dense(8, activation="relu", name="trunk")(inputs)
    side = layers.Dense(5, name="side")(values)
    outputs = {name: between(name, layers.Dense(3, name=name)(v)) for name, v in (("one", values), ("two", side))}
    return shake(keras.Model(inputs, outputs))


def nested_head(name, values):
    return keras.Sequential([keras.Input((3,)), layers.Dense(3, name=f"{name}_in"), layers.Activation("softmax")])(
        values
    )


HEADS = {
    "bare": lambda name, v: v,
    "behind": lambda name, v: layers.BatchNormalization()(v) if name == "one" else layers.Softmax()(v),
    "added": lambda name, v: layers.Add()([v, layers.Dense(3, name=f"{name}_too")(v)]),
    "nested": lambda name, v: nested_head(name, v) if name == "one" else v,
}


@BOTH
@pytest.mark.parametrize("kind", HEADS)
def test_every_head_is_spared(prune, kind):
    model = heads(HEADS[kind])
    names = ["trunk", "side", *(["one"] if kind == "nested" else [])]
    check(model, prune(model, 0.5), masks_of(prune, model, names, 0.5))


@pytest.mark.filterwarnings("ignore:.*units:UserWarning")
def test_a_recurrent_head_is_spared_whole_and_an_output_in_the_middle_too():
    inputs = keras.Input((4, 3))
    values = layers.Conv1D(5, 2, name="c")(inputs)
    head = layers.Bidirectional(layers.LSTM(3), name="head")(layers.Conv1D(6, 2, name="d")(values))
    model = shake(keras.Model(inputs, [head, values]))
    assert {path.split("/")[-2] for path, zero in s.zeros(prune_weights(model, 0.5)).items() if zero.any()} == {"d"}
    assert s.living(prune_units(model, 0.5)) == {"c": 5, "d": 3}


def test_nested_models_are_looked_into():
    inner = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, name="in1"), layers.Dense(4, name="in2")], name="inner"
    )
    inputs = keras.Input((6,))
    deep = keras.Model(inputs, layers.Dense(7, name="mid")(inner(inputs)), name="deep")
    model = shake(keras.Sequential([keras.Input((6,)), deep, layers.Dense(2, name="out")]), whole=True)
    every = {"in1": inner, "in2": inner, "mid": deep}
    for names, options in (
        (("mid",), {"ignored_layers": ("inner",)}),
        (("in1", "mid"), {"ignored_layers": "in2"}),
        (("in1", "in2"), {"sparsity": {"inner": 0.5}}),
        (("in1", "in2", "mid"), {"sparsity": {"deep": 0.5}}),
        (("in1", "mid"), {"sparsity": {"in1": 0.5, "mid": 0.5}, "ignored_layers": {"out"}}),
    ):
        for prune in (prune_weights, prune_units):
            masks = {k: v for name in names for k, v in masks_of(prune, every[name], [name], 0.5).items()}
            check(model, prune(model, **{"sparsity": 0.5} | options), masks)


def test_a_shared_layer_is_pruned_once():
    shared, inputs = layers.Dense(4, name="shared"), keras.Input((4,))
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(shared(shared(inputs)))), whole=True)
    check(model, prune_weights(model, 0.5), masks_of(prune_weights, model, ["shared"], 0.5))


# ----------------------------------------------------------------------------- fractions, scope, scores


@BOTH
def test_a_fraction_for_each_layer(prune):
    model = shake(mlp(units=(8, 6, 5)), whole=True)
    masks = masks_of(prune, model, ["d1"], 0.25) | masks_of(prune, model, ["d3"], 0.75)
    check(model, prune(model, {"d1": 0.25, "d3": 0.75}), masks)
    check(model, prune(model, {"d1": 0.25, "d3": 0.75}, ignored_layers=["d2"]), masks)
    check(model, prune(model, {"d1": 0, "d2": 1}), masks_of(prune, model, ["d2"], 1))


def test_tied_layers_go_by_one_fraction():
    model = tied()
    assert bits(prune_units(model, {"a": 0.5, "b": 0.5, "c": 0.5})) == bits(prune_units(model, 0.5))
    for wrong in ({"a": 0.5, "b": 0.25}, {"a": 0.5}, {"a": 0.5, "b": 0}):
        with pytest.raises(ValueError, match="'a'"):
            prune_units(model, wrong)
    check(model, prune_weights(model, {"a": 0.5}), masks_of(prune_weights, model, ["a"], 0.5))


class Tied(layers.Layer):
    """Multiplies by the transposed kernel of another layer."""

    def build(self, shape):
        self.kernel = self.other.kernel

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.kernel))


class TiedModel(s.Subclassed):
    def between(self):
        layer = Tied(name="back")
        layer.other = self.first
        return layer


def test_layers_that_share_a_variable_go_by_one_fraction():
    model = TiedModel(6)
    predict(model, X)
    shake(model, whole=True)
    check(model, prune_weights(model, 0.5), masks_of(prune_weights, model, ["first", "second"], 0.5))
    check(model, prune_weights(model, 0.5, ignored_layers="back"), masks_of(prune_weights, model, ["second"], 0.5))
    with pytest.raises(ValueError, match="fraction"):
        prune_weights(model, {"first": 0.5, "back": 0.25})


def test_one_threshold_over_all_weights():
    model = shake(mlp(units=(20, 10)), whole=True)
    joined = np.concatenate([kernel(layer).ravel() for layer in model.layers[:2]])
    for sparsity in (0.3, 0.8, 1):
        one, two = np.split(oracle_weights(joined, sparsity), [120])
        masks = {"d1/kernel": one.reshape(6, 20), "d2/kernel": two.reshape(20, 10)}
        check(model, prune_weights(model, sparsity, scope="global"), masks)


def test_one_threshold_over_all_units_empties_no_layer():
    model = shake(mlp(units=(20, 10)), whole=True)
    worth = np.concatenate([(kernel(layer) ** 2).sum(0) for layer in model.layers[:2]])
    one, two = np.split(s.kept_units(worth.tolist(), 0.3), [20])
    masks = {"d1/kernel": one, "d1/bias": one, "d2/kernel": two, "d2/bias": two}
    check(model, prune_units(model, 0.3, scope="global"), masks)
    model.get_layer("d2").kernel.assign(kernel(model.get_layer("d2")) * 1e-3)
    assert s.living(prune_units(model, 0.5, scope="global"))["d2"] == 1
    assert s.living(prune_units(model, 0.99, scope="global")) == {"d1": 1, "d2": 1, "out": 3}
    assert s.living(prune_units(model, 1.0, scope="global")) == {"d1": 0, "d2": 0, "out": 3}
    left = s.alive(prune_units(tied(), 0.5, scope="global"))
    assert (left["a"] == left["b"]).all()


def test_scores_are_asked_of_the_matrices_of_the_model_passed_in():
    model, asked = mlp(units=(8, 6)), []
    pruned = prune_weights(model, 0.25, scores=lambda variable: (asked.append(variable), -abs(array(variable)))[1])
    assert {id(variable) for variable in asked} <= {id(variable) for variable in model.weights}
    assert {variable.path.split("/")[-2] for variable in asked} >= {"d1", "d2"}
    assert all(len(variable.shape) == 2 for variable in asked)
    for old, new in zip(model.layers[:2], pruned.layers[:2], strict=True):
        assert ((kernel(new) != 0) == oracle_weights(kernel(old), 0.25, lambda value: -abs(value))).all()


def test_importance_may_be_negative_and_is_summed_over_units_and_over_ties():
    model = shake(mlp(units=(8, 6)), whole=True)
    pruned, units = (prune(model, 0.5, scores=array) for prune in (prune_weights, prune_units))
    for name in ("d1", "d2"):
        values = kernel(model.get_layer(name))
        mask = oracle_weights(values, 0.5, importance=float)
        assert ((kernel(pruned.get_layer(name)) != 0) == (mask & (values != 0))).all()
        assert (s.alive(units)[name] == s.kept_units(values.sum(0).tolist(), 0.5)).all()
    ties = tied()
    together = sum(kernel(ties.get_layer(name)).sum(0) for name in "ab")
    assert (s.alive(prune_units(ties, 0.5, scores=array))["a"] == s.kept_units(together.tolist(), 0.5)).all()
    upside_down = stack((4, 4, 2), layers.Conv2DTranspose(6, 2, name="t"), layers.Flatten(), layers.Dense(2))
    worth = s.columns(upside_down)["t"].sum((0, 1, 2), dtype=float)
    assert (s.alive(prune_units(upside_down, 0.5, scores=array))["t"] == s.kept_units(worth.tolist(), 0.5)).all()


@BOTH
def test_random_pruning_and_units_by_their_l1_norm(prune):
    model, rng = mlp(units=(8, 4)), np.random.default_rng(0)
    noise = {variable.path: rng.random(tuple(variable.shape)) for variable in model.weights}
    for scope in ("layer", "global"):
        one, two = (prune(model, 0.5, scope=scope, scores=lambda v: noise[v.path]) for _ in range(2))
        assert bits(one) == bits(two) != bits(prune(model, 0.5, scope=scope))
        assert scope == "global" or sum((kernel(layer) == 0).sum() for layer in one.layers) == 40
    l1 = prune(model, 0.5, scores=lambda v: abs(array(v)))
    if prune is prune_weights:
        assert bits(l1) == bits(prune(model, 0.5))
    else:
        norms = abs(kernel(model.layers[0])).sum(0, dtype=float).tolist()
        assert (s.alive(l1)["d1"] == s.kept_units(norms, 0.5)).all()


def test_patterns_of_two_in_four_and_masks_of_a_trained_network_on_its_initial_weights():
    def two_of_four(v):
        rows = abs(array(v)).T.reshape(-1, 4)
        return (np.argsort(np.argsort(rows, axis=1), axis=1) >= 2).reshape(array(v).T.shape).T.astype(float)

    model = mlp(inputs=4, units=(8, 4))
    pattern = prune_weights(model, 0.5, scores=two_of_four, ignored_layers=["d2"])
    assert (np.count_nonzero(kernel(pattern.layers[0]).T.reshape(-1, 4), axis=1) == 2).all()
    trained = shake(keras.models.clone_model(model), seed=5)
    found = {v.path: array(v) for v in trained.weights}
    ticket = prune_weights(model, 0.8, scores=lambda v: abs(found[v.path]))
    for initial, final, new in zip(model.layers[:2], trained.layers, ticket.layers, strict=False):
        assert (kernel(new) == np.where(oracle_weights(kernel(final), 0.8), kernel(initial), 0)).all()


# ------------------------------------------------------------------------------------------ the copies


@BOTH
def test_a_trained_model_keeps_its_optimizer_and_the_copy_starts_fresh(prune, tmp_path):
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 50)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.02, clipnorm=1.0)
    metrics = ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)]
    model = mlp(optimizer=optimizer, metrics=metrics, loss_weights=0.5)
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0)
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    state = [array(v) for v in optimizer.variables]
    model.layers[1].trainable = False
    pruned = prune(model, 0.5)
    assert pruned.get_compile_config() == model.get_compile_config()
    assert pruned.optimizer.get_config() == optimizer.get_config()
    assert int(pruned.optimizer.iterations) == 0
    assert model.optimizer is optimizer
    assert all((old == array(v)).all() for old, v in zip(state, optimizer.variables, strict=True))
    assert [layer.trainable for layer in pruned.layers] == [True, False, True]
    assert prune(model, 0).evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(logs, rel=1e-5)
    pruned.save(tmp_path / "pruned.keras")
    loaded = keras.models.load_model(tmp_path / "pruned.keras")
    assert bits(loaded) == bits(pruned)
    for trained in (loaded, pruned):
        trained.fit(X, Y, verbose=0)
    assert model.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(logs, rel=1e-5)
    assert not prune(mlp(compiled=False), 0.5).compiled


@BOTH
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16", "float64"])
def test_dtype_policies(prune, policy):
    model = keras.Sequential([keras.Input((6,), dtype=policy.removeprefix("mixed_"))])
    for units, name in ((8, "d1"), (5, "d2"), (3, "out")):
        model.add(layers.Dense(units, dtype=policy, name=name))
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.5), initial_scale=4.0)
    s.compile_(shake(model, whole=True), scaled)
    pruned = prune(model, 0.4)
    check(model, pruned, masks_of(prune, model, ["d1", "d2"], 0.4))
    assert [layer.dtype_policy.name for layer in pruned.layers] == [policy] * 3
    assert type(pruned.optimizer) is keras.optimizers.LossScaleOptimizer
    assert float(pruned.optimizer.inner_optimizer.learning_rate) == 0.5


@pytest.mark.skipif(s.BACKEND != "tensorflow", reason="lookups need TensorFlow")
@pytest.mark.filterwarnings("ignore:.*units:UserWarning")
def test_lookup_tables_and_lambdas_come_along():
    """Fault 8: the tables came back empty."""
    inputs, text = keras.Input((3,), dtype="int64"), keras.Input((1,), dtype="string")
    numbers, words = layers.IntegerLookup(), layers.TextVectorization(output_sequence_length=4)
    numbers.adapt(np.array([7, 8, 9, 4]))
    words.adapt(np.array(["a b c"]))
    one = layers.CategoryEncoding(5, "multi_hot")(numbers(inputs))
    two = words(text)
    values = layers.Concatenate()([one, layers.Flatten()(layers.Embedding(6, 3)(two))])
    values = layers.Lambda(lambda x: x * 2)(layers.Dense(8, activation="relu")(values))
    model = shake(keras.Model([inputs, text], layers.Dense(2)(values)))
    x = [np.array([[7, 9, 1], [8, 8, 4]]), np.array([["a b"], ["c z"]])]
    for prune in (prune_weights, prune_units):
        s.assert_same_outputs(model, prune(model, 0), x, 0)


def test_custom_classes_and_functions():
    class Local(s.Mixing):
        """Not registered, but rebuilt from its own configuration, with a table of whole numbers."""

        def build(self, shape):
            super().build(shape)
            self.table = self.add_weight(shape=(2, 2), dtype="int32", trainable=False, initializer="ones")

    gain, normalization = 3.0, layers.Normalization()
    normalization.adapt(X * 5 + 3)
    model = stack(
        (6,),
        *(normalization, layers.Lambda(lambda x: ops.abs(x) * gain), Local(6, name="local")),
        *(layers.Dense(5, activation=s.bent, name="wave"), layers.Dropout(0.5), layers.Dense(2, name="out")),
    )
    pruned = prune_weights(model, 0.5)
    s.assert_same_outputs(model, prune_weights(model, 0), X, 0)
    assert [type(layer) for layer in pruned.layers] == [type(layer) for layer in model.layers]
    mixing = {"local/mixing": oracle_weights(array(model.get_layer("local").mixing), 0.5)}
    check(model, pruned, masks_of(prune_weights, model, ["wave"], 0.5) | mixing)


class Shift(layers.Layer):
    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def call(self, inputs):
        return inputs + self.shift


def test_of_many_equal_units_the_first_go():
    model, norms = stack((3,), layers.Dense(60, name="a"), layers.Dense(2)), np.tile([3, 1, 2], 20)
    model.get_layer("a").kernel.assign(np.ones((3, 60)) * norms)
    alive = kernel(prune_units(model, 0.5).get_layer("a")).any(0)
    assert np.flatnonzero(~alive).tolist() == sorted([*range(1, 60, 3), *range(2, 30, 3)])


def test_vectors_are_no_matrices():
    model = stack((6,), layers.Dense(5, name="a"), Shift(name="mine"), layers.Dense(2))
    check(model, prune_weights(model, 0.5), masks_of(prune_weights, model, ["a"], 0.5))


def hard_sigmoid(x):
    """Has the name of a function of Keras, which is another one."""
    return ops.clip(0.2 * x + 0.5, 0, 1)


def unregistered(x):
    return ops.abs(x) - 0.1


def dice(y_true, y_pred):
    """Has the name of a loss of Keras, which is another one."""
    return ops.mean(ops.square(ops.cast(y_true, y_pred.dtype) - y_pred), axis=-1)


@keras.saving.register_keras_serializable("tests")
def threefold(y_true, y_pred):
    return 3 * dice(y_true, y_pred)


@keras.saving.register_keras_serializable("tests")
class Falling(keras.optimizers.schedules.LearningRateSchedule):
    def __init__(self, first):
        self.first = first

    def __call__(self, step):
        return self.first / (ops.cast(step, "float32") + 1)

    def get_config(self):
        return {"first": self.first}


@BOTH
@pytest.mark.parametrize("function", [hard_sigmoid, unregistered, s.bent])
def test_functions_come_along_whatever_their_names_are(prune, function):
    first = [layers.Dense(5, activation=function), layers.Activation(function)]
    model = stack((6,), *first, layers.Dense(4, activation=function), layers.Dense(3))
    s.assert_same_outputs(model, prune(model, 0), X, 0)
    model = stack((3, 6), layers.LSTM(4, activation=function), layers.Dense(4), layers.Dense(3))
    s.assert_same_outputs(model, prune_weights(model, 0), X.reshape(-1, 3, 6), 0)


class Scaled(layers.Layer):
    """Its function is made anew with each layer, and uses the weight of that layer."""

    def __init__(self, **options):
        super().__init__(**options)
        self.function, self.again = lambda x: x * self.scale, self.twice

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def twice(self, x):
        return self.function(self.function(x))

    def call(self, inputs):
        return self.again(inputs)


@BOTH
def test_functions_that_belong_to_one_layer_stay_with_it(prune):
    model = stack((6,), Scaled(), layers.Dense(5), layers.Dense(3))
    copy = prune(model, 0)
    before = predict(copy, X)[0]
    shake(model, seed=1)
    np.testing.assert_array_equal(predict(copy, X)[0], before)


@BOTH
def test_an_own_loss_metric_and_schedule_come_along(prune):
    model, metric = stack((6,), layers.Dense(8), layers.Dense(1)), keras.metrics.MeanMetricWrapper(threefold)
    model.compile(keras.optimizers.Adam(Falling(0.5)), loss=dice, metrics=[threefold, "mse", metric])
    logs = model.evaluate(X, Y, verbose=0, return_dict=True)
    copy = prune(model, 0)
    assert copy.evaluate(X, Y, verbose=0, return_dict=True) == pytest.approx(logs, rel=1e-5)
    assert len(logs) == 4
    assert float(copy.optimizer.learning_rate) == 0.5
    copy.fit(X, Y, epochs=1, batch_size=len(X), verbose=0)
    assert float(copy.optimizer.learning_rate) == 0.25


@BOTH
@pytest.mark.filterwarnings("ignore:.*units:UserWarning")
def test_a_lambda_that_computes_with_another_layers_weight_is_refused(prune):
    table, projection = layers.Embedding(9, 4, name="table"), layers.Dense(4)
    inputs = keras.Input((3,), dtype="int32")
    values, scale = projection(table(inputs)), layers.Rescaling(2.0)
    values = layers.Lambda(lambda x: scale(x), output_shape=(3, 4))(values)
    fine = shake(keras.Model(inputs, layers.Dense(2)(values)))
    s.assert_same_outputs(fine, prune(fine, 0), np.ones((2, 3), int), 0)
    tied = layers.Lambda(lambda x: ops.matmul(x, ops.transpose(table.embeddings)), output_shape=(3, 9))(values)
    model = shake(keras.Model(inputs, tied))
    with pytest.raises(ValueError, match=r"lambda .* computes with weights"):
        prune(model, 0.5)


@BOTH
def test_a_variable_in_the_graph_that_copies_would_share_is_refused(prune):
    table, inputs = layers.Embedding(9, 4, name="table"), keras.Input((3,), dtype="int32")
    values = layers.Dense(4)(table(inputs))
    model = shake(keras.Model(inputs, ops.einsum("btc,vc->btv", values, table.embeddings)))
    with pytest.raises(ValueError, match=r"table/embeddings.*copies would share"):
        prune(model, 0.5)


class Plainly(layers.Layer):
    """As most people write it: without a `get_config`."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.mixing = self.add_weight(shape=(shape[-1], self.units), name="mixing")

    def call(self, inputs):
        return ops.matmul(inputs, self.mixing)


def test_layers_keep_their_names_even_if_their_configuration_has_none():
    model = stack((6,), Plainly(8, name="first"), Plainly(7, name="second"), layers.Dense(3, name="out"))
    pruned = prune_weights(prune_weights(model, {"first": 0.5}), {"second": 0.5})
    assert [variable.path for variable in pruned.weights] == [variable.path for variable in model.weights]
    assert [mask.sum() for mask in s.zeros(pruned).values()] == [24, 28, 0]


class Forgets(layers.Dense):
    def __init__(self, table, **options):
        super().__init__(6, **options)
        self.table = table.sum()

    def get_config(self):
        return {"name": self.name}


class ForgetsItsBias(layers.Dense):
    def get_config(self):
        return {"name": self.name, "units": self.units}


def times(factor):
    def measure(y_true, y_pred):
        return factor * ops.mean(y_pred, -1)

    return measure


@BOTH
def test_what_keras_cannot_rebuild_names_the_way_out(prune):
    for model in (
        stack((6,), Forgets(np.ones(3)), layers.Dense(2)),
        mlp(metrics=[times(3)]),
        stack((3, 6), layers.TimeDistributed(layers.Dense(5, activation=unregistered)), layers.Dense(2)),
        stack((3, 6), layers.TimeDistributed(layers.Dense(5, activation=hard_sigmoid)), layers.Dense(2)),
        stack((6,), layers.Dense(5), ForgetsItsBias(2, use_bias=False)),  # a copy would have a weight more
    ):
        before = bits(model)
        with pytest.raises((ValueError, TypeError), match=r"(?s)register_keras_serializable") as caught:
            prune(model, 0.5)
        assert str(caught.value.__cause__ or "")[:50] in str(caught.value)
        assert type(caught.value.__cause__).__name__ in str(caught.value)
        assert bits(model) == before


@BOTH
def test_subclassed_models_layer_by_layer(prune):
    model = s.Subclassed(9)
    with pytest.raises(ValueError, match="built"):
        prune(model, 0.5)
    predict(model, X)
    s.compile_(shake(model, whole=True))
    pruned = prune(model, 0.5)
    check(model, pruned, masks_of(prune, model, ["first", "second"], 0.5))
    check(model, prune(model, {"second": 0.5}), masks_of(prune, model, ["second"], 0.5))
    assert type(pruned) is s.Subclassed
    assert pruned.get_compile_config() == model.get_compile_config()
    s.assert_same_outputs(model, prune(model, 0), X, 0)
    assert sparsity_report(pruned).set_index("layer").loc["first", "units"] == 9


class Owner(s.Subclassed):
    """A model with a matrix of its own."""

    def between(self):
        self.own = self.add_weight(shape=(self.units, 6), name="own")
        return lambda values, training: ops.matmul(values, self.own)


def test_a_matrix_of_the_model_itself_is_pruned_and_counted():
    model = Owner(9)
    predict(model, X)
    own = {"own": oracle_weights(array(shake(model, whole=True).own), 0.5)}
    check(model, prune_weights(model, 0.5), masks_of(prune_weights, model, ["first", "second"], 0.5) | own)
    assert sparsity_report(model)["parameters"].iloc[-1] == model.count_params()


def test_pruning_again_and_again_keeps_no_copy_alive():
    shared, inputs = layers.Activation("relu"), keras.Input((5, 5, 2))
    values = layers.Flatten()(shared(layers.Conv2D(4, 2)(shared(layers.Conv2D(4, 2)(inputs)))))
    model = shake(keras.Model(inputs, layers.Dense(2)(layers.Lambda(lambda x: x * 2)(values))))
    copies = [weakref.ref(prune(model, 0.5)) for prune in (prune_units, prune_weights, prune_units)]
    gc.collect()
    assert [copy() for copy in copies] == [None] * 3


# -------------------------------------------------------------------------------------------- refusals


def changed(change):
    model = mlp(compiled=False)
    change(model.layers[1])
    return model


INT8, FLOAT8, LORA = (
    lambda: changed(lambda layer: layer.quantize("int8")),
    lambda: changed(lambda layer: layer.quantize("float8")),
    lambda: changed(lambda layer: layer.enable_lora(2)),
)
MISUSE = [
    (lambda: "model", {}, TypeError, "keras.Model.*str"),
    (lambda: layers.Dense(3), {}, TypeError, "keras.Model.*Dense"),
    (lambda: keras.Sequential([layers.Dense(3), layers.Dense(2)]), {}, ValueError, "built"),
    (lambda: stack((3,), layers.Flatten(), layers.Dense(2)), {}, ValueError, "nothing to prune"),
    (lambda: stack((3,), layers.Flatten()), {}, ValueError, "nothing to prune"),
    *(
        (INT8, {}, ValueError, "d2.*quantized"),
        (FLOAT8, {}, ValueError, "d2.*quantized"),
        (LORA, {}, ValueError, "d2.*LoRA"),
    ),
    (lambda: changed(lambda layer: layer.kernel.assign(kernel(layer) * math.nan)), {}, ValueError, "d2.*NaN"),
    (mlp, {"ignored_layers": ["d1", "d2"]}, ValueError, "nothing to prune"),
    (mlp, {"ignored_layers": ["d9"]}, ValueError, "'d9'.*'d1'"),
    (mlp, {"ignored_layers": "d"}, ValueError, "'d'"),
    (mlp, {"sparsity": {"d9": 0.5}}, ValueError, "'d9'.*'d1'"),
    (mlp, {"sparsity": {"d1": 50}}, ValueError, "fraction"),
    (mlp, {"sparsity": {"d1": "0.5"}}, TypeError, "'0.5'"),
    (mlp, {"sparsity": {"d1": 0.5}, "scope": "global"}, ValueError, "global"),
    (mlp, {"sparsity": {"d1": 0.5, "d2": 0.5}, "ignored_layers": ["d1"]}, ValueError, "'d1'"),
    (mlp, {"scope": "model"}, ValueError, "'layer'.*'global'.*'model'"),
    *((mlp, {"sparsity": 50}, ValueError, r"0\.5"), (mlp, {"sparsity": None}, TypeError, "None")),
    *((mlp, {"sparsity": True}, TypeError, "True"), (mlp, {"sparsity": math.nan}, ValueError, "nan")),
    (mlp, {"scores": lambda v: np.ones(3)}, ValueError, r"d1.*\(3,\).*\(6, 8\)|d1.*\(6, 8\).*\(3,\)"),
    (mlp, {"scores": lambda v: np.full(v.shape, math.nan)}, ValueError, "d1.*NaN|NaN.*d1"),
]


@BOTH
@pytest.mark.parametrize(("make", "options", "error", "message"), MISUSE)
def test_misuse(prune, make, options, error, message):
    model = make()
    before = bits(model) if isinstance(model, keras.Model) else None
    with pytest.raises(error, match=f"(?s){message}"):
        prune(model, **{"sparsity": 0.5} | options)
    assert before is None or bits(model) == before


@pytest.mark.parametrize("refuses", [hold_sparsity, sparsity_report])
@pytest.mark.parametrize("make", [INT8, FLOAT8, LORA])
def test_what_is_quantized_or_has_lora_is_refused_by_name(make, refuses):
    with pytest.raises(ValueError, match="d2"):
        refuses(make())


# ----------------------------------------------------------------------------------- what a copy must keep


@keras.saving.register_keras_serializable("tests")
class Composite(layers.Layer):
    """Layers inside a layer, in a list and a dict: one has learnt what is not among its weights' values."""

    def __init__(self, **options):
        super().__init__(**options)
        self.norms, self.parts = [layers.Normalization()], {"one": layers.Dense(4), "two": layers.Dense(4)}
        self.names = {1: "one", "two": None}  # keys that have no order

    def build(self, shape):
        for layer in (*self.norms, *self.parts.values()):
            if not layer.built:
                layer.build(shape)

    def call(self, inputs):
        values = self.norms[0](inputs)
        return self.parts["one"](values) + self.parts["two"](values)


@BOTH
def test_layers_inside_layers_keep_what_they_learnt_and_what_is_frozen(prune):
    composite = Composite()
    composite.norms[0].adapt(5 * X + 7)
    model = stack((6,), layers.Dense(6, name="first"), composite, layers.Dense(3))
    composite.parts["one"].trainable = False
    flags = [v.trainable for v in model.weights]
    copy = prune(model, {"first": 0.0})
    np.testing.assert_array_equal(predict(copy, X)[0], predict(model, X)[0])
    assert [v.trainable for v in copy.weights] == flags == [v.trainable for v in model.weights]
    assert flags.count(False) == 5
    assert [mask.sum() for mask in s.zeros(prune_weights(model, 0.5)).values()] == [18, 12, 12, 0]  # frozen or not


def test_flags_are_left_as_they_are_down_to_single_variables():
    model = mlp()
    model.trainable = False
    model.layers[-1].trainable = True
    model.layers[-1].kernel.trainable = False
    flags = [v.trainable for v in model.weights]
    sparsity_report(model)
    assert [v.trainable for v in model.weights] == flags == [False] * 5 + [True]
    assert [layer.trainable for layer in prune_weights(model, 0.5).layers] == [False, False, True]


@keras.saving.register_keras_serializable("tests")
class Wrapped(layers.Layer):
    """As people write it who have not read on `from_config`: the copy has the layer of the first one."""

    def __init__(self, layer, **options):
        super().__init__(**options)
        self.layer = layer

    def call(self, inputs):
        return self.layer(inputs)

    def get_config(self):
        return super().get_config() | {"layer": self.layer}


@keras.saving.register_keras_serializable("tests")
class Words(layers.Layer):
    """A vocabulary and an embedding in one."""

    def __init__(self, **options):
        super().__init__(**options)
        self.embedding = layers.Embedding(5, 4)

    def get_vocabulary(self):
        return ["a", "b"]

    def call(self, inputs):
        return self.embedding(inputs)


@BOTH
def test_no_weight_is_shared_with_the_copy(prune):
    first = layers.Dense(6)
    first.build((None, 6))
    model = stack((6,), layers.Dense(6), Wrapped(first), layers.Dense(3))
    before = bits(model)
    with pytest.raises(ValueError, match="rebuild"):
        prune(model, 0.5)
    assert bits(model) == before
    model = stack((3,), Words(), layers.Flatten(), layers.Dense(4), layers.Dense(3))
    before = bits(model)
    assert bits(prune(model, 0.5)) != before == bits(model)


@keras.saving.register_keras_serializable("tests")
class Built(keras.Model):
    """A functional model with a constructor of its own, which Keras copies as a plain one."""

    def __init__(self, units=4):
        inputs = keras.Input((6,))
        super().__init__(inputs, layers.Dense(3)(layers.Dense(units)(inputs)))


@pytest.mark.parametrize("nested", [False, True])
def test_a_lost_class_is_said(nested):
    model = stack((6,), Built(), layers.Dense(2)) if nested else shake(Built())
    with pytest.warns(UserWarning, match="no more Built"):
        copy = prune_weights(model, 0.5)
    assert type(copy) is not Built


def test_names_of_inputs_stay():
    inputs, others = keras.Input((6,)), keras.Input((4,))  # Keras's own clone has the names of their tensors
    inner = keras.Model(others, layers.Dense(4)(others))
    model = shake(keras.Model(inputs, layers.Dense(3)(inner(layers.Dense(4)(inputs)))))
    copy = prune_units(model, 0.5)
    assert [layer.name for layer in copy.layers] == [layer.name for layer in model.layers]
    assert [layer.name for layer in copy.layers[2].layers] == [layer.name for layer in inner.layers]


@keras.saving.register_keras_serializable("tests")
class Helped(layers.Layer):
    """One that a user has given a layer without weights, which its configuration does not know."""

    def __init__(self, **options):
        super().__init__(**options)
        self.helper, self.one, self.two = None, layers.Dense(4), layers.Dense(4)

    def call(self, inputs):
        return self.one(inputs) + self.two(inputs)


def test_flags_go_to_the_layers_that_have_weights():
    helped = Helped()
    helped.helper = layers.ReLU()
    model = stack((6,), helped, layers.Dense(4), layers.Dense(3))
    helped.one.trainable = False
    assert [v.trainable for v in prune_weights(model, 0.5).weights] == [v.trainable for v in model.weights]


@BOTH
def test_a_fraction_for_what_is_never_pruned_is_refused(prune):
    model = stack((6,), layers.Dense(4, name="d"), layers.ReLU(name="r"), layers.Dense(3, name="out"))
    for name in ("out", "r"):
        check(model, prune(model, {"d": 0.0, name: 0.0}), {})
        with pytest.raises(ValueError, match=f"nothing to prune: .'{name}'"):
            prune(model, {"d": 0.5, name: 0.5})
