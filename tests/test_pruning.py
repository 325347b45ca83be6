"""prune_weights and prune_units on the models that people bring."""

import functools

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from support import EAGER, STEPS, bits, compile_, data, kernel, mlp, oracle_units, oracle_weights, predict, shake

from pruning_utils import hold_sparsity, prune_units, prune_weights, sparsity_report

BOTH = pytest.mark.parametrize("prune", [prune_weights, prune_units])
ORACLES = {prune_weights: oracle_weights, prune_units: oracle_units}


class Scale(layers.Layer):
    """A custom layer with a kernel and without a bias."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)

    def get_config(self):
        return super().get_config() | {"units": self.units}


class Subclassed(keras.Model):
    def __init__(self, units=7, **options):
        super().__init__(**options)
        self.units = units
        self.first = layers.Dense(units, activation="relu")
        self.rest = [layers.Dense(5), layers.Dense(2)]

    def call(self, inputs):
        values = self.first(inputs)
        for layer in self.rest:
            values = layer(values)
        return values

    def get_config(self):
        return {"units": self.units, "name": self.name}


def check(model, prune, x, pruned_names, sparsity=0.5, **options):
    """Prune; compare each kernel with the oracle, everything else bit for bit, and `model` with what it was."""
    before, optimizer = bits(model), getattr(model, "optimizer", None)
    state = [np.asarray(keras.ops.convert_to_numpy(v)) for v in optimizer.variables] if optimizer else []
    pruned = prune(model, sparsity, **options)
    assert bits(model) == before
    assert getattr(model, "optimizer", None) is optimizer
    for old, new in zip(state, optimizer.variables if optimizer else [], strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(new))
    assert type(pruned) is type(model)
    assert pruned is not model
    assert pruned.name == model.name
    named = 0
    for old, new in zip(model.weights, pruned.weights, strict=True):
        assert old.path.split("/")[-2:] == new.path.split("/")[-2:]
        assert old.dtype == new.dtype
        assert old is not new
        before, after = (np.asarray(keras.ops.convert_to_numpy(v)) for v in (old, new))
        layer, _, kind = old.path.rpartition("/")
        layer = layer.rpartition("/")[2]
        if layer in pruned_names and kind == "kernel":
            named += 1
            keep = ORACLES[prune](before, sparsity)
        elif layer in pruned_names and kind == "bias" and prune is prune_units:
            keep = ORACLES[prune](next(kernel(at) for at in walk(model) if at.name == layer), sparsity)
            keep = keep.reshape(-1, keep.shape[-1])[0]
        else:
            keep = np.ones(before.shape, bool)
        assert (after[~keep] == 0).all()
        assert after[keep].tobytes() == before[keep].tobytes(), old.path
    assert named == len(pruned_names)
    if x is not None:
        predict(pruned, x)
    return pruned


def walk(model):
    for layer in model.layers:
        yield layer
        if isinstance(layer, keras.Model):
            yield from walk(layer)


@BOTH
@settings(max_examples=6)
@given(sparsity=st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1)))
def test_dense(prune, sparsity):
    check(mlp(), prune, data()[0], {"d1", "d2"}, sparsity)


@BOTH
def test_zero_changes_no_bit_and_one_leaves_zeros(prune):
    model = mlp()
    first = model.layers[0].get_weights()
    first[0][:2] = -0.0
    model.layers[0].set_weights(first)
    assert bits(prune(model, 0)) == bits(model)
    for layer in prune(model, 1.0).layers[:-1]:
        assert not kernel(layer).any()
        assert layer.bias is not None
        assert (not np.asarray(keras.ops.convert_to_numpy(layer.bias)).any()) == (prune is prune_units)


@BOTH
@pytest.mark.parametrize("sparsity", [0.3, 0.5, 0.9])
def test_idempotent(prune, sparsity):
    once = prune(mlp(), sparsity)
    assert bits(prune(once, sparsity)) == bits(once)


@BOTH
def test_nested_over_sparsities(prune):
    model, zeros = mlp(), None
    for sparsity in (0.1, 0.4, 0.6, 1.0):
        now = np.concatenate([kernel(layer).ravel() == 0 for layer in prune(model, sparsity).layers[:-1]])
        assert zeros is None or not (zeros & ~now).any()
        zeros = now


def test_a_trained_model_keeps_weights_optimizer_and_compile_settings():
    model = mlp(compiled=False)
    schedule = keras.optimizers.schedules.CosineDecay(0.01, 50)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=0.02, clipnorm=1.0)
    compile_(
        model,
        optimizer,
        steps_per_execution=STEPS,
        jit_compile=False,
        metrics=["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2)],
    )
    x, y = data()
    model.fit(x, y, epochs=2, batch_size=8, verbose=0)
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    for prune in (prune_weights, prune_units):
        pruned = check(model, prune, x, {"d1", "d2"})
        assert pruned.compiled
        assert pruned.optimizer.get_config() == optimizer.get_config()
        assert int(pruned.optimizer.iterations) == 0
        assert int(model.optimizer.iterations) == 6
        assert pruned.steps_per_execution == STEPS
        assert pruned.jit_compile is False
        assert pruned.get_compile_config() == model.get_compile_config()
    assert set(pruned.evaluate(x, y, verbose=0, return_dict=True)) == set(logs)
    pruned.fit(x, y, verbose=0)


@BOTH
def test_an_uncompiled_model_stays_uncompiled(prune):
    assert not check(mlp(compiled=False), prune, None, {"d1", "d2"}).compiled


@BOTH
def test_convolutions_of_every_rank(prune):
    for rank, conv in enumerate((layers.Conv1D, layers.Conv2D, layers.Conv3D), 1):
        inputs = keras.Input((*[5] * rank, 2))
        values = conv(4, 2, name="c1")(inputs)
        values = conv(6, 2, use_bias=False, groups=2, name="c2")(values)
        outputs = layers.Dense(2, name="out")(layers.Flatten()(values))
        model = shake(keras.Model(inputs, outputs))
        check(model, prune, np.ones((1, *[5] * rank, 2), "float32"), {"c1", "c2"})


@BOTH
def test_functional_with_branches_and_two_outputs(prune):
    inputs = keras.Input((4,))
    left, right = layers.Dense(3, name="left")(inputs), layers.Dense(3, name="right")(inputs)
    joined = layers.Concatenate()([layers.add([left, right]), left])
    model = keras.Model(
        inputs, [layers.Dense(2, name="one")(joined), layers.Dense(2, name="two")(joined)], name="forked"
    )
    shake(model)
    check(model, prune, None, {"left", "right", "one"})
    check(model, prune, None, {"left", "right"}, ignored_layers=["one"])


@BOTH
def test_nested_models(prune):
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, name="in1"), layers.Dense(4, name="in2")], name="inner"
    )
    inputs = keras.Input((4,))
    deep = keras.Model(inputs, layers.Dense(3, name="mid")(inner(inputs)), name="deep")
    model = keras.Sequential([keras.Input((4,)), deep, layers.Dense(2, name="out")])
    shake(model)
    x = data(inputs=4)[0]
    check(model, prune, x, {"in1", "in2", "mid"})
    check(model, prune, x, {"mid"}, ignored_layers=("inner",))
    check(model, prune, x, {"in1", "mid"}, ignored_layers={"in2"})
    with pytest.raises(ValueError, match="nothing to prune"):
        prune(model, 0.5, ignored_layers="deep")


@BOTH
def test_a_shared_layer_is_pruned_once(prune):
    shared = layers.Dense(4, name="shared")
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="out")(shared(shared(inputs))))
    shake(model)
    pruned = check(model, prune, data(inputs=4)[0], {"shared"})
    assert len(pruned.layers) == len(model.layers)


@BOTH
def test_a_layer_shared_across_nesting_is_refused_since_keras_cannot_copy_it(prune):
    shared = layers.Dense(4, name="shared")
    inner = keras.Sequential([keras.Input((4,)), shared], name="inner")
    inputs = keras.Input((4,))
    values = layers.Dense(4, name="first")(inner(shared(inputs)))
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(values)))
    with pytest.raises(ValueError, match="can't be copied"):
        prune(model, 0.5)
    hold_sparsity(model, ignored_layers=["inner"])  # by whichever way it is reached
    assert shared.kernel.constraint is None
    assert model.get_layer("first").kernel.constraint is not None


@BOTH
def test_subclassed_models(prune):
    model = Subclassed()
    with pytest.raises(ValueError, match="not built"):
        prune(model, 0.5)
    x = data(inputs=4)[0]
    predict(model, x)
    shake(model)
    pruned = prune(model, 0.5, ignored_layers=[model.rest[0].name])
    assert type(pruned) is Subclassed
    assert pruned.units == 7
    np.testing.assert_array_equal(kernel(pruned.first) != 0, ORACLES[prune](kernel(model.first), 0.5))
    for old, new in zip(model.rest, pruned.rest, strict=True):
        assert kernel(old).tobytes() == kernel(new).tobytes()
    np.testing.assert_array_equal(predict(prune(model, 0), x), predict(model, x))


@BOTH
def test_a_model_that_cannot_be_copied_says_why(prune):
    class Opaque(keras.Model):
        def __init__(self, table):
            super().__init__()
            self.hidden, self.out = layers.Dense(3), layers.Dense(2)
            self.table = table.size

        def call(self, inputs):
            return self.out(self.hidden(inputs))

        def get_config(self):
            return {}

    model = Opaque(np.ones(3))
    predict(model, data()[0])
    before = bits(model)
    with pytest.raises(ValueError, match=r"(?s)can't be copied .*\(TypeError: .*Opaque.*get_config"):
        prune(model, 0.5)
    assert bits(model) == before


@BOTH
def test_custom_layers_local_or_not_and_layers_without_kernels(prune):
    class Local(Scale):
        pass

    gain = 3.0

    def wave(x):
        return keras.ops.tanh(x) * gain

    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Lambda(lambda x: keras.ops.abs(x) * gain),
            Local(6, name="local"),
            layers.Lambda(lambda x: x - gain),
            layers.BatchNormalization(),
            layers.Dropout(0.5),
            layers.PReLU(),
            Scale(5, name="scale"),
            layers.Dense(5, activation=wave, name="wave"),
            layers.Dense(5, activation=lambda x: keras.ops.relu(x) - gain, name="bent"),
            layers.LayerNormalization(),
            layers.Dense(2, name="out"),
        ]
    )
    shake(model)
    x = data(inputs=4)[0]
    pruned = check(model, prune, x, {"local", "scale", "wave", "bent"})
    np.testing.assert_array_equal(predict(prune(model, 0), x), predict(model, x))
    assert [type(layer) for layer in pruned.layers] == [type(layer) for layer in model.layers]
    assert model.layers[-3].activation.__name__ == "<lambda>"
    assert wave.__name__ == "wave"


@BOTH
def test_a_custom_layer_may_take_its_own_arguments_alone(prune):
    """And still put into its configuration what every layer has."""

    class Short(Scale):
        def __init__(self, units):
            super().__init__(units)

    model = keras.Sequential([keras.Input((4,)), Short(6), layers.Dense(2)])
    shake(model)
    pruned = prune(model, 0.5)
    assert type(pruned.layers[0]) is Short
    assert (kernel(pruned.layers[0]) != 0).tolist() == ORACLES[prune](kernel(model.layers[0]), 0.5).tolist()


@BOTH
def test_everything_custom_in_compile_and_in_layers(prune):
    class Penalty(keras.regularizers.Regularizer):
        def __init__(self, weight):
            self.weight = weight

        def __call__(self, x):
            return self.weight * keras.ops.sum(keras.ops.square(x))

        def get_config(self):
            return {"weight": self.weight}

    class Halved(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.5 / (1 + keras.ops.cast(step, "float32"))

        def get_config(self):
            return {}

    class Loss(keras.losses.Loss):
        def call(self, y_true, y_pred):
            return keras.ops.mean(keras.ops.abs(y_pred), -1)

    def loss(y_true, y_pred):
        return keras.ops.mean(keras.ops.square(y_pred), -1)

    def biggest(y_true, y_pred):
        return keras.ops.max(y_pred)

    x, y = data()
    for a_loss in (loss, Loss(), lambda y_true, y_pred: keras.ops.mean(y_pred, -1)):
        model = mlp(compiled=False)
        model.layers[0].kernel_regularizer = Penalty(0.1)
        model.layers[0].kernel.regularizer = model.layers[0].kernel_regularizer
        model.compile(keras.optimizers.SGD(Halved()), a_loss, metrics=[biggest, lambda t, p: keras.ops.min(p)], **EAGER)
        before = model.evaluate(x, y, verbose=0)
        pruned = check(model, prune, x, {"d1", "d2"})
        np.testing.assert_allclose(prune(model, 0).evaluate(x, y, verbose=0), before, rtol=1e-6)
        pruned.fit(x, y, verbose=0)


@BOTH
def test_normalization_keeps_what_it_learned(prune):
    x = data(inputs=4)[0] * 5 + 3
    normalization = layers.Normalization()
    normalization.adapt(x)
    model = keras.Sequential([keras.Input((4,)), normalization, layers.Dense(3), layers.Dense(2)])
    np.testing.assert_array_equal(predict(prune(model, 0), x), predict(model, x))


@BOTH
@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16", "float64"])
def test_dtype_policies(prune, policy):
    x = data()[0]
    model = keras.Sequential([keras.Input((6,), dtype=policy.removeprefix("mixed_"))])
    for units, name in ((8, "d1"), (5, "d2"), (3, "out")):
        model.add(layers.Dense(units, dtype=policy, name=name))
    shake(model)
    if policy == "mixed_float16":
        compile_(model, keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam()))
    pruned = check(model, prune, x.astype("float16"), {"d1", "d2"}, 0.4)
    assert [layer.dtype_policy.name for layer in pruned.layers] == [policy] * 3
    if policy == "mixed_float16":
        assert type(pruned.optimizer) is keras.optimizers.LossScaleOptimizer
        assert pruned.optimizer.inner_optimizer.name.startswith("adam")


@BOTH
def test_frozen_layers_are_pruned_and_stay_frozen(prune):
    model = mlp()
    model.layers[0].trainable = False
    pruned = prune(model, 0.5)
    assert not pruned.layers[0].trainable
    assert pruned.layers[1].trainable
    np.testing.assert_array_equal(kernel(pruned.layers[0]) != 0, ORACLES[prune](kernel(model.layers[0]), 0.5))
    assert len(pruned.trainable_variables) == len(model.trainable_variables) == 4


@BOTH
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantized_layers_are_refused(prune, mode):
    model = mlp(compiled=False)
    model.layers[1].quantize(mode)
    before = bits(model)
    for function in (functools.partial(prune, sparsity=0.5), hold_sparsity):
        with pytest.raises(ValueError, match="'d2' is quantized"):
            function(model)
    assert bits(model) == before
    assert len(sparsity_report(model))


@BOTH
def test_lora_is_refused(prune):
    model = mlp(compiled=False)
    model.layers[0].enable_lora(2)
    with pytest.raises(ValueError, match=r"'d1' .* LoRA"):
        prune(model, 0.5)


@BOTH
def test_kernels_that_are_not_float_are_refused(prune):
    class Whole(layers.Layer):
        def build(self, shape):
            self.kernel = self.add_weight(shape=(2, 2), dtype="int32", trainable=False, initializer="ones")

        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="layer 'whole' is int32"):
        prune(keras.Sequential([keras.Input((2,)), Whole(name="whole"), layers.Dense(2)]), 0.5)


class Tied(layers.Layer):
    """Multiplies by the kernel of another layer."""

    def __init__(self, other, **options):
        super().__init__(**options)
        self.other, self.kernel = other, other.kernel

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)

    def get_config(self):
        return super().get_config() | {"other": keras.saving.serialize_keras_object(self.other)}

    @classmethod
    def from_config(cls, config):
        return cls(keras.saving.deserialize_keras_object(config.pop("other")), **config)


class TiedModel(keras.Model):
    def __init__(self, last_is_tied):
        super().__init__()
        self.last_is_tied = last_is_tied
        self.first = layers.Dense(4, use_bias=False, name="first")
        self.middle = layers.Dense(4, use_bias=False, name="middle")
        self.first.build((None, 4))
        self.last = Tied(self.first, name="tied") if last_is_tied else layers.Dense(2, name="last")
        self.again = None if last_is_tied else Tied(self.first, name="tied")

    def build(self, shape):
        for layer in (self.middle, self.last):
            if not layer.built:
                layer.build((None, 4))
        self.built = True

    def call(self, inputs):
        return self.last(self.middle(self.first(inputs)))

    def get_config(self):
        return {"last_is_tied": self.last_is_tied}


@BOTH
@pytest.mark.parametrize("last_is_tied", [True, False])
def test_tied_kernels(prune, last_is_tied):
    model = TiedModel(last_is_tied)
    model.build((None, 4))
    shake(model)
    options = {} if last_is_tied else {"ignored_layers": ["last"]}
    pruned = prune(model, 0.5, **options)
    assert kernel(pruned.middle).tobytes() != kernel(model.middle).tobytes()
    np.testing.assert_array_equal(kernel(pruned.middle) != 0, ORACLES[prune](kernel(model.middle), 0.5))
    assert kernel(pruned.first).tobytes() == kernel(model.first).tobytes()


@BOTH
def test_recurrent_attention_and_wrapped_layers(prune):
    inputs = keras.Input((3, 4))
    values = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(inputs)
    values = layers.MultiHeadAttention(2, 3, name="attend")(values, values)
    values = layers.TimeDistributed(layers.Dense(5, name="each"), name="times")(values)
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(values)))
    if prune is prune_units:
        for ignored, refused in ((["attend"], "lstm_cell"), (["both"], "query")):
            with pytest.raises(ValueError, match=rf"{refused}.* last axis alone: name it in ignored_layers"):
                prune(model, 0.5, ignored_layers=ignored)
    pruned = prune(model, 0.5, ignored_layers=["both", "attend"])
    np.testing.assert_array_equal(
        kernel(pruned.get_layer("times").layer) != 0, ORACLES[prune](kernel(model.get_layer("times").layer), 0.5)
    )
    if prune is prune_weights:
        report = sparsity_report(prune(model, 0.5)).set_index("layer")
        assert report.loc["query", "zeros"] >= report.loc["query", "parameters"] // 2 - 3


@pytest.mark.parametrize(
    "layer",
    [
        *(layers.Conv1DTranspose(3, 2, name="odd"), layers.DepthwiseConv1D(2, name="odd")),
        layers.SimpleRNN(3, return_sequences=True, name="odd"),
    ],
)
def test_units_that_are_not_on_the_last_axis_are_refused(layer):
    model = shake(keras.Sequential([keras.Input((4, 2)), layers.Dense(3), layer, layers.Dense(2, name="out")]))
    before = bits(model)
    kind = r"\((Conv1DTranspose|DepthwiseConv1D|SimpleRNNCell)\)"
    refused = rf"'(odd|simple_rnn_cell.*)' {kind} does not have its units on the kernel's last axis"
    with pytest.raises(ValueError, match=refused):
        prune_units(model, 0.5)
    assert bits(model) == before
    prune_units(model, 0.5, ignored_layers=["odd"])
    prune_weights(model, 0.5)


def test_einsum_and_an_odd_bias_are_refused():
    model = keras.Sequential(
        [keras.Input((4, 2)), layers.EinsumDense("abc,cd->abd", (4, 5), name="odd"), layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="'odd'"):
        prune_units(model, 0.5)

    class Biased(Scale):
        def build(self, shape):
            super().build(shape)
            self.bias = self.add_weight(shape=(2, self.units), name="bias")

    model = keras.Sequential([keras.Input((4,)), Biased(5, name="odd"), layers.Dense(2)])
    with pytest.raises(ValueError, match="'odd'"):
        prune_units(model, 0.5)
    assert (kernel(prune_weights(model, 0.5).layers[0]) == 0).sum() == 10


@BOTH
def test_ignored_layers(prune):
    model = mlp(units=(6, 6, 6))
    x = data()[0]
    check(model, prune, x, {"d2", "d3"}, ignored_layers="d1")
    check(model, prune, x, {"d2"}, ignored_layers=("d1", "d3", "out"))
    check(model, prune, x, {"d2"}, ignored_layers={"d1", "d3"})


@BOTH
def test_random_pruning_is_repeatable_and_ignores_magnitudes(prune):
    model = mlp(units=(20, 20))
    one, two, other = (prune(model, 0.5, criterion="random", seed=seed) for seed in (3, 3, 4))
    assert bits(one) == bits(two)
    assert bits(one) != bits(other)
    assert bits(one) != bits(prune(model, 0.5))
    first, default = prune(model, 0.5, criterion="random", seed=0), prune(model, 0.5, criterion="random")
    assert bits(first) == bits(default)
    share = 0.5
    for layer in one.layers[:-1]:
        zeros = kernel(layer) == 0
        assert zeros.mean() == share
        assert (zeros.all(0).sum() == 10) == (prune is prune_units)
    low = prune(model, 0.2, criterion="random", seed=3)
    assert not ((kernel(low.layers[0]) == 0) & (kernel(one.layers[0]) != 0)).any()
    assert (kernel(one.layers[1]) == 0).tobytes() != (kernel(one.layers[0]) == 0)[:20].tobytes()


def test_random_pruning_takes_whole_filters():
    stack = [layers.Conv2D(6, 3), layers.GlobalMaxPooling2D(), layers.Dense(3)]
    pruned = prune_units(keras.Sequential([keras.Input((5, 5, 2)), *stack]), 0.5, criterion="random")
    zeros = kernel(pruned.layers[0]) == 0
    assert zeros.sum() == zeros.all((0, 1, 2)).sum() * 18 == 3 * 18


def unbuilt():
    return keras.Sequential([layers.Dense(3), layers.Dense(2)])


def with_nan():
    model = mlp()
    weights = model.layers[1].get_weights()
    weights[0][0, 0] = np.nan
    model.layers[1].set_weights(weights)
    return model


def only_output():
    return keras.Sequential([keras.Input((3,)), layers.Flatten(), layers.Dense(2)])


def no_kernel():
    return keras.Sequential([keras.Input((3,)), layers.Flatten()])


MISUSE = [
    (lambda: "model", {}, TypeError, "expected a keras.Model, not str"),
    (lambda: None, {}, TypeError, "not NoneType"),
    (lambda: layers.Dense(3), {}, TypeError, "not Dense"),
    (unbuilt, {}, ValueError, "not built"),
    (only_output, {}, ValueError, "nothing to prune"),
    (no_kernel, {}, ValueError, "nothing to prune"),
    (with_nan, {}, ValueError, "kernel of layer 'd2' holds NaN"),
    (mlp, {"ignored_layers": ["d1", "d2"]}, ValueError, "nothing to prune"),
    (mlp, {"ignored_layers": ["d1", "d2", "out"]}, ValueError, "nothing to prune"),
    (mlp, {"ignored_layers": ["d9"]}, ValueError, r"no layer is named \['d9'\]: the model has \['d1', 'd2', 'out'\]"),
    (mlp, {"ignored_layers": "d"}, ValueError, r"\['d'\]"),
    (mlp, {"ignored_layers": [3]}, ValueError, r"\['3'\]"),
    (mlp, {"ignored_layers": None}, TypeError, "ignored_layers must be a list of layer names, not None"),
    (mlp, {"ignored_layers": 3}, TypeError, "not 3"),
    (mlp, {"criterion": "largest"}, ValueError, "'magnitude' or 'random', not 'largest'"),
    (mlp, {"criterion": "random", "seed": -1}, ValueError, "seed must be .* not -1"),
    (mlp, {"criterion": "random", "seed": 0.5}, ValueError, "seed must be .* not 0.5"),
    (mlp, {"sparsity": 50}, ValueError, "fraction"),
    (mlp, {"sparsity": "0.5"}, TypeError, "'0.5'"),
    (mlp, {"sparsity": float("nan")}, ValueError, "nan"),
    (mlp, {"sparsity": None}, TypeError, "None"),
    (mlp, {"sparsity": True}, TypeError, "True"),
    (mlp, {"sparsity": -0.1}, ValueError, "-0.1"),
]


@BOTH
@pytest.mark.parametrize(("make", "options", "error", "message"), MISUSE)
def test_misuse(prune, make, options, error, message, monkeypatch):
    model = make()
    before = bits(model) if isinstance(model, keras.Model) else None
    monkeypatch.setattr("pruning_utils._copy", None)  # no work is begun
    with pytest.raises(error, match=message):
        prune(model, **{"sparsity": 0.5} | options)
    assert before is None or bits(model) == before
