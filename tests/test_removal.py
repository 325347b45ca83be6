"""remove_dead_units: the same outputs from a smaller network, whatever the graph."""

import keras
import numpy as np
import pytest
import support as s
from keras import layers, ops
from support import array, bits, inputs_for, kernel, mlp, predict, shake, stack, walk, widths

from pruning_utils import hold_sparsity, prune_units, prune_weights, remove_dead_units, sparsity_report

pytestmark = pytest.mark.filterwarnings("ignore:.*units:UserWarning")

ACTIVATIONS = [
    "relu",
    "sigmoid",
    "tanh",
    "elu",
    "selu",
    "softplus",
    "softsign",
    "exponential",
    "linear",
    "silu",
    "gelu",
]
ACTIVATIONS += [
    "leaky_relu",
    "relu6",
    "hard_sigmoid",
    "hard_silu",
    "mish",
    "log_sigmoid",
    "celu",
    "hard_tanh",
    "hard_shrink",
]
ACTIVATIONS += ["soft_shrink", "tanh_shrink", "squareplus", "sparse_plus"]
ACTIVATIONS = [name for name in ACTIVATIONS if hasattr(keras.activations, name)]  # Keras 3.8 has not all of them
SILENT = ["relu", "tanh", "elu", "silu", "gelu", "leaky_relu", "linear", "relu6"]  # 0 stays 0


def check(model, x=None, tolerance=1e-4, again=True):
    """Remove; compare outputs, names, types and shapes; `model` must keep every bit."""
    x, before = inputs_for(model) if x is None else x, bits(model)
    small = remove_dead_units(model)
    assert bits(model) == before
    assert (type(small), small.name, small.compiled) == (type(model), model.name, model.compiled)
    assert [(type(layer), layer.name) for layer in walk(small)] == [(type(layer), layer.name) for layer in walk(model)]
    s.assert_same_outputs(model, small, x, tolerance)
    assert all(1 <= width <= widths(model)[name] for name, width in widths(small).items())
    assert not again or remove_dead_units(small).count_params() == small.count_params()
    return small


# ---------------------------------------------------------------------------------------- random graphs


class Graph:
    """A random functional model of images; without `pins` all in it that is pruned can be removed."""

    def __init__(self, seed, pins):
        self.rng, self.pins, self.relu = np.random.default_rng(seed), pins, layers.Activation("relu")
        image = keras.Input((8, 8, 3))
        self.tensors = [image] if pins else [self.block(image)]  # what is tied to an input stays
        steps = ["block", "tie", "join", "gate", "apart", "depth", "turn", "slope", "pool", "nest", "upper"]
        steps += ["share", "norm", "free", "plus", "look", "split", "twins", "mix"] if pins else []
        for step in [*self.rng.permutation(steps)[: 8 + 2 * pins], "block"]:
            self.tensors.append(getattr(self, step)(self.pick(self.tensors[-4:])))
        pooled = [layers.GlobalAveragePooling2D(), layers.GlobalMaxPooling2D(), layers.Flatten()]
        values = layers.Concatenate()([self.pick(pooled)(tensor) for tensor in self.tensors[-3:]])
        outputs = [layers.Dense(3, name="one")(layers.Dense(9, activation=self.pick(SILENT))(values))]
        if self.rng.random() < 0.5:
            outputs.append(layers.Softmax()(layers.BatchNormalization()(layers.Dense(4, name="two")(values))))
        self.model = shake(keras.Model(image, outputs), seed)

    def pick(self, things):
        return things[self.rng.integers(len(things))]

    def conv(self, n=None):
        n, size = n or int(self.rng.integers(3, 8)), self.pick([1, 2, 3])
        act = self.pick(ACTIVATIONS[:7] if self.pins else SILENT)
        return layers.Conv2D(n, size, padding="same", activation=act, use_bias=self.pick([True, False]))

    def block(self, x):
        norm = layers.BatchNormalization(scale=self.pick([True, False]), center=self.pick([True, False]))
        return self.relu(norm(self.conv()(x)))

    def like(self, x):
        """A new tensor of the size of x, by convolution of x."""
        return self.conv(x.shape[-1])(x)

    def tie(self, x):
        kind = self.pick([layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum])
        return self.relu(kind()([x, self.like(x)]))

    def join(self, x):
        return layers.Concatenate()([x, self.conv()(x), layers.Dropout(0.5)(x)])

    def gate(self, x):
        values = layers.Reshape((1, 1, x.shape[-1]))(layers.GlobalAveragePooling2D()(x))
        values = layers.Conv2D(x.shape[-1], 1, activation="sigmoid")(layers.Dense(3, activation="relu")(values))
        return layers.Multiply()([x, values])

    def apart(self, x):
        options = {"padding": "same", "activation": "relu", "depth_multiplier": self.pick([1, 1 + self.pins])}
        return layers.SeparableConv2D(5, 2, **options)(x)

    def depth(self, x):
        options = {"depth_multiplier": self.pick([1, 1 + self.pins]), "use_bias": self.pick([True, False])}
        return layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", **options)(x))

    def turn(self, x):
        return self.like(layers.Conv2DTranspose(6, 3, padding="same", activation="relu")(x))

    def slope(self, x):
        return layers.PReLU(shared_axes=self.pick([None, [1, 2], [1, 2, 3]]))(x)

    def pool(self, x):
        kind = self.pick([layers.MaxPooling2D, layers.AveragePooling2D])
        return kind(2, strides=1, padding="valid")(layers.ZeroPadding2D(((1, 0), (1, 0)))(x))

    def nest(self, x):
        shape, relu = x.shape[1:], layers.ReLU()
        if self.rng.random() < 0.5:
            return keras.Sequential([keras.Input(shape), self.conv(), layers.BatchNormalization(), relu, self.conv()])(
                x
            )
        values = inputs = keras.Input(shape)
        values = layers.Add()([self.conv(4)(values), self.conv(4)(relu(values))])
        return keras.Model(inputs, layers.Concatenate()([values, inputs]))(x, training=False)

    def upper(self, x):
        return layers.Cropping2D(4)(layers.UpSampling2D(2)(layers.GaussianNoise(0.1)(self.conv()(x))))

    def share(self, x):
        layer = self.conv(x.shape[-1])
        return layers.Add()([layer(x), layer(layer(x))])

    def norm(self, x):
        return self.conv()(layers.LayerNormalization()(x))

    def free(self, x):
        return self.conv()(layers.Lambda(lambda values: ops.flip(values, -1) * 2)(x))

    def plus(self, x):
        return ops.tanh(x + self.like(x)) * 2.0 - ops.mean(x, -1, keepdims=True)

    def look(self, x):
        values = layers.Reshape((64, x.shape[-1]))(x)
        values = layers.MultiHeadAttention(2, 3)(values, values)
        return layers.Reshape((8, 8, x.shape[-1]))(layers.Dense(x.shape[-1], activation="softmax")(values))

    def split(self, x):
        return layers.Conv2D(6, 3, groups=2, padding="same")(self.conv(4)(x))

    def twins(self, x):
        """A nested model that is called twice."""
        inner = keras.Sequential([keras.Input(x.shape[1:]), self.conv(), self.conv(x.shape[-1])])
        return layers.Subtract()([inner(x), inner(self.like(x))])

    def mix(self, x):
        return layers.TimeDistributed(layers.Dense(4))(s.Mixing(5)(x))


