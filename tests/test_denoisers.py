import math

import pytest
import torch
from torch import nn

import exact
from cases import NOISES, each_kernel, each_noise
from ddm.denoisers import (
    DiscreteTime,
    ExactDenoiser,
    LogLeaveOneOut,
    LogPosterior,
    LogRatio,
    MarkovChainDenoiser,
    MaskRatio,
    MeanDenoiser,
    NoiseLevel,
    NoTime,
    PosteriorDenoiser,
    ScoreDenoiser,
    Time,
    chunks,
)
from ddm.functional import times_like
from ddm.kernels import Absorbing, Uniform
from ddm.noise import LogLinear
from ddm.process import ForwardProcess
from ddm.samplers import Analytic, Reveal
from ddm.schedules import JumpYourSteps, OptimalCounts, OptimalSteps
from exact import at, seeded, sequences

LENGTH = 2
each_time = pytest.mark.parametrize("t", [1e-3, 0.3, 1.0])


class Lookup(nn.Module):
    """A network that knows its output for every sequence of states."""

    def __init__(self, table, num_states):
        super().__init__()
        self.table = table
        self.num_states = num_states

    def forward(self, x_t, t):
        return self.table[exact.index_of(x_t, self.num_states)]


def close(actual, expected, rtol=1e-9, atol=1e-9):
    """Compare to 1e-9: torch's matrix exponential of one matrix is off by up to 3e-11."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol)


def problem(kernel, noise):
    """Return a process, a law of x_0 with full support and all sequences of states."""
    process = ForwardProcess(kernel, noise)
    joint = exact.random_joint(kernel.vocab_size, LENGTH)
    return process, joint, sequences(kernel.num_states, LENGTH)


def moderate_time(noise):
    """Return the time with sigma = 1.5, where P(sigma) is far from singular for every case."""
    return float(noise.inverse(torch.tensor(1.5, dtype=torch.float64)))


def chain_law(initial, transition, length):
    """Return the joint law of a Markov chain."""
    joint = initial
    for _ in range(length - 1):
        joint = joint[..., None] * transition
    return joint


@each_kernel
@each_noise
@each_time
def test_exact_denoiser(kernel, noise, t):
    """The exact denoiser gives p(x_0^i | x_t), by enumeration."""
    process, joint, x_t = problem(kernel, noise)
    prediction = ExactDenoiser(process, joint)(x_t, at(t, len(x_t)))
    close(prediction.posterior(), exact.posterior(process, joint, t))
    close(prediction.log_posterior().exp(), prediction.posterior(), atol=1e-15)


@each_kernel
@each_noise
def test_exact_prediction(kernel, noise):
    """Every form of an exact prediction is what enumeration gives: ratio, reverse rate, bridge."""
    process, joint, x_t = problem(kernel, noise)
    t, s = 0.7, 0.4
    prediction = ExactDenoiser(process, joint)(x_t, at(t, len(x_t)))
    ratio = exact.ratio(process, joint, t)
    jumps = exact.rate_matrix(kernel).fill_diagonal_(0.0)
    rate = noise.beta(at(t))[0] * jumps.T[x_t] * ratio
    close(prediction.reverse_rate(), rate, rtol=1e-8)
    reachable = jumps.T[x_t] > 0
    close(prediction.log_ratio()[reachable], ratio[reachable].log(), rtol=1e-8)
    close(prediction.bridge(at(s, len(x_t))), exact.bridge(process, joint, s, t))


@each_kernel
def test_exact_denoiser_one_token(kernel):
    """A single token is a sequence of length 1."""
    process = ForwardProcess(kernel, NOISES[0])
    joint = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    x_t = sequences(kernel.num_states, 1)
    prediction = ExactDenoiser(process, joint)(x_t, at(0.5, len(x_t)))
    close(prediction.posterior(), exact.posterior(process, joint, 0.5))


@each_kernel
@each_noise
@each_time
def test_mean_denoiser(kernel, noise, t):
    """Exact leave-one-out logits, up to a constant, make the exact posterior.

    The logit of a mask state is not read.
    """
    process, joint, x_t = problem(kernel, noise)
    logits = exact.leave_one_out(process, joint, t).log() - 7.0
    if kernel.num_states > kernel.vocab_size:
        logits = torch.cat([logits, torch.full_like(logits[..., :1], 50.0)], -1)
    prediction = MeanDenoiser(Lookup(logits, kernel.num_states), process)(x_t, at(t, len(x_t)))
    close(prediction.posterior(), exact.posterior(process, joint, t))


@each_kernel
@each_time
def test_posterior_denoiser(kernel, t):
    """Exact posterior logits, up to a constant, make the exact posterior and bridge."""
    process, joint, x_t = problem(kernel, NOISES[0])
    when = at(t, len(x_t))
    logits = exact.posterior(process, joint, t).log() + 5.0
    prediction = PosteriorDenoiser(Lookup(logits, kernel.num_states), process)(x_t, when)
    close(prediction.posterior(), exact.posterior(process, joint, t))
    close(prediction.bridge(0.5 * when), exact.bridge(process, joint, 0.5 * t, t))


@each_kernel
@each_noise
def test_score_denoiser(kernel, noise):
    """Exact log ratios make the exact posterior and the exact reverse rate.

    The denoiser takes `log(exp(sigma) - 1)` off the outputs where there is a mask state.
    """
    process, joint, x_t = problem(kernel, noise)
    t = moderate_time(noise)
    when = at(t, len(x_t))
    output = exact.ratio(process, joint, t).log()
    if isinstance(kernel, Absorbing):
        output = output + torch.log(torch.expm1(noise.sigma(when)))[:, None, None]
    output.scatter_(-1, x_t[..., None], 123.0)  # never read: the ratio at x_t is 1 by definition
    prediction = ScoreDenoiser(Lookup(output, kernel.num_states), process)(x_t, when)
    oracle = ExactDenoiser(process, joint)(x_t, when)
    # Rounding grows by the condition number of P(1.5), about exp(1.5 * 2.7).
    close(prediction.posterior(), oracle.posterior())
    close(prediction.reverse_rate(), oracle.reverse_rate(), rtol=1e-8)
    close(prediction.bridge(0.5 * when), oracle.bridge(0.5 * when))


@each_kernel
@each_noise
def test_score_denoiser_near_data(kernel, noise):
    """Reverse rates come from the ratios directly and stay exact at any noise level."""
    process, joint, x_t = problem(kernel, noise)
    for t in (1e-3, 1.0):
        when = at(t, len(x_t))
        output = exact.ratio(process, joint, t).log()
        if isinstance(kernel, Absorbing):
            # log(exp(sigma) - 1) in a form that does not overflow at sigma = 297
            sigma = noise.sigma(when)
            output = output + (sigma + torch.log1p(-torch.exp(-sigma)))[:, None, None]
        prediction = ScoreDenoiser(Lookup(output, kernel.num_states), process)(x_t, when)
        expected = ExactDenoiser(process, joint)(x_t, when).reverse_rate()
        close(prediction.reverse_rate(), expected, rtol=1e-8)


@each_kernel
@each_noise
def test_markov_chain_denoiser(kernel, noise):
    """Forward-backward recursion equals enumeration on chains of length 1 to 4.

    The slack of 1e-12 in the transitions moves a posterior by far less than 1e-9 here.
    """
    process = ForwardProcess(kernel, noise)
    initial = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    rows = torch.rand(3, 3, generator=seeded(), dtype=torch.float64)
    rows = rows / rows.sum(-1, keepdim=True)
    fast = MarkovChainDenoiser(process, initial, rows)
    for length in (1, 2, 4):
        oracle = ExactDenoiser(process, chain_law(initial, rows, length))
        x_t = sequences(kernel.num_states, length)
        for t in (1e-3, 0.3, 1.0):
            when = at(t, len(x_t))
            close(fast(x_t, when).posterior(), oracle(x_t, when).posterior())


@each_kernel
@each_noise
@pytest.mark.parametrize("t", [1e-6, 0.3, 1.0])
def test_markov_chain_denoiser_contradictions(kernel, noise, t):
    """Evidence that contradicts a chain with forbidden tokens and transitions gives a law."""
    process = ForwardProcess(kernel, noise)
    initial = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    cycle = torch.eye(3, dtype=torch.float64).roll(1, 1)
    denoiser = MarkovChainDenoiser(process, initial, cycle)
    x_t = torch.randint(kernel.num_states, (50, 40), generator=seeded())
    prediction = denoiser(x_t, at(t, len(x_t)))
    assert prediction.num_invalid() == 0
    posterior = prediction.posterior()
    close(posterior.sum(-1), torch.ones(x_t.shape).double(), atol=1e-12)


def test_markov_chain_denoiser_fewest_violations():
    """Contradictory evidence is read with as few violations as possible.

    The chain counts 0, 1, 2, 0, ...; in `0 ? 1` the gap is 0 or 1 with one violation, 2 with two.
    """
    process = ForwardProcess(Absorbing(3), LogLinear())
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    denoiser = MarkovChainDenoiser(process, third, torch.eye(3).double().roll(1, 1))
    posterior = denoiser(torch.tensor([[0, 3, 1]]), at(0.5)).posterior()
    close(posterior[0, 1], torch.tensor([0.5, 0.5, 0.0], dtype=torch.float64))


@each_kernel
def test_markov_chain_denoiser_long(kernel):
    """Long sequences neither underflow nor overflow."""
    process = ForwardProcess(kernel, LogLinear())
    third = torch.full((3,), 1 / 3, dtype=torch.float64)
    rows = 0.998 * torch.eye(3, dtype=torch.float64).roll(1, 1) + 0.002 / 3
    denoiser = MarkovChainDenoiser(process, third, rows)
    x_t = torch.randint(kernel.num_states, (1, 3000), generator=seeded())
    assert denoiser(x_t, at(0.01)).num_invalid() == 0


FORMS = [LogPosterior, LogLeaveOneOut, LogRatio]


def random_prediction(form, kernel, dtype=torch.float32):
    """Return a prediction of an imperfect network."""
    process = ForwardProcess(kernel, LogLinear())
    x_t = torch.randint(kernel.num_states, (4, 6), generator=seeded())
    size = kernel.num_states if form is LogRatio else kernel.vocab_size
    output = torch.randn(4, 6, size, generator=seeded(1), dtype=dtype)
    if form is LogPosterior:  # a posterior must admit x_t
        output = process.full_posterior(output, x_t, at(0.5, 4))
    return form(process, output, x_t, at(0.5, 4))


@each_kernel
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
@pytest.mark.parametrize("max_elements", [1, 20, 10_000])
def test_chunks(kernel, form, max_elements):
    """Pieces of a prediction are small enough, and put together they are the whole."""
    whole = random_prediction(form, kernel)
    places, pieces = zip(*chunks([whole, whole], max_elements), strict=True)
    assert [i for part in places for i in range(6)[part]] == list(range(6))
    assert all(
        torch.equal(p.x_t, whole.x_t[:, part]) for part, (p, _) in zip(places, pieces, strict=True)
    )
    assert all(first.output.shape == second.output.shape for first, second in pieces)
    widths = [first.output.shape[1] for first, _ in pieces]
    assert sum(widths) == 6
    assert all(
        first.output.numel() <= max_elements or first.x_t.shape[1] == 1 for first, _ in pieces
    )
    for method in ("log_posterior", "posterior", "reverse_rate"):
        parts = torch.cat([getattr(first, method)() for first, _ in pieces], 1)
        assert torch.equal(parts, getattr(whole, method)())


@each_kernel
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_double(kernel, form):
    """`double` changes the precision of every result and nothing else (float32 rounding)."""
    low = random_prediction(form, kernel)
    high = low.double()
    for method in ("posterior", "reverse_rate"):
        a, b = getattr(low, method)(), getattr(high, method)()
        assert (a.dtype, b.dtype) == (torch.float32, torch.float64)
        # The inverse of P(0.7) that a ratio needs amplifies rounding tenfold.
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_num_invalid(form):
    """NaN and +inf are counted; -inf is legal: an impossible or forbidden token."""
    prediction = random_prediction(form, Uniform(3))
    assert prediction.num_invalid() == 0
    prediction.output[0, 0, 0] = torch.nan
    prediction.output[1, 2, 1] = torch.inf
    prediction.output[3, 5, 2] = -torch.inf
    assert prediction.num_invalid() == 2


def test_time_free():
    """A mean denoiser is time-free if its backbone says so; a score denoiser never is."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    backbone = Lookup(torch.zeros(1), 4)
    assert not MeanDenoiser(backbone, process).time_free
    backbone.time_free = True
    assert MeanDenoiser(backbone, process).time_free
    assert not ScoreDenoiser(backbone, process).time_free


