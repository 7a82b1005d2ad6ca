"""Networks whose weights are spread over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import AveragedModel


def shard(module: LightningModule) -> None:
    """Spread the weights of a model's network over processes, for its `configure_model`.

    Each of the network's `blocks` is a unit that is gathered when it is called, and all other
    weights are one. Without a mesh of processes, which `ModelParallelStrategy` makes, and where it
    has been done before, nothing happens.

    Raises:
        ValueError: The network has no blocks, or a callback other than `ShardedEMA` averages
            weights.
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
    for callback in module.trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, WeightAveraging) and not isinstance(callback, ShardedEMA):
            raise ValueError(
                f"`callbacks` must average sharded weights by `ShardedEMA`, got a "
                f"{type(callback).__name__}, which copies whole networks; replace it."
            )
    for part in (*blocks, network):
        fully_shard(part, mesh=mesh["data_parallel"])


class ShardedEMA(EMAWeightAveraging):
    """Keep a running average of sharded weights, each process of its own part; see `shard`.

    Otherwise that of Lightning: validation and samples see the average, the checkpoint holds it as
    its weights, and the weights of training beside it. Checkpoints are files with whole weights.

    Raises:
        ValueError: When training begins, if checkpoints are sharded.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin with the weights of now."""
        if stage != "fit":
            return
        if getattr(trainer.strategy, "_save_distributed_checkpoint", False):
            raise ValueError(
                "`save_distributed_checkpoint` must be False where weights are averaged, as "
                "checkpoints hold them twice; pass it to `ModelParallelStrategy`."
            )
        pl_module.configure_model()
        self._average_model = AveragedModel(
            _copy(pl_module, {}), use_buffers=self._use_buffers, **self._kwargs
        )

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Put the average in the place of the weights, whole; a collective call."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._average_model is not None:
            checkpoint["state_dict"] = {
                name: weight.full_tensor().cpu() if isinstance(weight, DTensor) else weight
                for name, weight in checkpoint["state_dict"].items()
            }

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Take the average from the weights that have been loaded, and then load those of now."""
        average = self._average_model
        if average is None:
            return
        for theirs, mine in zip(_tensors(average.module), _tensors(pl_module), strict=True):
            theirs.data.copy_(mine.data)
        if "current_model_state" in checkpoint:  # else the run has had no average so far
            average.load_state_dict(checkpoint["averaging_state"], strict=False)
            options = StateDictOptions(full_state_dict=True)
            set_model_state_dict(pl_module, checkpoint["current_model_state"], options=options)


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    return chain(module.parameters(), module.buffers())


def _copy(module: nn.Module, known: dict[nn.Parameter, nn.Parameter]) -> nn.Module:
    """Return modules that hold copies of weights and buffers, under the same names."""
    copied = nn.Module()
    for name, weight in module.named_parameters(recurse=False, remove_duplicate=False):
        if weight not in known:
            known[weight] = nn.Parameter(weight.detach().clone(), requires_grad=False)
        copied.register_parameter(name, known[weight])
    for name, buffer in module.named_buffers(recurse=False, remove_duplicate=False):
        kept = name not in module._non_persistent_buffers_set
        copied.register_buffer(name, buffer.detach().clone(), persistent=kept)
    for name, child in module.named_children():
        copied.add_module(name, _copy(child, known))
    return copied


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
