"""How the numbers that an image network puts out become logits over the states."""

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Head(nn.Module, ABC):
    """Law of one token, from P numbers that the network puts out for it.

    All-zero numbers, which is what an untrained network puts out, must give a (nearly) uniform law.
    """

    @abstractmethod
    def num_outputs(self, num_states: int) -> int:
        """Number P of outputs that the network must give for every token."""

    @abstractmethod
    def forward(
        self, outputs: Float[Tensor, "B L P"], x_t: Int[Tensor, "B L"], num_states: int
    ) -> Float[Tensor, "B L K"]:
        """Logits over the states.

        Args:
            outputs: What the network puts out, shape (B, L, P).
            x_t: Noised tokens in {0..K-1}, shape (B, L).
            num_states: Number K of states.

        Returns:
            Unnormalized log-probabilities in nats, shape (B, L, K).
        """


class CategoricalHead(Head):
    """One logit per state: any law, no notion of order between the states."""

    def num_outputs(self, num_states: int) -> int:
        """One output per state."""
        return num_states

    def forward(
        self, outputs: Float[Tensor, "B L P"], x_t: Int[Tensor, "B L"], num_states: int
    ) -> Float[Tensor, "B L K"]:
        """Return `outputs`, which are the logits."""
        return outputs


class LogisticHead(Head):
    r"""Discretized logistic law, truncated to the range of the levels: for ordinal tokens.

    State j is the bin :math:`[e_j, e_{j+1}]` of [-1, 1], with :math:`e_j = 2 j / K - 1`. With the
    logistic function :math:`\phi`, a mean :math:`\mu` and a scale s,

    .. math:: p(j) = \frac{\phi((e_{j+1} - \mu) / s) - \phi((e_j - \mu) / s)}
        {\phi((1 - \mu) / s) - \phi((-1 - \mu) / s)} .

    The network gives the *difference* of the mean to the level of the noised token, which is right
    already as t tends to 0, and the logarithm of s, counted from a scale so wide that all levels
    are equally likely within 2 %.

    A mask state, the last one, is the bin after the brightest level. It need not be declared: a
    truncated law that is restricted to the first V bins and renormalized, as a mean-predicting
    denoiser does, is the truncated law on these V levels.

    The law has one mode and no logit of its own for any state; it is meant for predictions of x_0,
    not for ratios of probabilities.

    References:
        | Structured Denoising Diffusion Models in Discrete State-Spaces (Austin et al., 2021),
        | section 3.3
        | https://arxiv.org/abs/2107.03006
    """

    initial_log_scale = 2.0

    def num_outputs(self, num_states: int) -> int:
        """Two outputs: the shift of the mean, and the logarithm of the scale."""
        return 2

    def forward(
        self, outputs: Float[Tensor, "B L P"], x_t: Int[Tensor, "B L"], num_states: int
    ) -> Float[Tensor, "B L K"]:
        """Normalized log-probabilities in nats, shape (B, L, K), float32 also under autocast."""
        shift, log_scale = outputs.float().unbind(dim=-1)
        mean = (2 * x_t.float() + 1) / num_states - 1 + shift
        # Below a twentieth of a level the law is one level; a smaller scale would only amplify
        # gradients. The bound is smooth so that a scale at the bound can still grow.
        floor = math.log(0.1 / num_states)
        log_scale = floor + F.softplus(log_scale + self.initial_log_scale - floor)
        edges = torch.linspace(-1, 1, num_states + 1, dtype=torch.float32, device=x_t.device)
        z = (edges - mean[..., None]) * torch.exp(-log_scale)[..., None]
        # phi(b) - phi(a) = phi(b) phi(-a) (1 - exp(a - b)): a product, so nothing cancels, and its
        # last factor is the same for all bins of equal width.
        return F.log_softmax(F.logsigmoid(z[..., 1:]) + F.logsigmoid(-z[..., :-1]), dim=-1)