@each_kernel
@each_noise
@pytest.mark.parametrize("make", ["enumerated", "chain"])
def test_given_tokens_are_clean(kernel, noise, make):
    """Given tokens, in every row others, are read as clean whatever the time, by enumeration.

    Row by row the posterior is that of the joint given them; what is given is no noise.
    """
    process = ForwardProcess(kernel, noise)
    initial = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
    rows = torch.rand(3, 3, generator=seeded(), dtype=torch.float64)
    rows = rows / rows.sum(-1, keepdim=True)
    joint = chain_law(initial, rows, 3)
    chain = MarkovChainDenoiser(process, initial, rows, slack=0.0)
    denoiser = ExactDenoiser(process, joint) if make == "enumerated" else chain
    x_t = torch.tensor([[0, 1, 2], [0, 1, 2], [2, 2, 0], [1, 0, 0]])
    free = torch.tensor([[1, 1, 0], [0, 1, 0], [0, 1, 1], [1, 1, 1]]).bool()
    for t in (0.2, 1.0):
        prediction = denoiser(x_t, at(t, 4), free)
        close(prediction.posterior()[1, 1], weigh(joint[0, :, 2], process, x_t[1, 1], t))
        pair = joint[:, :, 2] / joint[:, :, 2].sum()
        expected = ExactDenoiser(process, pair)(x_t[:1, :2], at(t)).posterior()
        close(prediction.posterior()[0, :2], expected[0])
        pair = joint[2] / joint[2].sum()
        expected = ExactDenoiser(process, pair)(x_t[2:3, 1:], at(t)).posterior()
        close(prediction.posterior()[2, 1:], expected[0])
        alone = ExactDenoiser(process, joint)(x_t[3:], at(t)).posterior()
        close(prediction.posterior()[3], alone[0])