@pytest.mark.parametrize("seed", [0, 1, 2, 4, 5, 7])
def test_random_graphs_without_pins_lose_all_that_is_pruned(seed):
    model = Graph(seed, pins=False).model
    pruned = prune_units(model, (0.3, 0.5, 0.7, 0.95)[seed % 4])
    small, left = check(pruned, again=seed == 0), s.living(pruned)
    assert all(width <= max(1, left[name]) for name, width in widths(small).items())
    check(prune_weights(model, 0.9), again=False)
    assert max(np.ptp(part, axis=0).max() for part in predict(model, inputs_for(model))) > 1e-3


@pytest.mark.parametrize("seed", range(100, 110))
def test_random_graphs_keep_their_outputs(seed):
    model = Graph(seed, pins=True).model
    prune, sparsity = ((prune_units, 0.5), (prune_weights, 0.9), (prune_units, 0.9), (prune_weights, 1))[seed % 4]
    check(prune(model, sparsity), again=seed == 100)


def test_a_layer_of_every_kind_keeps_its_outputs():
    check(prune_weights(s.zoo(), 0.9), again=False)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("MobileNet", {"alpha": 0.25}),
        ("MobileNetV2", {"alpha": 0.35}),
        ("MobileNetV3Small", {"alpha": 0.25, "minimalistic": False}),
    ],
)
def test_pretrained_architectures_shrink(name, options):
    options |= {"input_shape": (32, 32, 3), "weights": None, "classes": 9, "classifier_activation": None}
    x = np.random.default_rng(1).uniform(0, 255, (8, 32, 32, 3)).astype("float32")
    model = s.settle(shake(getattr(keras.applications, name)(**options), tame=True), x)
    small = check(prune_units(model, 0.5), x, again=False)
    assert small.count_params() < model.count_params() / 2.5


# ------------------------------------------------------------------------------------ what can be removed


def test_units_that_are_pruned_are_gone():
    pruned = prune_units(mlp(units=(10, 20), bias=False), 0.8)
    small, first = check(pruned), kernel(pruned.layers[0])
    assert widths(small) == {"d1": 2, "d2": 4, "out": 3}
    assert not any(layer.use_bias for layer in small.layers)
    assert sparsity_report(small).iloc[-1]["zeros"] == 0
    assert (kernel(small.layers[0]) == first[:, first.any(0)]).all()


