"""Frechet distance between features of samples and of data."""

from collections.abc import Iterable
from itertools import chain

import torch
from jaxtyping import Float, Num
from torch import Tensor, nn
from torchmetrics import Metric


class PCA(nn.Module):
    """Principal components of sequences that are taken as vectors.

    Args:
        data: Vectors to fit to, of any type, with shape (N, L).
        num_features: The number of components, at most; L or N if that is smaller.
        scale: What all vectors are multiplied by first.

    Attributes:
        num_features: The number F of components.

    Example:
        >>> import torch
        >>> from ddm.metrics import PCA
        >>> data = torch.tensor([[0, 0], [2, 2], [4, 4]])
        >>> PCA(data, 1)(data).abs().round(decimals=3).T
        tensor([[2.8280, 0.0000, 2.8280]], dtype=torch.float64)
    """

    mean: Tensor
    directions: Tensor

    def __init__(self, data: Num[Tensor, "N L"], num_features: int, scale: float = 1.0) -> None:
        super().__init__()
        if num_features < 1 or len(data) < 1:
            raise ValueError(
                f"`num_features` and the number of vectors must be at least 1, got {num_features} "
                f"and {len(data)}; raise them."
            )
        self.num_features = min(num_features, data.shape[1])
        self.scale = scale
        data = data.double() * scale
        mean = data.mean(dim=0)
        centered = data - mean
        # Eigenvalues come in ascending order; fewer vectors than L span all that there is.
        few = len(data) < data.shape[1]
        _, vectors = torch.linalg.eigh(centered @ centered.T if few else centered.T @ centered)
        vectors = vectors[:, -self.num_features :]
        if few:
            vectors = torch.nn.functional.normalize(centered.T @ vectors, dim=0)
        self.num_features = vectors.shape[1]
        self.register_buffer("mean", mean)
        self.register_buffer("directions", vectors)

    def forward(self, tokens: Num[Tensor, "B L"]) -> Float[Tensor, "B F"]:
        """Return the coordinates of vectors, with shape (B, L): float64, with shape (B, F)."""
        return (tokens.double() * self.scale - self.mean) @ self.directions


class FrechetDistance(Metric):
    r"""Squared Frechet distance between Gaussians with the moments of samples and of data.

    With the means :math:`\mu` and covariances :math:`\Sigma` (divided by N - 1) of features,

    .. math:: |\mu_1 - \mu_2|^2 + \mathrm{tr}\,\Sigma_1 + \mathrm{tr}\,\Sigma_2
        - 2\,\mathrm{tr}\,(\Sigma_1^{1/2} \Sigma_2 \Sigma_1^{1/2})^{1/2} .

    The last trace is the sum of the singular values of :math:`A_1^T A_2` for any
    :math:`\Sigma_i = A_i A_i^T`, so covariances without full rank need no correction. The
    value depends on the features, after which it should be called, and falls as the number of
    samples grows: compare only values of equally many samples. It is nan for fewer than two.

    References:
        | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
          (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Args:
        reference: Sequences of data, at least 2, with shape (N, L), or batches of them.
        features: Turns tokens of shape (B, L) into features of shape (B, F).

    Example:
        >>> import torch
        >>> from ddm.metrics import PCA, FrechetDistance
        >>> data = torch.tensor([[0, 0], [2, 2], [4, 4]])
        >>> metric = FrechetDistance(data, PCA(data, 2))
        >>> metric(data + 1).round(decimals=3)  # moved by 1 in two directions, not spread
        tensor(2., dtype=torch.float64)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    count: Tensor
    total: Tensor
    outer: Tensor
    center: Tensor
    reference_covariance: Tensor

    def __init__(
        self, reference: Num[Tensor, "N L"] | Iterable[Num[Tensor, "B L"]], features: nn.Module
    ) -> None:
        super().__init__()
        self.features = features
        # Piece by piece: features are float64, and may be wider than tokens.
        pieces = iter(reference.split(1024) if isinstance(reference, Tensor) else reference)
        first = next(pieces, torch.empty(0, 1))
        with torch.no_grad():
            self.register_buffer("center", features(first).double().mean(dim=0))
        zeros = torch.zeros_like(self.center)
        self.add_state("count", default=torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("total", default=zeros, dist_reduce_fx="sum")
        self.add_state("outer", default=torch.outer(zeros, zeros), dist_reduce_fx="sum")
        for piece in chain([first], pieces):
            self.update(piece)
        if self.count < 2:
            raise ValueError(
                f"`reference` must hold at least 2 sequences, for a covariance, got "
                f"{int(self.count)}; give more data."
            )
        shift, covariance = self._moments()
        self.center += shift
        self.register_buffer("reference_covariance", covariance)
        self.reset()

    def update(self, tokens: Num[Tensor, "B L"]) -> None:
        """Add the moments of a batch of sequences.

        Args:
            tokens: Generated sequences, with shape (B, L).
        """
        # Counted from the mean of the data: taking the squared mean off then cancels little.
        with torch.no_grad():
            features = self.features(tokens).double() - self.center
        self.count += len(features)
        self.total += features.sum(dim=0)
        self.outer += features.T @ features

    def compute(self) -> Float[Tensor, ""]:
        """Return the squared distance over all updates, at least 0, float64."""
        shift, covariance = self._moments()
        if self.count < 2:
            return torch.full_like(shift[0], torch.nan)
        cross = torch.linalg.svdvals(_root(covariance).T @ _root(self.reference_covariance)).sum()
        spread = covariance.trace() + self.reference_covariance.trace()
        return (shift @ shift + spread - 2 * cross).clamp(min=0)

    def _moments(self) -> tuple[Float[Tensor, " F"], Float[Tensor, "F F"]]:
        """Return mean, counted from `center`, and covariance of the updates so far."""
        shift = self.total / self.count
        return shift, (self.outer - self.count * torch.outer(shift, shift)) / (self.count - 1)


def _root(covariance: Float[Tensor, "F F"]) -> Float[Tensor, "F F"]:
    """Return A with A A^T = covariance."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp(min=0).sqrt()
