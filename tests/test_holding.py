"""hold_sparsity, release_sparsity and GradualPruning: zeros stay zeros."""

import inspect
import re
import warnings
import zipfile
from fractions import Fraction

import keras
import numpy as np
import pytest
import support as s
from hypothesis import given
from hypothesis import strategies as st
from keras import layers, ops, optimizers
from support import array, kernel, mlp, oracle_units, oracle_weights, stack

import pruning_utils as pu

X, Y = s.data()
IMAGES = np.random.default_rng(0).normal(size=(24, 6, 6, 1)).astype("float32")
SILENT = ("bias", "gamma", "beta", "moving_mean")


def fit(model, epochs=2, x=X, **options):
    """Three steps an epoch."""
    model.fit(x, Y, epochs=epochs, batch_size=8, verbose=0, **options)
    return model


def zero(model):
    """{path: where it is zero} of all weights, those of the output layer only if they are a matrix."""
    return {v.path: array(v) == 0 for v in model.weights}


def still(before, model):
    """Whether all that was zero is zero."""
    return all((zero(model)[path] | ~mask).all() for path, mask in before.items())


def count(model, number=0):
    return int((kernel(model.layers[number]) == 0).sum())


def constraints(model):
    return [variable.constraint for variable in model.variables]


# ------------------------------------------------------------------------------------------------ hold

OPTIONS = {
    "SGD": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.1, "clipnorm": 1.0},
    "AdamW": {"learning_rate": 0.05, "weight_decay": 0.1},
    "Adam": {"learning_rate": 0.05, "gradient_accumulation_steps": 2},
    "RMSprop": {"learning_rate": 0.05, "momentum": 0.5},
    "Adadelta": {"learning_rate": 5.0},
    "Adafactor": {"learning_rate": 1e-3, "epsilon_1": 1e-8},  # by default NaN where a gradient is zero
    "Ftrl": {"learning_rate": 0.01},
}
NAMES = [
    name for name, kind in vars(optimizers).items() if inspect.isclass(kind) and issubclass(kind, optimizers.Optimizer)
]


def optimizer(name):
    if name == "LossScaleOptimizer":
        return optimizers.LossScaleOptimizer(optimizers.Adam(0.05), initial_scale=8.0)
    return getattr(optimizers, name)(**OPTIONS.get(name, {"learning_rate": 0.05}))


def convolutional():
    """Units with biases and normalization, before and behind it, and a head."""
    return stack(
        (6, 6, 1),
        *(layers.Conv2D(8, 3, name="c"), layers.BatchNormalization(), layers.ReLU(), layers.DepthwiseConv2D(2)),
        *(layers.Conv2D(6, 2, padding="same", activation="relu", name="e"), layers.Flatten()),
        *(layers.Dense(10, activation="relu", name="d"), layers.BatchNormalization(), layers.Dense(3, name="out")),
    )


@pytest.fixture(scope="module")
def sparse():
    """A network without half of its units and some more weights, and its weights, for each test to put back."""
    model = pu.prune_weights(pu.prune_units(convolutional(), 0.5), 0.7)
    return model, model.get_weights()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("Optimizer", "MultiOptimizer")])
def test_zeros_stay_zero_and_dead_units_silent_with_every_optimizer(name, sparse):
    model, weights = sparse
    model.set_weights(weights)
    pu.release_sparsity(model)
    s.compile_(model, optimizer(name))
    before = {path: mask for path, mask in zero(model).items() if "out/" not in path}
    assert sum(mask.sum() for path, mask in before.items() if path.endswith(SILENT)) == 4 * 5 + 3 + 5 * 4
    pu.hold_sparsity(model)
    fit(model, 1, x=IMAGES)
    assert still(before, model)
    for old, new in zip(weights, model.get_weights(), strict=True):
        assert old.ndim == 1 or (old != new)[old != 0].any()


