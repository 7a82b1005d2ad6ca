"""An algorithm for SGLang's diffusion language models: as many tokens per call as a schedule says.

Copy this file into the folder of SGLang's algorithms, where they are looked for, and start the
server with `--dllm-algorithm ScheduledCounts --dllm-algorithm-config counts.yaml`, a file that
`ddm.adapters.sglang_config` writes. The surest tokens are revealed first, each the likeliest one.
"""

from typing import Any

import torch
from sglang.srt.dllm.algorithm.base import DllmAlgorithm


class ScheduledCounts(DllmAlgorithm):
    """Reveal as many tokens of a block per call as a table says.

    Args:
        config: SGLang's configuration; `algorithm_config` holds the table `counts`, whose row n - 1
            says how many tokens each call reveals in a block of n masks.
    """

    def __init__(self, config: Any) -> None:  # noqa: ANN401 (SGLang's)
        super().__init__(config)
        self.counts = config.algorithm_config["counts"]
        if len(self.counts) < self.block_size:
            raise ValueError(
                f"`counts` must have a row for every number of masks up to {self.block_size}, the "
                f"block size, got {len(self.counts)}; write it with that `block_length`."
            )

    def init_step_state(self, forward_batch: Any) -> list[Any]:  # noqa: ANN401 (SGLang's)
        """Return what is left to reveal in every block, call by call."""
        ids = forward_batch.input_ids.view(-1, self.block_size)
        masks = (ids == self.mask_id).sum(1).tolist()
        return [list(self.counts[n - 1]) if n else [] for n in masks]

    def step(
        self,
        forward_batch: Any,  # noqa: ANN401 (SGLang's)
        logits_output: Any,  # noqa: ANN401 (logits, or an object with them)
        states: list[Any],
    ) -> list[bool]:
        """Reveal the next tokens in place; return which blocks were full before."""
        ids = forward_batch.input_ids.view(-1, self.block_size)
        logits = getattr(logits_output, "full_logits", logits_output)
        sure, token = logits.view(*ids.shape, -1).float().softmax(-1).max(-1)
        masked = ids == self.mask_id
        num = [counts.pop(0) if counts else 0 for counts in states]
        rank = sure.masked_fill(~masked, -1.0).argsort(1, descending=True).argsort(1)
        chosen = masked & (rank < torch.tensor(num, device=ids.device)[:, None])
        # In place: the tensor may belong to a captured graph.
        forward_batch.input_ids.copy_(torch.where(chosen, token, ids).view(-1))
        return [not row for row in masked.any(1).tolist()]


Algorithm = ScheduledCounts
