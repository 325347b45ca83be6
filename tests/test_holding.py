"""hold_sparsity, release_sparsity and GradualPruning: zeros stay zeros."""

import subprocess
import sys
from fractions import Fraction

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, optimizers
from support import EAGER, bits, compile_, data, half_even, kernel, mlp, oracle_units, oracle_weights, shake

import pruning_utils
from pruning_utils import GradualPruning, hold_sparsity, prune_units, prune_weights, release_sparsity

X, Y = data()


def zeros(model):
    return [kernel(layer) == 0 for layer in model.layers if hasattr(layer, "kernel")]


def constraints(model):
    return [variable.constraint for variable in model.variables]


def fit(model, epochs=2, **options):
    model.fit(X, Y, epochs=epochs, batch_size=8, verbose=0, **options)


def same(before, after):
    return all((one == two).all() for one, two in zip(before, after, strict=True))


OPTIMIZERS = {
    "sgd": lambda: optimizers.SGD(0.1),
    "momentum": lambda: optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: optimizers.Adam(0.05),
    "adamw": lambda: optimizers.AdamW(0.05, weight_decay=0.1),
    "decayed sgd": lambda: optimizers.SGD(0.1, momentum=0.9, weight_decay=0.1, clipnorm=1.0),
    "rmsprop": lambda: optimizers.RMSprop(0.05, momentum=0.5),
    "adagrad": lambda: optimizers.Adagrad(0.1),
    "nadam": lambda: optimizers.Nadam(0.05),
    "ftrl": lambda: optimizers.Ftrl(0.1),
    "lion": lambda: optimizers.Lion(0.01),
    "adafactor": lambda: optimizers.Adafactor(0.05),
    "accumulated": lambda: optimizers.Adam(0.05, gradient_accumulation_steps=2),
    "scaled": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(0.05), initial_scale=8.0),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_zeros_stay_exactly_zero_with_every_optimizer(name):
    model = mlp(optimizer=OPTIMIZERS[name](), **{} if name in ("momentum", "adamw") else EAGER)
    pruned = prune_units(model, 0.5)
    for target in (prune_weights(model, 0.5), pruned) if name in ("momentum", "adamw") else (pruned,):
        hold_sparsity(target)
        held, before = zeros(target), [kernel(layer) for layer in target.layers]
        fit(target)
        assert same(held[:2], [now & was for now, was in zip(zeros(target)[:2], held[:2], strict=True)])
        assert not any((kernel(layer) == old)[old != 0].all() for layer, old in zip(target.layers, before, strict=True))
    for layer, was in zip(pruned.layers[:-1], held, strict=False):
        dead = was.all(0)
        assert dead.any()
        assert not np.asarray(keras.ops.convert_to_numpy(layer.bias))[dead].any()
        assert name == "ftrl" or np.asarray(keras.ops.convert_to_numpy(layer.bias))[~dead].any()


def prune_in_place(model, prune, sparsity=0.5):
    model.set_weights(prune(model, sparsity).get_weights())


@pytest.mark.parametrize(
    ("options", "fitted"),
    [
        ({"jit_compile": True}, False),
        ({"jit_compile": False, "steps_per_execution": 2}, False),
        ({"jit_compile": False, "steps_per_execution": 2}, True),
        ({"run_eagerly": True}, False),
    ],
)
def test_held_in_every_way_of_execution_and_after_a_fit(options, fitted):
    if keras.backend.backend() == "torch":
        options = {"jit_compile": False}
    model = mlp(optimizer=optimizers.SGD(0.1, momentum=0.9), **options)
    if fitted:
        fit(model)
    prune_in_place(model, prune_weights)
    if fitted:
        fit(model, 1)
        assert zeros(model)[0].sum() < 24  # the momentum revives what is not held
        prune_in_place(model, prune_weights)
    hold_sparsity(model)
    held = zeros(model)
    for _ in range(3):
        fit(model, 1)
        assert same(held[:2], [one & two for one, two in zip(held[:2], zeros(model)[:2], strict=True)])
    assert not same([kernel(model.layers[0])], [kernel(model.layers[0]) * 0])
    prune_in_place(model, prune_weights, 0.8)  # prune further, hold again: the mask follows
    hold_sparsity(model)
    more = zeros(model)
    assert more[0].sum() > held[0].sum()
    fit(model, 1)
    assert zeros(model)[0].sum() == more[0].sum() == half_even(0.8, 48)
    release_sparsity(model)
    fit(model, 1)
    assert zeros(model)[0].sum() < more[0].sum()


