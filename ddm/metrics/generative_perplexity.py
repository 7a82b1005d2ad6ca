"""What a language model thinks of generated text."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn
from torchmetrics import Metric

_WINDOW = 1024  # tokens, where the model names no limit


class GenerativePerplexity(Metric):
    r"""Perplexity of generated text under a causal language model.

    .. math:: \exp \Big( -\frac{1}{T} \sum_{i} \sum_{j \ge 2} \log p(w_{ij} | w_{i1} .. w_{i,j-1})
              \Big)

    Samples are decoded and split anew into the tokens :math:`w_{ij}` of the language model, all of
    whose predictions count alike, T in all. The first token of a sample, which the model predicts
    from nothing, is given and not counted; so is the first one of each further window where a
    sample is longer than the model's context. It is `nan` where no sample has two tokens.

    It has no meaning by itself. Name the model, and set beside it the value of real text and the
    entropy of the samples (`UnigramEntropy`): text that repeats itself scores better than any
    real text. It costs one call of the model per sample, in float32.

    References:
        | Discrete Diffusion Modeling by Estimating the Ratios of the Data Distribution
          (Lou et al., 2024)
        | https://arxiv.org/abs/2310.16834

    Args:
        decode: Turns tokens of shape (B, L) into B strings.
        language_model: A folder of a causal language model in the format of Hugging Face, a GGUF
            file, or a name to look up at Hugging Face (never with `HF_HUB_OFFLINE=1`).

    Raises:
        ValueError: If the model cannot be loaded.

    Example:
        >>> import torch
        >>> from ddm.datamodules import BPE
        >>> from ddm.metrics import GenerativePerplexity
        >>> from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
        >>> vocabulary = BPE("the dog, the door, the day")
        >>> sizes = dict(vocab_size=len(vocabulary), n_embd=8, n_layer=1, n_head=2)
        >>> GPT2LMHeadModel(GPT2Config(**sizes)).save_pretrained("gpt")  # instead of a real one
        >>> tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary.tokenizer)
        >>> _ = tokenizer.save_pretrained("gpt")
        >>> metric = GenerativePerplexity(vocabulary.decode, "gpt")
        >>> 200 < metric(vocabulary.encode("the dog")[None]) < 350  # an untrained one: about V
        tensor(True)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    nats: Tensor
    total: Tensor

    def __init__(self, decode: Callable[[Tensor], list[str]], language_model: str) -> None:
        super().__init__()
        self.decode = decode
        self.tokenizer, self.model = _load(language_model)
        self.add_state("nats", default=torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", default=torch.tensor(0), dist_reduce_fx="sum")

    @torch.no_grad()
    def update(self, tokens: Integer[Tensor, "B L"]) -> None:
        """Add the nats of a batch of samples.

        Args:
            tokens: Generated sequences, with shape (B, L).
        """
        limit = getattr(self.model.config, "max_position_embeddings", None) or _WINDOW
        for text in self.decode(tokens):
            words = torch.tensor(self.tokenizer.encode(text, add_special_tokens=False))
            for window in words.long().to(self.device).split(limit):
                if len(window) > 1:
                    self.nats += self._nats(window)
                    self.total += len(window) - 1

    def compute(self) -> Float[Tensor, ""]:
        """Return the perplexity over all updates, at least 1, or nan without a prediction."""
        return (self.nats / self.total).exp()

    def _nats(self, words: Int[Tensor, " T"]) -> Float[Tensor, ""]:
        log_probs = self.model(input_ids=words[None]).logits[0, :-1].float().log_softmax(dim=-1)
        return -log_probs.gather(1, words[1:, None]).double().sum()


@lru_cache(maxsize=1)  # it is large, and a data module makes its metrics anew for every measurement
def _load(name: str) -> tuple[Any, nn.Module]:
    """Return tokenizer and model."""
    path = Path(name)
    gguf = {"gguf_file": path.name} if path.suffix == ".gguf" else {}
    try:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place = str(path.parent) if gguf else name
        tokenizer = AutoTokenizer.from_pretrained(place, **gguf)
        model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **gguf)
    except ImportError as error:
        raise ValueError(
            "`language_model` needs the packages of the extra `generative`, got "
            f"{str(error).strip().splitlines()[0]!r}; run `pip install "
            "'discrete-diffusion[generative]'` (`pip install -e '.[generative]'` in a checkout)."
        ) from error
    except (OSError, ValueError) as error:
        raise ValueError(
            "`language_model` must be a folder or GGUF file of a causal language model, or the "
            f"name of one at Hugging Face, got '{name}' ({str(error).strip().splitlines()[0]}); "
            "check the spelling, or download it first."
        ) from error
    return tokenizer, model.eval().requires_grad_(False)