def weigh(law, process, x, t):
    """Return the posterior of one token by Bayes."""
    weight = law * exact.expm(process.kernel, process.noise.sigma(at(t)))[: len(law), x]
    return weight / weight.sum()


class Told(nn.Module):
    """A network that writes down what it is told, and wants float32."""

    def __init__(self, size, dtype=torch.float32):
        super().__init__()
        self.linear = nn.Linear(1, size, dtype=dtype)
        self.size = size
        self.told = None

    def forward(self, x_t, *args, **kwargs):
        self.told = (args, kwargs)
        h = args[0].to(self.linear.weight.dtype) if args and args[0].dtype == torch.int64 else None
        t = h if h is not None else args[0] if args else torch.zeros(len(x_t))
        return self.linear(t[:, None])[:, None].expand(*x_t.shape, -1)


@pytest.mark.parametrize("make", [MeanDenoiser, PosteriorDenoiser, ScoreDenoiser])
@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (Time(), [0.25, 1.0]),
        (NoiseLevel(), [-math.log(0.75), -math.log(1e-3)]),
        (MaskRatio(), [0.25, 0.999]),
        (DiscreteTime(1000), [249, 999]),
        (DiscreteTime(1000, first=1), [250, 1000]),
    ],
    ids=str,
)
def test_time_inputs(make, time, expected):
    """A network in float32 is told the time in its own type, in the form it knows."""
    process = ForwardProcess(Absorbing(3), LogLinear())
    network = Told(4)
    denoiser = make(network, process, time=time)
    denoiser(torch.full((2, 5), 3), torch.tensor([0.25, 1.0], dtype=torch.float64))
    (told,), _ = network.told
    assert told.dtype == (torch.int64 if isinstance(time, DiscreteTime) else torch.float32)
    torch.testing.assert_close(told.double(), torch.tensor(expected).double(), rtol=2e-3, atol=1e-6)
    assert denoiser.min_time == (1e-3 if isinstance(time, DiscreteTime) else 0.0)


