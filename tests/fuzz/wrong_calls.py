"""Wrong calls of the Python API, each with what its error has to name; run without shape checks.

`python wrong_calls.py` prints the calls that were accepted or failed in another way. The test suite
enforces types by itself, so it runs this in a process of its own.
"""

import math

import torch

from ddm import Absorbing, DenseKernel, ForwardProcess, Gaussian, OptimalSteps, Uniform
from ddm.adapters import Guided, MaskedLM, TokenIds, check_model
from ddm.callbacks import JYSScheduleCallback, SampleLogger
from ddm.denoisers import (
    DiscreteTime,
    ExactDenoiser,
    MarkovChainDenoiser,
    MeanDenoiser,
    ScoreDenoiser,
)
from ddm.functional import categorical
from ddm.losses import NELBO, CrossEntropy, Hybrid, ScoreEntropy
from ddm.module import DiscreteDiffusion
from ddm.noise import Constant, Cosine, Exponential, Geometric, LogLinear
from ddm.orders import Confidence, LeftToRight, Measured, Spaced
from ddm.samplers import (
    Analytic,
    EntropyBound,
    FirstHitting,
    KGillespie,
    PredictorCorrector,
    Priced,
    Renoise,
    Reveal,
    Temper,
    ThetaTrapezoidal,
    Threshold,
    Trajectory,
)
from ddm.schedules import JumpYourSteps, OptimalCounts, Optimized, SamplingSchedule

NAN, INF = math.nan, math.inf
KERNELS = (Absorbing, Uniform, Gaussian)
NUMBERS = (0, -1, NAN, INF)
PROCESS = ForwardProcess(Absorbing(3), LogLinear())
JOINT = torch.full((3, 3), 1 / 9, dtype=torch.float64)
EXACT = ExactDenoiser(PROCESS, JOINT)
X = torch.full((8, 2), 3)
X_0 = torch.zeros(8, 2, dtype=torch.long)
FREE = torch.ones(8, 2, dtype=torch.bool)
ZEROS = torch.zeros(2, 2)
THIRD = torch.full((3,), 1 / 3, dtype=torch.float64)


class Network(torch.nn.Module):
    """A network that returns zeros of a fixed shape."""

    def __init__(self, *shape):
        super().__init__()
        self.shape = shape

    def forward(self, x_t, t):
        return torch.zeros(self.shape)


def broken(value):
    """Return a denoiser whose logits are all the same bad number."""
    network = Network(8, 2, 3)
    network.forward = lambda x_t, t: torch.full((8, 2, 3), value)
    return MeanDenoiser(network, PROCESS)


class Embeds(torch.nn.Module):
    """A network with an embedding of five ids, the last of them the mask."""

    def __init__(self):
        super().__init__()
        self.table = torch.nn.Embedding(5, 5)

    def forward(self, x_t, t):
        return self.table(x_t)


NETWORK = Embeds()
MASKED = MaskedLM(NETWORK, TokenIds(5, mask=4, special=(3, 4)))
OPTIMIZERS = (
    OptimalSteps(num_times=4, pilot_times=4),
    JumpYourSteps(num_probes=2),
    OptimalCounts(num_times=4),
)


def module(**objects):
    """Return a module for training, with some of its parts exchanged."""
    parts = {"kernel": Absorbing(3), "backbone": lambda states: NETWORK, "length": 2}
    return DiscreteDiffusion(**(parts | {"optimizer": torch.optim.AdamW} | objects))


