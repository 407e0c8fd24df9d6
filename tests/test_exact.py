"""Functions that are defined to the last bit: their errors, their corners, and a second version made of loops."""

import math

import numpy as np
import pytest

from quantsr import exact, reference

F = np.float32


def one_fma(a, b, c):
    return reference.fused_multiply_add(np.array([a], float), np.array([b], float), np.array([c], F))[0]


def test_exp_is_close():
    x = -np.concatenate([np.linspace(0, 87, 50001), np.geomspace(1e-7, 87, 5001)]).astype(F)
    wanted = np.exp(x.astype(float))
    assert np.max(np.abs(exact.exp(x) - wanted) / wanted) < 2.5e-7


def test_exp_at_its_corners():
    assert exact.exp(np.array([0, -0.0], F)).tolist() == [1, 1]
    assert exact.exp(np.array([-87.001, -1e30, -np.inf, np.nan], F)).tolist() == [0, 0, 0, 0]
    assert exact.exp(np.array([-87], F))[0] >= np.finfo(F).tiny


@pytest.mark.parametrize("x", [-0.3465735, -0.34657353, -1, -5.25, -60.1, -87], ids=str)
def test_exp_equals_its_steps(x):
    x = F(x)
    n = F(round(float(F(x * F(1.442695)))))  # Python rounds halves to even
    r = one_fma(n, -exact.LN2_LOW, one_fma(n, -exact.LN2_HIGH, x))
    p = F(1 / 720)
    for factorial in (120, 24, 6, 2, 1, 1):
        p = one_fma(p, r, F(1 / factorial))
    assert exact.exp(np.array([x]))[0] == p * F(2) ** n


def test_erf_is_close():
    z = np.linspace(-6, 6, 100001).astype(F)
    assert np.max(np.abs(exact.erf(z) - np.vectorize(math.erf)(z.astype(float)))) < 4e-7


def test_erf_at_its_corners():
    assert exact.erf(np.array([3.9, 4, 1e30, np.inf], F)).tolist() == [1] * 4
    assert exact.erf(np.array([-3.9, -4, -np.inf, np.nan], F)).tolist() == [-1] * 4
    assert exact.erf(np.array([0], F))[0] == 0
    z = np.linspace(0.01, 3.9, 5001).astype(F)
    assert np.array_equal(exact.erf(-z), -exact.erf(z))


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