def test_no_time():
    """A masked language model is called with tokens alone, and is time-free."""
    network = Told(3)
    denoiser = MeanDenoiser(network, ForwardProcess(Absorbing(3), LogLinear()), time=NoTime())
    denoiser(torch.full((2, 5), 3), at(0.5, 2))
    assert network.told == ((), {})
    assert denoiser.time_free


def test_discrete_times_below_the_first():
    """Times below 1 / T, which such a network has never seen, are those of its first step."""
    network = Told(3)
    process = ForwardProcess(Uniform(3), LogLinear())
    denoiser = MeanDenoiser(network, process, time=DiscreteTime(10))
    denoiser(torch.zeros(3, 5, dtype=torch.long), torch.tensor([1e-6, 0.1, 0.16]).double())
    assert network.told[0][0].tolist() == [0, 0, 1]


def test_padding():
    """Where the padding's id is given, the network is told which tokens exist."""
    network = Told(4)
    denoiser = MeanDenoiser(network, ForwardProcess(Absorbing(4), LogLinear()), pad=0)
    x_t = torch.tensor([[2, 4, 0, 0], [0, 4, 4, 0]])
    free = torch.tensor([[0, 1, 0, 0], [1, 1, 1, 0]]).bool()
    denoiser(x_t, at(0.5, 2), free)
    # A free token exists even where it looks like padding.
    assert network.told[1]["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 0]]


@pytest.mark.parametrize("size", [3, 5])
def test_vocabulary_off_by_one(size):
    """Logits that do not fit the vocabulary are refused, not read with the wrong token as mask."""
    kernel = Uniform(4)
    for make in (MeanDenoiser, PosteriorDenoiser, ScoreDenoiser):
        denoiser = make(Told(size), ForwardProcess(kernel, LogLinear()))
        with pytest.raises(ValueError, match=rf"logits of the shape \(2, 5, 4\).* {size}\)"):
            denoiser(torch.zeros(2, 5, dtype=torch.long), at(0.5, 2))


@each_kernel
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_predictions_of_single_tokens(kernel, form):
    """`at` picks the predictions of single tokens."""
    whole = random_prediction(form, kernel)
    rows, columns = torch.tensor([0, 3, 3]), torch.tensor([5, 0, 2])
    part = whole.at(rows, columns)
    for method in ("log_posterior", "posterior", "reverse_rate"):
        close(getattr(part, method)()[:, 0], getattr(whole, method)()[rows, columns], atol=1e-6)


@each_kernel
@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)
def test_log_prob(kernel, form):
    """`log_prob` is the log posterior of given tokens, without a table of all tokens."""
    whole = random_prediction(form, kernel, torch.float64)
    x_0 = whole.x_t.clamp(max=kernel.vocab_size - 1)
    expected = whole.log_posterior().gather(-1, x_0[..., None]).squeeze(-1)
    close(whole.log_prob(x_0), expected)


