"""Magnitude pruning for Keras 3: prune a model, keep it sparse while it trains, make it small, and measure it.

    pruned = pruning_utils.prune_units(model, 0.8)    # a new model; `model` keeps every bit
    pruning_utils.hold_sparsity(pruned)               # what is zero stays zero in pruned.fit(...)
    small = pruning_utils.remove_dead_units(pruned)   # the same outputs from a smaller network
    print(pruning_utils.score(small, x, y, dense=model))

Any backend; Matplotlib and seaborn only to plot. Sparsity is always a fraction in [0, 1].
"""

import contextlib
import functools
import gzip
import inspect
import itertools
import math
import numbers
import re
import timeit
import warnings
from collections import Counter, namedtuple
from pathlib import Path

import keras
import numpy as np
import pandas as pd
from tqdm.auto import tqdm

SPARSITIES = (0.0, 0.25, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.97, 0.99)
COLORS = {"weight": "#0072B2", "unit": "#D55E00"}  # Okabe and Ito's blue and vermilion: also apart in greyscale
_CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot"
CLASS_NAMES = {"mnist": tuple("0123456789"), "fashion_mnist": tuple(_CLOTHES.split(","))}
_numpy = keras.ops.convert_to_numpy
_UNITS = "Dense|(Separable)?Conv.D(Transpose)?"  # the layers whose units are known


# ------------------------------------------------------------------------------------- data and network
Dataset = namedtuple("Dataset", "x_train y_train x_test y_test class_names")


def load_dataset(name: str) -> Dataset:
    """The `Dataset` "mnist" or "fashion_mnist": 60,000 images to train on, 10,000 to test on.

    Images are float32 (n, 784) in [0, 1], labels int32 (n,), `class_names` the ten names that they stand for. Reads
    data/NAME.npz beside this module, or else what keras.datasets downloads. Raises ValueError for another name.
    """
    if name not in CLASS_NAMES:
        raise ValueError(f"unknown data set {name!r}: choose one of {', '.join(map(repr, CLASS_NAMES))}")
    path = Path(__file__).resolve().parent / "data" / f"{name}.npz"
    if path.exists():
        with np.load(path) as file:
            train, test = [(file[f"x_{part}"], file[f"y_{part}"]) for part in ("train", "test")]
    else:
        train, test = getattr(keras.datasets, name).load_data()
    arrays = [(x.reshape(len(x), 784) / np.float32(255), y.astype("int32")) for x, y in (train, test)]
    return Dataset(*arrays[0], *arrays[1], CLASS_NAMES[name])


def build_model(
    hidden_units=(1000, 1000, 500, 200), *, learning_rate=1e-3, kernel_regularizer=None, seed=None, **compile_options
):
    """A compiled Sequential on 784 inputs: hidden layers ReLU(xW) without biases, then 10 logits xW.

    `kernel_regularizer` is that of the hidden kernels, `learning_rate` (a number or a schedule) goes to Adam, `seed`
    makes the initial weights repeatable, and `compile_options` win over the defaults of `compile`.
    """
    model = keras.Sequential([keras.Input((784,))], name="mlp")
    for number, units in enumerate((*hidden_units, 10)):
        options = {"kernel_initializer": keras.initializers.GlorotUniform(None if seed is None else seed + number)}
        if number < len(hidden_units):
            options |= {"activation": "relu", "kernel_regularizer": kernel_regularizer, "name": f"hidden_{number + 1}"}
        model.add(keras.layers.Dense(units, use_bias=False, **{"name": "logits"} | options))
    optimizer, loss = keras.optimizers.Adam(learning_rate), keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": optimizer, "loss": loss, "metrics": ["accuracy"]} | compile_options)
    return model


# ------------------------------------------------------------------------------------------------ masks
def weight_mask(kernel, sparsity: float) -> np.ndarray:
    """Boolean mask of `kernel`'s shape, False over the round(sparsity * kernel.size) weights of smallest |w|.

    Ties go by position (row-major). Raises TypeError or ValueError if sparsity is no number in [0, 1], or for NaN.
    """
    return _keep(_scores(kernel), _check_sparsity(sparsity))


def unit_mask(kernel, sparsity: float) -> np.ndarray:
    """Boolean mask of `kernel`'s shape, False over the round(sparsity * units) units of smallest L2 norm.

    A unit is one output: a column of a Dense kernel (inputs, units), a filter of a convolution kernel (..., channels,
    filters). One stays unless sparsity is 1. Ties and errors are as in `weight_mask`; no axis is a ValueError, too.
    """
    magnitudes = _scores(kernel)
    if magnitudes.ndim == 0:
        raise ValueError("the kernel has no axis, so it has no units: expected (..., units)")
    keep = _keep(np.sqrt(_squares(magnitudes)), _check_sparsity(sparsity), spare=int(sparsity < 1))
    return np.broadcast_to(keep, magnitudes.shape).copy()


def _check_sparsity(sparsity):
    if isinstance(sparsity, bool) or not isinstance(sparsity, numbers.Real):
        raise TypeError(f"sparsity must be a number in [0, 1], not {sparsity!r}")
    if not 0 <= sparsity <= 1:
        hint = f" (it is a fraction: {sparsity} % is {sparsity / 100:g})" if 1 < sparsity <= 100 else ""
        raise ValueError(f"sparsity must be in [0, 1], not {sparsity!r}{hint}")
    return float(sparsity)


def _scores(kernel, scores=None):
    """What `scores`, or the magnitude if it is None, says of each weight, in single precision or better."""
    name = f"the kernel or score of {kernel.path}" if hasattr(kernel, "path") else "the kernel"
    values = _numpy(kernel if scores is None else scores(kernel))
    if values.dtype.kind not in "fiu" and values.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, not {values.dtype}")
    if scores is not None and values.shape != tuple(kernel.shape):
        raise ValueError(f"scores({kernel.path}) must have shape {tuple(kernel.shape)}, not {values.shape}")
    values = np.asarray(values, np.promote_types(values.dtype, np.float32))
    if np.isnan(values).any():
        raise ValueError(f"{name} holds NaN, which has no rank among magnitudes")
    return np.abs(values) if scores is None else values


def _squares(values):
    """The sums of squares in double precision of an array (..., units) for each unit."""
    axes = list(range(values.ndim))
    return np.einsum(values, axes, values, axes, axes[-1:], dtype=float)


