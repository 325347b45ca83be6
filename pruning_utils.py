"""Magnitude pruning for Keras 3: prune a trained model, keep it sparse, make it small, and measure it.

    import keras
    from pruning_utils import prune_units, remove_dead_units, sparsity_report

    pruned = prune_units(model, 0.8)       # a new model; `model` keeps every bit
    print(sparsity_report(pruned))         # what is zero, layer by layer
    small = remove_dead_units(pruned)      # same outputs, 80 % of the neurons gone

It needs Keras 3 on any backend, NumPy and pandas; Matplotlib and seaborn to plot. Sparsity is always a
fraction in [0, 1]. The file is read from top to bottom: data, network, masks, pruning, holding, removal,
measuring, plotting.
"""

import base64
import gzip
import inspect
import io
import itertools
import math
import numbers
import os
import sys
import time
import types
import zlib
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

SPARSITIES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)

_CLASS_NAMES = {
    "mnist": tuple("0123456789"),
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
}


# ------------------------------------------------------------------------------------------------- data


class Dataset(NamedTuple):
    """Images float32 (n, 784) in [0, 1], labels int32 (n,), and the ten names that the labels stand for."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple


def load_dataset(name: str) -> Dataset:
    """The data set "mnist" or "fashion_mnist": 60,000 images to train on and 10,000 to test on.

    Reads data/NAME.npz beside this module; where that file is missing, asks keras.datasets, which downloads it.
    Raises ValueError for another name or a damaged file, OSError if the download fails.
    """
    if not isinstance(name, str) or name not in _CLASS_NAMES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(map(repr, _CLASS_NAMES))}")
    path = Path(__file__).resolve().parent / "data" / f"{name}.npz"
    if path.exists():
        x_train, y_train, x_test, y_test = _read_npz(path)
    else:
        try:
            (x_train, y_train), (x_test, y_test) = getattr(keras.datasets, name).load_data()
        except Exception as error:
            raise OSError(
                f"{name} is neither in data/{name}.npz beside pruning_utils.py nor to be had from keras.datasets "
                f"({type(error).__name__}: {error}). Check the network, or put the file there."
            ) from None
    images = [x.reshape(len(x), -1) / np.float32(255) for x in (x_train, x_test)]
    return Dataset(images[0], y_train.astype("int32"), images[1], y_test.astype("int32"), _CLASS_NAMES[name])


def _read_npz(path):
    """The four arrays in `path`; ValueError if they are not there, whole and of the right shape."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[key] for key in ("x_train", "y_train", "x_test", "y_test")]
        for x, y in (arrays[:2], arrays[2:]):
            if x.dtype != np.uint8 or y.dtype != np.uint8 or x.shape != (y.size, 28, 28) or y.ndim != 1 or y.max() > 9:
                raise ValueError(f"images {x.dtype} {x.shape} with labels {y.dtype} {y.shape}")
    except Exception as error:
        raise ValueError(
            f"data/{path.name} is damaged ({type(error).__name__}: {error}). Restore it with "
            f"`git checkout -- data/{path.name}`, or rebuild it as data/README.md says."
        ) from None
    return arrays


# ---------------------------------------------------------------------------------------------- network


def build_model(
    hidden_units=(1000, 1000, 500, 200), *, learning_rate=1e-3, l1=0.0, l2=0.0, seed=None, **compile_options
):
    """A compiled Sequential on 784 inputs: hidden layers ReLU(xW) without biases, then 10 logits xW.

    `learning_rate` (a number or a schedule) goes to Adam, `l1` and `l2` weigh penalties on the hidden kernels (the sums
    of |w| and of w squared), `seed` makes the initial weights repeatable, and `compile_options` go to `compile`, where
    they win over the defaults. The default sizes make 2,386,000 parameters.

    Raises TypeError or ValueError for sizes that are not whole numbers from 1, or a penalty that is not one from 0.
    """
    if not isinstance(hidden_units, list | tuple):
        raise TypeError(f"hidden_units must be a list or tuple of sizes, not {hidden_units!r}")
    for units in hidden_units:
        _check_count("each of hidden_units", units, 1)
    for name, value in (("l1", l1), ("l2", l2)):
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, not {value!r}")
    if seed is not None:
        _check_count("seed", seed, 0)
    model = keras.Sequential([keras.Input((784,))])
    for number, units in enumerate((*hidden_units, 10)):
        hidden = number < len(hidden_units)
        layer = keras.layers.Dense(
            units,
            activation="relu" if hidden else None,
            use_bias=False,
            kernel_initializer=keras.initializers.GlorotUniform(None if seed is None else seed + number),
            kernel_regularizer=keras.regularizers.L1L2(l1, l2) if hidden and (l1 or l2) else None,
            name=f"hidden_{number + 1}" if hidden else "logits",
        )
        model.add(layer)
    defaults = {
        "optimizer": keras.optimizers.Adam(learning_rate),
        "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        "metrics": ["accuracy"],
    }
    model.compile(**defaults | compile_options)
    return model


def _check_count(name, value, least):
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, not {value!r}")


# ------------------------------------------------------------------------------------------------ masks


def weight_mask(kernel, sparsity: float) -> np.ndarray:
    """Boolean mask of `kernel`'s shape that is False over the weights to prune.

    The round(sparsity * kernel.size) weights of smallest |w| are pruned; ties go by position (row-major).

    Raises TypeError or ValueError if sparsity is not a number in [0, 1] or the kernel holds NaN.
    """
    return _keep(_weight_scores(_as_kernel(kernel)), _check_sparsity(sparsity))


def unit_mask(kernel, sparsity: float) -> np.ndarray:
    """Boolean mask of `kernel`'s shape that is False over the units to prune.

    A unit is one output of the layer: a column of a Dense kernel (inputs, units), a filter of a convolution
    kernel (..., channels, filters). The round(sparsity * units) units of smallest L2 norm are pruned; norms are
    compared in double precision, and ties go by position.

    Raises TypeError or ValueError if sparsity is not a number in [0, 1] or the kernel holds NaN or has no axis.
    """
    kernel = _as_kernel(kernel)
    return np.broadcast_to(_keep(_unit_scores(kernel), _check_sparsity(sparsity)), kernel.shape).copy()


def _check_sparsity(sparsity):
    """`sparsity` as a float, if it is a number in [0, 1]."""
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real):
        raise TypeError(f"sparsity must be a number in [0, 1], not {sparsity!r}")
    if not 0 <= sparsity <= 1:
        hint = f" (it is a fraction: {sparsity} % is {sparsity / 100:g})" if 1 < sparsity <= 100 else ""
        raise ValueError(f"sparsity must be in [0, 1], not {sparsity!r}{hint}")
    return float(sparsity)