@pytest.mark.parametrize("prune", [prune_units, prune_weights])
def test_every_elementwise_activation_lets_units_go(prune):
    inputs = keras.Input((4,))
    values = layers.Concatenate()([layers.Dense(6, activation=name, name=name)(inputs) for name in ACTIVATIONS])
    values = layers.Activation(s.bent)(values)
    model = shake(keras.Model(inputs, layers.Dense(3, name="out")(values)))
    left = widths(check(prune(model, 0.9)))
    assert all(left[name] < 6 for name in ACTIVATIONS)


def test_a_chain_of_cascades():
    """A dead unit kills the unit that only it feeds, forwards; an unheard one the unit that only feeds it."""
    model = stack((3,), *(layers.Dense(3, use_bias=False, activation="relu") for _ in range(5)))
    eye = np.eye(3, dtype="float32")
    model.set_weights([eye * 2, eye * [0, 1, 1], eye * 3, eye * [1, 1, 0], eye])
    assert [*widths(check(model)).values()] == [1, 1, 1, 1, 3]


def test_constants_are_folded_through_to_the_last_bias_which_is_added():
    hidden = [layers.Dense(4, use_bias=False, activation="sigmoid") for _ in range(2)]
    model = stack((6,), *hidden, layers.Dense(3, use_bias=False))
    small = check(prune_weights(model, 1))
    assert [*widths(small).values()] == [1, 1, 3]
    assert small.layers[-1].use_bias
    np.testing.assert_allclose(array(small.layers[-1].bias), kernel(model.layers[-1]).sum(0) / 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "padding", "left"), [("sigmoid", "same", 3), ("sigmoid", "valid", 2), ("relu", "same", 2)]
)
def test_zero_padding_keeps_a_unit_with_a_constant_output(activation, padding, left):
    first = layers.Conv2D(3, 3, activation=activation, name="c")
    model = stack((7, 7, 1), first, layers.Conv2D(2, 3, padding=padding), layers.Flatten(), layers.Dense(2))
    first.set_weights([first.get_weights()[0] * [1, 0, 1], np.array([1, -1, 1])])
    assert widths(check(model))["c"] == left


def test_a_constant_that_differs_from_place_to_place_keeps_its_unit_alone():
    slopes, first = layers.PReLU(), layers.Conv2D(3, 3, name="c")
    model = stack((5, 5, 1), first, slopes, layers.Conv2D(2, 3), layers.Flatten(), layers.Dense(2))
    first.set_weights([first.get_weights()[0] * [0, 0, 1], np.array([-1, -1, 1])])  # so that the slopes decide
    values = slopes.get_weights()[0]
    values[..., 0], values[..., 1] = np.arange(9).reshape(3, 3), 0
    slopes.set_weights([values])
    assert widths(check(model))["c"] == 2


def test_infinite_constants_stay():
    model = mlp(units=(4,))
    weights = model.get_weights()
    weights[0][:, 1], weights[1][1], weights[2][1] = 0, np.inf, 1
    model.set_weights(weights)
    x = s.data()[0]
    assert np.array_equal(predict(remove_dead_units(model), x)[0], predict(model, x)[0])


def test_a_mask_depends_on_all_channels():
    """Without its constant unit, a place where the other one meets the value would be masked, too."""
    first = layers.Dense(2, name="d")
    model = stack((2, 1), first, layers.Masking(3.0), layers.Flatten(), layers.Dense(1, use_bias=False))
    first.set_weights([np.array([[0, 1]]), np.array([1, 0])])
    small = remove_dead_units(model)
    assert widths(small)["d"] == 2
    x = np.array([[[3.0], [0.5]]], "float32")
    np.testing.assert_array_equal(predict(small, x)[0], predict(model, x)[0])


@pytest.mark.parametrize(
    "pool",
    [
        lambda x: ops.sum(x, axis=1),
        lambda x: layers.GlobalAveragePooling1D()(layers.Softmax(axis=1)(x)),
        lambda x: ops.max(x + ops.sum(x, axis=0, keepdims=True), axis=1),
    ],
    ids=["sum", "softmax", "batch"],
)
def test_what_depends_on_how_many_there_are_is_no_constant(pool):
    """Places of an axis of unknown size, or examples."""
    inputs = keras.Input((None, 3))
    first = layers.Dense(4, name="d")
    model = shake(keras.Model(inputs, layers.Dense(2)(pool(first(inputs)))))
    first.set_weights([first.get_weights()[0] * [1, 0, 1, 0], np.array([1, 1, -1, 0])])
    check(prune_weights(model, 0), np.random.default_rng(0).normal(size=(3, 5, 3)).astype("float32"))


def swapped(x):
    return ops.concatenate([x[..., 4:], x[..., :4]], axis=-1)