def test_times_like():
    """Times become float64 (B,), from a number, a scalar or one per sequence."""
    x = torch.zeros(3, 2, dtype=torch.long)
    for t in (0.5, torch.tensor(0.5), torch.full((3,), 0.5)):
        assert torch.equal(times_like(t, x), at(0.5, 3))


UNIFORM_LAW = torch.full((3,), 1 / 3, dtype=torch.float64)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: ExactDenoiser(p, torch.ones(3, 4) / 12), "axes of size vocab_size = 3"),
        (lambda p: ExactDenoiser(p, torch.ones(3, 3)), "sum to 1, got minimum 1 and sum 9"),
        (lambda p: ExactDenoiser(p, torch.tensor([1.5, -0.5, 0.0])), "got minimum -0.5"),
        (
            lambda p: MarkovChainDenoiser(p, UNIFORM_LAW, torch.ones(3, 3) / 2),
            "`transition` must be >= 0 and sum to 1",
        ),
        (
            lambda p: MarkovChainDenoiser(p, torch.ones(3), torch.eye(3)),
            "`initial` must be >= 0 and sum to 1",
        ),
        (
            lambda p: MarkovChainDenoiser(p, torch.ones(4) / 4, torch.eye(4)),
            r"must have the shapes \(3,\) and \(3, 3\)",
        ),
    ],
)
def test_errors(make, message):
    """Tensors that are no laws over the vocabulary are refused with the reason."""
    with pytest.raises(ValueError, match=message):
        make(ForwardProcess(Uniform(3), LogLinear()))


class Dropout(torch.nn.Module):
    """A network whose every other answer is lost in training mode."""

    def __init__(self):
        super().__init__()
        self.table, self.dropout = torch.nn.Embedding(4, 3), torch.nn.Dropout(0.5)
        self.frozen = torch.nn.Dropout(0.5).eval()

    def forward(self, x_t, t):
        return self.frozen(self.dropout(self.table(x_t)))


@pytest.mark.parametrize(
    "use",
    [
        lambda d, x: Analytic()(d, x * 0 + 3, [1.0, 0.5, 0.0], generator=seeded()).tokens,
        lambda d, x: (
            OptimalSteps(num_times=4, pilot_times=4)
            .table(d, Analytic(), x, generator=seeded())
            .excess
        ),
        lambda d, x: JumpYourSteps(num_probes=3)(d, Analytic(), x, 2, generator=seeded()).schedules,
        lambda d, x: OptimalCounts()(d, Reveal(), x, 2, generator=seeded()).schedules,
    ],
    ids=["sampler", "costs", "klub", "counts"],
)
def test_dropout_plays_no_part(use):
    """Samples and schedules are those of evaluation mode; the modes are left as they were."""
    torch.manual_seed(0)
    network = Dropout()
    denoiser = MeanDenoiser(network, ForwardProcess(Absorbing(3), LogLinear()))
    x_0 = torch.randint(3, (16, 6), generator=seeded())
    found = [use(denoiser, x_0), use(denoiser.eval(), x_0)]
    denoiser.train()
    network.frozen.eval()
    use(denoiser, x_0)
    assert [part.training for part in (denoiser, network.dropout, network.frozen)] == [1, 1, 0]
    one, two = (torch.as_tensor(f) if not isinstance(f, dict) else f for f in found)
    assert one == two if isinstance(one, dict) else torch.equal(one, two)