@pytest.mark.parametrize(
    "options",
    [{"jit_compile": True}, {"steps_per_execution": 2}, {"run_eagerly": True}],
    ids=str,
)
def test_held_in_every_way_of_execution_after_a_fit_again_and_released(options):
    options = {} if s.BACKEND == "torch" else {"run_eagerly": False} | options
    model = fit(mlp(optimizer=optimizers.SGD(0.1, momentum=0.9), **options), 1)
    model.set_weights(pu.prune_weights(model, 0.5).get_weights())
    assert not still(s.zeros(model), fit(model, 1))  # the momentum revives what is not held
    for sparsity in (0.5, 0.8):  # prune further, hold again: the mask follows
        model.set_weights(pu.prune_weights(model, sparsity).get_weights())
        pu.hold_sparsity(model)
        held = s.zeros(model)
        assert still(held, fit(model, 2))
        model.train_on_batch(X, Y)
        assert count(model) == s.half_even(sparsity, 48)
    pu.release_sparsity(model)
    assert not any(constraints(model))
    assert not still(held, fit(model, 1))


@keras.saving.register_keras_serializable("tests")
class Small(keras.constraints.Constraint):
    def __call__(self, value):
        return ops.clip(value, -0.01, 0.01)


@pytest.mark.parametrize("callbacks", [[], [pu.GradualPruning(0.5, 0.5, 0, 2)]], ids=["hold", "gradual"])
def test_constraints_of_the_users_own_go_on_and_come_back(callbacks):
    first = layers.Dense(8, kernel_constraint=Small(), bias_constraint="non_neg", name="d1")
    model = s.compile_(stack((6,), first, layers.Dense(3)), optimizers.SGD(0.5))
    before = constraints(model)
    if not callbacks:
        model.set_weights(pu.prune_weights(model, 0.5).get_weights())
        pu.hold_sparsity(model)
        pu.hold_sparsity(model)
        assert all(c is None or isinstance(c, keras.constraints.Constraint) for c in constraints(model))
    fit(model, callbacks=callbacks)
    assert count(model) == 24
    assert abs(kernel(model.layers[0])).max() <= np.float32(0.01)
    pu.release_sparsity(model)
    pu.release_sparsity(model)
    assert constraints(model) == before
    assert 0 < abs(kernel(fit(model).layers[0])).max() <= np.float32(0.01)


def test_ignored_layers_living_biases_and_dense_layers_are_free():
    model = mlp(units=(8, 5), optimizer=optimizers.SGD(0.5))
    weights = model.get_weights()
    weights[0][:, :2] = 0
    weights[1][:] = [0, 1, 0, 1, 1, 1, 1, 1]
    weights[2][:2] = 0
    model.set_weights(weights)
    pu.hold_sparsity(model, ignored_layers="d2")
    fit(model)
    bias = array(model.layers[0].bias)
    assert (bias == 0).tolist() == [True] + [False] * 7
    assert bias[1] != 1
    assert (count(model, 0), count(model, 1) < 10) == (12, True)
    with pytest.raises(ValueError, match="'d7'"):
        pu.hold_sparsity(model, ignored_layers=["d7"])


@pytest.mark.filterwarnings("ignore:.*units:UserWarning")
def test_every_kind_of_matrix_is_held_nested_frozen_and_uncompiled_too():
    inputs = keras.Input((5,), dtype="int32")
    inner = keras.Model(inputs, layers.GRU(8)(layers.Embedding(7, 8, name="words")(inputs)))
    model = s.shake(
        keras.Sequential([keras.Input((5,), dtype="int32"), inner, s.Mixing(9), layers.Dense(3, name="out")])
    )
    model = pu.prune_weights(model, 0.5)
    model.layers[0].get_layer("words").trainable = False
    pu.hold_sparsity(model)
    held = {path: mask for path, mask in s.zeros(model).items() if mask.mean() == 0.5}
    assert len(held) == 4
    model.layers[0].get_layer("words").trainable = True
    s.compile_(model, optimizers.AdamW(0.1))
    assert still(held, fit(model, 1, x=np.resize(np.arange(7), (24, 5))))
    pu.release_sparsity(model)
    assert not any(constraints(model))


def test_a_subclassed_model_is_held_and_reported_even_if_keras_cannot_rebuild_it():
    model = s.Plain()
    model(ops.convert_to_tensor(X))
    s.compile_(s.shake(model), optimizers.AdamW(0.1))
    weights = model.get_weights()
    model.set_weights([weights[0] * (np.arange(8) > 3), weights[1] * (np.arange(8) > 3), *weights[2:]])
    pu.hold_sparsity(model)
    fit(model)
    assert pu.sparsity_report(model)["zeros"].iloc[-1] == 28
    assert (kernel(model.first).any(0) == (array(model.first.bias) != 0)).all()