# Whatever takes an object, and by which name; each is given a class, a name and a number instead.
OBJECTS = [
    ("kernel", lambda v: ForwardProcess(v, LogLinear())),
    ("noise", lambda v: ForwardProcess(Absorbing(3), v)),
    ("process", lambda v: MeanDenoiser(NETWORK, v)),
    ("backbone", lambda v: MeanDenoiser(v, PROCESS)),
    ("time", lambda v: MeanDenoiser(NETWORK, PROCESS, time=v)),
    ("process", lambda v: ExactDenoiser(v, JOINT)),
    ("order", Reveal),
    ("stop", lambda v: Reveal(stop=v)),
    ("temper", lambda v: Reveal(temper=v)),
    ("within", lambda v: LeftToRight(2, v)),
    ("predictor", PredictorCorrector),
    ("objective", JumpYourSteps),
    ("optimizer", lambda v: JYSScheduleCallback(optimizer=v)),
    ("sampler", lambda v: JYSScheduleCallback(sampler=v)),
    ("judge", lambda v: JYSScheduleCallback(judge=v)),
    ("model", lambda v: MaskedLM(v, TokenIds(5, mask=4))),
    ("tokenizer", lambda v: MaskedLM(NETWORK, v)),
    ("denoiser", lambda v: Guided(v, EXACT, 1.0)),
    ("unconditional", lambda v: Guided(EXACT, v, 1.0)),
    ("denoiser", lambda v: check_model(v, X_0)),
    ("kernel", lambda v: module(kernel=v)),
    ("noise", lambda v: module(noise=v)),
    ("loss", lambda v: module(loss=v)),
    ("sampler", lambda v: module(sampler=v)),
    ("denoiser", lambda v: Analytic()(v, X, [1.0, 0.0])),
    ("`x`", lambda v: Analytic()(EXACT, v, [1.0, 0.0])),
    ("times", lambda v: Analytic()(EXACT, X, v)),
    *(("denoiser", lambda v, found=found: found(v, Analytic(), X_0, 2)) for found in OPTIMIZERS),
    *(("sampler", lambda v, found=found: found(EXACT, v, X_0, 2)) for found in OPTIMIZERS),
    *(("x_0", lambda v, found=found: found(EXACT, KGillespie(), v, 2)) for found in OPTIMIZERS),
]

