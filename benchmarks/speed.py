"""Speed and memory, as ratios within one run on one machine: python benchmarks/speed.py [ROUNDS]

Prints, as medians over ROUNDS (3) interleaved rounds,
- VGG16 (134 million weights): time and peak memory of `prune_units` against those of a copy, a process for each;
- ResNet50 (96 × 96 pixels), half of its units pruned and removed: how much smaller, the difference of the outputs, the
  time against that of a copy, and the latency before and after;
- the 20-point sweep of the walkthrough's network on 10,000 images, 2,500 at a time and with its defaults, against the
  loop that people write (clone, compile, evaluate with its defaults, for each point), and against the matrix products
  alone of the 20 networks, of the dense size and of what is left once dead units are removed;
- the latency of networks with removed units against the dense one.
"""

import multiprocessing
import os
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras
import numpy as np
import psutil

import pruning_utils as pu


def copy(model):
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    return clone


def halve(model):
    return pu.prune_units(model, 0.5)


def shrink(model):
    return pu.remove_dead_units(halve(model))


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def interleaved(rounds, ways):
    """The median time of each way: name -> (function, arguments)."""
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (call, *arguments) in ways.items():
            times[name].append(seconds(call, *arguments))
    return {name: statistics.median(values) for name, values in times.items()}


def cost_on_vgg16(call):
    """Seconds, and bytes by which the peak of memory exceeds what the process had before."""
    model = keras.applications.VGG16(weights=None)
    before = psutil.Process().memory_info().rss
    time_taken = seconds(call, model)
    return time_taken, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before


def vgg16(rounds):
    costs = {copy: [], halve: []}
    for call in [*costs] * rounds:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            costs[call].append(pool.submit(cost_on_vgg16, call).result())
    (copying, copied), (pruning, pruned) = (np.median(values, axis=0) for values in costs.values())
    print("VGG16, half of the units pruned, against a copy with its weights")
    print(f"  time    {pruning:6.2f} s   {copying:6.2f} s   {pruning / copying:.1f} times a copy")
    print(f"  memory  {pruned / 1e9:6.2f} GB  {copied / 1e9:6.2f} GB  {pruned / copied:.1f} times a copy")


def resnet50(rounds):
    model = keras.applications.ResNet50(weights=None, input_shape=(96, 96, 3), classes=10, classifier_activation=None)
    x = np.random.default_rng(0).random((32, 96, 96, 3), dtype="float32")
    zeros = halve(model)
    small = pu.remove_dead_units(zeros)
    expected, answers = (np.asarray(keras.ops.convert_to_numpy(network(x))) for network in (zeros, small))
    difference = abs(answers - expected).max() / abs(expected).max()
    time_taken = interleaved(rounds, {"copy": (copy, model), "shrink": (shrink, model)})
    dense, removed = (pu.measure_latency(network, x, (1, 32)).milliseconds for network in (model, small))
    print("\nResNet50, half of the units pruned and removed")
    print(f"  {model.count_params() / small.count_params():.2f} times smaller, outputs equal to {difference:.0e}")
    ratio = time_taken["shrink"] / time_taken["copy"]
    print(f"  time    {time_taken['shrink']:6.2f} s   {time_taken['copy']:6.2f} s   {ratio:.1f} times a copy")
    for size, before, after in zip((1, 32), dense, removed, strict=True):
        print(f"  batch {size:<2}{after:6.1f} ms  {before:6.1f} ms  {before / after:.1f} times faster")


def loop(model, x, y):
    """The 20 points, one fresh clone each, as people write it."""
    for mask_function in (pu.weight_mask, pu.unit_mask):
        for sparsity in pu.SPARSITIES:
            *hidden, output = model.get_weights()
            clone = keras.models.clone_model(model)
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            clone.compile(loss=loss, metrics=["accuracy"], optimizer="adam")
            clone.set_weights([kernel * mask_function(kernel, sparsity) for kernel in hidden] + [output])
            clone.evaluate(x, y, verbose=0)


def products(networks, x):
    """The five products of each network."""
    for network in networks:
        values = x
        for layer in network.layers:
            values = keras.ops.matmul(values, layer.kernel)
        keras.ops.convert_to_numpy(values)


def sweep(rounds):
    data, model = pu.load_dataset("mnist"), pu.build_model(seed=0)
    x, y, tensor = data.x_test, data.y_test, keras.ops.convert_to_tensor(data.x_test)
    pruned = [prune(model, sparsity) for prune in (pu.prune_weights, pu.prune_units) for sparsity in pu.SPARSITIES]
    removed = [pu.remove_dead_units(network) for network in pruned]
    products(pruned + removed, tensor)
    ways = {
        "sparsity_sweep": (partial(pu.sparsity_sweep, batch_size=2_500), model, x, y),
        "... with its defaults": (pu.sparsity_sweep, model, x, y),
        "clone, compile, evaluate": (loop, model, x, y),
        "products, dense size": (products, pruned, tensor),
        "products, units removed": (products, removed, tensor),
    }
    times = interleaved(rounds, ways)
    print("\nthe 20-point sweep, and how many times as long the others take")
    for name, value in times.items():
        print(f"  {name:<26}{value:6.2f} s {value / times['sparsity_sweep']:6.2f}")


def latency():
    model, x = pu.build_model(seed=0), pu.load_dataset("mnist").x_test
    print("\nremoved units: how many times faster than the dense network at batch 1, 100 and 10,000")
    dense = pu.measure_latency(model, x, (1, 100, 10_000)).milliseconds
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        zeros = pu.prune_units(model, sparsity)
        small = pu.remove_dead_units(zeros)
        ratios = [dense / pu.measure_latency(network, x, (1, 100, 10_000)).milliseconds for network in (zeros, small)]
        texts = [" ".join(f"{ratio:6.2f}" for ratio in values) for values in ratios]
        ideal = model.count_params() / small.count_params()
        print(f"  sparsity {sparsity:.2f}: zeros alone {texts[0]}   removed {texts[1]}   ideal {ideal:6.1f}")


if __name__ == "__main__":
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    vgg16(rounds)
    resnet50(rounds)
    sweep(rounds)
    latency()