@keras.saving.register_keras_serializable("tests")
class Shift(layers.Layer):
    """The first eighth of the channels comes a step earlier."""

    def call(self, inputs):
        n = inputs.shape[-1] // 8
        return ops.concatenate([ops.roll(inputs[..., :n], -1, axis=1), inputs[..., n:]], axis=-1)


MIXES = [
    lambda x: ops.roll(x, 3, axis=-1),
    layers.Lambda(swapped),
    Shift(),
    lambda x: ops.flip(x, axis=-1),
    lambda x: x - x[..., :1],
    lambda x: x - x[..., -1:],
    lambda x: x - ops.max(x, axis=-1, keepdims=True),
    lambda x: x / ops.max(x),
    layers.Softmax(),
]


@pytest.mark.parametrize("n", [2, 5, 8, 9, 12, 16, 29])
@pytest.mark.parametrize("mix", MIXES)
def test_what_mixes_channels_keeps_all(mix, n):
    inputs = keras.Input((5, 3))
    if n < 16 and isinstance(mix, Shift | layers.Lambda):
        return  # which move nothing there
    model = shake(keras.Model(inputs, layers.Dense(2)(layers.Flatten()(mix(layers.Dense(n, name="d")(inputs))))))
    assert remove_dead_units(prune_units(model, 0.5)).get_layer("d").units == n


@pytest.mark.parametrize("nested", [False, True])
def test_normalization_that_trains_forever(nested):
    """Keras runs it by other statistics in `predict` than when called."""
    inputs, norm = keras.Input((3,)), layers.BatchNormalization()
    around = keras.Sequential([keras.Input((4,)), norm]) if nested else norm
    first = layers.Dense(4, name="d")
    model = shake(keras.Model(inputs, layers.Dense(2)(around(first(inputs), training=True))))
    first.set_weights([first.get_weights()[0] * [1, 0, 1, 0], np.ones(4)])
    small, x = remove_dead_units(model), s.data(inputs=3)[0]
    for way in (lambda network: array(network(x)), lambda network: network.predict(x, verbose=0)):
        np.testing.assert_allclose(way(small), way(model), atol=1e-4)


@pytest.mark.parametrize("call", [lambda model, x: model(x), lambda model, x: model(inputs=x)])
def test_a_nested_model_called_with_a_dict_takes_its_inputs_by_name(call):
    a, b = keras.Input((4,), name="a"), keras.Input((4,), name="b")
    inner = keras.Model([b, a], layers.Concatenate()([layers.Dense(6, name="x")(a), layers.Dense(6, name="y")(b)]))
    inputs = keras.Input((3,))
    first, second = (layers.Dense(4, activation="relu", name=name)(inputs) for name in ("one", "two"))
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(call(inner, {"a": first, "b": second}))))
    small = check(prune_units(model, {"one": 0.75, "two": 0.25}))
    assert widths(small) == {"one": 1, "two": 3, "x": 6, "y": 6, "out": 2}


def test_a_layer_in_two_nested_models_and_around_them():
    shared, towers = layers.Dense(4, name="shared"), []
    for _ in range(2):
        inputs = keras.Input((4,))
        towers.append(keras.Model(inputs, layers.Dense(5, activation="relu")(shared(inputs))))
    inputs = keras.Input((4,))
    values = layers.Concatenate()([*(tower(inputs) for tower in towers), shared(inputs)])
    model = shake(keras.Model(inputs, layers.Dense(2)(values)))
    for pruned in (prune_weights(model, 0.5), prune_units(model, 0.4)):
        small = remove_dead_units(pruned)
        s.assert_same_outputs(pruned, small, inputs_for(model))
        assert len(small.weights) == len(model.weights)
        assert small.count_params() < model.count_params()


@keras.saving.register_keras_serializable("tests")
class Conv9D(s.Mixing):
    """One that Keras has not."""


def test_a_name_like_that_of_a_convolution_says_nothing():
    model = stack((3,), layers.Dense(4, name="d"), Conv9D(5), layers.Dense(2))
    assert widths(check(prune_units(model, 0.5)))["d"] == 4


@pytest.mark.parametrize("place", [1, 2])
def test_normalization_around_flatten(place):
    around = [layers.Conv2D(5, 3, activation="relu", name="c"), layers.Flatten()]
    around.insert(place, layers.BatchNormalization(name="n"))
    small = check(prune_units(stack((6, 6, 2), *around, layers.Dense(4, name="d"), layers.Dense(2, name="out")), 0.6))
    assert widths(small) == {"c": 2, "d": 2, "out": 2}
    assert small.get_layer("n").gamma.shape[0] == (2 if place == 1 else 32)


def test_one_activation_layer_at_several_places_pins_nothing():
    """Fault 9."""
    relu, values = layers.ReLU(), (inputs := keras.Input((8, 8, 2)))
    for name in "abc":
        values = relu(layers.Conv2D(8, 2, name=name)(values))
    model = shake(keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalMaxPooling2D()(relu(values)))))
    assert widths(check(prune_units(model, 0.5))) == {"a": 4, "b": 4, "c": 4, "out": 3}


