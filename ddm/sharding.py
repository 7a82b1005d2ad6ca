"""Networks whose weights are spread over processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_common import TrainingState


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