def test_train_on_batch_and_custom_loops_hold_too():
    model = prune_weights(mlp(optimizer=optimizers.AdamW(0.1)), 0.5)
    hold_sparsity(model)
    held = zeros(model)
    for _ in range(3):
        model.train_on_batch(X, Y)
    assert (zeros(model)[0] == held[0]).all()


@keras.saving.register_keras_serializable("tests")
class Small(keras.constraints.Constraint):
    def __call__(self, value):
        return keras.ops.clip(value, -0.01, 0.01)


def test_existing_constraints_are_composed_and_given_back():
    model = keras.Sequential(
        [keras.Input((6,)), layers.Dense(8, kernel_constraint=Small(), bias_constraint="non_neg"), layers.Dense(3)]
    )
    compile_(shake(model), optimizers.SGD(0.5))
    before = constraints(model)
    prune_in_place(model, prune_units)
    hold_sparsity(model)
    hold_sparsity(model)
    held = zeros(model)
    fit(model)
    assert (zeros(model)[0] & held[0]).sum() == held[0].sum() == 24
    assert 0 < abs(kernel(model.layers[0])).max() <= np.float32(0.01)
    assert constraints(model) != before
    release_sparsity(model)
    release_sparsity(model)
    assert constraints(model) == before
    fit(model)
    assert abs(kernel(model.layers[0])).max() <= np.float32(0.01)


def test_layers_without_bias_and_layers_that_know_their_owner():
    class Owner(layers.Layer):
        def __init__(self):
            super().__init__(name="owner")
            self.inner = layers.Dense(4, use_bias=False, name="inner")
            vars(self.inner)["owner"] = self  # past Keras' tracking, which would follow the circle

        def build(self, shape):
            self.inner.build(shape)

        def call(self, inputs):
            return self.inner(inputs)

    model = compile_(
        keras.Sequential([keras.Input((6,)), Owner(), layers.Dense(3, use_bias=False)]), optimizers.AdamW(0.1)
    )
    inner = model.layers[0].inner
    inner.kernel.assign(kernel(inner) * (np.arange(24).reshape(6, 4) % 2))
    hold_sparsity(model)
    fit(model)
    assert (kernel(inner) == 0).sum() == 12
    assert model.layers[1].kernel.constraint is None


class OnlyAKernel(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5), initializer="glorot_uniform")

    def call(self, inputs):
        return inputs @ self.kernel


def test_filters_are_held_with_their_biases_and_so_are_layers_without_any():
    stack = [layers.Conv2D(4, 3), layers.Flatten(), OnlyAKernel(), layers.Dense(3)]
    model = compile_(shake(keras.Sequential([keras.Input((6, 6, 1)), *stack])), optimizers.AdamW(0.1), **EAGER)
    prune_in_place(model, prune_units)
    held, bias = zeros(model), np.asarray(keras.ops.convert_to_numpy(model.layers[0].bias))
    assert (bias == 0).sum() == 2
    hold_sparsity(model)
    model.fit(np.ones((8, 6, 6, 1)), np.arange(8) % 3, epochs=2, verbose=0)
    assert same(held[:2], zeros(model)[:2])
    assert ((np.asarray(keras.ops.convert_to_numpy(model.layers[0].bias)) == 0) == (bias == 0)).all()


def test_to_hold_again_needs_no_new_constraints_where_a_compiled_step_can_see_the_new_zeros():
    model = prune_weights(mlp(), 0.5)
    hold_sparsity(model)
    first = constraints(model)
    assert [c.mask.dtype for c in first if c] == ["bool"] * 4  # a byte for each weight, not four
    prune_in_place(model, prune_weights)
    hold_sparsity(model)
    assert all(one is two for one, two in zip(first, constraints(model), strict=True)) == (
        keras.backend.backend() != "jax"
    )


def test_ignored_layers_and_the_output_are_free():
    model = prune_weights(mlp(), 0.5)
    hold_sparsity(model, ignored_layers=["d1"])
    assert [layer.kernel.constraint is None for layer in model.layers] == [True, False, True]
    hold_sparsity(model, ignored_layers="d2")
    assert [layer.kernel.constraint is None for layer in model.layers] == [False, True, True]