@pytest.mark.parametrize("how", [{}, {"training": False}])
def test_a_pretrained_network_in_a_users_own_shrinks_like_any_other(how):
    inputs, outer = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    values = layers.BatchNormalization()(layers.Conv2D(8, 3, name="a")(layers.Rescaling(0.5)(inputs)))
    values = layers.Add()([values, layers.Conv2D(8, 3, padding="same", name="b")(layers.ReLU()(values))])
    base = keras.Model(inputs, layers.ReLU()(values), name="base")
    base.trainable = False
    values = layers.GlobalAveragePooling2D()(base(layers.RandomFlip()(outer), **how))
    values = keras.Sequential([layers.Dense(6, activation="relu", name="c"), layers.Dropout(0.5)], name="top")(values)
    model = shake(keras.Model(outer, layers.Dense(3, name="out")(values)))
    small = check(prune_units(model, 0.5))
    assert widths(small) == {"a": 4, "b": 4, "c": 3, "out": 3}
    assert len(small.trainable_variables) == len(model.trainable_variables) == 4
    assert small.get_layer("base").output_shape == (None, 6, 6, 4)


def test_a_u_net_shrinks_with_its_transposed_convolutions():
    def conv(n, name):
        return layers.Conv2D(n, 3, padding="same", activation="relu", name=name)

    wide = conv(8, "down")(inputs := keras.Input((8, 8, 1)))
    deep = conv(12, "deep")(layers.MaxPooling2D()(wide))
    back = layers.Conv2DTranspose(8, 2, strides=2, activation="relu", name="up")(deep)
    joined = conv(6, "joined")(layers.Concatenate()([wide, back]))
    model = shake(keras.Model(inputs, layers.Conv2D(2, 1, activation="softmax", name="out")(joined)))
    assert widths(check(prune_units(model, 0.5))) == {"down": 4, "deep": 6, "up": 4, "joined": 3, "out": 2}


@pytest.mark.parametrize(
    ("shape", "left"), [((-1,), 2), ((180,), 2), ((36, 5), 2), ((2, -1, 5), 2), ((6, 30), 5), ((5, 36), 5)]
)
def test_a_reshape_that_keeps_channels_last_or_flattens_lets_them_go(shape, left):
    convolution = layers.Conv2D(5, 3, activation="relu", name="c")
    model = stack((8, 8, 1), convolution, layers.Reshape(shape), layers.Flatten(), layers.Dense(2, name="out"))
    assert widths(check(prune_units(model, 0.6)))["c"] == left


def test_what_is_larger_than_the_trial_stays_whole():
    """The trial has at most 64 places along an axis, of which this pool makes none."""
    for size, left in ((40, 2), (80, 4)):
        pool = [layers.Conv1D(4, 1, name="c"), layers.AveragePooling1D(size), layers.Flatten()]
        assert widths(check(prune_units(stack((100, 2), *pool, layers.Dense(2, name="out")), 0.5)))["c"] == left


def test_truth_values_can_be_mixed_too():
    values = layers.Conv2D(8, 1, activation="relu", name="c")(inputs := keras.Input((6, 6, 3)))
    values = ops.where(ops.flip(values > 0.3, axis=-1), values, 0.0)
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(values))))
    assert widths(check(prune_units(model, 0.5)))["c"] == 8
    values = layers.Conv2D(8, 1, activation="relu", name="c")(inputs)
    values = ops.where(values > 0.3, values, 0.0)
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(layers.Flatten()(values))))
    assert widths(check(prune_units(model, 0.5)))["c"] == 4


def test_slopes_of_places_are_no_slopes_of_channels():
    """Here there are as many places along an axis as channels."""
    slopes = layers.PReLU(shared_axes=[3], name="p")
    model = stack((8, 8, 3), layers.Conv2D(8, 3, padding="same", name="c"), slopes, layers.Conv2D(4, 3, name="out"))
    pruned = prune_units(model, 0.5)
    assert array(pruned.get_layer("p").alpha).all()
    assert widths(check(pruned))["c"] == 4


def test_a_lambda_that_says_how_many_channels_come_out_keeps_them():
    for shape, left in (((8,), 8), (lambda shape: shape, 4), (None, 4)):
        between = [layers.Dense(8, name="d"), layers.Lambda(lambda values: values * 2, output_shape=shape)]
        assert widths(check(prune_units(stack((6,), *between, layers.Dense(2, name="out")), 0.5)))["d"] == left


def pad(values):
    """To ten places: what is behind shorter examples is zero."""
    return ops.pad(values, [[0, 0], [0, 10], [0, 0]])[:, :10]