CALLS = [
    *((name, call, v) for name, call in OBJECTS for v in (Confidence, "spaced", 0.1)),
    *(("shape", Spaced, v) for v in (12, (2, 0), (2, "a"), "ab")),
    *(("dependence", Measured, v) for v in ("a", [[-1.0]], [1.0])),
    *(("jitter", lambda j: Spaced(jitter=j), j) for j in (-0.1, 2, NAN, "a")),
    *(("bound", EntropyBound, v) for v in (-1, NAN, INF, "a", None)),
    *(("probability", Threshold, v) for v in (0, 2, NAN, "a", None)),
    *(("price", lambda v: Priced([0, 1], ZEROS, ZEROS, v), v) for v in (-1, NAN, INF, "a", None)),
    *(
        ("excess", lambda v: Priced([0, 1], v, ZEROS, 1.0), v)
        for v in ([[0]], [[NAN] * 2] * 2, "a")
    ),
    *(("temperature", Temper, v) for v in (*NUMBERS, "a")),
    *(("top_p", lambda p: Temper(top_p=p), p) for p in (0, 2, NAN, "a")),
    *(("near_certain", lambda n: Reveal(near_certain=n), n) for n in (-1, NAN, INF, "a")),
    *(("theta", ThetaTrapezoidal, v) for v in ("a", None)),
    *(("scale", lambda s: Guided(EXACT, EXACT, s), s) for s in ("a", None)),
    *(("smoothing", lambda s: JYSScheduleCallback(smoothing=s), s) for s in ("a", None)),
    *(
        (name, lambda v, name=name: TokenIds(5, **{name: v}), v)
        for name in ("mask", "pad", "eos", "num_tokens")
        for v in (-1, 1.5, "a")
    ),
    ("special", lambda v: TokenIds(5, special=v), (0, -1)),
    ("vocab_size", TokenIds, -1),
    *(
        (name, lambda v, name=name: JYSScheduleCallback(**{name: v}), "x")
        for name in ("denoiser", "tokens", "free")
    ),
    ("times", lambda v: Analytic()(EXACT, X, v), Optimized({})),
    ("times", SamplingSchedule, "uniform"),
    (
        "mask",
        lambda v: MeanDenoiser(NETWORK, ForwardProcess(Absorbing(v), LogLinear()))(X + 2, 1.0),
        5,
    ),
    ("pad", lambda p: MeanDenoiser(NETWORK, PROCESS, pad=p)(X, 1.0), 0),
    *(("pad", lambda p: MeanDenoiser(NETWORK, PROCESS, pad=p), p) for p in (-100, 0.5, "a")),
    *(
        ("free", lambda v, found=found: found(MASKED, KGillespie(), v, 2), X_0 + 3)
        for found in OPTIMIZERS
    ),
    *(
        ("num_steps", lambda n, f=found, s=sampler: f(EXACT, s, X_0, n), 3)
        for sampler in (KGillespie(), Reveal())
        for found in OPTIMIZERS
    ),
    *(("vocab_size", kind, v) for kind in (Absorbing, Uniform, Gaussian) for v in (0, 1, -2, 2.5)),
    *(
        ("vocab_size", kind, v)
        for kind in (Absorbing, Uniform, Gaussian)
        for v in ("4", None, True)
    ),
    *(("mask", lambda m: Absorbing(4, mask=m), m) for m in (-1, 5, 1.5, "a", True)),
    *(("width", lambda w: Gaussian(4, width=w), w) for w in NUMBERS),
    *(("prior_std", lambda w: Gaussian(4, prior_std=w), w) for w in NUMBERS),
    *(("spectral_gap", lambda w: Gaussian(4, spectral_gap=w), w) for w in NUMBERS),
    *(("prior_std", lambda w: Gaussian(16, prior_std=w), w) for w in (1e-3, 0.1)),
    *(("rate_matrix", DenseKernel, q) for q in ([[1.0]], [[-1.0, 2.0], [1.0, -1.0]], [1.0], "q")),
    *(("rate_matrix", DenseKernel, q) for q in ([[-INF, INF], [1.0, -1.0]], [[0.0, 0.0]] * 2)),
    *(("eps", kind, e) for kind in (LogLinear, Cosine) for e in (*NUMBERS, 1, 1e-17, 1e-300, "a")),
    *(("rate", Constant, r) for r in (*NUMBERS, 1e-320, 1e30, "a")),
    *(("scale", lambda s: Exponential(s, 10.0), s) for s in (*NUMBERS, 1e-320)),
    *(("growth", lambda g: Exponential(1.0, g), g) for g in (1.0, 0.5, NAN, INF)),
    *(("sigma_min", lambda s: Geometric(s, 8.0), s) for s in (*NUMBERS, 1e-320)),
    *(("sigma_max", lambda s: Geometric(1e-3, s), s) for s in NUMBERS),
    *(("joint", lambda p: ExactDenoiser(PROCESS, p), p) for p in (JOINT * 2, -JOINT, JOINT[:2])),
    ("joint", lambda p: ExactDenoiser(PROCESS, p), JOINT * NAN),
    ("initial", lambda p: MarkovChainDenoiser(PROCESS, p, torch.eye(3)), THIRD * 2),
    ("transition", lambda p: MarkovChainDenoiser(PROCESS, THIRD, p), torch.ones(3, 3)),
    *(("num_timesteps", DiscreteTime, n) for n in (0, -1, 2.5)),
    *(("theta", ThetaTrapezoidal, v) for v in (0.0, 1.0, -1.0, NAN)),
    *(("step_size", lambda s: PredictorCorrector(step_size=s), s) for s in NUMBERS),
    *(("strength", lambda s: Renoise(strength=s), s) for s in NUMBERS),
    *(("num_corrections", lambda n: PredictorCorrector(num_corrections=n), n) for n in (0, 1.5)),
    ("predictor", PredictorCorrector, KGillespie()),
    *(("weight", Hybrid, w) for w in (-1.0, NAN, INF)),
    *(("num_samples", Trajectory, n) for n in (-1, 1.5)),
    *(("gamma", lambda g: OptimalSteps(gamma=g), g) for g in (-1.0, NAN, INF)),
    *(("num_times", lambda n: OptimalSteps(num_times=n), n) for n in (0, 3, 8.5)),
    *(("pilot_times", lambda n: OptimalSteps(pilot_times=n), n) for n in (0, 3)),
    *(("batch_size", lambda n: OptimalSteps(batch_size=n), n) for n in (0, -1, 2.5)),
    *(("batch_size", lambda n: JumpYourSteps(batch_size=n), n) for n in (0, -1)),
    *(("num_probes", lambda n: JumpYourSteps(num_probes=n), n) for n in (0, 1.5)),
    *(("num_steps", SamplingSchedule.uniform, n) for n in (0, -1, 2.5, "4", True)),
    *(("num_steps", SamplingSchedule.cosine, n) for n in (0, -1, 2.5)),
    *(
        ("times", SamplingSchedule, t)
        for t in ((1.0,), (1.0, NAN, 0.0), (0.0, 1.0), (1.0, 2.0, 0.0))
    ),
    *(
        ("times", lambda t: Analytic()(EXACT, X, t), t)
        for t in ([1.0], [0.5, 0.0], [1, 0.2, 0.2, 0])
    ),
    *(
        ("`t`", lambda t, loss=loss: loss(EXACT, X_0, t), t)
        for loss in (NELBO(), CrossEntropy(), ScoreEntropy(), Hybrid())
        for t in (0.0, -0.1, 1.5, NAN)
    ),
    ("`t`", lambda t: NELBO()(EXACT, X_0, t), torch.full((3,), 0.5)),
    ("`s`", lambda s: EXACT(X, torch.full((8,), 0.5).double()).bridge(s), torch.ones(8).double()),
    ("probs", categorical, torch.tensor([0.5, -0.1, 0.6])),
    ("probs", categorical, torch.tensor([0.0, 0.0])),
    ("probs", categorical, torch.tensor([NAN, 1.0])),
    ("probs", categorical, torch.tensor([INF, 1.0])),
    *(
        ("`x`", lambda x, sampler=sampler: sampler(EXACT, x, [1.0, 0.0]), x)
        for sampler in (Analytic(), KGillespie(), FirstHitting())
        for x in (X.float(), X.to(torch.bool), X + 1, X - 4, X[0])
    ),
    *(
        ("free", lambda f: Analytic()(EXACT, X_0, [1.0, 0.0], free=f), f)
        for f in (FREE[:4], FREE.long(), FREE[:, :1])
    ),
    ("x, where", lambda x: Analytic()(EXACT, x, [1.0, 0.0], free=~FREE), X),
    *(
        ("x_0", lambda x, found=found: found(EXACT, Analytic(), x, 2), x)
        for found in (OptimalSteps(num_times=4, pilot_times=4), JumpYourSteps(num_probes=2))
        for x in (X_0.float(), X, X_0 - 1, X_0[:0])
    ),
    ("x_0", lambda x: OptimalSteps()(EXACT, Analytic(), x, 2), X_0[:4]),
    *(
        ("num_steps", lambda n, found=found: found(EXACT, Analytic(), X_0, n), n)
        for found in (OptimalSteps(num_times=4, pilot_times=4), JumpYourSteps(num_probes=2))
        for n in (0, [], [2, -1], [2.5])
    ),
    *(
        ("network", lambda d: OptimalSteps(num_times=4, pilot_times=4)(d, Analytic(), X_0, 2), d)
        for d in (broken(NAN), broken(INF))
    ),
    *(
        ("logits", lambda shape: MeanDenoiser(Network(*shape), PROCESS)(X, 0.5), shape)
        for shape in ((8, 2, 5), (8, 2, 2), (8, 3, 3), (8, 2), (4, 2, 3))
    ),
    ("logits", lambda s: ScoreDenoiser(Network(*s), PROCESS)(X, 0.5), (8, 2, 3)),
    *(("num_steps", lambda n: JYSScheduleCallback(n), n) for n in (0, (), (0,), (2, -1))),
    *(("smoothing", lambda s: JYSScheduleCallback(smoothing=s), s) for s in (-0.1, 1.0, NAN)),
    *(("num_samples", lambda n: JYSScheduleCallback(num_samples=n), n) for n in (0, 7, -1)),
    *(("every_n_steps", lambda n: JYSScheduleCallback(every_n_steps=n), n) for n in (0, -1)),
    *(("num_samples", lambda n: SampleLogger(num_samples=n), n) for n in (0, 2.5)),
    *(("num_steps", lambda n: SampleLogger(num_steps=n), n) for n in ((0,), (2, -1))),
]


def main():
    """Print what went wrong, and how many calls there are."""
    for name, call, value in CALLS:
        shown = str(value).replace("\n", " ")[:60]
        try:
            call(value)
        except (ValueError, TypeError) as error:
            if name not in str(error):
                print(f"unclear: {name} {shown}: {type(error).__name__}: {str(error)[:150]!r}")
        except Exception as error:
            print(f"traceback: {name} {shown}: {type(error).__name__}: {str(error)[:150]!r}")
        else:
            print(f"accepted: {name} {shown}")
    print(len(CALLS), "calls")


if __name__ == "__main__":
    main()
