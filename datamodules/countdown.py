"""The CountDown task: a Markov chain whose law, and hence every posterior, is known."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from ddm.datamodules.sequences import SequenceDataModule
from ddm.datamodules.vocabularies import UNKNOWN
from ddm.functional import categorical, require_at_least
from ddm.metrics import CountDownError, UnigramEntropy


def countdown_chain(
    vocab_size: int, smoothing: float = 0.0
) -> tuple[Float[Tensor, " V"], Float[Tensor, "V V"]]:
    r"""Returns the initial law and the transition matrix of the CountDown chain, in float64.

    The first token is uniform. After x > 0 comes x - 1, after 0 a uniform token; with probability
    :math:`\epsilon` the next token is uniform instead. Row x of
    :math:`(1 - \epsilon) T + \epsilon / V` is the law of the token after x.

    References:
        | Jump Your Steps: Optimizing Sampling Schedule of Discrete Diffusion Models
          (Park et al., 2025)
        | https://arxiv.org/abs/2410.07761

    Args:
        vocab_size: The number of tokens V, at least 2.
        smoothing: The probability epsilon of an arbitrary next token, in [0, 1]. A positive one
            gives every sequence a positive probability.

    Returns:
        The initial law, with shape (V,), and the transition matrix, with shape (V, V).

    Raises:
        ValueError: If an argument is out of its domain.
    """
    require_at_least(2, vocab_size=vocab_size)
    if not 0 <= smoothing <= 1:
        raise ValueError(
            f"`smoothing` must lie in [0, 1], got {smoothing}; 0 is the published task."
        )
    initial = torch.full((vocab_size,), 1 / vocab_size, dtype=torch.float64)
    rule = torch.diag(torch.ones(vocab_size - 1, dtype=torch.float64), diagonal=-1)
    rule[0] = initial
    return initial, torch.lerp(rule, initial.expand_as(rule), smoothing)


def sample_chain(
    initial: Float[Tensor, " V"],
    transition: Float[Tensor, "V V"],
    num: int,
    length: int,
    generator: torch.Generator | None = None,
) -> Int[Tensor, "num length"]:
    """Draw independent sequences of a Markov chain.

    Args:
        initial: The law of the first token, with shape (V,).
        transition: The law of the token after x in row x, with shape (V, V).
        num: The number of sequences.
        length: The number of tokens of a sequence.
        generator: The source of randomness; the global one by default.

    Returns:
        Tokens of type int64, with shape (num, length).

    Raises:
        ValueError: If `num` or `length` is not positive.
    """
    require_at_least(1, num=num, length=length)
    tokens = [categorical(initial.expand(num, -1), generator)]
    for _ in range(length - 1):
        tokens.append(categorical(transition[tokens[-1]], generator))
    return torch.stack(tokens, dim=1)


def chain_entropy(
    initial: Float[Tensor, " V"], transition: Float[Tensor, "V V"], length: int
) -> float:
    r"""Returns the entropy of a Markov chain in nats per sequence, by the chain rule.

    .. math:: H(x_1) + \sum_{l=1}^{L-1} \sum_x p(x_l = x) H(x_{l+1} | x_l = x)

    It is the lowest negative log-likelihood that a model can reach.

    Args:
        initial: The law of the first token, with shape (V,).
        transition: The law of the token after x in row x, with shape (V, V).
        length: The number of tokens L of a sequence.

    Raises:
        ValueError: If `length` is not positive.
    """
    require_at_least(1, length=length)
    entropy_after = torch.special.entr(transition).sum(dim=-1)  # (V,)
    entropy = torch.special.entr(initial).sum()
    marginal = initial
    for _ in range(length - 1):
        entropy = entropy + marginal @ entropy_after
        marginal = marginal @ transition
    return entropy.item()


class CountDown(SequenceDataModule):
    """Sequences that count down to 0 and then restart at a uniform token.

    All splits are drawn from the chain of `countdown_chain`, with independent streams of random
    numbers that depend on `seed` alone. As `initial` and `transition` are known, the exact
    posterior of every token is too (`ddm.denoisers.MarkovChainDenoiser`), and `chain_entropy` is
    the lowest possible NELBO.

    References:
        | Jump Your Steps: Optimizing Sampling Schedule of Discrete Diffusion Models
          (Park et al., 2025)
        | https://arxiv.org/abs/2410.07761

    Args:
        vocab_size: The number of tokens V, at least 2.
        length: The number of tokens L of a sequence, at least 2.
        smoothing: The probability of an arbitrary next token, in [0, 1].
        num_samples: The number of training sequences.
        num_val: The number of validation sequences, and of test sequences.
        batch_size: The number of sequences of a batch, in each process.
        num_workers: The number of processes that load batches; 0 is fastest for data in memory.
        seed: The seed of the sequences and of their order.

    Example:
        >>> from ddm.datamodules import CountDown
        >>> data = CountDown(8, 6, num_samples=16, num_val=4)
        >>> data.train_tokens.shape
        torch.Size([16, 6])
    """

    def __init__(
        self,
        vocab_size: int = 32,
        length: int = 256,
        *,
        smoothing: float = 0.0,
        num_samples: int = 16384,
        num_val: int = 1024,
        batch_size: int = 64,
        num_workers: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=seed)
        # Not logged: the logger refuses a name that the model has with another value.
        self.save_hyperparameters(logger=False)
        require_at_least(2, length=length)  # the rule is about adjacent tokens
        require_at_least(1, num_samples=num_samples, num_val=num_val)
        self.initial, self.transition = countdown_chain(vocab_size, smoothing)
        self.vocab_size = vocab_size
        self.length = length
        self.num_samples = num_samples
        self.num_val = num_val

    @cached_property
    def train_tokens(self) -> Int[Tensor, "N L"]:
        """The training sequences, with shape (N, L), drawn on first use."""
        return self._draw(self.num_samples, stream=0)

    @cached_property
    def val_tokens(self) -> Int[Tensor, "N L"]:
        """The validation sequences, with shape (N, L), drawn on first use."""
        return self._draw(self.num_val, stream=1)

    @cached_property
    def test_tokens(self) -> Int[Tensor, "N L"]:
        """The test sequences, with shape (N, L), drawn on first use."""
        return self._draw(self.num_val, stream=2)

    def decode(self, tokens: Int[Tensor, "B L"]) -> list[str]:
        """Return each sequence as its numbers, separated by spaces; the mask becomes U+FFFD."""
        return [
            " ".join(str(token) if token < self.vocab_size else UNKNOWN for token in row)
            for row in tokens.tolist()
        ]

    def metrics(self) -> dict[str, Metric]:
        """Return the error of the rule, and the entropy that exposes a collapsed sampler."""
        return {
            "countdown_error": CountDownError(self.vocab_size),
            "unigram_entropy": UnigramEntropy(),
        }

    def _draw(self, num: int, stream: int) -> Int[Tensor, "N L"]:
        # The CPU generator of torch reads 32 bits of its seed; `SeedSequence` mixes seed and
        # stream into them, where seed + stream would give two seeds a stream in common.
        (state,) = np.random.SeedSequence([self.seed, stream]).generate_state(1)
        generator = torch.Generator().manual_seed(int(state))
        return sample_chain(self.initial, self.transition, num, self.length, generator)
