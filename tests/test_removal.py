"""remove_dead_units: the same outputs from a smaller network, or a refusal by name."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers
from support import STEPS, bits, compile_, data, kernel, mlp, predict, shake

from pruning_utils import hold_sparsity, prune_units, prune_weights, remove_dead_units, sparsity_report

ACTIVATIONS = [
    *("relu", "sigmoid", "tanh", "elu", "selu", "softplus", "softsign", "exponential", "linear", "silu", "gelu"),
    *("leaky_relu", "relu6", "hard_sigmoid", "hard_silu", "mish", "log_sigmoid", "celu", "hard_tanh", "hard_shrink"),
    *("soft_shrink", "tanh_shrink", "squareplus", "sparse_plus", "threshold"),
]
ACTIVATIONS = [name for name in ACTIVATIONS if hasattr(keras.activations, name)]  # Keras 3.8 has not all of them
SPARSITY = st.one_of(st.sampled_from([0.0, 0.5, 0.9, 1.0]), st.floats(0, 1))


def activation(name):
    return (lambda x: keras.activations.threshold(x, 0.1, 0.3)) if name == "threshold" else name


def widths(model):
    return [kernel(layer).shape[-1] for layer in model.layers if hasattr(layer, "kernel")]


def inputs_for(model, n=5):
    shape = [size or 9 for size in model.input_shape[1:]]
    return np.random.default_rng(3).normal(size=(n, *shape)).astype("float32")


def check(model, tolerance=1e-4, again=False):
    """Remove; compare outputs, names and compile settings; `model` must keep every bit."""
    x, before = inputs_for(model), bits(model)
    wanted = predict(model, x)
    small = remove_dead_units(model)
    assert bits(model) == before
    assert small.name == model.name
    assert [layer.name for layer in small.layers] == [layer.name for layer in model.layers]
    assert [type(layer) for layer in small.layers] == [type(layer) for layer in model.layers]
    assert type(small) is type(model)
    assert small.compiled == model.compiled
    assert small.output_shape == model.output_shape
    assert all(width >= 1 for width in widths(small))
    assert all(new <= old for new, old in zip(widths(small), widths(model), strict=True))
    got = predict(small, x)
    assert got.dtype == wanted.dtype
    scale = np.abs(wanted).max() + 1
    np.testing.assert_allclose(got / scale, wanted / scale, atol=tolerance)
    assert not again or widths(remove_dead_units(small)) == widths(small)
    return small


@st.composite
def between(draw, rank):
    """A layer or two that may stand between kernels, on inputs of this rank (0: after Flatten)."""
    name = draw(
        st.sampled_from(
            ["none", "none", "norm", "prelu", "activation", "relu", "leaky", "elu", "dropout", "noise", "pool", "l1"]
        )
    )
    if name == "norm":
        return [layers.BatchNormalization(scale=draw(st.booleans()), center=draw(st.booleans()))]
    if name == "prelu":
        return [layers.PReLU(shared_axes=[*range(1, rank + 1)] if rank and draw(st.booleans()) else None)]
    if name == "activation":
        return [layers.Activation(draw(st.sampled_from(ACTIVATIONS[:-1])))]
    if name == "pool" and rank:
        kind = draw(st.sampled_from(["Max", "Average"]))
        padding = draw(st.sampled_from(["same", "valid"]))
        return [getattr(layers, f"{kind}Pooling{rank}D")(2, padding=padding, strides=draw(st.sampled_from([1, 2])))]
    drop = {1: layers.SpatialDropout1D, 2: layers.SpatialDropout2D, 3: layers.SpatialDropout3D}.get(
        rank, layers.GaussianDropout
    )
    others = {
        "relu": layers.ReLU(max_value=2.0, threshold=draw(st.sampled_from([0.0, 0.5]))),
        "leaky": layers.LeakyReLU(),
        "elu": layers.ELU(),
        "dropout": drop(0.5),
        "noise": layers.GaussianNoise(0.1),
        "l1": layers.ActivityRegularization(l1=0.1),
    }
    return [others[name], layers.Dropout(0.2)] if name in others else []


@st.composite
def networks(draw, max_rank=3):
    """A random single path: convolutions of one rank, Flatten or global pooling, Dense layers."""
    rank = draw(st.integers(0, max_rank))
    stack = []

    def options():
        chosen = activation(draw(st.sampled_from(ACTIVATIONS)))
        return {"use_bias": draw(st.booleans()), "activation": chosen}

    if rank:
        size = {1: 9, 2: 7, 3: 5}[rank]
        for _ in range(draw(st.integers(1, 2))):
            conv = getattr(layers, f"Conv{rank}D")
            padding = draw(st.sampled_from(["same", "valid", "causal"][: 3 if rank == 1 else 2]))
            stack.append(
                conv(
                    draw(st.integers(1, 5)),
                    2,
                    padding=padding,
                    strides=draw(st.sampled_from([1, 2] if len(stack) < 1 else [1])),
                    **options(),
                )
            )
            stack += draw(between(rank))
        kind = draw(st.sampled_from(["Flatten", f"GlobalMaxPooling{rank}D", f"GlobalAveragePooling{rank}D", "none"]))
        stack += [] if kind == "none" else [getattr(layers, kind)()]
        rank = rank if kind == "none" else 0
        shape = (*[size] * (stack[0].rank), 2)
    else:
        shape = (draw(st.integers(1, 5)),)
    for _ in range(draw(st.integers(0 if stack else 1, 2))):
        stack.append(layers.Dense(draw(st.integers(1, 6)), **options()))
        stack += draw(between(0)) if not rank else []
    if draw(st.booleans()):
        stack.append(layers.Dense(3, use_bias=draw(st.booleans()), activation=draw(st.sampled_from([None, "softmax"]))))
    if draw(st.booleans()):
        return keras.Sequential([keras.Input(shape), *stack])
    values = inputs = keras.Input(shape)
    for layer in stack:
        values = layer(values)
    return keras.Model(inputs, values)


@settings(max_examples=15)
@given(networks(), SPARSITY, st.sampled_from([prune_weights, prune_units]), st.integers(0, 99))
def test_random_networks_keep_their_outputs(model, sparsity, prune, seed):
    shake(model, seed)
    if len(widths(model)) > 1:
        model = prune(model, sparsity)
    check(model, again=True)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_elementwise_activation(name):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation=activation(name)),
            layers.Dense(4, activation=activation(name)),
            layers.Dense(2),
        ]
    )
    small = check(prune_weights(shake(model), 0.8))
    assert widths(small) < widths(model)


def test_units_that_are_pruned_are_gone():
    model = mlp(units=(10, 20), bias=False)
    small = check(prune_units(model, 0.8))
    assert widths(small) == [2, 4, 3]
    assert not any(layer.use_bias for layer in small.layers)
    assert sparsity_report(small).iloc[-1]["zeros"] == 0
    for old, new in zip(prune_units(model, 0.8).layers, small.layers, strict=True):
        kept = kernel(old)[kernel(old) != 0]
        assert kernel(new).ravel().tolist() == kept.tolist() or old is not model.layers[0]


def test_a_chain_of_cascades():
    """A dead unit kills the unit that only it feeds, forwards; an unheard one the unit that only feeds it."""
    model = keras.Sequential(
        [keras.Input((3,))] + [layers.Dense(3, use_bias=False, activation="relu") for _ in range(5)]
    )
    eye = np.eye(3, dtype="float32")
    forwards, backwards = eye * [0, 1, 1], eye * [1, 1, 0]
    model.set_weights([eye * 2, forwards, eye * 3, backwards, eye])
    assert widths(check(model)) == [1, 1, 1, 1, 3]


def test_a_constant_is_folded_through_to_the_last_bias_which_is_added():
    model = mlp(units=(4, 4), bias=False)
    for layer in model.layers[:-1]:
        layer.activation = keras.activations.sigmoid
    model = keras.models.clone_model(model)
    shake(model)
    small = check(prune_weights(model, 1.0))
    assert widths(small) == [1, 1, 3]
    assert small.layers[-1].use_bias
    assert not small.layers[0].use_bias
    wanted = kernel(model.layers[-1]).sum(0) / 2
    np.testing.assert_allclose(keras.ops.convert_to_numpy(small.layers[-1].bias), wanted, rtol=1e-5)


def test_zero_padding_keeps_a_unit_with_a_constant_output():
    def model(activation, padding):
        stack = [
            layers.Conv2D(3, 3, activation=activation),
            layers.Conv2D(2, 3, padding=padding),
            layers.Flatten(),
            layers.Dense(2),
        ]
        made = shake(keras.Sequential([keras.Input((7, 7, 1)), *stack]))
        weights = made.layers[0].get_weights()
        weights[0][..., 1] = 0
        made.layers[0].set_weights(weights)
        return made

    assert widths(check(model("sigmoid", "same"))) == [3, 2, 2]
    assert widths(check(model("sigmoid", "valid"))) == [2, 2, 2]
    pruned = prune_units(model("relu", "same"), 0.4, ignored_layers=[])
    assert widths(check(pruned))[0] == 2


def test_a_constant_that_differs_from_place_to_place_keeps_its_unit_alone():
    def model(padding):
        stack = [
            layers.Conv2D(3, 3),
            layers.PReLU(name="slopes"),
            layers.Conv2D(2, 3, padding=padding),
            layers.Flatten(),
        ]
        made = shake(keras.Sequential([keras.Input((5, 5, 1)), *stack, layers.Dense(2)]))
        weights = made.layers[0].get_weights()
        weights[0][..., :2] = 0
        weights[1][:2] = -1  # so that the slopes of these two units decide
        made.layers[0].set_weights(weights)
        slopes = made.get_layer("slopes").get_weights()[0]
        slopes[..., 0] = np.arange(9).reshape(3, 3)  # zero at the first place only
        slopes[..., 1] = 0
        made.get_layer("slopes").set_weights([slopes])
        return made

    assert widths(check(model("valid"))) == widths(check(model("same"))) == [2, 2, 2]


@pytest.mark.parametrize("place", ["before", "after"])
def test_batch_normalization_around_flatten(place):
    norm = layers.BatchNormalization()
    flat = layers.Flatten()
    stack = [
        layers.Conv2D(5, 3, activation="relu"),
        *([norm, flat] if place == "before" else [flat, norm]),
        layers.Dense(4),
        layers.Dense(2),
    ]
    model = shake(keras.Sequential([keras.Input((6, 6, 2)), *stack]))
    small = check(prune_units(model, 0.6))
    assert widths(small) == [2, 2, 2]
    assert norm.gamma.shape[0] == (5 if place == "before" else 80)
    new = next(layer for layer in small.layers if isinstance(layer, layers.BatchNormalization))
    assert new.gamma.shape[0] == (2 if place == "before" else 32)


def test_batch_normalization_may_name_the_last_axis_by_its_number():
    stack = [layers.Dense(8), layers.BatchNormalization(axis=1), layers.Dense(3)]
    model = shake(keras.Sequential([keras.Input((6,)), *stack]))
    assert widths(check(prune_units(model, 0.5))) == [4, 3]


def test_a_slope_that_all_units_share_stays():
    model = shake(
        keras.Sequential([keras.Input((6,)), layers.Dense(8), layers.PReLU(shared_axes=[1]), layers.Dense(3)])
    )
    assert widths(check(prune_units(model, 0.5))) == [4, 3]


def test_layers_outside_the_kernels_are_left_alone():
    normalization = layers.Normalization()
    normalization.adapt(data(inputs=4)[0] * 3)
    stack = [
        normalization,
        layers.Lambda(lambda x: x * 2),
        layers.Dense(6),
        layers.Dense(3),
        layers.Softmax(),
        layers.LayerNormalization(),
    ]
    model = keras.Sequential([keras.Input((4,)), *stack])
    for layer in stack[2:4]:
        layer.set_weights([np.random.default_rng(0).normal(size=w.shape) for w in layer.get_weights()])
    check(prune_units(model, 0.5))


def test_dense_on_sequences_and_unknown_lengths():
    inputs = keras.Input((None, 3))
    values = layers.Conv1D(6, 3, padding="causal", activation="softplus")(inputs)
    values = layers.Dense(5, activation="sigmoid")(layers.MaxPooling1D(2)(values))
    values = layers.GlobalAveragePooling1D()(values)
    model = shake(keras.Model(inputs, layers.Dense(2)(values)))
    assert widths(check(prune_weights(model, 0.8)))[1] < 5
    assert widths(check(prune_units(model, 0.5)))[2] == 2


def test_large_pools_over_unknown_lengths():
    inputs = keras.Input((None, 2))
    values = layers.MaxPooling1D(50)(layers.Conv1D(4, 1, activation="sigmoid")(inputs))
    model = shake(keras.Model(inputs, layers.Conv1D(2, 1)(values)))
    pruned = prune_units(model, 0.5)
    x = np.random.default_rng(0).normal(size=(2, 120, 2)).astype("float32")
    np.testing.assert_allclose(predict(remove_dead_units(pruned), x), predict(pruned, x), atol=1e-5)


@pytest.mark.parametrize("policy", ["float16", "mixed_float16", "mixed_bfloat16", "float64"])
def test_precisions(policy):
    model = keras.Sequential([keras.Input((6,))])
    for units in (12, 8, 3):
        model.add(layers.Dense(units, activation="tanh", dtype=policy))
    small = check(prune_units(shake(model, scale=0.3), 0.5), 1e-6 if policy == "float64" else 2e-2)
    assert widths(small) == [6, 4, 3]
    assert [str(w.dtype) for w in small.weights] == [str(w.dtype) for w in model.weights]
    assert small.layers[0].dtype_policy.name == policy


def test_compile_settings_come_along_and_the_result_trains():
    model = compile_(
        mlp(compiled=False), keras.optimizers.SGD(0.05, momentum=0.9), steps_per_execution=STEPS, jit_compile=False
    )
    x, y = data()
    pruned = prune_units(model, 0.5)
    hold_sparsity(pruned)
    small = check(pruned)
    assert small.get_compile_config() == model.get_compile_config()
    np.testing.assert_allclose(small.evaluate(x, y, verbose=0), pruned.evaluate(x, y, verbose=0), rtol=1e-5)
    small.fit(x, y, verbose=0)
    assert all(variable.constraint is None for variable in small.variables)
    assert not remove_dead_units(mlp(compiled=False)).compiled


class Mine(keras.Model):
    pass


class Own(keras.Sequential):
    pass


def test_subclasses_of_functional_and_sequential():
    inputs = keras.Input((4,))
    hidden = layers.Dense(6)(inputs)
    check(prune_units(shake(Mine(inputs, layers.Dense(2)(hidden))), 0.5))
    check(prune_units(shake(Own([keras.Input((4,)), layers.Dense(6), layers.Dense(2)])), 0.5))


def test_a_sequential_built_by_its_first_batch():
    model = keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(2)])
    predict(model, data(inputs=4)[0])
    assert widths(check(prune_units(shake(model), 0.5))) == [3, 2]


@pytest.mark.parametrize("stack", [[layers.Dense(3)], [layers.Flatten()], [layers.Softmax(), layers.Dense(3)]])
def test_nothing_to_remove(stack):
    check(keras.Sequential([keras.Input((4,)), *stack]))


def branch():
    inputs = keras.Input((4,))
    values = layers.Dense(4, name="a")(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Add(name="join")([values, layers.Dense(4, name="b")(values)])))


def shared():
    inputs = keras.Input((4,))
    layer = layers.Dense(4, name="twice")
    return keras.Model(inputs, layers.Dense(2, name="out")(layer(layer(inputs))))


def two_inputs():
    one, two = keras.Input((4,)), keras.Input((4,))
    return keras.Model([one, two], layers.Dense(2)(layers.Add()([one, two])), name="pair")


def two_outputs():
    inputs = keras.Input((4,))
    values = layers.Dense(4, name="a")(inputs)
    middle = layers.Dense(3, name="m")(values)
    return keras.Model(inputs, [values, layers.Dense(2, name="b")(middle)], name="forked")


def second_output():
    inputs = keras.Input((4,))
    values = layers.Dense(4, name="a")(inputs)
    return keras.Model(inputs, [layers.Dense(2, name="b")(values), values], name="late")


def early_output():
    inputs = keras.Input((4,))
    values = layers.Dense(4, name="a")(inputs)
    layers.Dense(2)(values)
    return keras.Model(inputs, [values], name="fine")


def nested():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4)], name="inner")
    return keras.Sequential([keras.Input((4,)), inner, layers.Dense(2)])


class Subclassed(keras.Model):
    def __init__(self, **options):
        super().__init__(**options)
        self.one, self.two = layers.Dense(3), layers.Dense(2)

    def call(self, inputs):
        return self.two(self.one(inputs))


def subclassed():
    model = Subclassed(name="free")
    predict(model, np.ones((1, 4), "float32"))
    return model


def stack(*middle, shape=(4,), first=None):
    return lambda: keras.Sequential([keras.Input(shape), first or layers.Dense(6), *middle, layers.Dense(2)])


class Doubled(layers.Dense):
    pass


REFUSED = [
    (branch, "'b'|'join'"),
    (shared, "'twice'|'out'"),
    (two_inputs, "'pair'"),
    (two_outputs, "^the output of model 'forked' is not that of its last layer, 'b'$"),
    (second_output, "'late'"),
    (nested, "nested model 'inner'"),
    (subclassed, "'free' is not a Sequential or functional model"),
    (stack(layers.Dense(4, activation="softmax", name="soft")), "'soft'.*not elementwise"),
    (stack(layers.Activation("log_softmax", name="soft")), "'soft'.*not elementwise"),
    (stack(layers.Activation(getattr(keras.activations, "glu", "softmax"), name="gated")), "'gated'.*not elementwise"),
    (
        stack(layers.Dense(4, activation=lambda x: x - keras.ops.mean(x, -1, keepdims=True), name="mean")),
        "'mean'.*not elementwise",
    ),
    (stack(layers.Softmax(name="soft")), r"'soft' \(Softmax\)"),
    (stack(layers.LayerNormalization(name="norm")), r"'norm' \(LayerNormalization\)"),
    (stack(layers.Reshape((2, 3), name="shape")), r"'shape' \(Reshape\)"),
    (stack(layers.Lambda(lambda x: x, name="free")), r"'free' \(Lambda\)"),
    (stack(Doubled(3, name="mine")), r"'mine' \(Doubled\)"),
    (stack(layers.Dense(5), layers.Softmax(name="late")), r"'late' \(Softmax\)"),
    (stack(layers.BatchNormalization(axis=1, name="norm"), shape=(3, 4)), "'norm'.*channels on the last axis"),
    (
        stack(layers.DepthwiseConv2D(2, name="depth"), shape=(5, 5, 1), first=layers.Conv2D(2, 2)),
        r"'depth' \(DepthwiseConv2D\)",
    ),
    (
        stack(layers.Conv2D(4, 2, groups=2, name="split"), shape=(5, 5, 1), first=layers.Conv2D(2, 2)),
        "'split'.*groups=1",
    ),
    (
        stack(
            layers.MaxPooling2D(2, data_format="channels_first", name="pool"),
            shape=(5, 5, 1),
            first=layers.Conv2D(2, 2),
        ),
        "'pool'.*last axis",
    ),
    (
        stack(layers.Flatten(data_format="channels_first", name="flat"), shape=(5, 5, 1), first=layers.Conv2D(2, 2)),
        "'flat'.*last axis",
    ),
]


@pytest.mark.parametrize(("make", "message"), REFUSED)
def test_what_is_not_handled_is_refused_by_name(make, message):
    model = make()
    before = bits(model)
    with pytest.raises(ValueError, match=message):
        remove_dead_units(model)
    assert bits(model) == before


def test_a_last_convolution_in_groups_is_refused():
    model = keras.Sequential([keras.Input((5, 5, 1)), layers.Conv2D(4, 2), layers.Conv2D(4, 2, groups=2, name="split")])
    with pytest.raises(ValueError, match="'split'"):
        remove_dead_units(model)


def test_a_single_kernel_may_be_of_any_kind():
    model = keras.Sequential([keras.Input((5, 5, 2)), layers.Conv2D(4, 2, groups=2), layers.Softmax()])
    check(shake(model))


def test_a_branch_beside_the_model_does_not_matter():
    check(early_output())


def test_dead_units_with_infinite_constants_stay():
    model = mlp(units=(4,))
    weights = model.get_weights()
    weights[0][:, 1] = 0
    weights[1][1] = np.inf
    model.set_weights(weights)
    assert widths(remove_dead_units(model)) == [4, 3]


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("model", TypeError, "expected a keras.Model, not str"),
        (None, TypeError, "NoneType"),
        (keras.Sequential([layers.Dense(2)]), ValueError, "not built"),
    ],
)
def test_misuse(model, error, message):
    with pytest.raises(error, match=message):
        remove_dead_units(model)


def test_quantized_and_lora_are_refused():
    for change in (lambda layer: layer.quantize("int8"), lambda layer: layer.enable_lora(2)):
        model = mlp(compiled=False)
        change(model.layers[0])
        with pytest.raises(ValueError, match="'d1' is quantized or has LoRA"):
            remove_dead_units(model)
