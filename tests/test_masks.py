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

BOTH = pytest.mark.parametrize("mask", [weight_mask, unit_mask])
DTYPES = [np.float16, np.float32, np.float64, ml_dtypes.bfloat16, np.int8]
LAYOUTS = {
    "plain": lambda a: a,
    "fortran": np.asfortranarray,
    "strided": lambda a: np.repeat(a, 2, axis=-1)[..., ::2],
    "reversed": lambda a: a[..., ::-1],
    "transposed": lambda a: a.T,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}


@st.composite
def kernels(draw, extreme=False):
    """Whole numbers, whose norms are exact; or extreme ones, of which only each alone is compared."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=5, min_side=0, max_side=4))
    values = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.0, 3.0, -4.0, 5.0, -128.0])
    if extreme:
        values |= st.sampled_from([5e-324, 1e-310, -6e-8, 1e300, np.inf, -np.inf]) | st.floats(allow_nan=False)
    kernel = draw(hnp.arrays(np.float64, shape, elements=values))
    with np.errstate(over="ignore"):
        kernel = kernel.astype(draw(st.sampled_from(DTYPES[:4] if extreme else DTYPES)))
    return LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](kernel)


sparsities = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)


@settings(max_examples=150)
@given(kernels(), kernels(extreme=True), sparsities)
def test_masks_equal_the_oracles(plain, extreme, sparsity):
    trials = (
        (weight_mask, oracle_weights, plain),
        (weight_mask, oracle_weights, extreme),
        (unit_mask, oracle_units, plain),
    )
    for mask, oracle, kernel in trials:
        before, result = kernel.tobytes(), mask(kernel, sparsity)
        assert (result.dtype, result.shape) == (bool, kernel.shape)
        np.testing.assert_array_equal(result, oracle(kernel, sparsity))
        assert kernel.tobytes() == before


@settings(max_examples=50)
@given(kernels(extreme=True), sparsities, sparsities)
def test_masks_are_nested(kernel, one, two):
    low, high = sorted([one, two])
    with np.errstate(over="ignore"):
        for mask in (weight_mask, unit_mask):
            assert not (mask(kernel, high) & ~mask(kernel, low)).any()


def test_counts_are_exact_for_every_hundredth_and_one_unit_stays():
    for n in (*range(1, 41), 100, 255, 300):
        kernel = np.random.default_rng(0).integers(-3, 3, (2, n)).astype("float32")
        for sparsity in (i / 100 for i in range(101)):
            assert np.count_nonzero(~weight_mask(kernel[0], sparsity)) == half_even(sparsity, n)
            mask = unit_mask(kernel, sparsity)
            assert (mask == mask[:1]).all()
            assert np.count_nonzero(~mask[0]) == (n if sparsity == 1 else min(half_even(sparsity, n), n - 1))


def test_ties_go_by_position():
    assert weight_mask(np.ones((2, 3)), 0.5).tolist() == [[False] * 3, [True] * 3]
    assert unit_mask(np.ones((2, 4)), 0.5).tolist() == [[False, False, True, True]] * 2
    assert weight_mask(np.array([1, -1, 1, 1], "float32")[::-1], 0.25).tolist() == [False, True, True, True]
    assert unit_mask(np.array([[3.0, 4.0, 5.0], [4.0, 3.0, 0.0]]), 1 / 3).tolist() == [[False, True, True]] * 2


def test_many_weights_with_ties_by_sorting_them():
    kernel = np.random.default_rng(0).integers(-300, 300, (100, 77)) / 7
    order = np.argsort(abs(kernel), axis=None, kind="stable")
    for pruned in (1, 2, 3_000, 7_699, 7_700):
        mask = weight_mask(kernel, pruned / 7_700)
        assert np.flatnonzero(~mask).tolist() == sorted(order[:pruned])


def test_norms_are_taken_in_double_precision():
    for small, dtype in ((1e38, "float32"), (1e-30, "float32"), (30_000, "float16")):
        kernel = np.full((100, 2), small) * [2, 1]
        assert unit_mask(kernel.astype(dtype), 0.5)[0].tolist() == [True, False]


@pytest.mark.parametrize("kind", [list, keras.ops.convert_to_tensor, keras.Variable])
def test_lists_tensors_and_variables_are_taken(kind):
    kernel = kind(np.array([[2.0, 1.0]], "float32"))
    assert weight_mask(kernel, 0.5).tolist() == unit_mask(kernel, 0.5).tolist() == [[True, False]]


BAD_SPARSITIES = [(float("nan"), "nan"), (-0.1, "-0.1"), (1.5, r"1\.5.*0\.015"), (50, r"50.*0\.5"), (100, "100.* 1")]
BAD_SPARSITIES += [(101, "101$"), (float("inf"), "inf")]
NO_SPARSITIES = [("0.5", "'0.5'"), (None, "None"), (True, "True"), (0.5j, "0.5j"), ([0.5], r"\[0.5\]")]


@BOTH
@pytest.mark.parametrize(("sparsity", "message"), BAD_SPARSITIES + NO_SPARSITIES)
def test_bad_sparsities_are_named(mask, sparsity, message):
    error = ValueError if (sparsity, message) in BAD_SPARSITIES else TypeError
    with pytest.raises(error, match=f"(?s)sparsity.*{message}"):
        mask(np.ones((2, 2)), sparsity)


@pytest.mark.parametrize("sparsity", [np.float32(0.5), np.float64(0.5), np.int64(1), 0, 1, np.float16(0.5)])
def test_other_real_numbers_are_sparsities(sparsity):
    assert np.count_nonzero(~weight_mask(np.ones(4), sparsity)) == 4 * float(sparsity)


@BOTH
def test_kernels_that_hold_no_numbers_are_refused(mask):
    for dtype in DTYPES[:4]:
        with pytest.raises(ValueError, match=r"^the kernel holds NaN"):
            mask(np.array([[1.0, np.nan]]).astype(dtype), 0.5)
    for wrong in (None, "abc", [1j], np.array(["a"]), np.array([object()]), {"a": 1}):
        with pytest.raises(TypeError, match="real numbers"):
            mask(wrong, 0.5)


def test_a_scalar_has_a_weight_but_no_units():
    assert weight_mask(3.0, 1).tolist() is False
    with pytest.raises(ValueError, match=r"^the kernel has no axis.*units\)$"):
        unit_mask(3.0, 0.5)


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 100), st.integers(0, 2**32 - 1))
def test_agrees_with_torch(rows, units, percent, seed):
    prune = pytest.importorskip("torch.nn.utils.prune", reason="torch is not installed")
    torch = pytest.importorskip("torch")
    kernel = np.random.default_rng(seed).permutation(np.arange(1.0, rows * units + 1)).reshape(rows, units)
    for mask in (weight_mask, unit_mask):
        layer = torch.nn.Linear(rows, units, bias=False)
        layer.weight.data = torch.tensor(np.ascontiguousarray(kernel.astype("float32").T))
        if mask is weight_mask:
            prune.l1_unstructured(layer, "weight", percent / 100)
        else:
            prune.ln_structured(layer, "weight", percent / 100, n=2, dim=0)
        theirs, ours = layer.weight_mask.numpy().T.astype(bool), mask(kernel, percent / 100)
        if mask is unit_mask and percent < 100 and not theirs.any():  # ours leaves the last unit
            assert ours.any(0).sum() == 1
        elif mask is weight_mask or len({*(kernel**2).sum(0)}) == units:
            np.testing.assert_array_equal(ours, theirs)