def _as_kernel(kernel, name="the kernel"):
    """`kernel` (array, list, tensor or variable) as a real NumPy array without NaN."""
    if isinstance(kernel, keras.Variable) or keras.ops.is_tensor(kernel):
        kernel = keras.ops.convert_to_numpy(kernel)
    kernel = np.asarray(kernel)
    if kernel.dtype.kind not in "fiu" and kernel.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, not {kernel.dtype}")
    if np.isnan(kernel).any():
        raise ValueError(f"{name} holds NaN, which has no rank among magnitudes")
    return kernel


def _weight_scores(kernel):
    """|w| of every weight, in a type in which the absolute value is exact."""
    return np.abs(kernel if kernel.dtype.kind == "f" else kernel.astype(np.longdouble))


def _unit_scores(kernel):
    """L2 norm of every unit, by math.hypot: no overflow, and the same on every machine and in any order."""
    if kernel.ndim == 0:
        raise ValueError("the kernel has no axis, so it has no units: expected (..., units)")
    columns = kernel.reshape(math.prod(kernel.shape[:-1]), kernel.shape[-1]).T.astype(np.float64)
    return np.array([math.hypot(*column) for column in columns.tolist()], np.float64)


def _keep(scores, sparsity):
    """Boolean array of scores' shape, False over the round(sparsity * size) smallest, ties by position."""
    flat = scores.ravel()
    pruned = round(sparsity * flat.size)
    keep = np.ones(flat.size, bool)
    if pruned:
        threshold = np.partition(flat, pruned - 1)[pruned - 1]
        keep = flat >= threshold
        keep[np.flatnonzero(flat == threshold)[: pruned - np.count_nonzero(~keep)]] = False
    return keep.reshape(scores.shape)


# ---------------------------------------------------------------------------------------------- pruning


def prune_weights(model, sparsity: float, *, ignored_layers=(), criterion="magnitude", seed=0):
    """A copy of `model` in which the smallest weights of each kernel are zero (Han et al. 2015, 1506.02626).

    Every layer with a `kernel` is pruned by `weight_mask`, except the last one and those that `ignored_layers`
    names (a nested model's name stands for all its layers). Biases stay. The copy has the architecture, names and
    compile settings of `model`, with a fresh optimizer state; `model` keeps every bit.
    With criterion="random" the choice is random, repeatable by `seed`: the control for the magnitudes.

    Raises TypeError or ValueError, before any work, for a bad sparsity, a model that is not built or has nothing
    to prune, an unknown layer name, NaN weights, and kernels that can't be pruned (quantized, LoRA).
    """
    return _prune(model, sparsity, "weight", ignored_layers, criterion, seed)


def prune_units(model, sparsity: float, *, ignored_layers=(), criterion="magnitude", seed=0):
    """A copy of `model` in which the units of smallest L2 norm are zero in each kernel, and their biases with them.

    As `prune_weights`, by `unit_mask`; structured pruning as in Li et al. (1608.08710). Also raises ValueError for
    layers whose units are not on the kernel's last axis (transposed and depthwise convolutions, recurrent cells):
    name them in `ignored_layers`.
    """
    return _prune(model, sparsity, "unit", ignored_layers, criterion, seed)


def _prune(model, sparsity, method, ignored_layers, criterion, seed):
    sparsity = _check_sparsity(sparsity)
    layers = _prunable_layers(model, ignored_layers, method)
    scores = [_scores(layer, method, criterion, seed) for layer in layers]
    pruned = _copy(model)
    for layer, score in zip(_twins(model, pruned, layers), scores, strict=True):
        _apply_mask(layer, _values(layer), _keep(score, sparsity), method)
    return pruned


def _prunable_layers(model, ignored_layers=(), method="weight", least=1):
    """The layers to prune: those with a kernel, in order, each kernel once, but the last and the ignored."""
    _check_model(model)
    if not isinstance(ignored_layers, str | list | tuple | set | frozenset):
        raise TypeError(f"ignored_layers must be a list of layer names, not {ignored_layers!r}")
    ignored = {ignored_layers} if isinstance(ignored_layers, str) else set(ignored_layers)
    found, names = [], set()
    for layer, path in _walk(model):
        names |= path
        if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
            raise ValueError(f"layer {layer.name!r} is quantized or has LoRA enabled: prune before that, or merge it")
        kernel = getattr(layer, "kernel", None)
        if isinstance(kernel, keras.Variable):
            if "float" not in str(kernel.dtype):
                raise ValueError(f"the kernel of layer {layer.name!r} is {kernel.dtype}: only float kernels are pruned")
            found.append((layer, path))
    if not ignored <= names:
        raise ValueError(f"no layer is named {sorted(map(str, ignored - names))}: the model has {sorted(names)}")
    untouched = {id(layer.kernel) for layer, path in found if path & ignored or layer.kernel is found[-1][0].kernel}
    layers = []
    for layer, _ in found:
        if id(layer.kernel) not in untouched:
            untouched.add(id(layer.kernel))
            layers.append(layer)
    if len(layers) < least:
        raise ValueError(
            f"model {model.name!r} has nothing to prune: no kernel besides the output layer's and the ignored ones"
        )
    for layer in layers if method == "unit" else ():
        bias = getattr(layer, "bias", None)
        odd_bias = isinstance(bias, keras.Variable) and tuple(bias.shape) != tuple(layer.kernel.shape[-1:])
        if isinstance(layer, _ODD_UNIT_AXIS) or hasattr(layer, "recurrent_kernel") or odd_bias:
            raise ValueError(
                f"layer {layer.name!r} ({type(layer).__name__}) does not have its units on the kernel's last axis "
                "alone: name it in ignored_layers"
            )
    return layers


def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model, not {type(model).__name__}")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built, so it has no weights: build it or call it once")


def _layer_classes(*names):
    return tuple(getattr(keras.layers, name) for name in names)


_TRANSPOSED = _layer_classes("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
_DEPTHWISE = _layer_classes("DepthwiseConv1D", "DepthwiseConv2D")
_ODD_UNIT_AXIS = (*_TRANSPOSED, *_DEPTHWISE, keras.layers.EinsumDense)


def _walk(layer, above=()):
    """Each layer at or below `layer` with the names that lead to it; a layer that is shared, once for each way."""
    yield layer, {item.name for item in (*above, layer)[1:]}
    for child in _children(layer):
        if not any(child is item for item in (*above, layer)):
            yield from _walk(child, (*above, layer))


def _children(layer):
    """The layers right below `layer`: a model's layers, or the layers among a layer's attributes."""
    if isinstance(layer, keras.Model):
        return layer.layers
    values = [v for value in vars(layer).values() for v in (value if isinstance(value, list | tuple) else [value])]
    return list({id(value): value for value in values if isinstance(value, keras.Layer)}.values())


def _scores(layer, method, criterion="magnitude", seed=0):
    """What decides which weights, or units, of `layer` go first: an array that broadcasts to its kernel."""
    if criterion not in ("magnitude", "random"):
        raise ValueError(f"criterion must be 'magnitude' or 'random', not {criterion!r}")
    _check_count("seed", seed, 0)
    kernel = _as_kernel(layer.kernel, f"the kernel of layer {layer.name!r}")
    if criterion == "random":
        rng = np.random.default_rng([seed, zlib.crc32(layer.name.encode())])
        return rng.random(kernel.shape if method == "weight" else kernel.shape[-1:])
    return _weight_scores(kernel) if method == "weight" else _unit_scores(kernel)


def _values(layer):
    """Copies of the layer's kernel and of its bias, None if it has none."""
    bias = getattr(layer, "bias", None)
    return _numpy(layer.kernel).copy(), _numpy(bias).copy() if isinstance(bias, keras.Variable) else None


def _apply_mask(layer, values, keep, method):
    """Set the layer to the kernel and bias in `values`, zero where `keep` is False (the bias only with "unit")."""
    kernel, bias = values
    layer.kernel.assign(np.where(keep, kernel, kernel.dtype.type(0)))
    if bias is not None:
        layer.bias.assign(np.where(keep, bias, bias.dtype.type(0)) if method == "unit" else bias)


def _numpy(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable))


