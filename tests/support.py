"""Small models, and plain-Python oracles that share no code with the module."""

from decimal import Context, Decimal
from fractions import Fraction

import keras
import numpy as np
from keras import layers

# Where how a small model runs does not matter: to trace it takes longer than all its steps.
EAGER = {"run_eagerly": True} if keras.backend.backend() == "tensorflow" else {}
STEPS = 1 if keras.backend.backend() == "torch" else 2  # torch allows one step per execution


def mlp(inputs=6, units=(8, 5), outputs=3, *, bias=True, compiled=True, name=None, **options):
    """A Sequential of Dense layers d1, d2, …, out with random biases too."""
    hidden = [layers.Dense(n, activation="relu", use_bias=bias, name=f"d{i}") for i, n in enumerate(units, 1)]
    output = layers.Dense(outputs, use_bias=bias, name="out")
    model = shake(keras.Sequential([keras.Input((inputs,)), *hidden, output], name=name))
    if compiled:
        compile_(model, **options)
    return model


def compile_(model, optimizer="adam", **options):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    defaults = {"loss": loss, "metrics": ["accuracy"]}
    if keras.backend.backend() == "tensorflow":
        defaults["jit_compile"] = False  # to compile with XLA takes longer than all the rest of most tests
    model.compile(optimizer=optimizer, **defaults | options)
    return model


def shake(model, seed=0, scale=0.5):
    """Random values for every weight, positive where a variance is wanted."""
    rng = np.random.default_rng(seed)
    weights = [rng.normal(size=w.shape).astype(w.dtype) * np.asarray(scale, w.dtype) for w in model.get_weights()]
    names = [variable.path for variable in model.weights]
    model.set_weights([abs(w) + 0.5 if "variance" in n else w for n, w in zip(names, weights, strict=True)])
    return model


def data(n=24, inputs=6, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, inputs)).astype("float32"), rng.integers(0, classes, n)


def bits(model):
    """Every bit of the model's weights."""
    return [(w.shape, str(w.dtype), w.tobytes()) for w in model.get_weights()]


def kernel(layer):
    return np.asarray(keras.ops.convert_to_numpy(layer.kernel))


def predict(model, x):
    return np.asarray(keras.ops.convert_to_numpy(model(keras.ops.convert_to_tensor(x), training=False)))


def half_even(sparsity, n):
    """round(sparsity * n) as float product and half to even, without round()."""
    product = Fraction(sparsity * n)
    whole, rest = divmod(product, 1)
    return int(whole) + (rest > Fraction(1, 2) or (rest == Fraction(1, 2) and whole % 2 == 1))


def oracle_weights(array, sparsity):
    """The mask by sorting all (|w|, position) in plain Python."""
    values = [abs(exact(v)) for v in flat(array)]
    pruned = sorted(range(len(values)), key=lambda i: (values[i], i))[: half_even(sparsity, len(values))]
    return shaped([i not in set(pruned) for i in range(len(values))], array.shape)


def oracle_units(array, sparsity):
    """The mask by sorting the exactly rounded norms of the units."""
    units = array.shape[-1]
    values = flat(array)
    norms = [norm(values[unit::units]) for unit in range(units)]
    pruned = set(sorted(range(units), key=lambda u: (norms[u], u))[: half_even(sparsity, units)])
    return shaped([i % units not in pruned for i in range(len(values))] if units else [], array.shape)


def exact(value):
    value = float(value)
    return value if value in (float("inf"), float("-inf")) else Fraction(value)


def norm(values):
    """The L2 norm, exact and then rounded once to a double."""
    values = [exact(v) for v in values]
    if any(isinstance(v, float) for v in values):
        return float("inf")
    total = sum((v * v for v in values), Fraction(0))
    context = Context(prec=800, Emax=999999, Emin=-999999)
    root = context.sqrt(context.divide(Decimal(total.numerator), Decimal(total.denominator)))
    return float(root)


def flat(array):
    """The entries in row-major order, walked index by index."""
    return [array[index] for index in np.ndindex(*array.shape)]


def shaped(values, shape):
    mask = np.empty(shape, bool)
    for index, value in zip(np.ndindex(*shape), values, strict=True):
        mask[index] = value
    return mask
