import math

import pytest
import torch

from cases import each_noise
from ddm.noise import Constant, Cosine, Exponential, Geometric, LogLinear

GRID = torch.linspace(0, 1, 101, dtype=torch.float64)


@each_noise
def test_starts_at_data(noise):
    """sigma(0) = 0 exactly: no schedule leaves noise at the data."""
    assert noise.sigma(torch.zeros((), dtype=torch.float64)) == 0


@each_noise
def test_increases(noise):
    """Sigma increases strictly and beta is positive inside (0, 1]."""
    assert (noise.sigma(GRID).diff() > 0).all()
    assert (noise.beta(GRID[1:]) > 0).all()


@each_noise
def test_beta_is_derivative(noise):
    """beta(t) = d sigma / dt, by automatic differentiation (1e-12 relative: rounding)."""
    t = GRID.clone().requires_grad_()
    (slope,) = torch.autograd.grad(noise.sigma(t).sum(), t)
    torch.testing.assert_close(noise.beta(GRID), slope, rtol=1e-12, atol=1e-14)


@each_noise
def test_inverse(noise):
    """inverse(sigma(t)) = t, near the data to relative precision.

    The inverse loses the digits that exp(-sigma) loses: 1e-16 / eps = 1e-13 at t = 1.
    """
    small = torch.logspace(-12, -1, 12, dtype=torch.float64)
    for t in (GRID[1:], small):
        torch.testing.assert_close(noise.inverse(noise.sigma(t)), t, rtol=1e-11, atol=0)


@each_noise
def test_elementwise_in_its_dtype(noise):
    """All methods act elementwise and keep shape and dtype."""
    for dtype in (torch.float32, torch.float64):
        t = torch.rand(2, 3, dtype=dtype)
        for method in (noise.sigma, noise.beta, noise.inverse):
            assert method(t).shape == t.shape
            assert method(t).dtype == dtype


@pytest.mark.parametrize(
    ("noise", "level"),
    [
        (LogLinear(eps=0.02), -math.log(0.02)),
        (Cosine(eps=0.02), -math.log(0.02)),
        (Constant(rate=3.0), 3.0),
        (Exponential(scale=2.0, growth=10.0), 18.0),
        (Geometric(sigma_min=0.1, sigma_max=5.0), 5.0),
    ],
)
def test_final_level(noise, level):
    """sigma(1) is what the arguments promise (1e-12 relative: rounding of 1 - eps)."""
    assert float(noise.sigma(torch.ones((), dtype=torch.float64))) == pytest.approx(level, 1e-12)


def test_shapes():
    """Half-way values that the formulas give: shares of noised tokens and a geometric mean."""
    half = torch.tensor(0.5, dtype=torch.float64)
    share = -torch.expm1(-LogLinear(1e-3).sigma(half))
    assert float(share) == pytest.approx(0.4995, rel=1e-12)
    share = -torch.expm1(-Cosine(1e-3).sigma(half))
    assert float(share) == pytest.approx(0.999 * (1 - math.sqrt(0.5)), rel=1e-12)
    # sigma + sigma_min runs geometrically from sigma_min to sigma_min + sigma_max.
    level = Geometric(sigma_min=0.1, sigma_max=6.3).sigma(half)
    assert float(level) + 0.1 == pytest.approx(math.sqrt(0.1 * 6.4), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogLinear(eps=0.0), "`eps` must lie strictly between 0 and 1, got 0.0"),
        (lambda: Cosine(eps=1.0), "`eps` must lie strictly between 0 and 1, got 1.0"),
        (lambda: LogLinear(eps=math.nan), "`eps`"),
        (lambda: Constant(rate=0.0), "`rate` must be positive, got 0.0"),
        (lambda: Exponential(scale=-1.0), "`scale` must be positive, got -1.0"),
        (lambda: Exponential(growth=1.0), "`growth` must be larger than 1, got 1.0"),
        (lambda: Geometric(sigma_min=0.0), "`sigma_min` must be positive, got 0.0"),
        (lambda: Geometric(sigma_max=-2.0), "`sigma_max` must be positive, got -2.0"),
    ],
)
def test_errors(make, message):
    """Levels that do not increase are refused with the reason."""
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("noise", "end"),
    [
        (LogLinear(), math.log(1e3)),
        (Cosine(), math.log(1e3)),
        (Exponential(), 297.0),
        (Geometric(), 8.0),
        (Constant(), 7.0),
    ],
    ids=lambda value: type(value).__name__,
)
def test_noise_by_default(noise, end):
    """Where t ends without arguments: files and papers that name no number mean these."""
    found = float(noise.sigma(torch.ones((), dtype=torch.float64)))
    assert found == pytest.approx(end, rel=1e-12)