def _keep(scores, fraction, spare=0):
    """Boolean array of scores' shape, False over the smallest `fraction` of them, ties by position; `spare` stay."""
    flat, pruned = scores.ravel(), min(round(fraction * scores.size), scores.size - spare)
    if pruned <= 0:
        return np.ones(scores.shape, bool)
    threshold = np.partition(flat, pruned - 1)[pruned - 1]
    keep = flat > threshold
    keep[np.flatnonzero(flat == threshold)[pruned - np.count_nonzero(flat < threshold) :]] = True
    return keep.reshape(scores.shape)


# ---------------------------------------------------------------------------------------------- pruning
def prune_weights(model, sparsity, *, scope="layer", ignored_layers=(), scores=None):
    """A copy of `model` in which the smallest weights are zero (Han et al. 2015, 1506.02626), as by `weight_mask`.

    Pruned is every float weight of two or more axes (kernels, embeddings, ...), frozen or not, except biases, scales,
    states, and output layers (of a subclassed model, the last). The copy is compiled as `model`, with a new optimizer.

    `sparsity` is a fraction for all layers, or a dict of layer names to fractions (other layers keep what they have; a
    nested model's name stands for all in it). `scope="global"` sets one threshold for all layers together. Layers in
    `ignored_layers` are left alone. `scores(variable)` returns the importance of each weight of that matrix of `model`,
    an array of its shape, to rank by instead of |w|. Raises TypeError or ValueError for bad fractions, unknown names,
    NaN, quantized or LoRA layers, and a model that is not built, has nothing to prune or can't be rebuilt by Keras.
    """
    return _prune(model, "weight", sparsity, scope, ignored_layers, scores)


def prune_units(model, sparsity, *, scope="layer", ignored_layers=(), scores=None):
    """A copy of `model` in which the units of smallest L2 norm are zero, as in Li et al. (1608.08710).

    Units are the outputs of Dense, convolution, transposed and separable layers (without groups, channels last). Those
    that an Add or the like ties go together, by the norm of all their weights; biases and normalization go along. Each
    layer keeps one unit unless sparsity is 1. Arguments and errors are those of `prune_weights`; `scores` (by default w
    squared) are summed over each unit, tied layers need one fraction. Warns of layers whose units it does not know.
    """
    return _prune(model, "unit", sparsity, scope, ignored_layers, scores)


def _prune(model, method, sparsity, scope, ignored_layers, scores):
    pruned = _copy(model)
    graph = _Graph(model, pruned)
    fractions = graph.fractions(sparsity, scope, ignored_layers)
    _apply(graph.masks(method, fractions, scope, scores), pruned.weights)
    if method == "unit":
        graph.warn_of_unknown(fractions, stacklevel=4)
    return pruned


def _apply(masks, weights):
    """Zeros in the weights where the mask of their number is False."""
    for number, mask in masks.items():
        weights[number].assign(keras.ops.where(mask, weights[number].value, 0))


def _set_of(names):
    return {names} if isinstance(names, str) else set(names)


# --------------------------------------------------------------------------------------------- training
class _HoldZeros(keras.constraints.Constraint):
    """A variable's constraint: after every optimizer step, zero wherever `mask` is False."""

    def __init__(self, mask, previous):
        self.mask, self.previous = keras.Variable(mask, trainable=False), previous

    def __call__(self, value):
        value = keras.ops.convert_to_tensor(value if self.previous is None else self.previous(value))
        return keras.ops.where(keras.ops.convert_to_tensor(self.mask), value, keras.ops.zeros_like(value))


def hold_sparsity(model, *, ignored_layers=()):
    """None: from now on what is zero in the model's hidden matrices stays exactly zero while it trains.

    So does what is zero of biases and normalization of units without any weight. The zeros are constraints of the
    variables, which Keras applies after every optimizer step, so neither momentum nor weight decay revives a weight;
    `release_sparsity` takes them away, and a loaded or copied model has none. Call it with the model that is to be
    trained, not one nested in that, before a training step of your own is compiled, and again after pruning further.
    Raises as `prune_weights`, and ValueError for an optimizer with use_ema=True, whose average would not be sparse.
    """
    graph, values = _Graph(model), [_numpy(weight) for weight in model.weights]
    fractions, alive = graph.fractions(0.0, ignored_layers=ignored_layers), np.ones(len(graph.owner), bool)
    for n, (*_, units) in graph.kernels.items():
        alive[units] = fractions[n] is None or graph.alive(values, n)
    dead = ~graph.tied(alive)
    masks = graph.silence(dead, dead) | dict.fromkeys(graph.masks("weight", fractions), False)
    _hold(model, {number: mask | (values[number] != 0) for number, mask in masks.items()})


def _hold(model, masks):
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", None), *getattr(optimizer, "optimizers", ())
    if any(getattr(item, "use_ema", None) for item in (optimizer, *inner)):
        raise ValueError("the optimizer has use_ema=True: its average of the weights would not stay sparse")
    release_sparsity(model)
    for number, mask in masks.items():
        model.weights[number].constraint = _HoldZeros(mask, model.weights[number].constraint)


def release_sparsity(model):
    """None: undoes `hold_sparsity`, and gives each variable back the constraint it had before."""
    for variable in model.weights:
        if isinstance(variable.constraint, _HoldZeros):
            variable.constraint = variable.constraint.previous
    if model.train_function is not None:  # a compiled step keeps the constraints it was traced with
        model.make_train_function(force=True)


