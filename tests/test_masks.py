"""weight_mask and unit_mask against plain-Python oracles, bit for bit."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support import half_even, oracle_units, oracle_weights

from pruning_utils import unit_mask, weight_mask

ml_dtypes = pytest.importorskip("ml_dtypes", reason="bfloat16 arrays need ml_dtypes")

SPECIAL = [0.0, -0.0, 1.0, -1.0, 2.0, 5e-324, -5e-324, 1e-310, 1e-45, 6e-8, 1e300, -1e300, 1e38, np.inf, -np.inf, 3.0]
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16]
LAYOUTS = {
    "plain": lambda a: a,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1],
    "transposed": lambda a: a.T,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@st.composite
def kernels(draw):
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    values = st.one_of(st.sampled_from(SPECIAL), st.floats(-4, 4, width=16), st.floats(allow_nan=False, width=64))
    array = draw(hnp.arrays(np.float64, shape, elements=values))
    with np.errstate(over="ignore"):
        array = array.astype(draw(st.sampled_from(DTYPES)))
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](array)


sparsities = st.one_of(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]), st.floats(0, 1))


@settings(max_examples=300)
@given(kernels(), sparsities)
def test_masks_equal_the_oracles(array, sparsity):
    for mask, oracle in ((weight_mask, oracle_weights), (unit_mask, oracle_units)):
        result = mask(array, sparsity)
        assert result.dtype == bool
        assert result.shape == array.shape
        assert result.flags.writeable
        np.testing.assert_array_equal(result, oracle(array, sparsity))


@settings(max_examples=60)
@given(kernels(), sparsities, sparsities)
def test_masks_are_nested(array, one, two):
    low, high = sorted([one, two])
    for mask in (weight_mask, unit_mask):
        assert not (mask(array, high) & ~mask(array, low)).any()


def test_counts_are_exact_for_every_size_and_hundredth():
    rng = np.random.default_rng(0)
    for n in range(1, 301):
        row = rng.integers(-3, 3, n).astype("float32")
        for sparsity in (i / 100 for i in range(101)):
            assert np.count_nonzero(~weight_mask(row, sparsity)) == half_even(sparsity, n)


@pytest.mark.parametrize("n", [*range(1, 32), 64, 100, 255, 300])
def test_unit_counts_are_exact(n):
    array = np.random.default_rng(0).integers(-2, 2, (3, n)).astype("float32")
    for sparsity in (i / 100 for i in range(101)):
        mask = unit_mask(array, sparsity)
        assert (mask == mask[:1]).all()
        assert np.count_nonzero(~mask[0]) == half_even(sparsity, n)


def test_ties_go_by_position():
    assert weight_mask(np.ones((2, 3)), 0.5).tolist() == [[False, False, False], [True, True, True]]
    assert unit_mask(np.ones((2, 4)), 0.5).tolist() == [[False, False, True, True]] * 2
    assert weight_mask(np.array([1, -1, 1, 1], "float32")[::-1], 0.25).tolist() == [False, True, True, True]
    assert unit_mask(np.array([[3.0, 4.0, 5.0], [4.0, 3.0, 0.0]]), 1 / 3).tolist() == [[False, True, True]] * 2


def test_signed_zeros_tie():
    assert weight_mask(np.array([0.0, -0.0, 0.0]), 1 / 3).tolist() == [False, True, True]


def test_norms_neither_overflow_nor_underflow():
    assert unit_mask(np.array([[1e300, 1e-300], [1e300, 1e-300]]), 0.5).tolist() == [[True, False]] * 2
    assert unit_mask(np.array([[2e200, 1e200], [2e200, 1e200]]), 0.5)[0].tolist() == [True, False]
    assert unit_mask(np.array([[2e-200, 1e-200]]), 0.5)[0].tolist() == [True, False]
    assert unit_mask(np.full((100, 2), 60000, "float16") * np.array([1, 0.5], "float16"), 0.5)[0].tolist() == [
        True,
        False,
    ]


def test_integers_count_as_numbers():
    assert weight_mask([[1, -2], [3, 0]], 0.5).tolist() == [[False, True], [True, False]]
    assert weight_mask(np.array([-128, 127], "int8"), 0.5).tolist() == [True, False]
    assert weight_mask(np.array([2**53 + 1, 2**53]), 0.5).tolist() == [True, False]


def test_tensors_and_variables_are_taken():
    for kind in (keras.ops.convert_to_tensor, keras.Variable):
        assert weight_mask(kind(np.array([[2.0, 1.0]], "float32")), 0.5).tolist() == [[True, False]]
        assert unit_mask(kind(np.array([[2.0, 1.0]], "bfloat16")), 0.5).tolist() == [[True, False]]


def test_a_mask_does_not_touch_its_kernel():
    array = np.arange(6.0).reshape(2, 3)
    before = array.tobytes()
    weight_mask(array, 0.5)[...] = False
    unit_mask(array, 0.5)[...] = False
    assert array.tobytes() == before


BAD_SPARSITIES = [
    (float("nan"), ValueError, "nan"),
    (-0.1, ValueError, "-0.1"),
    (1.5, ValueError, "1.5 % is 0.015"),
    (50, ValueError, "fraction: 50 % is 0.5"),
    (100, ValueError, "100 % is 1"),
    (101, ValueError, r"not 101$"),
    (10**400, ValueError, "1000"),
    (float("inf"), ValueError, "inf"),
    ("0.5", TypeError, "'0.5'"),
    (None, TypeError, "None"),
    (True, TypeError, "True"),
    (np.bool_(True), TypeError, "True"),
    (0.5j, TypeError, "0.5j"),
    ([0.5], TypeError, r"\[0.5\]"),
    (np.array(0.5), TypeError, "array"),
]


@pytest.mark.parametrize(("sparsity", "error", "message"), BAD_SPARSITIES)
@pytest.mark.parametrize("mask", [weight_mask, unit_mask])
def test_bad_sparsities_are_named(mask, sparsity, error, message):
    with pytest.raises(error, match=f"sparsity must be .*{message}"):
        mask(np.ones((2, 2)), sparsity)


@pytest.mark.parametrize("sparsity", [np.float32(0.5), np.float64(0.5), np.int64(1), 0, 1, np.float16(0.5)])
def test_other_real_numbers_are_sparsities(sparsity):
    assert np.count_nonzero(~weight_mask(np.ones(4), sparsity)) == 4 * float(sparsity)


@pytest.mark.parametrize("mask", [weight_mask, unit_mask])
@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_is_refused_by_name(mask, dtype):
    with pytest.raises(ValueError, match="kernel holds NaN"):
        mask(np.array([[1.0, np.nan]]).astype(dtype), 0.5)


@pytest.mark.parametrize("mask", [weight_mask, unit_mask])
@pytest.mark.parametrize("wrong", [None, "abc", [1j], [True], np.array(["a"]), np.array([object()]), {"a": 1}])
def test_kernels_that_hold_no_numbers_are_refused(mask, wrong):
    with pytest.raises(TypeError, match="kernel must hold real numbers"):
        mask(wrong, 0.5)


def test_a_scalar_has_a_weight_but_no_units():
    assert weight_mask(3.0, 1).tolist() is False
    with pytest.raises(ValueError, match=r"^the kernel has no axis, so it has no units: expected \(\.\.\., units\)$"):
        unit_mask(3.0, 0.5)


@settings(max_examples=40)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_agrees_with_torch(rows, columns, percent, seed):
    prune = pytest.importorskip("torch.nn.utils.prune", reason="torch is not installed")
    torch = pytest.importorskip("torch")
    array = np.random.default_rng(seed).permutation(np.arange(1, rows * columns + 1)).reshape(rows, columns)
    array = array.astype("float32")  # all magnitudes differ, and so do the norms: squares of distinct sets can tie
    norms = (array.astype(float) ** 2).sum(0)
    for mask, cut, same in (
        (weight_mask, lambda layer: prune.l1_unstructured(layer, "weight", percent / 100), True),
        (
            unit_mask,
            lambda layer: prune.ln_structured(layer, "weight", percent / 100, n=2, dim=0),
            len(set(norms)) == len(norms),
        ),
    ):
        layer = torch.nn.Linear(rows, columns, bias=False)
        layer.weight.data = torch.tensor(np.ascontiguousarray(array.T))
        cut(layer)
        theirs = layer.weight_mask.numpy().T.astype(bool)
        ours = mask(array, percent / 100)
        assert theirs.sum() == ours.sum()
        if same:
            np.testing.assert_array_equal(ours, theirs)
