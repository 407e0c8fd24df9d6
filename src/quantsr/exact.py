"""Float32 functions defined to the last bit: what `reference` computes with, and what the engine has to equal.

Arguments and results are float32 arrays, which broadcast. numpy has no fused operation, so one is made of float64 ones.
"""

import math

import numpy as np

LANES = 16  # of a sum; a power of two

# exp: ln 2 in two parts, and the series 1/k!, last term first.
LOG2_E = np.float32(1 / math.log(2))
LN2_HIGH = np.float32(math.log(2))
LN2_LOW = np.float32(math.log(2) - float(LN2_HIGH))
EXP_TERMS = tuple(np.float32(1 / math.factorial(k)) for k in range(6, -1, -1))
EXP_LEAST = np.float32(-87)  # below, the result would leave the normal numbers

# erf(z) = z * P(z^2) / Q(z^2): least squares with weights moved to the largest error, on 0 .. 3.9; last term first.
ERF_LIMIT = np.float32(3.9)
ERF_P = tuple(np.float32(c) for c in (2.0504149e-06, 0.00028745603, 0.003836783, 0.05296663, 0.19193871, 1.128379))
ERF_Q = tuple(np.float32(c) for c in (3.8230966e-05, 0.0011817137, 0.015109016, 0.11475727, 0.50343305, 1.0))


def fma(a: np.ndarray | np.float32, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """a*b + c, rounded once."""
    x, y, z = np.broadcast_arrays(a, b, c)
    return fused_multiply_add(x.astype(np.float64), y.astype(np.float64), z)


def exp(x: np.ndarray) -> np.ndarray:
    """e^x for x <= 0 within 2.5e-7 of it, relatively; 0 below -87 and of NaN.

    n = round(x / ln 2), r = x - n ln 2 in two fused steps; the series in r by Horner's rule, fused; times 2^n.
    """
    fits = x >= EXP_LEAST
    x = np.where(fits, x, np.float32(0))
    n = np.rint(x * LOG2_E)
    r = fma(n, -LN2_LOW, fma(n, -LN2_HIGH, x))
    return np.where(fits, np.ldexp(_horner(EXP_TERMS, r), n.astype(np.int32)), np.float32(0))


def erf(z: np.ndarray) -> np.ndarray:
    """The error function within 4e-7, and exactly 1 and -1 from ERF_LIMIT on; of NaN -1.

    z * P(z^2) / Q(z^2) in this order, the polynomials by Horner's rule, fused.
    """
    z = np.where(z > -ERF_LIMIT, z, -ERF_LIMIT)
    z = np.where(z < ERF_LIMIT, z, ERF_LIMIT)
    t = z * z
    e = z * _horner(ERF_P, t) / _horner(ERF_Q, t)
    return np.minimum(np.maximum(e, np.float32(-1)), np.float32(1))


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of a*b over the last axis. Lane l of LANES starts at 0 and takes one fused multiply-add for each of the
    elements l, l + LANES, l + 2 LANES ... in order; the upper half of the lanes is then added to the lower until one is
    left. Lanes without an element count as 0.
    """
    missing = [(0, 0)] * (a.ndim - 1) + [(0, -a.shape[-1] % LANES)]
    a, b = np.pad(a, missing), np.pad(b, missing)
    lanes = np.zeros((*a.shape[:-1], LANES), np.float32)
    for i in range(0, a.shape[-1], LANES):
        lanes = fma(a[..., i : i + LANES], b[..., i : i + LANES], lanes)
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes[..., 0]


def _horner(terms: tuple[np.float32, ...], x: np.ndarray) -> np.ndarray:
    result = np.full_like(x, terms[0])
    for term in terms[1:]:
        result = fma(result, x, term)
    return result


def fused_multiply_add(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a*b + c, rounded to float32 once. a and b hold float32 values as float64, c is float32.

    The product is exact in float64 and the sum is rounded, so rounding it again may go wrong; but only if the first
    rounding ends halfway between two float32 numbers. Such a sum, whose last 28 bits are 0, is moved one place to the
    side where the exact one lies. That is rounding to odd: Boldo and Melquiond, Emulation of FMA and Correctly Rounded
    Sums: Proved Algorithms Using Rounding to Odd, IEEE Transactions on Computers 57(4), 2008.
    """
    product = a * b
    total = product + c
    halfway = (total.view(np.int64) & (2**28 - 1)) == 0
    total[halfway] = _towards_exact(product[halfway], c[halfway].astype(np.float64), total[halfway])
    return total.astype(np.float32)


def _towards_exact(a: np.ndarray, b: np.ndarray, total: np.ndarray) -> np.ndarray:
    """total = a + b, rounded; where that is not exact, its neighbour on the other side of a + b."""
    part = total - a
    error = (a - (total - part)) + (b - part)  # exact: TwoSum of Knuth; NaN where the sum is not finite
    return np.where(np.abs(error) > 0, np.nextafter(total, np.copysign(np.inf, error)), total)