def test_a_held_model_saves_to_a_file_that_needs_none_of_our_code(tmp_path):
    model = pu.prune_weights(mlp(optimizer=optimizers.AdamW(0.01)), 0.5)
    pu.hold_sparsity(model)
    fit(model).save(tmp_path / "held.keras")
    with zipfile.ZipFile(tmp_path / "held.keras") as file:
        assert b"pruning_utils" not in file.read("config.json")
    loaded = keras.models.load_model(tmp_path / "held.keras")
    assert s.bits(loaded) == s.bits(model)
    assert not any(constraints(loaded))


def averaged():
    return mlp(optimizer=optimizers.Adam(use_ema=True))


def averaged_inside():
    return mlp(optimizer=optimizers.LossScaleOptimizer(optimizers.Adam(use_ema=True)))


def averaged_for_some():
    model = mlp(optimizer=optimizers.MultiOptimizer(lambda variable: optimizers.Adam(use_ema="d1" in variable.path)))
    model.fit(X, Y, verbose=0)  # before which it has no optimizers
    return model


def test_hold_misuse():
    for make in (averaged, averaged_inside, *[averaged_for_some] * hasattr(optimizers, "MultiOptimizer")):
        model = make()
        with pytest.raises(ValueError, match=r"^the optimizer has use_ema"):
            pu.hold_sparsity(model)
        assert not any(constraints(model))
    with pytest.raises(TypeError, match=r"keras.Model.*str"):
        pu.hold_sparsity("model")
    with pytest.raises(ValueError, match="built"):
        pu.hold_sparsity(keras.Sequential([layers.Dense(2)]))


# ------------------------------------------------------------------------------------- gradual pruning


def formula(step, initial, final, begin, end, frequency):
    """Zhu and Gupta's s_t in exact fractions, at the last pruning up to `step`."""
    if step < begin:
        return 0
    at = end if step >= end else begin + (step - begin) // frequency * frequency
    initial, final = Fraction(initial), Fraction(final)
    return float(final + (initial - final) * (1 - Fraction(at - begin, end - begin)) ** 3)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 50), st.integers(1, 100), st.integers(1, 60))
def test_the_schedule_is_the_published_formula(one, two, begin, length, frequency):
    schedule = (min(one, two), max(one, two), begin, begin + length, frequency)
    steps = range(begin + length + 10)
    values = [pu.GradualPruning(*schedule).sparsity_at(step) for step in steps]
    np.testing.assert_allclose(values, [formula(step, *schedule) for step in steps], rtol=1e-12, atol=1e-12)
    assert values[-1] == max(one, two)
    assert all(0 <= value <= 1 for value in values)


class Watch(keras.callbacks.Callback):
    """Compares the zeros of the first two kernels after every step with what the schedule asks for."""

    def __init__(self, method, *schedule):
        super().__init__()
        self.method, self.schedule, self.steps, self.before = method, schedule, [], None

    def on_train_batch_end(self, batch, logs=None):
        getattr(self.model, "jax_state_sync", lambda: None)()
        step = int(self.model.optimizer.iterations)
        now = [kernel(layer) == 0 for layer in self.model.layers[:2]]
        for mask in now:
            gone = mask.all(0) if self.method == "unit" else mask
            assert gone.sum() == s.half_even(formula(step, *self.schedule), gone.size), step
        assert self.before is None or all((two | ~one).all() for one, two in zip(self.before, now, strict=True))
        self.before = now
        self.steps.append(step)


@pytest.mark.parametrize(("method", "begin"), [("weight", 0), ("unit", 3)])
def test_gradual_pruning_follows_the_schedule_over_several_trainings(method, begin):
    schedule = (0.2, 0.8, begin, begin + 8, 3)
    model = mlp(units=(20, 10), optimizer=optimizers.AdamW(0.05, weight_decay=0.1), run_eagerly=begin > 0)
    callbacks = [pu.GradualPruning(*schedule, method=method), Watch(method, *schedule)]
    with pytest.warns(UserWarning, match=r"(?s)0\.8"):
        fit(model, 2, callbacks=callbacks)
    assert not any(constraints(model))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, 3, callbacks=callbacks)
    assert callbacks[1].steps == [*range(1, 16)]
    held = s.zeros(model)
    pu.hold_sparsity(model)
    assert still(held, fit(model, 1))
    pu.release_sparsity(model)
    assert not still(held, fit(model, 1))