class GradualPruning(keras.callbacks.Callback):
    """Callback that prunes while the model trains, every `frequency` steps and at the end (Zhu and Gupta 2017,
    1710.01878): at step t to final + (initial - final) * (1 - (t - begin) / (end - begin))**3.

    Steps are `optimizer.iterations`, which go on from one `fit` to the next; `method` is "weight" or "unit", the other
    arguments are those of `prune_weights`. Each pruning goes by the weights as they are then; what it prunes is held
    until training ends, and nothing else: call `hold_sparsity` to go on (`release_sparsity`, if it was interrupted).
    Warns if training starts behind `end_step`, or ends without `final_sparsity`. A callback that restores weights has
    to stand before this one; one that saves the best epoch may save a dense one. On JAX each pruning compiles anew.
    Raises TypeError or ValueError for bad numbers, and when training begins as `prune_weights` and `hold_sparsity`.
    """

    def __init__(
        self, initial_sparsity, final_sparsity, begin_step, end_step, frequency=100, *, method="weight", scope="layer",
        ignored_layers=(), scores=None,
    ):  # fmt: skip
        super().__init__()
        if _check_sparsity(initial_sparsity) > _check_sparsity(final_sparsity):
            raise ValueError(f"initial_sparsity {initial_sparsity} is above final_sparsity {final_sparsity}")
        if not 0 <= begin_step < end_step or not frequency >= 1:
            raise ValueError(f"expected 0 <= {begin_step=} < {end_step=} and 1 <= {frequency=}")
        if method not in COLORS:
            raise ValueError(f"method must be 'weight' or 'unit', not {method!r}")
        self.initial_sparsity, self.final_sparsity = initial_sparsity, final_sparsity
        self.begin_step, self.end_step, self.frequency = begin_step, end_step, frequency
        self.method, self.scope, self.ignored_layers, self.scores = method, scope, _set_of(ignored_layers), scores

    def sparsity_at(self, step: int) -> float:
        """The sparsity that the schedule asks for after `step` steps, 0 before `begin_step`."""
        if step < self.begin_step:
            return 0.0
        due = step - (step - self.begin_step) % self.frequency if step < self.end_step else self.end_step
        left = 1 - (due - self.begin_step) / (self.end_step - self.begin_step)
        return self.final_sparsity + (self.initial_sparsity - self.final_sparsity) * left**3

    def on_train_begin(self, logs=None):
        self._graph, self._asked = _Graph(self.model), 0.0
        fractions = self._graph.fractions(0.0, self.scope, self.ignored_layers)
        _hold(self.model, self._graph.masks(self.method, fractions))  # which prune nothing yet
        if self._step() > self.end_step:
            warnings.warn(f"training starts at step {self._step()}, behind end_step={self.end_step}", stacklevel=2)
        self.on_train_batch_end(None)

    def on_train_batch_end(self, batch, logs=None):
        asked = self.sparsity_at(self._step())
        if asked == self._asked:
            return
        self._asked, fractions = asked, self._graph.fractions(asked, self.scope, self.ignored_layers)
        masks = self._graph.masks(self.method, fractions, self.scope, self.scores)
        _apply(masks, self._graph.weights)
        for number, mask in masks.items():
            self._graph.weights[number].constraint.mask.assign(mask)
        if keras.backend.backend() == "jax":  # whose compiled step has the masks in it
            self.model.make_train_function(force=True)

    def on_train_end(self, logs=None):
        step = self._step()
        held = [v for v in self.model.weights if v.ndim > 1 and isinstance(v.constraint, _HoldZeros)]
        pairs = [(_numpy(v).ravel() == 0, _numpy(v.constraint.mask).ravel()) for v in held]
        zero, kept = np.hstack([np.ones((2, 0), bool), *pairs])
        release_sparsity(self.model)
        if step < self.end_step or not (zero | kept).all():
            asked = f"final_sparsity={self.final_sparsity} at end_step={self.end_step}"
            warnings.warn(f"{asked} was not reached: {np.mean(zero):.3f} at step {step}", stacklevel=2)

    def _step(self):
        if hasattr(self.model, "jax_state_sync"):
            self.model.jax_state_sync()
        optimizer = self.model.optimizer  # of a loss-scaling one, Keras 3.8 counts in the optimizer within
        return int(_numpy(getattr(optimizer, "inner_optimizer", optimizer).iterations))


# -------------------------------------------------------------------------------------------- measuring
def sparsity_report(model) -> pd.DataFrame:
    """One row per layer that has weights, and a last row "total": what is zero where.

    `parameters` counts the weights of every kind, `zeros` those equal to zero, `sparsity` is their fraction; `units`
    are those that `prune_units` knows, `dead_units` those with no incoming weight; <NA> for layers without.
    """
    graph, values = _Graph(model), [_numpy(weight) for weight in model.weights]
    left, rows = dict(enumerate(values)), []
    for n, (chain, own) in enumerate(graph.layers):
        if new := [left.pop(number) for number in own if number in left]:
            units = (graph.kernels[n][-1].size, np.sum(~graph.alive(values, n))) if n in graph.kernels else [np.nan] * 2
            rows.append((chain[0].name, sum(v.size for v in new), sum(np.sum(v == 0) for v in new), *units))
    report = pd.DataFrame(rows, columns=["layer", "parameters", "zeros", "units", "dead_units"])
    report.loc[len(report)] = {"layer": "total"} | report.drop(columns="layer").sum().to_dict()
    report.insert(3, "sparsity", report["zeros"] / report["parameters"])
    return report.astype(dict.fromkeys(["parameters", "zeros", "units", "dead_units"], "Int64"))


def sparsity_sweep(
    model, x, y=None, sparsities=SPARSITIES, *, scope="layer", ignored_layers=(), scores=None, **evaluate_options
) -> pd.DataFrame:
    """A table, one row per method ("weight", "unit") and sparsity: the `score` of a copy pruned so, with `dense=model`.

    `scope` to `scores` are those of `prune_weights`, other arguments (`batch_size`, ...) go to `evaluate`. Warns as
    `prune_units`; of a model without units to prune, the rows are those of weights alone. Raises as `prune_weights`.
    """
    pruned, rows, ignored_layers = _copy(model), [], _set_of(ignored_layers)
    graph = _Graph(model, pruned)
    whole = graph.fractions(0.0, scope, ignored_layers)
    methods = list(COLORS) if graph.unit_masks(whole, "layer", None) else ["weight"]
    points = [(how, s, graph.fractions(s, scope, ignored_layers)) for how, s in itertools.product(methods, sparsities)]
    graph.warn_of_unknown(whole)
    if "unit" not in methods:
        warnings.warn(f"{model.name!r} has no units to prune: the rows are of weights alone", stacklevel=2)
    for method, sparsity, fractions in tqdm(points, desc="sweep", leave=False):
        _assign(pruned, model.weights)
        _apply(graph.masks(method, fractions, scope, scores), pruned.weights)
        rows.append({"method": method, "sparsity": sparsity} | _measure(pruned, graph, graph, x, y, evaluate_options))
    return pd.DataFrame(rows)


def score(model, x, y=None, *, dense=None, **evaluate_options) -> dict:
    """What `model.evaluate` gives (`loss`, `accuracy`, ...), `compression_ratio` and `theoretical_speedup` of a model.

    The ratios are all parameters of `dense` (by default the model without its zeros) to the nonzero ones left once dead
    units are gone, and the same for multiply-adds (Blalock et al. 2020, 2003.03033): a weight makes one at each place
    of its layer's input or output, whichever has fewer (an axis of unknown size has one). The speedup is NaN where
    calls can't be followed, as in subclassed models. The rest is as for `evaluate`.
    """
    graph = _Graph(model)
    return _measure(model, graph, graph if dense is None else _Graph(dense), x, y, evaluate_options)


