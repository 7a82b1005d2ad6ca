"""The transformer of MDLM, DUO, UDLM and SEDD."""

from collections.abc import Callable
from functools import partial

from torch import nn

from ddm.backbones.transformer import Transformer


class DiT(Transformer):
    """Transformer of MDLM, DUO, UDLM and SEDD, told the noise level sigma in the place of t.

    Their diffusion transformer is a `Transformer` whose layers approximate GELU by tanh and whose
    time features are those of sigma. `ddm.adapters.load` reads their weights into it. It needs no
    compiled attention, and runs in float32 and bfloat16 on CPUs and GPUs.

    References:
        | Simple and Effective Masked Diffusion Language Models (Sahoo et al., 2024), appendix C
        | https://arxiv.org/abs/2406.07524
        | Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution
          (Lou et al., 2024), appendix C.3
        | https://arxiv.org/abs/2310.16834

    Args:
        num_states: Number K of states of the chain, at least 2, the mask included.
        dim: Number of features per token, a multiple of `2 * num_heads`.
        depth: Number of blocks, at least 1.
        num_heads: Number of attention heads, at least 1.
        time_conditioning: Whether the output depends on sigma; if not, no parameter is spent on it.
        dropout: Fraction of the output of each layer that is dropped in training, in [0, 1).
        reach: Number of neighbors on each side whose embeddings are added to that of a token.
        condition_dim: Number of features of sigma.

    Raises:
        ValueError: If an argument is outside of its domain.
    """

    time_scale = 1.0
    activation: Callable[[], nn.Module] = partial(nn.GELU, approximate="tanh")