def _copy(model, changes=None):
    """A new model with the architecture, names, weights and compile settings of `model`.

    With `changes`, a dict of layer name to what is new in its configuration, the weights are left to the caller.
    """
    classes, functions = _custom_objects(model)
    names = [function.__name__ for function in functions]
    try:
        try:  # a configuration refers to functions by name, which lambdas share: number them for a moment
            for number, function in enumerate(functions):
                function.__name__ += f"_{number}"
            config = keras.saving.serialize_keras_object(model)
            custom = classes | {function.__name__: function for function in functions}
        finally:
            for function, name in zip(functions, names, strict=True):
                function.__name__ = name
        _drop_unknown_arguments(config, classes)
        for layer in config["config"]["layers"] if changes else ():
            layer.pop("build_config", None)
            layer["config"] |= changes.get(layer["config"]["name"], {})
        with keras.saving.custom_object_scope(custom):
            copy = keras.saving.deserialize_keras_object(config)
        if changes is None:
            _set_weights(copy, model.get_weights())
    except Exception as error:
        raise ValueError(
            f"model {model.name!r} can't be copied through its configuration ({type(error).__name__}: "
            f"{str(error)[:200]}). Give custom classes a get_config() that returns all the arguments of their __init__."
        ) from error
    return copy


def _drop_unknown_arguments(config, classes):
    """Take from each configuration in `config` what every layer has but `__init__` of its class doesn't accept."""
    for value in config.values() if isinstance(config, dict) else config:
        if isinstance(value, dict | list):
            _drop_unknown_arguments(value, classes)
    if isinstance(config, dict) and config.get("class_name") in classes:
        accepted = inspect.signature(classes[config["class_name"]]).parameters.values()
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted):
            for name in {"name", "trainable", "dtype"} - {parameter.name for parameter in accepted}:
                config["config"].pop(name, None)


def _twins(model, copy, layers):
    """The layers of `copy` that stand where `layers` stand in `model` (a copy may have other automatic names)."""
    twins = {id(layer): twin for (layer, _), (twin, _) in zip(_walk(model), _walk(copy), strict=True)}
    return [twins[id(layer)] for layer in layers]


def _set_weights(model, weights):
    model.set_weights(weights)
    for layer, _ in _walk(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # what it computes with is derived from its weights


def _custom_objects(model):
    """What the configuration of `model` names but can't hold: its classes and functions from outside Keras."""
    classes, functions, queue, seen = {}, [], [model], {}
    while queue:
        item = queue.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, list | tuple):
            queue.extend(item)
        elif isinstance(item, dict):
            queue.extend(item.values())
        elif isinstance(item, types.FunctionType):
            functions += [] if item.__module__.startswith("keras.") else [item]
        elif hasattr(item, "get_config") and hasattr(item, "__dict__") and not isinstance(item, type):
            classes |= {} if type(item).__module__.startswith("keras.") else {type(item).__name__: type(item)}
            queue.extend(vars(item).values())
    return classes, functions


# ---------------------------------------------------------------------------- holding sparsity in training


class _HoldZeros(keras.constraints.Constraint):
    """A variable's constraint: after every optimizer step, zero wherever `mask` is False."""

    def __init__(self, mask, previous):
        self.mask = keras.Variable(mask, dtype="bool", trainable=False)
        self.previous = previous

    def __call__(self, value):
        if self.previous is not None:
            value = self.previous(value)
        value, mask = keras.ops.convert_to_tensor(value), keras.ops.convert_to_tensor(self.mask)
        return keras.ops.where(mask, value, keras.ops.zeros_like(value))


def hold_sparsity(model, *, ignored_layers=()):
    """None: from now on whatever is zero in the model's prunable kernels stays exactly zero while it trains.

    The zeros become constraints of the kernel variables, which every optimizer applies after its step, so momentum
    and weight decay can't revive a weight. The bias of a unit without any weight is held at zero too if it is zero.
    Nothing of this is saved: the model stays a plain .keras file, and a loaded or copied model is free until held
    again. `release_sparsity(model)` undoes it. Call it again after pruning further.

    Raises as `prune_weights` does, and ValueError for an optimizer with use_ema=True: Keras averages the weights
    before it applies constraints, so the average would not be sparse.
    """
    layers = _prunable_layers(model, ignored_layers)
    optimizer = getattr(model, "optimizer", None)
    if any(getattr(item, "use_ema", False) for item in (optimizer, getattr(optimizer, "inner_optimizer", None))):
        raise ValueError("the optimizer has use_ema=True: its average of the weights would not stay sparse")
    holds = []
    for layer in layers:
        kernel, bias = _numpy(layer.kernel) != 0, getattr(layer, "bias", None)
        holds.append((layer.kernel, kernel))
        if isinstance(bias, keras.Variable) and tuple(bias.shape) == kernel.shape[-1:]:
            holds.append((bias, ~_all_zero(kernel, -1) | (_numpy(bias) != 0)))
    held = {id(variable) for variable in model.variables if isinstance(variable.constraint, _HoldZeros)}
    if held == {id(variable) for variable, _ in holds} and keras.backend.backend() != "jax":
        for variable, mask in holds:
            variable.constraint.mask.assign(mask)  # which compiled steps read anew, except JAX's
        return
    release_sparsity(model)  # which also sees to it that the next `fit` looks at the constraints anew
    for variable, mask in holds:
        variable.constraint = _HoldZeros(mask, variable.constraint)


def release_sparsity(model):
    """None: undoes `hold_sparsity`, and gives each variable back the constraint it had before."""
    _check_model(model)
    for variable in model.variables:
        if isinstance(variable.constraint, _HoldZeros):
            variable.constraint = variable.constraint.previous
    if getattr(model, "train_function", None) is not None:  # a compiled step keeps the constraints it was traced with
        model.train_function = None
        model.make_train_function()