def _measure(model, graph, dense_graph, x, y, options):
    logs = model.evaluate(x, y, return_dict=True, **{"verbose": 0} | options)
    values, _ = graph.without_dead_units([_numpy(weight) for weight in model.weights])
    whole = dense_graph.cost({n: math.prod(weight.shape) for n, weight in dense_graph.weights.items()})
    left = graph.cost({n: np.count_nonzero(value) for n, value in values.items()})
    ratios = [size / part if part else math.inf for size, part in zip(whole, left)]
    return logs | dict(zip(("compression_ratio", "theoretical_speedup"), ratios))


def measure_latency(model, x, batch_sizes=(1, 32), *, seconds=1.0) -> pd.DataFrame:
    """One row per batch size: `milliseconds` per call (the median), `images_per_second` and the `calls` timed.

    A call is `predict_on_batch` on the first examples of `x` (an array, or a list or dict of them) as tensors, compiled
    and warmed up; as many as fit into `seconds`, but at least 5. Raises ValueError for batch sizes that `x` lacks.
    """
    available, sizes, rows = len(keras.tree.flatten(x)[0]), list(batch_sizes), []
    if wrong := [size for size in sizes if not 1 <= size <= available]:
        raise ValueError(f"batch sizes {wrong} are not between 1 and the {available} examples of x")
    for size in sizes:
        batch = keras.tree.map_structure(lambda array: keras.ops.convert_to_tensor(array[:size]), x)  # noqa: B023
        timer = timeit.Timer(lambda: model.predict_on_batch(batch))  # noqa: B023
        once = timer.repeat(3, 1)[-1]  # the first calls compile
        times = timer.repeat(max(5, int(seconds / once)), 1)
        rows.append((size, np.median(times) * 1e3, size / np.median(times), len(times)))
    return pd.DataFrame(rows, columns=["batch_size", "milliseconds", "images_per_second", "calls"])


def compressed_size(model) -> dict:
    """`raw_bytes` of the model's weights, and their `gzip_bytes`: what a download of them costs."""
    raw = b"".join(_numpy(weight).tobytes() for weight in model.weights)
    return {"raw_bytes": len(raw), "gzip_bytes": len(gzip.compress(raw, compresslevel=6, mtime=0))}


def plot_sweep(results, *, style=None, title=None):
    """A figure of accuracy, error and loss over sparsity, one line per method, from rows of `sparsity_sweep`.

    The fraction kept, error and loss have logarithmic axes. `style` names the column that sets the line style (by
    default `stage`, if there is one). Several rows at one point are drawn as mean and standard deviation. Raises
    ValueError for results without the columns method, sparsity, accuracy and loss.
    """
    import matplotlib.pyplot as plt
    import seaborn as sns
    from matplotlib import ticker

    if missing := {"method", "sparsity", "accuracy", "loss"} - set(results.columns):
        raise ValueError(f"results lack the columns {sorted(missing)}")
    style = style or ("stage" if "stage" in results else None)
    look = {"hue": "method", "style": style, "palette": COLORS, "errorbar": "sd", "marker": "o", "linewidth": 2}
    data = results.assign(kept=1 - results["sparsity"], error=1 - results["accuracy"])
    kept = sorted(set(data["kept"]) - {0})
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.5), layout="constrained")
    for axis, y in zip(axes, ("accuracy", "error", "loss")):
        sns.lineplot(data, x="kept", y=y, ax=axis, legend=y == "loss" and "auto", **look)
        axis.set(xscale="log", xlabel="sparsity: % pruned in each hidden layer", ylabel=f"test {y}")
        if y != "accuracy":
            axis.set(yscale="log", ylabel=f"test {y} (log scale)")
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}" if y == "loss" else ticker.PercentFormatter(1))
        axis.minorticks_off()
        axis.set_xticks(kept, [f"{100 * (1 - fraction):g}" for fraction in kept], fontsize="small")
        axis.invert_xaxis()
        axis.grid(alpha=0.3)
    axes[0].set_ylim(0, 1.02)
    axes[2].legend(handlelength=4, fontsize="small", loc="upper left", bbox_to_anchor=(1, 1))
    figure.suptitle(title or "Accuracy, error and loss over sparsity")
    return figure


# ------------------------------------------------------------------------------------- copies of a model
def _check_model(model):
    if not isinstance(model, keras.Model):
        raise TypeError(f"expected a keras.Model, not {type(model).__name__}")
    if not model.built:
        raise ValueError(f"model {model.name!r} is not built, so it has no weights: build it or call it once")
    if hasattr(model, "jax_state_sync"):
        model.jax_state_sync()  # in a callback the weights are in the training step
    for weight in model.weights:
        if re.search("lora_|amax_history|(kernel|embeddings)_scale", weight.name):
            raise ValueError(f"{weight.path}: the layer is quantized or has LoRA enabled: prune before that, or merge")


def _has_graph(layer):
    """Whether it is a Sequential or functional model, whose calls can be followed."""
    return isinstance(layer, keras.Model) and getattr(layer, "inputs", None) is not None


def _parts(layer):
    """The layer and all layers inside it, at any depth, those around others first."""
    found, items = {}, [layer]
    for item in items:  # which grows
        if isinstance(item, (list, tuple, dict)):
            items.extend(item.values() if isinstance(item, dict) else item)
        elif isinstance(item, keras.layers.Layer) and id(item) not in found:
            found[id(item)] = item
            items.extend(item.layers if isinstance(item, keras.Model) else vars(item).values())
    return list(found.values())


def _rebuild(layer, changes):
    """A new layer of the same configuration but for `changes`; the layer itself if it has no weights but code."""
    if isinstance(layer, keras.layers.Lambda) and inspect.isfunction(layer.function):
        used = inspect.getclosurevars(layer.function)
        for item in (*used.globals.values(), *used.nonlocals.values()):
            if isinstance(item, keras.Variable) or (isinstance(item, keras.layers.Layer) and item.weights):
                raise ValueError(f"lambda {layer.name!r} computes with weights that are not its own")
    if isinstance(layer, keras.layers.Lambda) or (hasattr(layer, "get_vocabulary") and not layer.weights):
        return layer  # a lookup's table is not in its configuration, and a lambda's code without what it uses
    try:
        config = layer.get_config() | changes
        if type(layer).__module__.startswith("keras."):  # of a function a configuration has but the name
            config |= {key: f for key in config if callable(f := getattr(layer, key, None)) and hasattr(f, "__name__")}
        rebuilt = type(layer).from_config(config)
        rebuilt.name = layer.name  # which is not in the configuration that Keras makes for a class without one
        return rebuilt
    except Exception:
        if getattr(layer, "variables", []):
            raise
        return layer


