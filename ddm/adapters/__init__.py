"""Other people's networks as denoisers: one class per family of conventions."""

from ddm.adapters.adapter import Adapter, TokenIds
from ddm.adapters.bidirectional import Bidirectional
from ddm.adapters.blocks import block_masks, sample_blocks
from ddm.adapters.check import check_model
from ddm.adapters.diffusion_gemma import DiffusionGemma
from ddm.adapters.duo import DUO
from ddm.adapters.guided import Guided
from ddm.adapters.hand_over import counts_per_step, flow_matching_grid
from ddm.adapters.llada import LLaDA
from ddm.adapters.load import Loaded, load
from ddm.adapters.masked_lm import MaskedLM
from ddm.adapters.mdlm import MDLM
from ddm.adapters.pretrained_lm import PretrainedLM
from ddm.adapters.sedd import SEDD
from ddm.adapters.shifted_lm import ShiftedLM
from ddm.adapters.tuning import Frozen, Full, LoRA, Tuning

__all__ = [
    "DUO",
    "MDLM",
    "SEDD",
    "Adapter",
    "Bidirectional",
    "DiffusionGemma",
    "Frozen",
    "Full",
    "Guided",
    "LLaDA",
    "LoRA",
    "Loaded",
    "MaskedLM",
    "PretrainedLM",
    "ShiftedLM",
    "TokenIds",
    "Tuning",
    "block_masks",
    "check_model",
    "counts_per_step",
    "flow_matching_grid",
    "load",
    "sample_blocks",
]