def test_a_bias_that_is_not_zero_and_one_of_a_living_unit_stay_free():
    model = mlp(units=(4,), optimizer=optimizers.SGD(0.5), **EAGER)
    weights = model.get_weights()
    weights[0][:, :2] = 0
    weights[1][:] = [0, 1, 0, 1]
    model.set_weights(weights)
    hold_sparsity(model)
    fit(model)
    bias = np.asarray(keras.ops.convert_to_numpy(model.layers[0].bias))
    assert (bias == 0).tolist() == [True, False, False, False]
    assert bias[1] != 1


def test_a_nested_and_an_uncompiled_model_are_held():
    inner = keras.Sequential([keras.Input((6,)), layers.Dense(5, name="in1")], name="inner")
    model = shake(keras.Sequential([keras.Input((6,)), inner, layers.Dense(3)]))
    pruned = prune_weights(model, 0.5)
    hold_sparsity(pruned)
    held = zeros(pruned.get_layer("inner"))
    compile_(pruned, optimizers.AdamW(0.1), **EAGER)
    fit(pruned)
    assert same(held, zeros(pruned.get_layer("inner")))


def test_a_hold_is_a_constraint_in_the_eyes_of_keras():
    """Keras 3.13 takes no other."""
    model = prune_weights(compile_(mlp()), 0.5)
    hold_sparsity(model)
    held = [constraint for constraint in constraints(model) if constraint is not None]
    assert held
    assert all(isinstance(constraint, keras.constraints.Constraint) for constraint in held)


def test_a_frozen_layer_can_be_held_and_released():
    model = prune_weights(mlp(), 0.5)
    model.layers[0].trainable = False
    hold_sparsity(model)
    model.layers[0].trainable = True
    release_sparsity(model)
    assert not any(constraints(model))


def test_a_saved_model_needs_none_of_our_code(tmp_path):
    model = prune_weights(mlp(optimizer=optimizers.AdamW(0.01), **EAGER), 0.5)
    hold_sparsity(model)
    fit(model)
    model.save(tmp_path / "held.keras")
    np.savez(tmp_path / "io.npz", x=X, y=model.predict(X, verbose=0))
    code = f"""
import sys
sys.modules["pruning_utils"] = None  # importing it raises ImportError
import keras, numpy as np
model = keras.models.load_model({str(tmp_path / "held.keras")!r})
io = np.load({str(tmp_path / "io.npz")!r})
np.testing.assert_allclose(model.predict(io["x"], verbose=0), io["y"], atol=1e-6)
assert all(variable.constraint is None for variable in model.variables)
print([float((w == 0).mean()) for w in model.get_weights()[:4:2]])
model.fit(io["x"], np.zeros(len(io["x"]), int), verbose=0)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[0.5, 0.5]"


def averaged():
    return mlp(optimizer=optimizers.Adam(use_ema=True))


def averaged_inside():
    return mlp(optimizer=optimizers.LossScaleOptimizer(optimizers.Adam(use_ema=True)))


@pytest.mark.parametrize(
    ("make", "options", "error", "message"),
    [
        (lambda: "model", {}, TypeError, "keras.Model, not str"),
        (lambda: keras.Sequential([layers.Dense(2)]), {}, ValueError, "not built"),
        (lambda: keras.Sequential([keras.Input((2,)), layers.Dense(2)]), {}, ValueError, "nothing to prune"),
        (mlp, {"ignored_layers": ["d7"]}, ValueError, "d7"),
        (
            averaged,
            {},
            ValueError,
            "^the optimizer has use_ema=True: its average of the weights would not",
        ),
        (averaged_inside, {}, ValueError, "use_ema"),
    ],
)
def test_hold_misuse(make, options, error, message):
    model = make()
    with pytest.raises(error, match=message):
        hold_sparsity(model, **options)
    if isinstance(model, keras.Model):
        assert not any(constraints(model))
    if error is TypeError:
        with pytest.raises(error, match=message):
            release_sparsity(model)


def formula(step, initial, final, begin, end, frequency):
    """Zhu and Gupta's s_t in exact fractions, at the last pruning up to `step`."""
    if step < begin:
        return 0
    at = begin
    while at + frequency <= min(step, end):
        at += frequency
    at = end if step >= end else at
    initial, final = Fraction(initial), Fraction(final)
    return final + (initial - final) * (1 - Fraction(at - begin, end - begin)) ** 3


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50), st.integers(1, 100), st.integers(1, 60))
def test_the_schedule_is_the_published_formula(one, two, begin, length, frequency):
    low, high = sorted([one, two])
    callback = GradualPruning(low, high, begin, begin + length, frequency)
    steps = range(begin + length + 10)
    values = [callback.sparsity_at(step) for step in steps]
    wanted = [float(formula(step, low, high, begin, begin + length, frequency)) for step in steps]
    np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12)
    assert values[-1] == high
    assert all(0 <= a <= 1 for a in values)