def _copy(model, changes=None, values=None):
    """A copy of a model, compiled as it was. `changes` has for id(layer) what is new in its configuration, and for
    id(tensor) the shape of an input of a model; `values` are the weights, if they are new."""
    _check_model(model)
    changes = changes or {}

    @functools.cache  # a layer can be in several nested models
    def rebuild(layer):
        return clone(layer) if _has_graph(layer) else _rebuild(layer, changes.get(id(layer), {}))

    def clone(model):
        names = {id(layer.output): layer.name for layer in model.layers if isinstance(layer, keras.layers.InputLayer)}
        options = [(changes.get(id(t), t.shape), t.dtype, names.get(id(t), t.name)) for t in model.inputs]
        inputs = [keras.Input(batch_shape=shape, dtype=dtype, name=name) for shape, dtype, name in options]
        inputs = keras.tree.pack_sequence_as(getattr(model, "input", model.inputs), inputs)
        return keras.models.clone_model(model, input_tensors=inputs, clone_function=rebuild)

    try:
        copy = clone(model) if _has_graph(model) else keras.models.clone_model(model)
        if model.compiled:  # which Keras 3.8 leaves out
            settings = keras.saving.deserialize_keras_object(model.get_compile_config() | {"loss": None})
            copy.compile(**settings | {"loss": model.loss})
        if {id(v) for v in copy.weights} & {id(v) for v in model.weights}:
            raise ValueError("a layer made from its configuration has weights of the first one")
        pairs = list(zip(*([part for part in _parts(whole) if part.weights] for whole in (copy, model))))
        for mine, yours in pairs:
            mine.trainable, function = yours.trainable, getattr(mine, "activation", None)
            of_keras = inspect.isfunction(function) and function.__module__.startswith("keras.")
            if of_keras and function is not yours.activation:
                raise ValueError(f"Keras takes its own {function.__name__!r} for the activation of {yours.name!r}")
        _assign(copy, model.weights if values is None else values)
    except Exception as error:
        raise ValueError(
            f"Keras can't rebuild model {model.name!r} from its configuration ({type(error).__name__}: {error}). A "
            "custom class needs an __init__ that takes **kwargs, and a get_config() with its other arguments; what is "
            "not found needs keras.saving.register_keras_serializable(), and a lambda a name."
        ) from error
    if lost := sorted({type(yours).__name__ for mine, yours in pairs if type(mine) is not type(yours)}):
        why = "Keras makes plain models of them, without their call or train_step"
        warnings.warn(f"the copy of {model.name!r} has no more {', '.join(lost)}: {why}", stacklevel=2)
    return copy