def _all_zero(kernel, axis):
    """For each index along `axis`: whether the kernel is zero (or False) all over it."""
    return ~kernel.astype(bool).any(axis=tuple(i for i in range(kernel.ndim) if i != axis % kernel.ndim))


class GradualPruning(keras.callbacks.Callback):
    """Callback that prunes while the model trains, from `initial_sparsity` at `begin_step` to `final_sparsity` at
    `end_step`, every `frequency` steps and at the end (Zhu and Gupta 2017, 1710.01878).

    At step t it prunes to final + (initial - final) * (1 - (t - begin) / (end - begin))**3, by magnitude, `method`
    "weight" or "unit". A step is one update by the optimizer, counted from the first `fit` of a model with this
    callback; with steps_per_execution > 1 pruning waits for the end of an execution. Between prunings, and after
    training, the zeros are held as by `hold_sparsity`.

    Raises TypeError or ValueError for bad numbers, and as `prune_weights` and `hold_sparsity` do when training begins.
    """

    def __init__(
        self,
        initial_sparsity,
        final_sparsity,
        begin_step,
        end_step,
        frequency=100,
        *,
        method="weight",
        ignored_layers=(),
    ):
        super().__init__()
        self.initial_sparsity, self.final_sparsity = _check_sparsity(initial_sparsity), _check_sparsity(final_sparsity)
        for name, value, least in (("begin_step", begin_step, 0), ("frequency", frequency, 1)):
            _check_count(name, value, least)
        _check_count("end_step", end_step, begin_step + 1)
        if self.initial_sparsity > self.final_sparsity:
            raise ValueError(f"initial_sparsity {initial_sparsity} is above final_sparsity {final_sparsity}")
        if method not in ("weight", "unit"):
            raise ValueError(f"method must be 'weight' or 'unit', not {method!r}")
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self.method, self.ignored_layers = method, ignored_layers
        self._trained = None

    def sparsity_at(self, step: int) -> float:
        """The sparsity that the schedule asks for after `step` steps, 0 before `begin_step`."""
        if step < self.begin_step:
            return 0.0
        left = 1 - (self._last_due(step) - self.begin_step) / (self.end_step - self.begin_step)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left**3

    def _last_due(self, step):
        """The last step up to `step` at which it prunes, if the schedule has begun."""
        return self.end_step if step >= self.end_step else step - (step - self.begin_step) % self.frequency

    def on_train_begin(self, logs=None):
        layers = _prunable_layers(self.model, self.ignored_layers, self.method)
        for layer in layers:
            _as_kernel(layer.kernel, f"the kernel of layer {layer.name!r}")
        if self._trained is not self.model:
            self._trained, self._step, self._pruned_at = self.model, 0, -1
        self._offset = self._step - self._iterations()
        hold_sparsity(self.model, ignored_layers=self.ignored_layers)
        self._prune_if_due()

    def on_train_batch_end(self, batch, logs=None):
        self._step = self._offset + self._iterations()
        self._prune_if_due()

    def _iterations(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        optimizer = self.model.optimizer  # of a loss-scaling one, Keras 3.8 counts in the optimizer within
        return int(_numpy(getattr(optimizer, "inner_optimizer", optimizer).iterations))

    def _prune_if_due(self):
        due = self._last_due(self._step)
        if due < self.begin_step or due <= self._pruned_at:
            return
        for layer in _prunable_layers(self.model, self.ignored_layers):
            score = _scores(layer, self.method)
            _apply_mask(layer, _values(layer), _keep(score, self.sparsity_at(due)), self.method)
        hold_sparsity(self.model, ignored_layers=self.ignored_layers)
        self._pruned_at = due


# ---------------------------------------------------------------------------------------------- removal

_UNIT_LAYERS = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_PER_UNIT = _layer_classes(
    *("Activation", "ReLU", "LeakyReLU", "PReLU", "ELU", "ActivityRegularization", "BatchNormalization"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "GaussianDropout", "GaussianNoise"),
)
_POOLING = _layer_classes(
    *(f"{kind}Pooling{rank}D" for kind in ("Max", "Average", "GlobalMax", "GlobalAverage") for rank in (1, 2, 3))
)


def remove_dead_units(model):
    """A smaller model with the same outputs, to rounding: `model` without the units that no longer matter.

    A unit goes if no weight leads to it (its constant output is folded into the next layer's bias, which is added if
    need be) or if none leads away from it, until nothing changes; so weight-pruned models shrink too. A constant that
    the next layer's zero padding would meet can't be folded: that unit stays, and so does one unit of every layer.

    Works on Sequential and single-path functional models of Dense and Conv1D to Conv3D, with batch normalization,
    elementwise activations, dropout, pooling and Flatten between them. The result is compiled as `model` was, and
    `model` is left alone. Raises ValueError naming the layer for what it can't handle between the first kernel and
    the last: branches, shared or nested layers, activations across units (softmax), any other layer.
    """
    _prunable_layers(model, least=0)
    layers = _single_path(model)
    places = [i for i, layer in enumerate(layers) if type(layer) in _UNIT_LAYERS]
    for layer in layers[places[0] : places[-1] + 1] if len(places) > 1 else ():
        _check_removable(layer, last=layer is layers[places[-1]])
    if places and places[-1] - places[0] >= len(places):  # other layers in between: to call them leaves traces
        layers = _twins(model, _copy(model), layers)
    units = [layers[i] for i in places]
    kernels = [_numpy(layer.kernel).astype(np.float64) for layer in units]
    biases = [_numpy(layer.bias) if layer.use_bias else np.zeros(layer.kernel.shape[-1]) for layer in units]

    # Forwards: fold the constants of units without incoming weights, which may leave the next units without any.
    origins = {}  # for each later layer: the unit before it that each of its input channels comes from
    for n, (here, there) in enumerate(itertools.pairwise(places)):
        traced, constants = _trace(layers[here], biases[n], layers[here + 1 : there + 1])
        origins[n + 1] = origin = traced[-1]
        known = np.isfinite(constants[0]) & (constants == constants[0]).all(axis=0)
        if getattr(units[n + 1], "padding", "valid") != "valid":
            known &= constants[0] == 0
        dead = _all_zero(kernels[n], axis=-1)
        dead[origin[~known]] = False
        folded = dead[origin]
        terms = kernels[n + 1][..., folded, :] * constants[0, folded, None]
        biases[n + 1] = biases[n + 1] + terms.sum(axis=tuple(range(terms.ndim - 1)))
        kernels[n + 1][..., folded, :] = 0
        for layer, channels in zip(layers[here + 1 : there], traced, strict=False):
            origins[layer.name] = n, channels

    # Backwards: keep the units that a kept unit listens to.
    keep = [np.ones(kernel.shape[-1], bool) for kernel in kernels]
    for n in reversed(range(len(units) - 1)):
        heard = ~_all_zero(kernels[n + 1][..., keep[n + 1]], axis=-2)
        keep[n] = np.isin(np.arange(keep[n].size), origins[n + 1][heard])
        keep[n][0] |= not keep[n].any()

    changes, weights = {}, {layer.name: layer.get_weights() for layer in layers}
    for n, layer in enumerate(units):
        kernel = kernels[n] if n == 0 else kernels[n][..., keep[n - 1][origins[n]], :]
        size = "units" if isinstance(layer, keras.layers.Dense) else "filters"
        changes[layer.name] = {size: int(keep[n].sum()), "use_bias": layer.use_bias or bool(biases[n].any())}
        new = [kernel[..., keep[n]], biases[n][keep[n]]] if changes[layer.name]["use_bias"] else [kernel[..., keep[n]]]
        weights[layer.name] = [array.astype(weights[layer.name][0].dtype) for array in new]
    for name, (n, channels) in ((name, origin) for name, origin in origins.items() if isinstance(name, str)):
        kept = keep[n][channels]
        weights[name] = [array[..., kept] if array.shape[-1] == kept.size else array for array in weights[name]]

    smaller = _copy(model, changes)
    _set_weights(smaller, [array for layer in layers for array in weights[layer.name]])
    return smaller


def _single_path(model):
    """The layers of `model` in order, if each takes the output of the one before and nothing else."""
    layers = [layer for layer in model.layers if not isinstance(layer, keras.layers.InputLayer)]
    for layer in layers:
        if isinstance(layer, keras.Model):
            raise ValueError(f"can't remove units around the nested model {layer.name!r}: remove them in it instead")
    if isinstance(model, keras.Sequential):
        return layers
    tensors = getattr(model, "inputs", None) or []
    if len(tensors) != 1:
        raise ValueError(f"model {model.name!r} is not a Sequential or functional model with one input")
    for layer in layers:
        if layer.input is not tensors[0]:
            raise ValueError(
                f"layer {layer.name!r} is not on a single path: branches and shared layers are not handled"
            )
        tensors = [layer.output]
    if len(model.outputs) != 1 or model.outputs[0] is not tensors[0]:
        raise ValueError(f"the output of model {model.name!r} is not that of its last layer, {layers[-1].name!r}")
    return layers


def _check_removable(layer, last):
    """ValueError if the units before (and, unless it is the `last`, those of) `layer` can't be told apart."""
    name = f"layer {layer.name!r} ({type(layer).__name__})"
    if type(layer) not in (*_UNIT_LAYERS, *_PER_UNIT, keras.layers.Flatten, *_POOLING):
        raise ValueError(f"can't remove units around {name}: it may mix or move them")
    channels = getattr(layer, "axis", -1) in (-1, len(layer.input.shape) - 1)  # of batch normalization
    if getattr(layer, "groups", 1) != 1 or getattr(layer, "data_format", None) == "channels_first" or not channels:
        raise ValueError(f"can't remove units around {name}: it needs groups=1 and its channels on the last axis")
    if hasattr(layer, "activation") and not last:
        values = keras.ops.convert_to_tensor([[-1.5, 0.0, 0.5, 2.0]])
        try:
            apart = [layer.activation(values[:, i : i + 1]) for i in range(4)]
            elementwise = np.allclose(_numpy(layer.activation(values)), np.concatenate(list(map(_numpy, apart)), 1))
        except Exception:
            elementwise = False
        if not elementwise:
            raise ValueError(f"can't remove units around {name}: its activation is not elementwise")


def _trace(layer, bias, following):
    """How the units of `layer` arrive at each layer that follows, and what units without input say to the last.

    Returns a list of int arrays, the unit that each input channel of each layer in `following` comes from, and the
    inputs (positions, channels) of the last one if every unit puts out activation(bias).
    """
    pools = [max(*other.pool_size, *other.strides) for other in following if hasattr(other, "pool_size")]
    shape = (1, *(8 * math.prod(pools) if size is None else size for size in layer.output.shape[1:]))
    values = layer.activation(keras.ops.cast(bias, layer.compute_dtype))
    values = keras.ops.broadcast_to(values, shape)
    units = keras.ops.broadcast_to(keras.ops.arange(shape[-1], dtype="float32"), shape)
    traced = []
    for other in following:
        flat = _numpy(units).reshape(-1, units.shape[-1])
        traced.append(np.rint(flat[0]).astype(int))
        if other is not following[-1]:
            values = other(values)
            if isinstance(other, (keras.layers.Flatten, *_POOLING)):
                units = type(other).from_config(other.get_config() | {"dtype": "float32"})(units)
    return traced, _numpy(values).astype(np.float64).reshape(flat.shape)


# -------------------------------------------------------------------------------------------- measuring


def sparsity_report(model) -> pd.DataFrame:
    """One row per layer that has weights, and a last row "total": what is zero where.

    `parameters` counts the weights of every kind, `zeros` those equal to zero, `sparsity` is their fraction. `units`
    are the outputs of a kernel (its last axis) and `dead_units` those with no incoming weight; <NA> without kernel.
    """
    _check_model(model)
    rows, seen = [], set()
    for layer, _ in _walk(model):
        inner = {id(variable) for child in _children(layer) for variable in child.weights}
        own = [variable for variable in layer.weights if id(variable) not in inner | seen]
        seen.update(map(id, own))
        row = {"layer": layer.name, "parameters": sum(math.prod(variable.shape) for variable in own)}
        row["zeros"] = sum(int((_numpy(variable) == 0).sum()) for variable in own)
        if any(variable is getattr(layer, "kernel", None) for variable in own) and len(layer.kernel.shape):
            row["units"], row["dead_units"] = layer.kernel.shape[-1], int(_all_zero(_numpy(layer.kernel), -1).sum())
        rows += [row] if own else []
    report = pd.DataFrame(rows, columns=["layer", "parameters", "zeros", "units", "dead_units"])
    report.loc[len(report)] = {"layer": "total"} | report.drop(columns="layer").sum().to_dict()
    report.insert(3, "sparsity", report["zeros"] / report["parameters"])
    counts = ["parameters", "zeros", "units", "dead_units"]
    return report.astype(dict.fromkeys(counts, "Int64"))


def sparsity_sweep(
    model, x, y, sparsities=SPARSITIES, *, ignored_layers=(), criterion="magnitude", seed=0, batch_size=2_500
) -> pd.DataFrame:
    """One row per method ("weight", "unit") and sparsity: how the model does on (x, y) when pruned once, not trained.

    `accuracy` and `loss` are what `evaluate` gives (where most units are dead they are left out of the computation,
    which they do not change); `compression_ratio` is all parameters / nonzero parameters and
    `theoretical_speedup` all multiply-adds / those with a nonzero weight (Blalock et al. 2020, 2003.03033).
    The other arguments are those of `prune_weights`; `batch_size` bounds the memory.

    Raises TypeError or ValueError as `prune_weights` does, for sparsities that do not increase, for a model that was
    not compiled with an accuracy metric, and for x and y that do not fit the model or each other.
    """
    if isinstance(sparsities, str) or not hasattr(sparsities, "__iter__"):
        raise TypeError(f"sparsities must be a sequence of numbers in [0, 1], not {sparsities!r}")
    sparsities = [_check_sparsity(sparsity) for sparsity in sparsities]
    if not sparsities or any(a >= b for a, b in itertools.pairwise(sparsities)):
        raise ValueError(f"sparsities must increase from one to the next, not {sparsities}")
    layers = _prunable_layers(model, ignored_layers, "unit")
    scores = {method: [_scores(layer, method, criterion, seed) for layer in layers] for method in ("weight", "unit")}
    batches = _batches(model, x, y, batch_size)
    pruned = _copy(model)
    layers = _twins(model, pruned, layers)
    values = [_values(layer) for layer in layers]
    uses = _uses(pruned, batches[0][0][:1])
    dense, rows = _sizes(pruned, uses)[0], []
    for method, sparsity in progress([(method, sparsity) for method in scores for sparsity in sparsities], "sweep"):
        if sparsity == 0 and rows:  # no need to test again what neither method changes
            rows.append(rows[0] | {"method": method})
            continue
        for layer, value, score in zip(layers, values, scores[method], strict=True):
            _apply_mask(layer, value, _keep(score, sparsity), method)
        rows.append({"method": method, "sparsity": sparsity} | _score(pruned, batches, uses, dense))
    return pd.DataFrame(rows)


def score(model, x, y, *, dense=None, batch_size=2_500) -> dict:
    """The `accuracy`, `loss`, `compression_ratio` and `theoretical_speedup` of one model, as in `sparsity_sweep`.

    The two ratios compare it with the model `dense`, by default with itself without its zeros.
    """
    reference = model if dense is None else dense
    _check_model(reference)
    batches = _batches(model, x, y, batch_size)
    example = batches[0][0][:1]
    return _score(model, batches, _uses(model, example), _sizes(reference, _uses(reference, example))[0])


def _score(model, batches, uses, dense):
    accuracy, loss = _accuracy_and_loss(_without_dead_units(model), batches)
    ratios = [whole / part if part else math.inf for whole, part in zip(dense, _sizes(model, uses)[1], strict=True)]
    return {"accuracy": accuracy, "loss": loss, "compression_ratio": ratios[0], "theoretical_speedup": ratios[1]}


def _without_dead_units(model):
    """`model`, or where at least half of its units are dead a smaller one with the same outputs, which is faster."""
    try:
        dead = [_all_zero(_numpy(layer.kernel), -1) for layer in _prunable_layers(model)]
        if np.concatenate(dead).mean() < 0.5 or model.losses:  # penalties need all the weights
            return model
        smaller = remove_dead_units(model)
    except ValueError:
        return model
    smaller.run_eagerly = True  # to compile it would take longer than this one test
    return smaller


def _accuracy_and_loss(model, batches):
    totals = np.zeros(2)
    for images, labels in batches:
        model.reset_metrics()  # in Keras 3.13 they go on from batch to batch
        logs = model.test_on_batch(images, labels, return_dict=True)
        names = [name for name in logs if name.endswith(("acc", "accuracy")) and "top_k" not in name]
        if not names:
            raise ValueError(f"model {model.name!r} was not compiled with metrics=['accuracy']: it has {list(logs)}")
        accuracy = logs["accuracy" if "accuracy" in names else names[0]]
        totals += np.array([float(accuracy), float(logs["loss"])]) * len(labels)
    model.reset_metrics()
    return totals / sum(len(labels) for _, labels in batches)


def _batches(model, x, y, batch_size):
    """x and y checked against the compiled model and cut into batches of backend tensors."""
    _check_model(model)
    if not model.compiled:
        raise ValueError(f"model {model.name!r} is not compiled: compile it with a loss and metrics=['accuracy']")
    _check_count("batch_size", batch_size, 1)
    x, y = _check_inputs(model, x), _check_array("y", y)
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(f"x has {len(x)} examples, but y has shape {y.shape}")
    loss = (
        model.loss if isinstance(model.loss, str) else getattr(model.loss, "name", getattr(model.loss, "__name__", ""))
    )
    classes = (getattr(model, "output_shape", None) or (None,))[-1]
    if loss.startswith("sparse"):
        if y.size != len(x) or y.dtype.kind not in "iu":
            raise ValueError(f"the loss wants one integer label per example, not y of {y.dtype} {y.shape}")
        if y.min() < 0 or (classes and y.max() >= classes):
            raise ValueError(f"labels must be in [0, {classes}), but y has {y.min()} to {y.max()}")
    elif loss.startswith("categorical") and (y.ndim < 2 or y.shape[-1] != classes):
        raise ValueError(f"the loss wants one-hot labels of {classes} classes, not y of shape {y.shape}")
    tensor = keras.ops.convert_to_tensor
    return [(tensor(x[i : i + batch_size]), tensor(y[i : i + batch_size])) for i in range(0, len(x), batch_size)]


def _check_inputs(model, x):
    """`x` as an array, if `model` takes it."""
    x, expected = _check_array("x", x), getattr(model, "input_shape", None)
    if x.ndim == 0 or len(x) == 0:
        raise ValueError(f"x has no examples: its shape is {x.shape}")
    if isinstance(expected, list | dict):
        raise ValueError(f"model {model.name!r} takes several inputs, which is not handled here")
    if expected and not (len(expected) == x.ndim and all(map(lambda e, s: e in (None, s), expected[1:], x.shape[1:]))):
        raise ValueError(f"x has shape {x.shape}, but model {model.name!r} takes {expected}")
    return x


def _check_array(name, values):
    values = np.asarray(values)
    if values.dtype.kind not in "fiub":
        raise TypeError(f"{name} must be an array of numbers, not of {values.dtype}")
    return values


def _uses(model, x):
    """How often each kernel is applied to one example, by the id of the kernel; `x` is one example."""
    uses = {}

    def counting(layer):
        call = layer.call

        def wrapper(inputs, *args, **kwargs):
            outputs = call(inputs, *args, **kwargs)
            values, shape = outputs, layer.kernel.shape
            channels = shape[-1]
            if isinstance(layer, _TRANSPOSED):
                values = inputs
            elif isinstance(layer, _DEPTHWISE):
                channels = math.prod(shape[-2:])
            elif isinstance(layer, keras.layers.EinsumDense):
                labels, result = layer.equation.split(",")[1].split("->")
                channels = math.prod(size for label, size in zip(labels, shape, strict=True) if label in result)
            times = math.prod(values.shape[1:]) / channels
            uses[id(layer.kernel)] = uses.get(id(layer.kernel), 0) + times
            return outputs

        return wrapper

    layers = {
        id(layer): layer for layer, _ in _walk(model) if isinstance(getattr(layer, "kernel", None), keras.Variable)
    }
    try:
        for layer in layers.values():
            layer.call = counting(layer)
        model(x)
    finally:
        for layer in layers.values():
            vars(layer).pop("call", None)
    return uses


def _sizes(model, uses):
    """(parameters, multiply-adds) of the model, and those that are not zero, or have a nonzero weight."""
    sizes = np.zeros((2, 2))
    for variable in model.weights:
        counts = np.array([math.prod(variable.shape), np.count_nonzero(_numpy(variable))])
        sizes += np.outer(counts, [1, uses.get(id(variable), 0)])
    return sizes


def measure_latency(model, x, batch_sizes=(1, 100, 10_000), *, seconds=1.0) -> pd.DataFrame:
    """One row per batch size: `milliseconds` per call (the median), `images_per_second` and the `calls` timed.

    A call is `predict_on_batch` on the first images of `x`, compiled and warmed up; the images are already a tensor, so
    that the network is timed and not the copying. Calls are repeated, at least 5 times and about `seconds` at most,
    until the median is known to 2 % (its standard error, from the quartiles).
    """
    _check_model(model)
    x = _check_inputs(model, x)
    if not hasattr(batch_sizes, "__iter__"):
        raise TypeError(f"batch_sizes must be a sequence of whole numbers, not {batch_sizes!r}")
    for size in batch_sizes:
        _check_count("batch size", size, 1)
        if size > len(x):
            raise ValueError(f"batch size {size} is more than the {len(x)} examples of x")
    if isinstance(seconds, bool) or not isinstance(seconds, numbers.Real) or not 0 < seconds < math.inf:
        raise ValueError(f"seconds must be a number above 0, not {seconds!r}")
    rows = []
    for size in batch_sizes:
        batch, times = keras.ops.convert_to_tensor(x[:size]), []
        for _ in range(2):
            model.predict_on_batch(batch)
        start = began = time.perf_counter()
        while True:
            model.predict_on_batch(batch)
            began, before = time.perf_counter(), began
            times.append(began - before)
            if len(times) >= 5 and began - start > seconds / 10:
                low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
                if began - start > seconds or 0.93 * (high - low) / len(times) ** 0.5 < 0.02 * median:
                    break
        rows.append((size, median * 1e3, size / median, len(times)))
    return pd.DataFrame(rows, columns=["batch_size", "milliseconds", "images_per_second", "calls"])


def compressed_size(model) -> dict:
    """`raw_bytes` of the model's weights, and their `gzip_bytes`: what a download of them costs."""
    _check_model(model)
    raw = b"".join(_numpy(weight).tobytes() for weight in model.weights)
    return {"raw_bytes": len(raw), "gzip_bytes": len(gzip.compress(raw, compresslevel=6, mtime=0))}


# ---------------------------------------------------------------------------------- progress and plotting


def progress(steps, label):
    """Yields from `steps` while one line tells how many are done and the time left; it leaves nothing behind."""
    steps, start = list(steps), time.perf_counter()
    try:
        for done, step in enumerate(steps, 1):
            yield step
            left = (time.perf_counter() - start) / done * (len(steps) - done)
            _show(f"{label}: {done} of {len(steps)}, {left:.0f} s left")
    finally:
        _show("")


def _show(text):
    """Replace the line of progress: by clearing the cell's output in a notebook, on the same line in a terminal."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None):
        sys.modules["IPython"].display.clear_output(wait=bool(text))
        print(text, end="", flush=True)
    elif sys.stderr.isatty():
        print(f"\r{text:<79}\r", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


class FitProgress(keras.callbacks.Callback):
    """Callback that shows the epochs done and the time left of `fit(…, verbose=0)`, and leaves nothing behind."""

    def __init__(self, label="training"):
        super().__init__()
        self.label = label

    def on_train_begin(self, logs=None):
        self.epochs = progress(range(self.params["epochs"]), self.label)
        next(self.epochs)

    def on_epoch_end(self, epoch, logs=None):
        next(self.epochs, None)

    def on_train_end(self, logs=None):
        self.epochs.close()


COLORS = {"weight": "#0072B2", "unit": "#D55E00"}  # Okabe and Ito's blue and vermilion: also apart in greyscale


def plot_sweep(results, *, x="sparsity", title=None):
    """A figure of accuracy and loss against sparsity, one line per method, from the rows of `sparsity_sweep`.

    With x="parameters_left" the axis is the fraction of the parameters that is left, on a logarithmic scale: the column
    of that name, or 1 / compression_ratio. A column `stage` ("one-shot", "fine-tuned") makes a line of its own per
    stage, and `dataset` heads the title, which by default says how far each method goes before it costs more than one
    point of accuracy.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns

    if not isinstance(results, pd.DataFrame):
        raise TypeError(f"results must be a DataFrame like that of sparsity_sweep, not {type(results).__name__}")
    missing = {"method", "sparsity", "accuracy", "loss", "compression_ratio"} - set(results.columns)
    if missing or len(results) == 0:
        raise ValueError(f"results lack {sorted(missing) or 'rows'}")
    if not set(results["method"]) <= set(COLORS):
        raise ValueError(f"methods must be among {list(COLORS)}, not {sorted(set(results['method']))}")
    if x not in ("sparsity", "parameters_left"):
        raise ValueError(f"x must be 'sparsity' or 'parameters_left', not {x!r}")
    data = results if "parameters_left" in results else results.assign(parameters_left=1 / results["compression_ratio"])
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.5), layout="constrained")
    look = {"style": "stage" if "stage" in data else "method", "markers": True, "markersize": 8, "linewidth": 2.2}
    for axis, y in zip(axes, ("accuracy", "loss"), strict=True):
        sns.lineplot(data, x=x, y=y, hue="method", palette=COLORS, ax=axis, **look)
        axis.set(ylabel=f"test {y}", xlabel="sparsity (fraction pruned in each hidden layer)")
        axis.grid(alpha=0.3)
    if x == "parameters_left":
        for axis in axes:
            axis.set(xscale="log", xlabel="fraction of all parameters left (log scale)")
            axis.invert_xaxis()
    axes[0].set_ylim(0, 1.02)
    axes[1].set_ylim(bottom=0)
    axes[1].get_legend().remove()
    figure.suptitle(title or _finding(data), fontsize=14)
    return figure