@pytest.mark.parametrize("prune", [prune_units, prune_weights])
def test_axes_of_unknown_sizes(prune):
    inputs = keras.Input((None, None, 3))
    values = layers.Conv2D(8, 3, activation="relu", name="c")(inputs)
    model = shake(keras.Model(inputs, [layers.Flatten()(values), layers.Conv2D(2, 3)(values)]))
    with pytest.raises(ValueError, match="nothing to prune"):  # as the first one is an output, too
        prune(model, 0.5)
    inputs = keras.Input((None, 3))
    halved = layers.Lambda(lambda t: t[:, ::2] + t[:, 1::2], output_shape=lambda shape: shape)  # of even lengths
    for between, length in ((halved, 6), (layers.Lambda(pad), 5)):
        first = layers.Dense(8, activation="sigmoid", name="d")
        model = shake(keras.Model(inputs, layers.Dense(2, name="out")(between(first(inputs)))))
        x = np.random.default_rng(0).normal(size=(3, length, 3)).astype("float32")
        check(prune(model, 0.9), x)


def test_a_number_lets_units_go_and_an_array_of_numbers_keeps_them():
    values = layers.Dense(6, activation="relu", name="a")(inputs := keras.Input((4,))) * 2.0
    values = layers.Dense(6, activation="relu", name="b")(values) * np.arange(1, 7, dtype="float32")
    values = layers.Dense(6, activation="relu", name="c")(values)
    model = shake(keras.Model(inputs, layers.Dense(3, name="out")(values)))
    assert widths(check(prune_units(model, 0.5))) == {"a": 3, "b": 6, "c": 3, "out": 3}


def test_squeeze_and_excitation_goes_with_its_channels():
    values = layers.Conv2D(8, 3, activation="relu", name="a")(inputs := keras.Input((6, 6, 2)))
    gate = layers.Dense(4, activation="relu", name="less")(layers.GlobalAveragePooling2D()(values))
    gate = layers.Reshape((1, 1, 8))(layers.Dense(8, activation="sigmoid", name="more")(gate))
    values = layers.Conv2D(6, 3, padding="same", name="b")(layers.Multiply()([values, gate]))
    model = shake(keras.Model(inputs, layers.Dense(3, name="out")(layers.GlobalAveragePooling2D()(values))))
    assert widths(check(prune_units(model, 0.5))) == {"a": 4, "less": 2, "more": 4, "b": 3, "out": 3}


def test_several_inputs_and_outputs_by_name_and_an_input_that_is_an_output():
    image, words = keras.Input((6, 6, 1), name="image"), keras.Input((5,), name="words", dtype="int32")
    one = layers.GlobalMaxPooling2D()(layers.Conv2D(8, 3, name="a")(image))
    two = layers.LSTM(4, name="l")(layers.Embedding(9, 6, mask_zero=True, name="e")(words))
    both = layers.Dense(6, activation="relu", name="b")(layers.Concatenate()([one, two]))
    outputs = {"y": layers.Dense(3, name="y")(both), "b": both, "same": image}
    model = shake(keras.Model({"image": image, "words": words}, outputs))
    x = dict(zip(("image", "words"), inputs_for(model), strict=True))
    small = check(prune_units(model, 0.5), x)
    assert (widths(small)["a"], widths(small)["b"]) == (4, 6)
    check(prune_weights(model, 0.9), x)


def test_sequences_of_unknown_length():
    first = layers.Conv1D(4, 1, activation="sigmoid", name="a")(inputs := keras.Input((None, 2)))
    values = layers.Dense(5, activation="relu", name="c")(layers.MaxPooling1D(5)(first))
    values = layers.Concatenate(axis=1)([values, layers.Conv1D(5, 1)(layers.MaxPooling1D(50)(first))])
    values = layers.Conv1D(6, 3, padding="causal", name="b")(values)
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(layers.GlobalAveragePooling1D()(values))))
    x = np.random.default_rng(0).normal(size=(2, 120, 2)).astype("float32")
    assert widths(check(prune_units(model, 0.5), x))["b"] == 3
    check(prune_weights(model, 0.8), x)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_precisions(policy):
    model = keras.Sequential([keras.Input((6,))])
    for units, name in ((12, "a"), (8, "b"), (3, "out")):
        model.add(layers.Dense(units, activation="tanh", dtype=policy, name=name))
    small = check(prune_units(shake(model), 0.5), tolerance=1e-6 if policy == "float64" else 2e-2)
    assert widths(small) == {"a": 6, "b": 4, "out": 3}
    assert [str(w.dtype) for w in small.weights] == [str(w.dtype) for w in model.weights]
    assert small.layers[0].dtype_policy.name == policy


