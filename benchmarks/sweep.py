"""How fast the sweep is, and what removing units saves: python benchmarks/sweep.py [ROUNDS]

Prints, from one run on one machine, the medians over ROUNDS (3) interleaved rounds of
- the 20-point sweep of the dense network on 10,000 test images by `sparsity_sweep`,
- the loop that people write: clone_model, compile, set_weights, evaluate with its defaults, for each point,
- the matrix products alone, which no way of testing these networks with dense matrices can avoid: the whole network
  for each sparsity of weight pruning, what is left of it for each of unit pruning,
and then the latency of networks with removed units beside the dense one. The ratios count, not the times.
"""

import os
import statistics
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import keras

import pruning_utils as pu


def people_write(model, x, y):
    """The 20 points, one fresh clone each."""
    for mask_function in (pu.weight_mask, pu.unit_mask):
        for sparsity in pu.SPARSITIES:
            *hidden, output = model.get_weights()
            clone = keras.models.clone_model(model)
            clone.compile(
                loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
                metrics=["accuracy"],
                optimizer="adam",
            )
            clone.set_weights([kernel * mask_function(kernel, sparsity) for kernel in hidden] + [output])
            clone.evaluate(x, y, verbose=0)


def products_alone(networks, x):
    """The five products of each network, given as the list of its kernels."""
    for kernels in networks:
        values = x
        for kernel in kernels:
            values = keras.ops.matmul(values, kernel)
        keras.ops.convert_to_numpy(values)


def unavoidable(model):
    """The kernels of the networks to test; nothing is pruned at sparsity 0, so that both methods share it."""
    dense = [layer.kernel for layer in model.layers]
    removed = (pu.remove_dead_units(pu.prune_units(model, sparsity)) for sparsity in pu.SPARSITIES[1:])
    return [dense] * len(pu.SPARSITIES) + [[layer.kernel for layer in small.layers] for small in removed]


def seconds(call, *arguments):
    start = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - start


def main(rounds):
    data, model = pu.load_dataset("mnist"), pu.build_model(seed=0)
    x, y = data.x_test, data.y_test
    tensor, networks = keras.ops.convert_to_tensor(x), unavoidable(model)
    ways = {
        "sparsity_sweep": (pu.sparsity_sweep, model, x, y),
        "clone, compile, evaluate": (people_write, model, x, y),
        "matrix products alone": (products_alone, networks, tensor),
    }
    products_alone(networks, tensor)
    times = {name: [] for name in ways}
    for _ in range(rounds):
        for name, (call, *arguments) in ways.items():
            times[name].append(seconds(call, *arguments))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:<26}{value:8.2f} s   {min(times[name]):.2f} to {max(times[name]):.2f}")
    sweep, loop, products = median.values()
    print(
        f"sparsity_sweep: {loop / sweep:.1f} times as fast as the loop, {sweep / products:.2f} times the products alone"
    )

    print("\nremoved units: median latency at batch 1, 100 and 10,000, against the dense network")
    dense = pu.measure_latency(model, x)
    for sparsity in (0.5, 0.8, 0.9, 0.95):
        zeros = pu.prune_units(model, sparsity)
        small = pu.remove_dead_units(zeros)
        ratios = [dense.milliseconds / pu.measure_latency(other, x).milliseconds for other in (zeros, small)]
        ideal = model.count_params() / small.count_params()
        texts = [" ".join(f"{ratio:6.2f}" for ratio in values) for values in ratios]
        print(f"sparsity {sparsity:.2f}: zeros alone {texts[0]}   removed {texts[1]}   ideal {ideal:6.1f} times faster")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
