"""Networks whose weights are spread over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.callbacks import WeightAveraging
from torch import nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState


def shard(module: LightningModule) -> None:
    """Spread the weights of a model's network over processes, for its `configure_model`.

    Each of the network's `blocks` is a unit that is gathered when it is called, and all other
    weights are one. Without a mesh of processes, which `ModelParallelStrategy` makes, and where it
    has been done before, nothing happens.

    Raises:
        ValueError: The network has no blocks, or a callback averages the weights, which would copy
            those of one process.
    """
    network: Any = module.get_submodule("denoiser.backbone")
    mesh = module.device_mesh
    if mesh is None or isinstance(network, FSDPModule):
        return
    blocks = getattr(network, "blocks", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ValueError(
            f"`backbone` must have `blocks` to be sharded by, got a {type(network).__name__}; call "
            "`fully_shard` on its parts in `configure_model` instead."
        )
    if any(isinstance(c, WeightAveraging) for c in module.trainer.callbacks):  # type: ignore[attr-defined]
        raise ValueError(
            "`callbacks` must not average weights that are sharded, got a `WeightAveraging`, which "
            "copies whole networks; leave it out, or train with DDP, whose processes hold all."
        )
    for part in (*blocks, network):
        fully_shard(part, mesh=mesh["data_parallel"])


@contextmanager
def whole_weights(module: nn.Module) -> Iterator[None]:
    """Hold all weights of a network in every process, where `fully_shard` has spread them.

    A call of such a network waits for all processes. Inside of this context it does not: a process
    may call it as often as it likes, and one that fails keeps nobody waiting. Entering is
    collective; modules without sharded weights are left alone.
    """
    sharded = [part for part in module.modules() if isinstance(part, FSDPModule)]
    for part in sharded:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for number, part in enumerate(sharded):
            # The outermost one keeps its weights between forward and backward pass, as by default.
            part.set_reshard_after_forward(number > 0, recurse=False)
            # A call that failed on its way has left torch in the midst of it: the next one, of all
            # processes, would not begin with the same weights. There is no public way to tell it.
            state = part._get_fsdp_state()
            state._state_ctx.iter_forward_root, state._training_state = None, TrainingState.IDLE
            if (group := state._fsdp_param_group) is not None:
                group._training_state = TrainingState.IDLE
            part.reshard()