def test_compile_settings_come_along_and_the_result_trains_and_saves(tmp_path):
    model, (x, y) = mlp(units=(10, 8), optimizer=keras.optimizers.SGD(0.05, momentum=0.9)), s.data()
    pruned = prune_units(model, 0.5)
    hold_sparsity(pruned)
    small, before = check(pruned), bits(pruned)
    assert small.get_compile_config() == model.get_compile_config()
    np.testing.assert_allclose(small.evaluate(x, y, verbose=0), pruned.evaluate(x, y, verbose=0), rtol=1e-5)
    small.fit(x, y, verbose=0)
    assert bits(pruned) == before
    assert all(variable.constraint is None for variable in small.variables)
    small.save(tmp_path / "small.keras")
    assert bits(keras.models.load_model(tmp_path / "small.keras")) == bits(small)


class Own(keras.Sequential):
    pass


@keras.saving.register_keras_serializable("tests")
class Mine(keras.Model):
    pass


def test_kinds_of_models():
    late = keras.Sequential([layers.Dense(6, activation="relu", name="a"), layers.Dense(2, name="out")])
    predict(late, s.data(inputs=4)[0])
    inputs = keras.Input((4,))
    mine = Mine(inputs, layers.Dense(2, name="out")(layers.Dense(6, activation="relu", name="a")(inputs)))
    for model in (late, mine, Own([keras.Input((4,)), layers.Dense(6, name="a"), layers.Dense(2, name="out")])):
        assert widths(check(prune_units(shake(model), 0.5))) == {"a": 3, "out": 2}


class Doubled(layers.Dense):
    def call(self, inputs):
        return super().call(inputs) * 2


class Calls(layers.Layer):
    """A layer without weights that Keras cannot rebuild."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)


class Two(layers.Layer):
    """Two outputs, of which the second is no affair of one channel alone."""

    def call(self, inputs):
        return ops.relu(inputs), ops.softmax(inputs)


def test_what_gives_two_outputs_stays_whole():
    one, two = Two()(layers.Dense(4, name="a")(inputs := keras.Input((4,))))
    values = layers.Concatenate()([layers.Dense(6, name="b")(one), layers.Dense(6, name="c")(two)])
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(values)))
    assert widths(check(prune_units(model, 0.5), again=False)) == {"a": 4, "b": 3, "c": 3, "out": 2}


def test_what_fails_for_other_numbers_of_channels_fails_each_time():
    inputs = values = keras.Input((4,))
    for name in "abc":
        values = ops.relu(layers.Dense(6, name=name)(values) * np.arange(1, 7, dtype="float32"))
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(values)))
    assert widths(check(prune_units(model, 0.5), again=False)) == {"a": 6, "b": 6, "c": 6, "out": 2}


def roll(steps):
    def function(x):
        return ops.roll(x, steps, -1)

    return function


@pytest.mark.parametrize("layer", [layers.Lambda, layers.Activation])
def test_functions_of_one_name_are_told_apart(layer):
    parts = [layers.Dense(6, name="a"), layer(roll(0)), layers.Dense(6, name="b"), layer(roll(1))]
    small = check(prune_units(stack((4,), *parts, layers.Dense(2, name="out")), 0.5), again=False)
    assert widths(small) == {"a": 3, "b": 6, "out": 2}


def test_a_nested_model_without_weights_that_is_called_twice():
    inner = keras.Sequential([keras.Input((8,)), layers.ReLU()])
    inputs = keras.Input((4,))
    values = [inner(layers.Dense(8, name=name)(inputs)) for name in "ab"]
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(layers.Concatenate()(values))))
    check(prune_units(model, {"a": 0.5}), again=False)


def test_a_nested_model_with_named_inputs_and_a_number_for_each_example():
    one, two, number = keras.Input((6,)), keras.Input((5,)), keras.Input(())
    values = layers.Concatenate()([layers.Dense(4, name="c")(one), layers.Dense(3, name="d")(two)])
    inner = keras.Model({"one": one, "two": two}, values, name="inner")
    inputs = keras.Input((4,))
    values = {"two": layers.Dense(5, name="b")(inputs), "one": layers.Dense(6, name="a")(inputs)}
    values = inner(values) * layers.Dense(1, name="scale")(ops.expand_dims(number, -1))
    model = shake(keras.Model([inputs, number], layers.Dense(2, name="out")(values)))
    small = check(prune_units(model, 0.5), again=False)
    assert [widths(small)[name] for name in "ab"] == [3, 3]


class WithItsOwnWeight(keras.Model):
    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.own = self.add_weight(shape=(), name="own")


def test_a_functional_model_with_a_weight_of_its_own():
    inputs = keras.Input((4,))
    values = layers.Dense(6, name="a")(inputs)
    model = shake(WithItsOwnWeight(inputs, layers.Dense(2, name="out")(values)))
    pruned = prune_weights(model, 0.5)
    assert array(pruned.own) == array(model.own)
    assert sparsity_report(pruned).set_index("layer").zeros["a"] == 12
    hold_sparsity(pruned)
    assert {v.path for v in pruned.weights if v.constraint is not None} <= {"a/kernel", "a/bias"}
    assert pruned.get_layer("a").kernel.constraint is not None
    assert widths(remove_dead_units(prune_units(model, 0.5))) == {"a": 3, "out": 2}


def test_units_that_nobody_hears_behind_a_gate_of_one_channel_go():
    image = keras.Input((6, 6, 2))
    values = layers.Conv2D(8, 3, name="a")(image)
    values = values * layers.Conv2D(1, 1, activation="sigmoid", name="gate")(values)
    values = layers.Flatten()(layers.Conv2D(3, 1, name="b")(values))
    model = shake(keras.Model(image, layers.Dense(2, name="out")(values)))
    for name in ("gate", "b"):
        kernel = model.get_layer(name).kernel
        kernel.assign(array(kernel) * np.array([0, 1] * 4)[:, None])
    assert widths(check(prune_weights(model, 0), again=False)) == {"a": 4, "gate": 1, "b": 3, "out": 2}


class Once(keras.Operation):
    """An operation that Keras cannot rebuild."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, inputs):
        return self.function(inputs)

    def compute_output_spec(self, inputs):
        return keras.KerasTensor(inputs.shape, inputs.dtype)