def _finding(data):
    """One sentence: how far each method goes before it costs more than one point of accuracy."""
    last = data[data["stage"] == data["stage"].iloc[-1]] if "stage" in data else data
    parts = []
    for method, rows in last.groupby("method", sort=False):
        rows = rows.sort_values("sparsity")
        good = rows[rows["accuracy"] > rows["accuracy"].iloc[0] - 0.01]
        parts.append(f"{good['sparsity'].max():.0%} of the {method}s")
    name = f"{data['dataset'].iloc[0]}: " if "dataset" in data else ""
    stage = f", {last['stage'].iloc[0]}" if "stage" in data else ""
    return f"{name}less than one point of accuracy lost with {' or '.join(parts)} pruned{stage}"


def save(item, path):
    """The path, after writing `item` to it, whole or not at all: a figure, a table (CSV) or a Keras model.

    Raises OSError if the folder is missing or can't be written, TypeError for anything else.
    """
    path = Path(path)
    if not os.access(path.parent, os.W_OK):
        raise OSError(f"can't write {path.name}: the folder {str(path.parent)!r} is missing or read-only")
    part = path.with_name(f".part-{os.getpid()}-{path.name}")
    try:
        if isinstance(item, pd.DataFrame):
            item.to_csv(part, index=False, lineterminator="\n")
        elif isinstance(item, keras.Model):
            item.save(part)
        elif hasattr(item, "savefig"):
            item.savefig(part, dpi=110, metadata={"Software": None} if path.suffix == ".png" else None)
        else:
            raise TypeError(f"expected a figure, a DataFrame or a keras.Model, not {type(item).__name__}")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    return path