class Watch(keras.callbacks.Callback):
    """The zeros of the first two kernels after every step."""

    def __init__(self, sync=None):
        super().__init__()
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        self.seen.append(zeros(self.model)[:2])


@pytest.mark.parametrize(("method", "begin"), [("weight", 0), ("unit", 3)])
def test_gradual_pruning_follows_the_schedule_and_holds_between(method, begin):
    model = mlp(units=(20, 10), optimizer=optimizers.AdamW(0.05, weight_decay=0.1), run_eagerly=begin > 0)
    fit(model, 1)
    gradual, watch = GradualPruning(0.2, 0.8, begin, begin + 10, 4, method=method), Watch()
    fit(model, 2, callbacks=[gradual, watch])
    fit(model, 4, callbacks=[gradual, watch])  # the schedule goes on where it was
    before = None
    for step, now in enumerate(watch.seen, 1):
        wanted = float(formula(step, 0.2, 0.8, begin, begin + 10, 4))
        for mask in now:
            count = mask.all(0).sum() if method == "unit" else mask.sum()
            assert count == half_even(wanted, mask.shape[-1] if method == "unit" else mask.size), step
        assert before is None or same(before, [one & two for one, two in zip(before, now, strict=True)])
        before = now
    assert len(watch.seen) == 18
    assert half_even(0.8, 120) == 96
    fit(model, 1)  # held without the callback too
    assert same(before, zeros(model)[:2])


def test_gradual_pruning_prunes_when_it_is_due_and_not_again(monkeypatch):
    model, pruned_at = mlp(units=(20,), optimizer="sgd"), []
    gradual, apply = GradualPruning(0.2, 0.8, 2, 9, 3), pruning_utils._apply_mask
    monkeypatch.setattr(pruning_utils, "_apply_mask", lambda *args: (pruned_at.append(gradual._step), apply(*args)))
    for _ in range(4):  # of three steps each: the schedule goes on, and ends
        fit(model, 1, callbacks=[gradual])
    assert pruned_at == [2, 5, 8, 9]


def test_gradual_pruning_prunes_at_once_if_it_begins_at_once():
    model = mlp(units=(20,), optimizer=optimizers.SGD(0.0))
    model.fit(X[:8], Y[:8], verbose=0, callbacks=[GradualPruning(0.5, 0.8, 0, 100)])
    assert zeros(model)[0].sum() == 60


def test_gradual_pruning_prunes_the_smallest_at_that_moment():
    model = mlp(units=(20,), optimizer=optimizers.SGD(0.0))
    for method, oracle in (("weight", oracle_weights), ("unit", oracle_units)):
        dense = kernel(model.layers[0])
        fit(model, 1, callbacks=[GradualPruning(0, 0.5, 0, 2, 1, method=method)])
        np.testing.assert_array_equal(kernel(model.layers[0]) != 0, oracle(dense, 0.5))
        assert kernel(model.layers[0])[kernel(model.layers[0]) != 0].tobytes() == dense[oracle(dense, 0.5)].tobytes()
        release_sparsity(model)
        shake(model)


def test_gradual_pruning_goes_on_after_compile_and_starts_anew_for_another_model():
    gradual = GradualPruning(0.0, 0.9, 0, 6, 3)
    model = mlp(units=(20,), **EAGER)
    fit(model, 1, callbacks=[gradual])
    middle = zeros(model)[0].sum()
    assert middle == half_even(float(formula(3, 0, 0.9, 0, 6, 3)), 120)
    compile_(model, **EAGER)
    fit(model, 1, callbacks=[gradual])
    assert zeros(model)[0].sum() == 108
    other = mlp(units=(20,), **EAGER)
    fit(other, 1, callbacks=[gradual])
    assert zeros(other)[0].sum() == middle


def test_gradual_pruning_with_several_steps_per_execution_and_ignored_layers():
    if keras.backend.backend() == "torch":
        pytest.skip("torch runs one step per execution")
    model = mlp(units=(20, 10), steps_per_execution=3)
    fit(model, 4, callbacks=[GradualPruning(0, 0.5, 1, 8, 2, ignored_layers=["d2"])])
    assert [mask.sum() for mask in zeros(model)] == [60, 0, 0]


