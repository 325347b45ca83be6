"""Small models, and plain-Python oracles that share no code with the module."""

import math
from fractions import Fraction

import keras
import numpy as np
from keras import layers, ops

BACKEND = keras.backend.backend()
# Where how a small model runs does not matter: to trace it takes longer than all its steps.
EAGER = {"run_eagerly": True} if BACKEND == "tensorflow" else {}


def stack(shape, *stacked):
    """A Sequential of these layers with random weights."""
    return shake(keras.Sequential([keras.Input(shape), *stacked]))


def mlp(inputs=6, units=(8, 5), outputs=3, *, bias=True, compiled=True, **options):
    """A Sequential of Dense layers d1, d2, …, out with random biases too."""
    hidden = [layers.Dense(n, activation="relu", use_bias=bias, name=f"d{i}") for i, n in enumerate(units, 1)]
    model = stack((inputs,), *hidden, layers.Dense(outputs, use_bias=bias, name="out"))
    return compile_(model, **options) if compiled else model


def compile_(model, optimizer="adam", **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    defaults = {"loss": loss, "metrics": ["accuracy"]} | EAGER
    if BACKEND == "tensorflow":
        defaults["jit_compile"] = False  # to compile with XLA takes longer than all the rest of most tests
    model.compile(optimizer=optimizer, **defaults | options)
    return model


def shake(model, seed=0, whole=False, tame=False):
    """Random values for every weight, of a size that keeps activations so; or whole numbers, whose norms are exact.

    `tame` lets normalization and biases do little, as a deep network needs.
    """
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        shape, name = tuple(variable.shape), variable.path.split("/")[-1]
        if name in ("mean", "variance", "seed_generator_state") or "int" in str(variable.dtype):
            continue
        inputs = math.prod(shape[: -2 if len(shape) > 2 and shape[-1] < 3 else -1])  # of a depthwise kernel: its places
        value = rng.normal(size=shape) * math.sqrt(2 / max(2, inputs))
        value = rng.integers(-9, 10, shape) if whole else value
        value = 0.1 * value + (name in ("gamma", "moving_variance")) if tame and len(shape) == 1 else value
        variable.assign((abs(value) + 0.5 * (not tame) if "variance" in name else value).astype("float32"))
    return model


def settle(model, x):
    """Give normalization the statistics of these inputs, so that deep down activations neither vanish nor explode."""
    norms = [layer for layer in walk(model) if isinstance(layer, layers.BatchNormalization)]
    for momentum in (0.0, 0.99):
        for layer in norms:
            layer.momentum = momentum
        model(ops.convert_to_tensor(x), training=not momentum)
    return model


def data(n=24, inputs=6, classes=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(n, inputs)).astype("float32"), rng.integers(0, classes, n)


def array(tensor):
    return np.asarray(ops.convert_to_numpy(tensor))


def kernel(layer):
    return array(layer.kernel)


def bits(model):
    """Every bit of the model's weights, and of what else its layers remember."""
    variables = [*model.weights, *(variable for layer in model.layers for variable in layer.variables)]
    return [(tuple(v.shape), str(v.dtype), array(v).tobytes()) for v in variables]


def zeros(model):
    """{path of a matrix: where it is zero}"""
    return {v.path: array(v) == 0 for v in model.weights if len(v.shape) > 1}


def walk(model):
    """Every layer, those of nested models in the place of these."""
    for layer in model.layers:
        yield from walk(layer) if isinstance(layer, keras.Model) else [layer]


def columns(model):
    """{layer: its matrix as (…, units)}: of transposed convolutions the last axis but one comes last."""
    found = {}
    for layer in walk(model):
        kernel_of = getattr(layer, "pointwise_kernel", getattr(layer, "kernel", None))
        if kernel_of is not None and "Depthwise" not in type(layer).__name__:
            axis = -2 if "Transpose" in type(layer).__name__ else -1
            found[layer.name] = np.moveaxis(array(kernel_of), axis, -1)
    return found


def widths(model):
    """{layer: how many units it has}"""
    return {name: matrix.shape[-1] for name, matrix in columns(model).items()}


def alive(model):
    """{layer: for each of its units whether it has an incoming weight}"""
    return {name: matrix.reshape(-1, matrix.shape[-1]).any(0) for name, matrix in columns(model).items()}


def living(model):
    return {name: int(units.sum()) for name, units in alive(model).items()}


def inputs_for(model, n=4):
    """Random inputs for a model of any number of them."""
    rng, made = np.random.default_rng(3), []
    for tensor in model.inputs:
        shape = [size or length for size, length in zip(tensor.shape, (n, *[7] * 9), strict=False)]
        whole = "int" in str(tensor.dtype)
        made.append(rng.integers(0, 5, shape) if whole else rng.normal(size=shape).astype("float32"))
    return made if len(made) > 1 else made[0]


def predict(model, x):
    """The outputs as a list of arrays."""
    outputs = model(keras.tree.map_structure(ops.convert_to_tensor, x), training=False)
    return [array(part) for part in keras.tree.flatten(outputs)]


def assert_same_outputs(one, two, x, tolerance=1e-4):
    """Equal up to `tolerance` of the largest output, and of the same type."""
    for a, b in zip(predict(one, x), predict(two, x), strict=True):
        assert a.dtype == b.dtype
        assert np.isfinite(a.astype("float64")).all()
        a, b = a.astype("float64"), b.astype("float64")
        np.testing.assert_allclose(b, a, rtol=0, atol=tolerance * max(float(abs(a).max()), 1e-6))


def half_even(sparsity, n):
    """round(sparsity * n) as float product and half to even, without round()."""
    whole, rest = divmod(Fraction(float(sparsity) * n), 1)
    return int(whole) + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


def oracle_weights(kernel, sparsity, importance=lambda value: abs(float(value))):
    """What stays, by sorting all (importance, place)."""
    values = [importance(kernel[index]) for index in np.ndindex(*kernel.shape)]
    ranked = sorted(range(len(values)), key=lambda i: (values[i], i))
    pruned = set(ranked[: half_even(sparsity, len(values))])
    return np.array([i not in pruned for i in range(len(values))], bool).reshape(kernel.shape)


def kept_units(worth, sparsity):
    """Which units stay, given what each is worth: one at least, unless all shall go."""
    n = len(worth)
    count = n if sparsity == 1 else max(min(half_even(sparsity, n), n - 1), 0)
    pruned = set(sorted(range(n), key=lambda unit: (worth[unit], unit))[:count])
    return np.array([unit not in pruned for unit in range(n)], bool)


def oracle_units(kernel, sparsity):
    """What stays, by the squared norms, which order as the norms do and are exact for whole numbers."""
    worth = [0.0] * kernel.shape[-1]
    for index in np.ndindex(*kernel.shape):
        worth[index[-1]] += float(kernel[index]) ** 2
    return np.broadcast_to(kept_units(worth, sparsity), kernel.shape)


@keras.saving.register_keras_serializable("tests")
def bent(x):
    return ops.relu(x) - 0.1 * x


@keras.saving.register_keras_serializable("tests")
class Mixing(layers.Layer):
    """A custom layer with a matrix of its own name, a scale, and a state that is no weight."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.units = units

    def build(self, shape):
        self.mixing = self.add_weight(shape=(shape[-1], self.units), name="mixing")
        self.scale = self.add_weight(shape=(self.units,), name="scale")
        self.seen = self.add_weight(shape=(2, 2), name="seen", trainable=False)

    def call(self, inputs):
        return ops.matmul(inputs, self.mixing) * self.scale

    def get_config(self):
        return super().get_config() | {"units": self.units}


class Plain(keras.Model):
    """A subclassed model as most people write it: Keras cannot rebuild it."""

    def __init__(self, units=8):
        super().__init__()
        self.units, self.first = units, layers.Dense(units, name="first")
        self.norm = self.between()
        self.second, self.last = layers.Dense(5, name="second"), layers.Dense(3, name="last")

    def between(self):
        return layers.BatchNormalization()

    def call(self, inputs, training=False):
        return self.last(self.second(self.norm(self.first(inputs), training=training)))


class Subclassed(Plain):
    """One that tells its configuration."""

    def get_config(self):
        return {"units": self.units}


def zoo():
    """A network on five words: a layer of every kind that has a matrix, and states and biases of two axes."""
    normalization = layers.Normalization(axis=(1, 2))
    normalization.adapt(np.random.default_rng(0).normal(size=(9, 4, 4)).astype("float32"))
    values = inputs = keras.Input((5,), dtype="int32")
    values = layers.Embedding(7, 4, name="words")(values)
    values = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(values)
    values = layers.GRU(4, return_sequences=True, name="gated")(values)
    values = layers.MultiHeadAttention(2, 3, name="attend")(values, values)
    values = layers.PReLU(name="slopes")(layers.LayerNormalization(axis=(1, 2), name="norm")(values))
    values = layers.Conv1D(4, 2, padding="causal", groups=2, name="split")(values)
    values = layers.DepthwiseConv1D(2, padding="same", name="depth")(values)
    values = layers.SeparableConv1D(6, 2, name="apart")(values)
    values = layers.EinsumDense("abc,cd->abd", (4, 5), bias_axes="bd", name="sum")(values)
    values = layers.TimeDistributed(layers.Dense(5), name="each")(Mixing(6, name="mix")(values))
    values = layers.SpectralNormalization(layers.Dense(4, name="hidden"), name="spectral")(values)
    values = layers.Reshape((4, 4, 1))(normalization(values))
    values = layers.ConvLSTM1D(2, 2, name="film")(values)
    return shake(keras.Model(inputs, layers.Dense(3, name="out")(layers.Flatten()(values))))