# -------------------------------------------------------------------------------------------- exploring


def _explorer(name, model, dataset, images):
    """A function of (method, sparsity) that prunes `model`, tests it, and returns the bytes of a PNG."""
    import matplotlib.image
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    x, y = dataset.x_test[:images], dataset.y_test[:images]
    curves = sparsity_sweep(model, x, y)
    pruned, batches = prune_units(model, 0.0), _batches(model, x, y, images)
    layers = _prunable_layers(pruned)
    values = [_values(layer) for layer in layers]
    scores = {m: [_scores(layer, m) for layer in layers] for m in COLORS}
    shown = layers[len(layers) // 2]

    def corner():
        left = np.abs(_numpy(shown.kernel))
        left = left.reshape(-1, left.shape[-1])[:60, :60]
        return np.where(left > 0, 0.2 + 0.8 * left / (left.max() or 1), 0)  # what is left can be seen, however small

    # To draw everything takes longer than to prune and test: draw once what stays, and then only what moves.
    figure = Figure(figsize=(12, 3.6), dpi=80)
    ratios = {"width_ratios": [6, 5, 10], "left": 0.06, "right": 0.99, "bottom": 0.15, "top": 0.85}
    curve, matrix, tiles = figure.subplots(1, 3, gridspec_kw=ratios)
    lines = {}
    for method, color in COLORS.items():
        rows = curves[curves["method"] == method]
        (lines[method],) = curve.plot("sparsity", "accuracy", data=rows, color=color, label=f"{method}s")
    curve.set(xlabel="sparsity", ylabel="test accuracy", ylim=(0, 1.02), xlim=(-0.03, 1.03))
    legend = curve.legend(loc="lower left")
    (here,) = curve.plot([], [], "o", markersize=12)
    weights = matrix.imshow(corner(), cmap="gray_r", vmin=0, vmax=1)
    matrix.set(xticks=[], yticks=[], xlabel="units", ylabel="inputs")
    matrix.set_title(f"{shown.name}: |w|, white = pruned", fontsize=10)
    tile = np.zeros((8, 36, 36))  # one axis for eight images, since each axis takes its time to draw
    tile[: len(x[:8]), 8:, 4:-4] = x[:8].reshape(-1, 28, 28)
    tiles.imshow(tile.reshape(2, 4, 36, 36).swapaxes(1, 2).reshape(72, 144), cmap="gray_r")
    tiles.set_axis_off()
    texts = [tiles.text(i % 4 * 36 + 18, i // 4 * 36 + 6, "", ha="center", fontsize=9) for i in range(len(x[:8]))]
    frames = [*curve.spines.values(), *matrix.spines.values(), legend]  # they lie above the lines and the image
    moving = [*lines.values(), here, weights, *frames, *texts, figure.suptitle("")]
    for artist in moving:
        artist.set_animated(True)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)

    def picture(method, sparsity):
        for layer, value, score in zip(layers, values, scores[method], strict=True):
            _apply_mask(layer, value, _keep(score, sparsity), method)
        accuracy, loss = _accuracy_and_loss(pruned, batches)
        for other, line in lines.items():
            line.set_alpha(1 if other == method else 0.3)
        here.set(data=([sparsity], [accuracy]), color=COLORS[method])
        weights.set_data(corner())
        for text, guess, label in zip(texts, np.argmax(pruned.predict_on_batch(x[:8]), axis=-1), y, strict=False):
            mark, color = ("✓", COLORS["weight"]) if guess == label else ("✗", COLORS["unit"])
            text.set(text=f"{mark} {dataset.class_names[guess]}", color=color)
        figure.suptitle(
            f"{name}, {sparsity:.0%} of the {method}s pruned: accuracy {accuracy:.1%}, loss {loss:.3f} "
            f"({len(y):,} test images)"
        )
        canvas.restore_region(still)
        for artist in moving:
            figure.draw_artist(artist)
        png = io.BytesIO()
        matplotlib.image.imsave(png, canvas.buffer_rgba())
        return png.getvalue()

    return picture


def explore_pruning(models, datasets, *, sparsity=0.9, images=2_000):
    """None: shows sliders to prune with, and at once what that does, in a notebook with ipywidgets.

    `models` and `datasets` map the same names to a compiled model and its `Dataset`. Accuracy and loss are measured on
    the first `images` test images. Where widgets do not run (a page, a script) one picture of it remains.

    Raises ValueError if the names differ, and as `sparsity_sweep` does.
    """
    if not models or set(models) != set(datasets):
        raise ValueError(
            f"models {sorted(models)} and datasets {sorted(datasets)} must have the same names, at least one"
        )
    sparsity, pictures = _check_sparsity(sparsity), {}

    def picture(name, method, sparsity):
        if name not in pictures:
            pictures[name] = _explorer(name, models[name], datasets[name], images)
        return pictures[name](method, sparsity)

    current = picture(next(iter(models)), "weight", sparsity)
    try:
        import ipywidgets
        from IPython.display import display
    except ImportError:
        return
    image = ipywidgets.Image(value=current, format="png")
    controls = [
        ipywidgets.Dropdown(options=list(models), description="data set"),
        ipywidgets.ToggleButtons(options=["weight", "unit"], description="prune by"),
        ipywidgets.FloatSlider(
            value=sparsity, min=0, max=0.99, step=0.01, description="sparsity", readout_format=".0%"
        ),
    ]

    def redraw(_):
        name, method, value = (control.value for control in controls)
        image.value = picture(name, method, value)

    for control in controls:
        control.observe(redraw, names="value")
    box = ipywidgets.VBox([ipywidgets.HBox(controls), image])
    fallback = {"image/png": base64.b64encode(current).decode(), "text/plain": "the explorer, at one position"}
    alt = {
        "image/png": {
            "alt": "Accuracy over sparsity with the position marked, a kernel with what is left, eight images"
        }
    }
    display(box._repr_mimebundle_() | fallback, raw=True, metadata=alt)
