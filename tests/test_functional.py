import math

import pytest
import torch

from ddm import Absorbing, functional
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
@pytest.mark.parametrize("scale", [1.0, 1 / 3, 1e-300, 1e-310, 1e300])
def test_categorical_impossible_states(monkeypatch, u, scale):
    """Whatever the random number, the draw is a state of positive probability.

    A multiple of subnormal numbers may round up to the sum of all weights.
    """

    def rand(shape, *, generator, dtype, device):
        return torch.full(shape, u, dtype=dtype, device=device)

    monkeypatch.setattr(torch, "rand", rand)
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
    assert torch.equal(stratified_times(64, seeded()), stratified_times(64, seeded()))
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
    code = functional.one_hot(x, 3, torch.float64)
    assert code.dtype == torch.float64
    assert torch.equal(code.long(), torch.nn.functional.one_hot(x, 3))
    assert torch.equal(code, code * code)
    assert functional.one_hot(x.to("meta"), 3, torch.float64).device.type == "meta"


def test_all_but_one():
    """`own` stands at x, `rest` everywhere else, for any number of axes."""
    for shape in ((), (2,), (2, 5)):
        x = torch.arange(math.prod(shape)).reshape(shape) % 3
        rest, own = torch.rand(shape), torch.rand(shape)
        code = torch.nn.functional.one_hot(x, 3).bool()
        expected = torch.where(code, own[..., None], rest[..., None])
        assert torch.equal(functional.all_but_one(rest, own, x, 3), expected)


def test_positive_log():
    """It is log p, and 0 log 0 is 0, with its gradient."""
    p = torch.tensor([0.0, 1e-30, 0.3, 1.0], dtype=torch.float64, requires_grad=True)
    log = functional.positive_log(p)
    assert torch.equal(log[1:], p.detach()[1:].log())
    assert (p * log)[0] == 0
    log.sum().backward()
    assert p.grad[0] == 0


def test_normalized():
    """Negative entries are left out, the sum is 1, and nothing becomes uniform; of the last axis.

    Where all entries are whole numbers of a power of two no rounding is to be tolerated.
    """
    p = torch.tensor([[[1.0, 3.0, -5.0, 0.0], [0.0, -1.0, 0.0, 0.0]], 2 * [[0.5, 0.0, 0.0, 0.5]]])
    rows = [[[0.25, 0.75, 0.0, 0.0], 4 * [0.25]], 2 * [[0.5, 0.0, 0.0, 0.5]]]
    assert functional.normalized(p).tolist() == rows


def test_times_like():
    """One time, or one per sequence, in float64 on the device of the tokens; nothing else."""
    x = torch.zeros(3, 4, dtype=torch.long)
    for t in (
        0.1,
        torch.tensor(0.1, dtype=torch.float64),
        torch.tensor([0.1], dtype=torch.float64),
    ):
        assert functional.times_like(t, x).tolist() == 3 * [0.1]
    each = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)
    assert torch.equal(functional.times_like(each, x), each)
    assert functional.times_like(each.float(), x).dtype == torch.float64
    assert functional.times_like(0.5, x.to("meta")).device.type == "meta"
    for wrong in (torch.ones(2), torch.ones(4), torch.ones(0), torch.ones(1, 1), torch.ones(3, 4)):
        with pytest.raises(ValueError, match="`t` must be one time, or one for each of the 3"):
            functional.times_like(wrong, x)


def test_least_and_extreme_numbers_are_allowed():
    """Limits belong to what is allowed, what is beyond them does not."""
    functional.require_at_least(2, num=2)
    with pytest.raises(ValueError, match="`num` must be at least 2, got 1"):
        functional.require_at_least(2, num=1)
    for value in (-1, 0.5, 1):
        assert functional.require_number("x", value, -1, 1, "r") == value
    for value in (-1.01, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"`x` must lie in \[-1, 1\]"):
            functional.require_number("x", value, -1, 1, "r")


def test_seeds_depend_on_all_words():
    """Other words or another order: another stream; the same words: the same one."""
    words = ((0, 0), (0, 1), (1, 0), (1, 1), (2**40, 1), (2**40, 2), (0, 0, 1), (0, 0, 0, 0, 1))
    streams = [tuple(torch.rand(4, generator=functional.seeded("cpu", *w)).tolist()) for w in words]
    assert len(set(streams)) == len(words)
    again = torch.rand(4, generator=functional.seeded("cpu", *words[-1]))
    assert tuple(again.tolist()) == streams[-1]


def test_describe_names_what_was_chosen():
    """Plain public attributes by name, and objects of the library; not whether a module trains."""

    class Thing:
        def __init__(self):
            self.size, self.name, self._secret, self.kernel = 3, "a", 4, Absorbing(2)
            self.training, self.other = True, torch.zeros(2)

    inner = "kernel=Absorbing(mask=2, num_states=3, vocab_size=2)"
    assert functional.describe(Thing()) == f"Thing({inner}, name=a, size=3)"


def test_every_process_gives_its_own(monkeypatch):
    """Without processes there is one object; with three there are those of all."""
    assert functional.gather_objects("mine") == ["mine"]

    def gather(theirs, mine):
        theirs[:] = [f"{mine} of {k}" for k in range(len(theirs))]

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 3)
    monkeypatch.setattr(torch.distributed, "all_gather_object", gather)
    assert functional.gather_objects("x") == ["x of 0", "x of 1", "x of 2"]


def test_check_times():
    """A grid from 1 to 0 comes back as float64, lists and tuples of integers included."""
    t = check_times((1, 0.25, 0))
    assert t.dtype == torch.float64
    assert t.tolist() == [1.0, 0.25, 0.0]
    assert check_times([1, 0]).tolist() == [1.0, 0.0]


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