@pytest.mark.parametrize(("method", "oracle"), [("weight", oracle_weights), ("unit", oracle_units)])
def test_gradual_pruning_prunes_the_smallest_at_that_moment_at_once_if_it_begins_at_once(method, oracle):
    for end, reached in ((2, 0.8), (100, 0.5)):
        model = s.shake(mlp(units=(20,), optimizer=optimizers.SGD(0.0)), whole=True)
        dense = kernel(model.layers[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit(model, 1, callbacks=[pu.GradualPruning(0.5, 0.8, 0, end, method=method)])
        assert (kernel(model.layers[0]) == dense * oracle(dense, reached)).all()
        silent = array(model.layers[0].bias)[~kernel(model.layers[0]).any(0)]
        assert method == "weight" or not silent.any()


def test_training_that_ends_just_at_the_last_step_is_no_missed_end(recwarn):
    model = mlp(units=(10,))
    x, y = s.data()
    model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[pu.GradualPruning(0, 0.5, 0, 6, 2)])
    assert not array(model.layers[0].kernel).all()
    assert not [warning for warning in recwarn if "not reached" in str(warning.message)]


def test_means_that_the_layer_itself_moves_are_no_missed_end(recwarn):
    """Behind a sigmoid silent units put out a half, and normalization notes it."""
    parts = layers.Dense(8), layers.Activation("sigmoid"), layers.BatchNormalization(momentum=0.5), layers.Dense(3)
    model = s.compile_(s.stack((6,), *parts))
    x, y = s.data()
    model.fit(x, y, batch_size=8, epochs=3, verbose=0, callbacks=[pu.GradualPruning(0.1, 0.5, 1, 6, 2, method="unit")])
    assert (array(model.layers[0].kernel).any(axis=0)).sum() == 4
    assert not [warning for warning in recwarn if "not reached" in str(warning.message)]


def test_gradual_pruning_takes_ignored_layers_scope_and_scores():
    model, noise = mlp(units=(20, 10), optimizer=optimizers.SGD(0.05)), {}

    def scores(variable):
        return noise.setdefault(variable.path, np.random.default_rng(len(noise)).random(tuple(variable.shape)))

    fit(model, 2, callbacks=[pu.GradualPruning(0, 0.5, 1, 4, 1, scores=scores, scope="global")])
    kernels = [(kernel(layer).ravel(), noise[layer.kernel.path].ravel()) for layer in model.layers[:2]]
    values, ranks = (np.concatenate(parts) for parts in zip(*kernels, strict=True))
    assert ((values != 0) == oracle_weights(ranks, 0.5)).all()
    model = mlp(units=(20, 10), optimizer=optimizers.SGD(0.05))
    model.layers[1].set_weights([kernel(model.layers[1]) * (np.arange(10) > 4), np.ones(10)])
    fit(model, 2, callbacks=[pu.GradualPruning(0, 0.5, 0, 3, 1, method="unit", ignored_layers=["d2"])])
    assert s.living(model) == {"d1": 10, "d2": 10, "out": 3}  # the zeros of d2 are its own affair


def test_what_jax_needs_is_asked_for(monkeypatch):
    """Its weights after each step, and after each of two prunings a compiled step with the new masks."""
    counts = {}
    for backend in ("jax", "another"):
        model, calls = mlp(units=(20,)), []
        for name in ("jax_state_sync", "make_train_function"):
            before = getattr(model, name, lambda **options: None)
            note = lambda name=name, before=before, calls=calls, **options: (  # noqa: E731
                calls.append(name if options in ({}, {"force": True}) else str(options)),
                before(**options),
            )[1]
            setattr(model, name, note)
        with monkeypatch.context() as patch:
            patch.setattr(keras.backend, "backend", lambda backend=backend: backend)
            fit(model, 1, callbacks=[pu.GradualPruning(0, 0.5, 0, 2, 1)])
        assert set(calls) == {"jax_state_sync", "make_train_function"}
        assert calls.count("jax_state_sync") >= 4
        counts[backend] = calls.count("make_train_function")
        assert count(model) == 60 or (s.BACKEND, backend) == ("jax", "another")  # whose masks were those of its trace
    assert counts["jax"] == counts["another"] + 2  # to 0 at step 0 changes nothing


@pytest.mark.parametrize("method", ["weight", "unit"])
def test_what_is_zero_before_its_time_trains_on(method):
    """Fault 2: a zero-initialised branch was frozen."""
    for begin in (0, 1_000):
        branch = layers.Dense(10, name="branch")
        model = stack((6,), layers.Dense(20, activation="relu"), branch, layers.Dense(3))
        s.compile_(model, optimizers.Adam(0.05))
        branch.set_weights([np.zeros((20, 10)), np.zeros(10)])
        with pytest.warns(UserWarning, match=r"0\.9"):
            fit(model, 2, callbacks=[pu.GradualPruning(0, 0.9, begin, 2_000, method=method)])
        assert count(model, 1) < 120
        assert array(branch.bias).all()


@pytest.mark.parametrize("order", [1, -1])
def test_early_stopping_restores_and_leaves_nothing_behind(order):
    """Fault 4: the next plain fit pruned the restored weights at once, by masks of others."""
    model = mlp(units=(20,), optimizer=optimizers.SGD(0.0))
    worse = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: logs.update(worse=epoch))
    stop = keras.callbacks.EarlyStopping("worse", patience=2, restore_best_weights=True, mode="min")
    with pytest.warns(UserWarning, match=r"0\.9"):
        fit(model, 9, callbacks=[worse, *[stop, pu.GradualPruning(0.2, 0.9, 1, 100, 3)][::order]])
    assert not any(constraints(model))
    assert (int(model.optimizer.iterations), count(model), count(fit(model, 1))) == (9, 24, 24)