def test_a_layer_that_keras_cannot_rebuild_is_shared_in_nested_models_too():
    nested = keras.Sequential([keras.Input((4,)), layers.Dense(6, name="a"), Calls(ops.relu)])
    check(prune_units(stack((4,), nested, layers.Dense(2, name="out")), 0.5), again=False)


def test_an_operation_that_keras_cannot_rebuild_is_shared():
    inputs = keras.Input((4,))
    values = Once(ops.relu)(layers.Dense(6, name="a")(inputs))
    model = shake(keras.Model(inputs, layers.Dense(2, name="out")(values)))
    assert widths(check(prune_units(model, 0.5), again=False)) == {"a": 6, "out": 2}


def test_what_is_not_understood_stays_whole_and_is_never_refused():
    for between in (
        [Doubled(3, name="mine")],
        [layers.GroupNormalization(2)],
        [layers.Reshape((1, 4)), layers.SeparableConv1D(4, 1, depth_multiplier=2), layers.Flatten()],
        [layers.Softmax()],
        [layers.Activation("log_softmax")],
        [layers.UnitNormalization()],
        [layers.Reshape((2, 2)), layers.Flatten(data_format="channels_first")],
        [Calls(lambda x: ops.softmax(x, -1))],
        [Calls(lambda x: x + 1e-3 * ops.mean(x, -1, keepdims=True))],
        [layers.Reshape((4, 1)), layers.BatchNormalization(axis=1), layers.Flatten()],
        [layers.RepeatVector(2), layers.Permute((2, 1)), layers.Flatten()],
    ):
        model = stack((4,), layers.Dense(4, name="a"), *between, layers.Dense(6, name="b"), layers.Dense(2, name="out"))
        small = check(prune_units(model, 0.5), again=False)
        assert (widths(small)["a"], widths(small)["b"]) == (4, 3)
    for only in ([layers.Dense(3)], [layers.Flatten()], [layers.Softmax(), layers.Dense(3)]):
        check(stack((4,), *only))


def test_misuse():
    model, quantized = s.Plain(), mlp(compiled=False)
    predict(model, s.data()[0])
    quantized.layers[1].quantize("int8")
    for wrong, error, message in (
        (model, ValueError, "functional"),
        ("model", TypeError, "keras.Model.*str"),
        (keras.Sequential([layers.Dense(2)]), ValueError, "built"),
        (quantized, ValueError, "d2.*quantized"),
    ):
        with pytest.raises(error, match=message):
            remove_dead_units(wrong)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_constants_are_as_exact_as_their_layers_whatever_the_global_policy(policy):
    model = stack((6,), layers.Dense(8, activation="tanh", dtype="float32"), layers.Dense(3, dtype="float32"))
    pruned = prune_weights(model, 0.9, scores=lambda v: np.arange(48).reshape(8, 6).T)  # the first units lose all
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        small = remove_dead_units(pruned)
    finally:
        keras.config.set_dtype_policy(before)
    assert small.layers[0].units == 1
    s.assert_same_outputs(pruned, small, s.data()[0], 1e-6)


class DividesByWeights(layers.Layer):
    def build(self, shape):
        self.widths = self.add_weight(shape=shape[-1:], initializer="ones", name="widths")

    def call(self, inputs):
        return inputs / self.widths


def test_a_layer_that_divides_by_weights_keeps_them():
    """Its unit would say 0 / 0 if it lost its width."""
    model = stack((6,), layers.Dense(8, name="d"), DividesByWeights(), layers.Dense(3))
    pruned = prune_units(model, 0.5)
    assert np.isfinite(s.predict(pruned, s.data()[0])[0]).all()
    assert widths(check(pruned, s.data()[0]))["d"] == 8
