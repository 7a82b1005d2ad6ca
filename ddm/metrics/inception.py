"""The features of the Frechet Inception distance."""

import pickle

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torchmetrics.image import fid


class Inception(nn.Module):
    """The 2,048 features of the Inception network that FID is named after.

    torchmetrics runs the network of torch-fidelity (`pip install 'discrete-diffusion[fid]'`), with
    the weights of the reference implementation. A Frechet distance on these features is FID; as
    published for a data set it mostly compares 50,000 samples with the training images.

    References:
        | GANs Trained by a Two Time-Scale Update Rule Converge to a Local Nash Equilibrium
          (Heusel et al., 2017)
        | https://arxiv.org/abs/1706.08500

    Args:
        weights: The file of the weights (90 MB); by default it is fetched once, into the cache of
            `torch.hub`.

    Raises:
        ValueError: If torch-fidelity or the weights are missing.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        try:
            self.network = fid.NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
        except ModuleNotFoundError as error:
            raise ValueError(
                "`Inception` needs the package torch-fidelity; run `pip install "
                "'discrete-diffusion[fid]'`, or leave `features` out for principal components."
            ) from error
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            place = "the network" if weights is None else f"'{weights}'"
            raise ValueError(
                f"`weights` must be the weights of torch-fidelity's Inception, which cannot be had "
                f"from {place} ({error}); name the file that torch-fidelity publishes, or leave "
                "`features` out for principal components."
            ) from error

    def forward(self, images: UInt8[Tensor, "B C H W"]) -> Float[Tensor, "B F"]:
        """Return the features of images in 0..255, gray or RGB, which are enlarged to 299 x 299."""
        # Few at a time: an enlarged image takes some 10 MB on its way.
        return torch.cat([self.network(piece.expand(-1, 3, -1, -1)) for piece in images.split(64)])