class Interrupt(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            raise KeyboardInterrupt


@pytest.mark.parametrize("order", [1, -1])
def test_an_interrupted_training_resumes_with_the_schedule_where_it_was(order, tmp_path):
    """Fault 5: it started again. Three steps an epoch, interrupted in the third epoch of five."""
    schedule = (0.2, 0.8, 0, 12, 5)
    for interrupts, steps in (([Interrupt(8)], [*range(1, 9)]), ([], [*range(7, 16)])):
        model, watch = mlp(units=(20, 10), optimizer=optimizers.AdamW(0.01)), Watch("weight", *schedule)
        backup = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"))
        try:
            fit(model, 5, callbacks=[*[backup, pu.GradualPruning(*schedule)][::order], watch, *interrupts])
        except KeyboardInterrupt:
            assert interrupts
        assert watch.steps == steps
    assert count(model) == 96
    assert not any(constraints(model))


def test_an_interrupted_training_can_be_taken_up_by_the_same_callback():
    model, gradual = mlp(units=(20,), optimizer=optimizers.SGD(0.1)), pu.GradualPruning(0.2, 0.8, 0, 9, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(model, 3, callbacks=[gradual, Interrupt(4)])
    assert count(fit(model, 3, callbacks=[gradual])) == 96
    assert not any(constraints(model))
    other = mlp(units=(20,), optimizer=optimizers.SGD(0.1))  # another model: its own steps count
    with pytest.warns(UserWarning, match=r"0\.8"):
        fit(other, 1, callbacks=[gradual])
    assert count(other) == s.half_even(formula(3, 0.2, 0.8, 0, 9, 3), 120)


def test_an_output_layer_of_zeros_and_an_ignored_layer_are_free():
    for ignored, name in (((), "out"), (("mine",), "mine")):
        hidden = [layers.Dense(5, name=name, activation="gelu") for name in ("other", "mine")]
        model = stack((6,), *hidden, layers.Dense(3, name="out"))
        s.compile_(model, optimizers.SGD(0.1))
        model.get_layer(name).set_weights([np.zeros_like(weight) for weight in model.get_layer(name).get_weights()])
        pu.hold_sparsity(model, ignored_layers=ignored)
        fit(model)
        assert all(weight.all() for weight in model.get_layer(name).get_weights())


def test_what_was_reached_is_said_of_the_matrices():
    model = stack((6,), layers.Dense(10), layers.BatchNormalization(), layers.Dense(3))
    s.compile_(model, optimizers.SGD(0.0))
    model.layers[0].bias.assign(np.ones(10))
    with pytest.warns(UserWarning, match=r"0\.500 at step 3"):
        fit(model, 1, callbacks=[pu.GradualPruning(0.5, 0.9, 0, 100, method="unit")])


def test_a_schedule_that_was_not_finished_or_is_over_says_so():
    """Fault 3: sparsity 0, and nothing said."""
    model = mlp(optimizer=optimizers.SGD(0.1))
    for schedule, numbers in (((0.5, 0.9, 0, 1_000), {0.9, 0.5}), ((0, 0.9, 0, 3), {3})):  # in steps 1 to 6, 7 to 12
        with pytest.warns(UserWarning, match=r"0\.9|3") as caught:
            fit(model, callbacks=[pu.GradualPruning(*schedule)])
        (message,) = [str(one.message) for one in caught if one.category is UserWarning]
        assert numbers <= {float(n) for n in re.findall(r"\d+(?:\.\d+)?", message)}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(model, callbacks=[pu.GradualPruning(0, 0.9, 0, 12)])  # which is where it starts
        released = keras.callbacks.LambdaCallback(on_train_end=lambda logs: pu.release_sparsity(model))
        fit(model, callbacks=[released, pu.GradualPruning(0, 0.9, 18, 21)])  # too early, but no reason to fail


@pytest.mark.skipif(s.BACKEND == "torch", reason="torch runs one step per execution")
def test_several_steps_per_execution():
    model = mlp(units=(20, 10), steps_per_execution=3, run_eagerly=False)
    fit(model, 4, callbacks=[pu.GradualPruning(0, 0.5, 1, 8, 2, ignored_layers=["d2"])])
    assert [count(model, number) for number in range(3)] == [60, 0, 0]


@pytest.mark.parametrize("accumulate", [None, 2])
def test_gradual_pruning_under_mixed_precision(accumulate):
    inner = optimizers.Adam(0.01, gradient_accumulation_steps=accumulate)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(20, dtype="mixed_float16"), layers.Dense(3)])
    s.compile_(s.shake(model), optimizers.LossScaleOptimizer(inner, initial_scale=4.0))
    fit(model, 3, callbacks=[pu.GradualPruning(0, 0.5, 0, 4, 2)])
    assert count(model) == 60


