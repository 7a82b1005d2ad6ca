import math

import pytest
import torch

from ddm import functional
from ddm.functional import categorical, check_times, expand_right, log1mexp, stratified_times
from exact import assert_frequencies, frequencies, seeded


def test_categorical_frequencies():
    """Draws have the frequencies of the law, which need not be normalized (chi-square at 1e-6)."""
    probs = torch.tensor([0.0, 3.0, 1.0, 0.0, 5e-2, 2.0, 0.0], dtype=torch.float64)
    draws = categorical(probs.expand(200_000, -1), seeded())
    assert_frequencies(frequencies(draws, len(probs)), probs)


def test_categorical_rare_jumps():
    """A jump of probability 0.01 spread over 499 states occurs with probability 0.01, not less.

    Gumbel noise with an epsilon inside its logarithms misses such jumps (chi-square at 1e-6).
    """
    size, num_draws = 500, 40_000
    probs = torch.full((size,), 0.01 / (size - 1), dtype=torch.float64)
    probs[0] = 0.99
    draws = categorical(probs.expand(num_draws, -1), seeded())
    tenth = torch.where(draws == 0, 0, 1 + draws % 10)  # 499 states in ten nearly equal groups
    law = torch.zeros(11, dtype=torch.float64).index_add(
        0, torch.where(torch.arange(size) == 0, 0, 1 + torch.arange(size) % 10), probs
    )
    assert_frequencies(frequencies(tenth, 11), law)


@pytest.mark.parametrize("u", [0.0, 1 - 2**-53])
@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1e-300, 1e300])
def test_categorical_impossible_states(monkeypatch, u, scale):
    """Whatever the random number, the draw is a state of positive probability."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u, dtype=torch.float64))
    probs = scale * torch.tensor([0.0, 0.1, 0.2, 0.3, 0.0], dtype=torch.float64)
    assert int(categorical(probs)) == (1 if u == 0 else 3)


def test_categorical_layout():
    """Any memory layout and dtype is accepted, without a warning, and gives the same draws."""
    probs = torch.rand(4, 3, 5, generator=seeded())
    expected = categorical(probs, seeded(1))
    assert expected.dtype == torch.int64
    strided = probs.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert torch.equal(categorical(strided, seeded(1)), expected)


def test_stratified_times():
    """Every stratum of width 1 / num gets one time, all in (0, 1], in an order that varies."""
    generator = seeded()
    for num in (1, 2, 7, 64):
        t = stratified_times(num, generator)
        assert t.dtype == torch.float64
        assert ((t > 0) & (t <= 1)).all()
        assert torch.equal((t * num).ceil().sort().values, torch.arange(1.0, num + 1).double())
    orders = {tuple(stratified_times(4, generator).argsort().tolist()) for _ in range(100)}
    assert len(orders) > 10


def test_stratified_times_uniform():
    """Every time alone is uniform on (0, 1] (chi-square at 1e-6)."""
    generator = seeded()
    first = torch.stack([stratified_times(3, generator)[0] for _ in range(2000)])
    law = torch.full((10,), 0.1, dtype=torch.float64)
    assert_frequencies(frequencies((first * 10).ceil().long() - 1, 10), law)


@pytest.mark.parametrize("x", [1e-300, 1e-12, 0.1, math.log(2), 0.7, 5.0, 40.0, 800.0])
def test_log1mexp(x):
    """The value is log(1 - exp(-x)) and the derivative 1 / (exp(x) - 1), at every scale of x.

    1e-14 is the rounding of a few float64 operations.
    """
    x = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    y = log1mexp(x)
    y.backward()
    torch.testing.assert_close(y.exp(), -torch.expm1(-x), rtol=1e-12, atol=0)
    torch.testing.assert_close(x.grad, 1 / torch.expm1(x.detach()), rtol=1e-14, atol=0)
    # Where exp(y) rounds to 1 the value itself is -exp(-x).
    if x > 40:
        torch.testing.assert_close(y, -torch.exp(-x), rtol=1e-14, atol=0)


def test_expand_right():
    """Axes of size 1 are appended, scalars are left alone."""
    assert expand_right(torch.zeros(3), 3).shape == (3, 1, 1)
    assert expand_right(torch.zeros(()), 3).shape == ()


def test_one_hot():
    """The code is that of torch, in the dtype asked for."""
    x = torch.tensor([[0, 2], [1, 1]])
    code = functional.one_hot(x, 3, torch.float32)
    assert code.dtype == torch.float32
    assert torch.equal(code.long(), torch.nn.functional.one_hot(x, 3))


def test_check_times():
    """A grid from 1 to 0 comes back as float64, lists and tuples of integers included."""
    t = check_times((1, 0.25, 0))
    assert t.dtype == torch.float64
    assert t.tolist() == [1.0, 0.25, 0.0]


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([1.0], "at least 2 times"),
        ([1.0, math.nan, 0.0], "finite"),
        ([1.0, math.inf, 0.0], "finite"),
        ([0.9, 0.5, 0.0], "start at 1"),
        ([1.0, 0.5, 0.1], "end at 0"),
        ([0.0, 0.5, 1.0], "reverse an increasing grid"),
        ([1.0, 0.5, 0.5, 0.0], "decrease strictly, got 0.5 then 0.5 at index 1"),
        ([1.0, 0.3, 0.5, 0.0], "decrease strictly, got 0.3 then 0.5 at index 1"),
    ],
)
def test_check_times_errors(times, message):
    """A bad grid is refused with the reason."""
    with pytest.raises(ValueError, match=message):
        check_times(times)


@pytest.mark.parametrize("bad", [[0.0, 0.0], [math.nan, 1.0], [math.inf, 1.0]])
def test_categorical_refuses_what_is_no_law(bad):
    """Weights without a positive, finite sum are refused, not drawn from."""
    probs = torch.tensor([[0.5, 0.5], bad], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"`probs` must have positive, finite sums, got 1 of 2"):
        categorical(probs)