@pytest.mark.parametrize("method", ["weight", "unit"])
def test_gradual_pruning_leaves_ignored_layers_free_and_takes_the_biases_of_units(method):
    model = mlp(units=(20, 10), **EAGER)
    values = model.layers[1].get_weights()
    values[0][:5] = 0
    model.layers[1].set_weights(values)
    fit(model, 4, callbacks=[GradualPruning(0, 0.5, 0, 3, 1, method=method, ignored_layers=["d2"])])
    pruned, ignored, output = (mask.sum() for mask in zeros(model))
    assert pruned == 60
    assert ignored < 50  # its own zeros are not held
    assert output == 0
    assert (np.asarray(keras.ops.convert_to_numpy(model.layers[0].bias)) == 0).sum() == (10 if method == "unit" else 0)


def test_gradual_pruning_leaves_ignored_layers_free_before_it_prunes():
    model = mlp(units=(20, 10), **EAGER)
    values = model.layers[1].get_weights()
    values[0][:10] = 0
    model.layers[1].set_weights(values)
    fit(model, 4, callbacks=[GradualPruning(0, 0.5, 1_000, 2_000, ignored_layers=["d2"])])
    assert zeros(model)[1].sum() < 100
    assert GradualPruning(0, 0.5, 1_000, 2_000).frequency == 100


def test_gradual_pruning_asks_jax_for_its_state():
    model, calls = mlp(**EAGER), []
    sync = getattr(model, "jax_state_sync", lambda: None)
    model.jax_state_sync = lambda: (calls.append(1), sync())
    fit(model, 1, callbacks=[GradualPruning(0, 0.5, 0, 2, 2)])
    assert len(calls) >= 4
    assert zeros(model)[0].sum() == 24


def test_gradual_pruning_under_a_scaled_loss():
    model = mlp(units=(20,), optimizer=optimizers.LossScaleOptimizer(optimizers.Adam(), initial_scale=4.0), **EAGER)
    fit(model, 3, callbacks=[GradualPruning(0, 0.5, 0, 4, 2)])
    assert zeros(model)[0].sum() == 60


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"initial_sparsity": -0.1}, ValueError, "-0.1"),
        ({"final_sparsity": 90}, ValueError, "fraction"),
        ({"final_sparsity": None}, TypeError, "None"),
        ({"initial_sparsity": 0.9}, ValueError, "initial_sparsity 0.9 is above final_sparsity 0.5"),
        ({"begin_step": -1}, ValueError, "begin_step must be a whole number of at least 0, not -1"),
        ({"begin_step": 1.5}, ValueError, "begin_step .* 1.5"),
        ({"begin_step": True}, ValueError, "begin_step .* True"),
        ({"end_step": 2}, ValueError, "end_step must be a whole number of at least 3, not 2"),
        ({"end_step": "9"}, ValueError, "end_step .* '9'"),
        ({"frequency": 0}, ValueError, "frequency must be a whole number of at least 1, not 0"),
        ({"frequency": None}, ValueError, "frequency .* None"),
        ({"method": "units"}, ValueError, "method must be 'weight' or 'unit', not 'units'"),
    ],
)
def test_gradual_misuse(change, error, message):
    good = {"initial_sparsity": 0.1, "final_sparsity": 0.5, "begin_step": 2, "end_step": 9, "frequency": 2}
    GradualPruning(**good)
    with pytest.raises(error, match=message):
        GradualPruning(**good | change)


def with_nan():
    model = mlp()
    weights = model.get_weights()
    weights[0][0, 0] = np.nan
    model.set_weights(weights)
    return model


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (mlp, {"ignored_layers": ["d9"]}, "d9"),
        (averaged, {}, "use_ema"),
        (lambda: compile_(keras.Sequential([keras.Input((6,)), layers.Dense(3)])), {}, "nothing to prune"),
        (with_nan, {}, "'d1' holds NaN"),
        (
            lambda: compile_(keras.Sequential([keras.Input((6, 1)), layers.SimpleRNN(3), layers.Dense(3)])),
            {"method": "unit"},
            "last axis",
        ),
    ],
)
def test_gradual_pruning_refuses_when_training_begins(make, options, message):
    model = make()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        fit(model, callbacks=[GradualPruning(0, 0.5, 0, 9, **options)])
    assert bits(model) == before
    assert not any(constraints(model))