def test_units_pruned_gradually_can_be_removed():
    model = s.compile_(convolutional(), optimizers.AdamW(0.05))
    fit(model, x=IMAGES, callbacks=[pu.GradualPruning(0, 0.5, 0, 5, 1, method="unit")])
    small = pu.remove_dead_units(model)
    assert s.widths(small) == {"c": 4, "e": 3, "d": 5, "out": 3}
    s.assert_same_outputs(model, small, IMAGES)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"initial_sparsity": -0.1}, ValueError, "-0.1"),
        ({"final_sparsity": 90}, ValueError, "0.9"),
        ({"final_sparsity": None}, TypeError, "None"),
        ({"initial_sparsity": 0.9}, ValueError, "(?s)0.9.*0.5"),
        *(
            ({"begin_step": -1}, ValueError, "-1"),
            ({"end_step": 2}, ValueError, "2"),
            ({"frequency": 0}, ValueError, "0"),
        ),
        ({"method": "units"}, ValueError, "'weight'.*'unit'.*'units'"),
    ],
)
def test_gradual_misuse(change, error, message):
    good = {"initial_sparsity": 0.1, "final_sparsity": 0.5, "begin_step": 2, "end_step": 9, "frequency": 2}
    assert pu.GradualPruning(0, 1, 2, 3).frequency == 100
    with pytest.raises(error, match=message):
        pu.GradualPruning(**good | change)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_gradual_pruning_refuses_when_training_begins():
    for model, options, message in (
        (mlp(), {"ignored_layers": ["d9"]}, "d9"),
        (mlp(), {"scope": "model"}, "'model'"),
        (averaged(), {}, "use_ema"),
        (s.compile_(stack((6,), layers.Dense(3))), {}, "nothing to prune"),
        (s.compile_(stack((6, 1), layers.SimpleRNN(3), layers.Dense(3))), {"method": "unit"}, "nothing to prune"),
    ):
        before, x = s.bits(model), X[..., None] if len(model.input_shape) > 2 else X
        with pytest.raises(ValueError, match=message):
            fit(model, x=x, callbacks=[pu.GradualPruning(0, 0.5, 0, 9, **options)])
        assert s.bits(model) == before
        assert not any(constraints(model))