def _assign(model, values):
    for weight, value in zip(model.weights, values, strict=True):
        weight.assign(keras.ops.copy(value))  # JAX deletes the arrays that a compiled step has used
    for layer in _parts(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # what it computes with follows from its weights
        if getattr(layer, "stateful", False) and hasattr(layer, "reset_state"):
            layer.reset_state()  # of a recurrent layer, which is not among its weights


# ---------------------------------------------------------------------------------- the graph of a model
class _Call(namedtuple("_Call", "layer arguments ins outs")):
    """A call of a layer in a model's graph, with lists of the symbolic tensors that go in and come out."""

    def run(self, arrays, layer=None):
        """What the layer (or `layer`) says if these arrays stand for the tensors that go in."""
        arrays = [array > 0 if item.dtype == "bool" else array for item, array in zip(self.ins, arrays)]
        given = {id(item): keras.ops.convert_to_tensor(array, item.dtype) for item, array in zip(self.ins, arrays)}
        args, kwargs = keras.tree.map_structure(lambda item: given.get(id(item), item), self.arguments)
        return _numpy((layer or self.layer)(*args, **kwargs)).astype(float)

    def lined_up(self, size):
        """Rows of `size` channels that come in, by number: all joined, one input's repeated, or each input's own."""
        sizes = [_shape(tensor)[-1] for tensor in self.ins]
        sizes = [size] if sum(sizes) == size else sizes
        fit = [n == size or (len(sizes) == 1 and size % n == 0) for n in sizes]
        return np.array([sum(sizes[:k]) + np.arange(size) % sizes[k] for k in np.flatnonzero(fit)])

    def keeps_apart(self):
        """Whether the layer says of half of the channels of one example what it says of all, whichever half it is."""
        if hasattr(self.layer, "compute_mask") and self.layer.compute_mask(self.ins[0], None) is not None:
            return False  # the mask that it makes depends on all channels
        rng, sizes = np.random.default_rng(0), [_shape(tensor)[-1] for tensor in self.ins]
        places = [[min(size, 64) for size in _shape(tensor, 16)[:-1]] for tensor in self.ins]  # more take more time
        every = [rng.normal(size=(3, *shape, size)) for shape, size in zip(places, sizes)]
        expected, part = self.run(every), _rebuild(self.layer, {})
        lined, number = self.lined_up(expected.shape[-1]), np.concatenate([np.arange(n) for n in sizes])
        for n, half in enumerate([number < np.repeat(sizes, sizes) // 2, number % 2 == 0, number % 2 == 1]):
            half[np.delete(np.arange(half.size), lined)] = True
            halves = np.split(half, np.cumsum(sizes)[:-1])
            found = self.run([x[[n]][..., h] for x, h in zip(every, halves)], part)
            wanted = expected[[n]][..., half[lined[0]]]
            if found.shape != wanted.shape or not wanted.size or not np.allclose(found, wanted, 1e-5, 1e-5):
                return False
        return True


class _Graph:
    """Where a model's units begin, pass and end, as its copy is called; layers, weights and units go by numbers."""

    def __init__(self, model, copy=None):
        _check_model(model)
        source = keras.Model(model.inputs, model.outputs) if copy is None and _has_graph(model) else model
        copy = copy or (model if source is model else _copy(source))
        flags = [(item, item.trainable) for item in (*_parts(copy), *copy.weights)]
        for part in _parts(copy):
            part.trainable = True  # only for a moment, to tell a frozen weight from a state
        floats = [v for v in copy.weights if v.trainable and len(v.shape) > 1 and "float" in v.dtype]
        floats = [v for v in floats if not re.search("(^|_)(bias|alpha|beta|gamma|scale)(_|$)", v.name)]
        for item, flag in flags:
            item.trainable = flag
        self.weights, numbers = dict(enumerate(model.weights)), {id(v): n for n, v in enumerate(model.weights)}
        self.number = {id(mine): numbers[id(weight)] for mine, weight in zip(copy.weights, source.weights)}
        self.layers = [(chain, [self.number[id(v)] for v in own]) for chain, own in _walk(copy)]
        matrices = {self.number[id(v)] for v in floats}
        self.matrices = [[number for number in own if number in matrices] for _, own in self.layers]
        self.position = {id(chain[0]): n for n, (chain, _) in reversed(list(enumerate(self.layers)))}
        self.owner = np.full(1, -1)  # for each unit its layer; unit 0 stands for all that are none of a layer
        self.kernels = {}  # layer: (matrices, axis of the units in the last, bias, units); kernel + 0.5 is no bias yet
        self.rows = []  # (weight, axis, units): the weights whose slices along an axis belong to units
        for n in sorted(self.position.values()):
            layer = self.layers[n][0][0]
            if _is_known(layer, _UNITS):
                axis = -2 if type(layer).__name__.endswith("Transpose") else -1
                own = self.matrices[n][: 1 + hasattr(layer, "pointwise_kernel")]
                units = len(self.owner) + np.arange(self.weights[own[-1]].shape[axis])
                self.owner = np.append(self.owner, np.full(units.size, n))
                self.kernels[n] = own, axis, self.number.get(id(layer.bias), own[-1] + 0.5), units
                self.rows.extend([(own[-1], axis, units), (self.kernels[n][2], 0, units)])
        self.calls = []
        inputs, outputs = (copy.inputs, self.trace(copy)) if _has_graph(copy) else ([], [])
        self.times = Counter(id(call.layer) for call in self.calls)
        self.channels = {id(tensor): np.zeros(_shape(tensor)[-1], int) for tensor in inputs}  # the unit each comes from
        self.heads = {id(tensor): set() for tensor in inputs}  # the last layers with matrices on the way to it
        self.reads = {}  # layer: the channels that it reads, unless it is called at several places
        self.places = Counter()  # matrix: how often it is applied to one example
        self.tried = {}  # what `keeps_apart` has found out
        self.ties, self.pins = [np.zeros((2, 0), int)], [[0]]  # units that meet; units that can't be removed
        for call in self.calls:
            self.follow(call)
        last = [n for n, matrices in enumerate(self.matrices) if matrices][-1:]
        self.outputs = set().union(*(self.heads[id(tensor)] for tensor in outputs)) or set(last)
        self.root = _connected(len(self.owner), *np.hstack(self.ties))  # the first of the units tied to it
        self.arrives = self.tied(np.concatenate([[0], *(self.channels[id(tensor)] for tensor in outputs)]))
        uncalled = [id(self.layers[n][0][0]) not in self.times for n in self.owner]
        self.pinned = self.arrives | self.tied(np.concatenate(self.pins)) | uncalled

    def trace(self, model):
        """The outputs of a model whose calls it notes: nested models opened, activations as calls of their own."""

        def pass_on(layer, tensors, results):
            self.calls.extend(_Call(layer, ([a], {}), [a], [b]) for a, b in zip(tensors, results))

        def record(layer, *args, **kwargs):
            results = layer(*args, **kwargs)
            flat = [keras.tree.flatten(nest) for nest in ((args, kwargs), results)]
            ins, outs = ([item for item in items if isinstance(item, keras.KerasTensor)] for items in flat)
            if shared := [item.path for item in flat[0] if isinstance(item, keras.Variable)]:
                raise ValueError(f"{layer.name!r} computes with {shared} itself, not by a layer: copies would share it")
            if _has_graph(layer) and not kwargs.get("training"):
                given = (*args, kwargs.get("inputs"))[0]
                if isinstance(given, dict) and not isinstance(layer.input, dict):  # its keys are the inputs' names
                    ins = [given[tensor.name] for tensor in layer.inputs]
                pass_on(keras.layers.Identity(autocast=False), ins, layer.inputs)
                pass_on(keras.layers.Identity(autocast=False), self.trace(layer), outs)
                return results
            split = _is_known(layer, f"{_UNITS}|Depthwise.*") and layer.activation is not keras.activations.linear
            between = [keras.KerasTensor(results.shape, results.dtype)] if split else outs
            self.calls.append(_Call(layer, (args, kwargs), ins, between))
            if split:
                pass_on(keras.layers.Activation(layer.activation, dtype=layer.dtype_policy), between, outs)
            return results

        functional = keras.Model(model.inputs, model.outputs)
        return keras.models.clone_model(functional, functional.input, lambda layer: layer, record).outputs

    def tied(self, units):
        """True for every unit that is one of `units` (numbers, or a boolean for each) or tied to one."""
        return np.isin(self.root, self.root[units])

    def follow(self, call):
        """Notes what a call does with the channels that come in: it reads them, passes them on, or mixes them."""
        n, units = self.position.get(id(call.layer), -1), np.zeros(1, int)
        came = pins = np.concatenate([self.channels[id(tensor)] for tensor in call.ins])
        if n in self.kernels:
            units = self.kernels[n][-1]
            if self.times[id(call.layer)] == 1:
                self.reads[n], pins = came, came[:0]
        elif len(lined := call.lined_up(_shape(call.outs[0])[-1])) and self.carries(call):
            first, *others = rows = came[lined]
            free = (rows > 0).all(axis=0)
            units, pins = np.where(free, first, 0), np.append(rows[:, ~free], np.delete(came, lined))
            self.ties.extend(np.stack([first, other])[:, free] for other in others)
            for weight in getattr(call.layer, "weights", []):
                axis = -2 if len(weight.shape) > 1 and "Depthwise" in type(call.layer).__name__ else -1
                if weight.shape[axis] == units.size:
                    self.rows.append((self.number[id(weight)], axis, units))
        self.pins.append(pins)
        inside = [m for m, (chain, _) in enumerate(self.layers) if self.matrices[m] and call.layer in chain]
        for tensor in call.outs:
            if id(tensor) in self.channels:  # that of a nested model, which is called again
                self.pins.extend([self.channels[id(tensor)], units])
            self.channels[id(tensor)] = np.resize(units, _shape(tensor)[-1])
            self.heads[id(tensor)] = set(inside[-1:]) or set().union(*(self.heads[id(item)] for item in call.ins))
        if n >= 0 and self.matrices[n]:  # at each place of its input or its output: strides make either one fewer
            inner = slice(2, None) if getattr(call.layer, "data_format", None) == "channels_first" else slice(1, -1)
            ins, outs = ([t.shape[inner] for t in ts if len(t.shape) == len(call.ins[0].shape)] for ts in call[2:])
            places = min(math.prod(side or 1 for side in shape) for shape in ins + outs[:1])
            places = 0 if isinstance(call.layer, keras.layers.Embedding) else places
            if len(set(ins)) == 1 and not any(isinstance(part, keras.Model) for part in _parts(call.layer)):
                self.places.update(dict.fromkeys(self.matrices[n], places))  # else it is not known which are where

    def carries(self, call):
        """Whether each channel that comes out depends on one that comes in, or on those that meet on it."""
        layer, shape, key = call.layer, call.outs[0].shape, None
        if type(layer) is keras.layers.Reshape:  # which keeps them last, or makes one axis of all
            return None not in shape[1:] and (len(shape) == 2 or shape[-1] == call.ins[0].shape[-1])
        if getattr(layer, "weights", []):
            known = _is_known(layer, "BatchNormalization|PReLU|DepthwiseConv.D") and self.times[id(layer)] == 1
            last = getattr(layer, "axis", -1) in (-1, len(shape) - 1)
            return known and last and not call.arguments[1].get("training")
        try:
            code = getattr(layer, "function", getattr(layer, "activation", None))  # a configuration has but its name
            sizes = {id(tensor): (len(tensor.shape), tensor.shape[-1]) for tensor in call.ins}
            looks = keras.tree.map_structure(lambda item: sizes.get(id(item), item), call.arguments)
            config = layer.get_config() | {"name": None}
            key = repr((type(layer), config, code, looks))
            if isinstance(config.get("output_shape"), (list, tuple)):
                return False  # of a lambda, which says how many channels come out
            if key not in self.tried:
                self.tried[key] = call.keeps_apart()
        except Exception:
            self.tried[key] = False  # it can't be made for other numbers of channels
        return self.tried[key]

    def fractions(self, sparsity, scope="layer", ignored_layers=()):
        """For each layer the fraction to prune, None where nothing may be; the arguments are checked."""
        by_name, default = (sparsity, 0.0) if isinstance(sparsity, dict) else ({}, sparsity)
        by_name, default = {name: _check_sparsity(s) for name, s in by_name.items()}, _check_sparsity(default)
        ignored, names = _set_of(ignored_layers), [[layer.name for layer in chain] for chain, _ in self.layers]
        if scope not in ("layer", "global") or (scope == "global" and isinstance(sparsity, dict)):
            raise ValueError(f"scope must be 'layer', or 'global' with one fraction for all layers, not {scope!r}")
        if unknown := ignored.union(by_name).difference(*names):
            raise ValueError(f"no layer is named {sorted(unknown)}: there are {sorted(set().union(*names))}")
        free = [self.matrices[n] and n not in self.outputs and ignored.isdisjoint(own) for n, own in enumerate(names)]
        void = {name for name in by_name if by_name[name]}.difference(*itertools.compress(names, free))
        if void := void | ignored.intersection(by_name):
            raise ValueError(f"layers with a fraction, but ignored or with nothing to prune: {sorted(void)}")
        fractions = [next((by_name[name] for name in own if name in by_name), default) for own in names]
        return [fraction if prunable else None for fraction, prunable in zip(fractions, free)]

    def masks(self, method, fractions, scope="layer", scores=None):
        """{number of a weight: mask, False where it is to be pruned}."""
        masks = (self.weight_masks if method == "weight" else self.unit_masks)(fractions, scope, scores)
        if not masks:
            raise ValueError(f"nothing to prune: no {method}s besides those of the output layers and the ignored ones")
        return masks

    def weight_masks(self, fractions, scope, scores):
        wanted = {n: {s for s, own in zip(fractions, self.matrices) if n in own} for n in self.weights}
        wanted, masks = {n: found for n, found in wanted.items() if found and None not in found}, {}
        for group in [list(wanted)] if scope == "global" and wanted else [[number] for number in wanted]:
            fraction, *others = wanted[group[0]]
            if others:
                raise ValueError(f"layers share {self.weights[group[0]].path}: give them one fraction")
            values = [_scores(self.weights[number], scores) for number in group]
            keep = _keep(np.concatenate([value.ravel() for value in values]), fraction)
            for number, value in zip(group, values):
                masks[number], keep = keep[: value.size].reshape(value.shape), keep[value.size :]
        return masks

    def unit_masks(self, fractions, scope, scores):
        score, keep = np.zeros(len(self.owner)), np.full(len(self.owner), True)
        for n, (matrices, *_, units) in self.kernels.items():
            values = self.kernel({matrices[-1]: _scores(self.weights[matrices[-1]], scores)}, n)
            score[units] = _squares(values) if scores is None else values.sum(axis=(0, 1), dtype=float)
        score = np.bincount(self.root, score, len(score))[self.root]  # tied units add
        free = ~self.tied(self.arrives | [fractions[n] is None for n in self.owner])
        group = _connected(len(fractions), self.owner, self.owner[self.root])[self.owner] * (scope == "layer")
        for label in np.unique(group[free]):
            members = np.flatnonzero((group == label) & free)
            members = members[np.argsort(score[members], kind="stable")]
            best = {self.owner[unit]: self.root[unit] for unit in members}  # of each layer, which comes last
            fraction, *others = {fractions[n] for n in best}
            if others:
                names = [self.layers[n][0][0].name for n in best]
                raise ValueError(f"the units of {names} are tied: give these layers one fraction")
            roots = np.unique(self.root[members])
            stay = np.isin(roots, list(best.values())) & (fraction < 1)
            keep[roots] = _keep(np.where(stay, np.inf, score[roots]), fraction, spare=np.count_nonzero(stay))
        return self.silence(~keep[self.root], free)

    def silence(self, dead, concerned):
        """Masks that delete the units in `dead`, with biases and normalization; of weights of units in `concerned`."""
        masks = {}
        for number, axis, units in self.rows:
            if number in self.weights and concerned[units].any() and "variance" not in self.weights[number].name:
                masks[number] = np.empty(self.weights[number].shape, bool)
                np.moveaxis(masks[number], axis, -1)[...] = ~dead[units]
        return masks

    def warn_of_unknown(self, fractions, stacklevel=3):
        known, names = {number for number, _, _ in self.rows}, []
        for n, fraction in enumerate(fractions):
            if fraction is not None and n not in self.kernels and not known.issuperset(self.matrices[n]):
                names.append(self.layers[n][0][0].name)
        if names:
            warnings.warn(f"units of these layers are not known, so none are pruned: {names}", stacklevel=stacklevel)

    def cost(self, counts):
        """(parameters, multiply-adds) of so many of each weight; NaN if it is not known where a matrix is applied."""
        known = all(number in self.places for matrices in self.matrices for number in matrices)
        return sum(counts.values()), sum(self.places[n] * counts[n] for n in counts) if known else math.nan

    def alive(self, values, n):
        """For each unit of layer n whether any weight leads to it."""
        return self.kernel(values, n).any(axis=(0, 1))

    def kernel(self, values, n):
        """The kernel of layer n as (places, channels, units)."""
        matrices, axis, *_ = self.kernels[n]
        kernel = np.moveaxis(values[matrices[-1]], axis, -1)
        return kernel.reshape(-1, *kernel.shape[-2:])

    def without_dead_units(self, values):
        """({number: weight}, needed): the weights that are left, biases added, and for each unit whether it stays."""
        values = {number: np.array(value) for number, value in enumerate(values)}
        values = {bias: np.zeros(units.size) for *_, bias, units in self.kernels.values()} | values
        needed = self.fold(values)
        before, hears = ~needed, {n: self.kernel(values, n).any(axis=0) for n in self.reads}
        while (needed != before).any():
            before = needed.copy()
            for n, (*_, units) in reversed(self.kernels.items()):
                needed[units[:1]] |= not needed[units].any()  # one of each layer
                if n in hears:
                    needed[self.reads[n][hears[n][:, needed[units]].any(axis=1)]] = True
                needed = self.tied(needed)
        reads = [(weight, -3 - self.kernels[n][1], self.reads[n]) for n in self.reads for weight in self.kernels[n][0]]
        for number, axis, units in self.rows + reads:
            values[number] = np.compress(needed[units], values[number], axis)
        return {n: value for n, value in values.items() if n in self.weights or value.any()}, needed

    def fold(self, values):
        """The pinned units, with those whose constant output can't be moved into the biases behind them, as it is."""
        pinned = self.pinned.copy()
        constants = {tensor: np.full(channels.size, np.nan) for tensor, channels in self.channels.items()}
        for call in self.calls:
            n, tensor = self.position.get(id(call.layer)), id(call.outs[0])
            came = np.concatenate([constants[id(item)] for item in call.ins])
            known, constants[tensor] = np.isfinite(came), np.full_like(constants[tensor], np.nan)
            if n in self.kernels:
                matrices, axis, bias, _ = self.kernels[n]
                offset = values[bias].astype(float)
                if n in self.reads:
                    plain = re.fullmatch("Dense|Conv.D", type(call.layer).__name__)
                    if not plain or getattr(call.layer, "padding", "valid") != "valid":  # it meets zeros, or overlaps
                        pinned[self.reads[n][known & (came != 0)]] = True
                        known &= came == 0
                    offset += np.einsum("pcu,c->u", self.kernel(values, n)[:, known], came[known])
                    np.moveaxis(values[matrices[-1]], -3 - axis, 0)[known] = 0
                    values[bias] = offset.astype(values[bias].dtype)
                constants[tensor] = np.where(self.alive(values, n), np.nan, offset)
            elif self.channels[tensor].any() and known.any():
                size, found = constants[tensor].size, []
                with contextlib.suppress(Exception):  # of what does not work at these lengths no constant is known
                    for length in (5, 16, 17) if any(None in item.shape[1:-1] for item in call.ins) else (16,):
                        shapes = [(1, *_shape(item, length)) for item in call.ins]
                        parts = [np.nan_to_num(constants[id(item)]) for item in call.ins]
                        found.append(call.run(map(np.broadcast_to, parts, shapes)).reshape(-1, size))
                    lined, found = call.lined_up(size), np.concatenate(found)
                    same = np.isclose(found, found[:1]).all(axis=0) & known[lined].all(axis=0) & (len(found) > 0)
                    constants[tensor] = np.where(same & np.delete(known, lined).all(), found[:1].sum(axis=0), np.nan)
        return self.tied(pinned)


def _walk(model, around=()):
    """(chain, weights) of each layer, nested models opened; the chain is the layer and the models around it."""
    inside = {id(variable) for layer in model.layers for variable in layer.weights}
    if own := [variable for variable in model.weights if id(variable) not in inside]:
        yield (model, *around), own
    for layer in model.layers:
        chain = layer, *around
        yield from _walk(layer, chain) if isinstance(layer, keras.Model) else [(chain, layer.weights)]


def _connected(n, first, second):
    """For each of n things the first of those it is connected to, where each of `first` is to that of `second`."""
    root, first, second = np.arange(n), np.append(first, second), np.append(second, first)
    while (root[first] != root[second]).any():
        np.minimum.at(root, first, root[second])
        root = root[root]
    return root


def _shape(tensor, unknown=1):
    """The sizes of a tensor's axes but the first, `unknown` where they are not known; channels come last."""
    return [size or unknown for size in tensor.shape[1:] or (1,)]


def _is_known(layer, names):
    """Whether it is one of these layers of Keras, in the form in which each of its units or channels stands alone."""
    name, own = type(layer).__name__, getattr(layer, "groups", 1) == getattr(layer, "depth_multiplier", 1) == 1
    last = getattr(layer, "data_format", "channels_last") == "channels_last"
    return own and last and type(layer) is getattr(keras.layers, name, None) and bool(re.fullmatch(names, name))


# ---------------------------------------------------------------------------------------------- removal
def remove_dead_units(model):
    """A smaller model with the same outputs, to rounding: `model` without the units that no longer matter.

    A unit goes if no weight leads to it (its constant output is folded into the biases behind it, which are added if
    need be) or if none leads away from it, until nothing changes; so weight-pruned models shrink, too. What stays: one
    unit of each layer, units tied to one that stays, and units before what mixes channels (attention, layer
    normalization, slices), is called at several places with its weights, or pads a constant other than 0. The result is
    compiled as `model` was, which is left alone.

    Raises ValueError for a subclassed model, whose graph can't be followed.
    """
    _check_model(model)
    if not _has_graph(model):
        raise ValueError(f"model {model.name!r} is subclassed: units are removed from Sequential and functional models")
    whole = _copy(model)
    graph = _Graph(model, whole)
    values, needed = graph.without_dead_units([_numpy(weight) for weight in whole.weights])
    changes = {}
    for call in graph.calls:
        n, channels, shape = graph.position.get(id(call.layer)), graph.channels[id(call.outs[0])], call.outs[0].shape
        left = int(needed[channels].sum())
        changes[id(call.outs[0])] = shape if left == channels.size else (*shape[:-1], left)
        if n in graph.kernels:
            size = "units" if hasattr(call.layer, "units") else "filters"
            changes[id(call.layer)] = {size: left, "use_bias": graph.kernels[n][2] in values}
        elif type(call.layer) is keras.layers.Reshape and channels.any():
            changes[id(call.layer)] = {"target_shape": (*shape[1:-1], -1)}
    return _copy(whole, changes, [values[number] for number in sorted(values)])
