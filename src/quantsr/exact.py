"""Float32 functions defined to the last bit: what `reference` computes with, and what the engine has to equal.

Arguments and results are float32 arrays, which broadcast. numpy has no fused operation, so one is made of float64 ones.
"""

import math

import numpy as np

LANES = 16  # of a sum; a power of two

# exp2: least relative error on -1/2 .. 1/2 with a first term of 1, last term first.
LOG2_E = np.float32(1 / math.log(2))
EXP2_LEAST = np.float32(-125)  # at least, so that every result is a normal number
EXP2_TERMS = tuple(np.float32(c) for c in (0.009582853, 0.055906426, 0.24024099, 0.6931242, 1.0))

# gelu: (Phi(x) - 1/2) / x in powers of x^2 - GELU_MIDDLE, least error of gelu on 0 .. GELU_LIMIT, last term first. The
# first terms are rounded so that Phi is exactly 1 at the limit.
GELU_LIMIT = np.float32(5)
GELU_MIDDLE = np.float32(12.5)
GELU_TERMS = tuple(
    np.float32(c)
    for c in (
        *(-8.975163e-16, 3.4077938e-14, -5.379316e-13, 8.649913e-12, -2.1104724e-10, 4.4250705e-09, -7.753521e-08),
        *(1.2847119e-06, -2.067796e-05, 0.00032975755, -0.005623875, 0.14136375),
    )
)


def fma(a: np.ndarray | np.float32, b: np.ndarray | np.float32, c: np.ndarray | np.float32) -> np.ndarray:
    """a*b + c, rounded once."""
    x, y, z = np.broadcast_arrays(a, b, c)
    return fused_multiply_add(x.astype(np.float64), y.astype(np.float64), z)


def exp2(x: np.ndarray) -> np.ndarray:
    """2^x for x <= 0 within 3e-6 of it, relatively. What is below EXP2_LEAST, and NaN, counts as EXP2_LEAST.

    n = round(x), r = x - n, which is exact; the series in r by Horner's rule, fused; times 2^n.
    """
    x = np.where(x > EXP2_LEAST, x, EXP2_LEAST)
    n = np.rint(x)
    return np.ldexp(_horner(EXP2_TERMS, x - n), n.astype(np.int32))


def gelu(x: np.ndarray) -> np.ndarray:
    """x * Phi(x), Phi the normal distribution function, within 2.5e-6; 0 below -GELU_LIMIT and of NaN, x above it.

    With x clamped to the limits as c: s = c * c - GELU_MIDDLE; the series in s by Horner's rule, fused; Phi is
    c * series + 1/2. Only the lower limit holds for the factor in front of Phi.
    """
    x = np.where(x > -GELU_LIMIT, x, -GELU_LIMIT)
    c = np.where(x < GELU_LIMIT, x, GELU_LIMIT)
    return x * (c * _horner(GELU_TERMS, c * c - GELU_MIDDLE) + np.float32(0.5))


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
