"""Functions that are defined to the last bit: their errors, their corners, and a second version made of loops."""

import math

import numpy as np
import pytest

from quantsr import exact, reference

F = np.float32


def one_fma(a, b, c):
    return reference.fused_multiply_add(np.array([a], float), np.array([b], float), np.array([c], F))[0]


def test_exp2_is_close():
    x = -np.concatenate([np.linspace(0, 125, 200001), np.linspace(0, 2, 50001), np.geomspace(1e-7, 125, 5001)])
    x = x.astype(F)
    wanted = np.exp2(x.astype(float))
    assert np.max(np.abs(exact.exp2(x) - wanted) / wanted) < 3e-6


def test_exp2_at_its_corners():
    assert exact.exp2(np.array([0, -0.0, -1, -125], F)).tolist() == [1, 1, 0.5, 2.0**-125]
    assert exact.exp2(np.array([-125.001, -1e30, -np.inf, np.nan], F)).tolist() == [2.0**-125] * 4


@pytest.mark.parametrize("x", [-0.3465735, -0.5, -1.5, -0.50000006, -5.25, -60.1, -124.5], ids=str)
def test_exp2_equals_its_steps(x):
    n = F(round(x))  # Python rounds halves to even
    p = F(0.009582853)
    for term in (0.055906426, 0.24024099, 0.6931242, 1):
        p = one_fma(p, F(x) - n, F(term))
    assert exact.exp2(np.array([x], F))[0] == p * F(2) ** n


def test_gelu_is_close():
    x = np.linspace(-8, 8, 200001).astype(F)
    wanted = 0.5 * x * (1 + np.vectorize(math.erf)(x.astype(float) / math.sqrt(2)))
    assert np.max(np.abs(exact.gelu(x) - wanted)) < 2.5e-6


def test_gelu_at_its_corners():
    x = np.array([5, 5.1, 1e30, np.inf, 0], F)
    assert exact.gelu(x).tolist() == x.tolist()
    assert exact.gelu(np.array([-5, -5.1, -1e30, -np.inf, np.nan], F)).tolist() == [0] * 5


@pytest.mark.parametrize("x", [-4.9, -0.7, 0.3, 4.9, 7], ids=str)
def test_gelu_equals_its_steps(x):
    c = min(F(x), F(5))
    s = c * c - F(12.5)
    p = F(-8.975163e-16)
    for term in exact.GELU_TERMS[1:]:
        p = one_fma(p, s, term)
    assert exact.gelu(np.array([x], F))[0] == F(x) * (c * p + F(0.5))


@pytest.mark.parametrize("count", [1, 15, 16, 17, 60])
def test_a_dot_product_adds_by_lanes(count):
    random = np.random.default_rng(count)
    a, b = random.standard_normal((2, 1, count)).astype(F)
    lanes = [F(0)] * 16
    for i in range(count):
        lanes[i % 16] = one_fma(a[0, i], b[0, i], lanes[i % 16])
    for half in (8, 4, 2, 1):
        lanes = [lanes[i] + lanes[i + half] for i in range(half)]
    assert exact.dot(a, b)[0] == lanes[0]
