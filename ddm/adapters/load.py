"""Models as their authors publish them: a folder, or a name at Hugging Face."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ddm.adapters.adapter import Adapter
from ddm.adapters.bidirectional import Bidirectional
from ddm.adapters.diffusion_gemma import DiffusionGemma
from ddm.adapters.layouts import layout_of, load_layout
from ddm.adapters.llada import LLaDA
from ddm.adapters.masked_lm import MaskedLM
from ddm.adapters.shifted_lm import ShiftedLM

FAMILIES: Mapping[str, type[Adapter]] = {
    "diffusion_gemma": DiffusionGemma,
    "dream": ShiftedLM,
    "llada": LLaDA,
}
"""Adapters of the model types whose conventions a name like `BertForMaskedLM` does not say."""

FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.py")
"""What is fetched of a model: configuration, weights, tokenizer, and code that needs trust."""


@dataclass(frozen=True)
class Loaded:
    """What a folder holds.

    Attributes:
        denoiser: The network with its conventions, and the process that it was trained for.
        tokenizer: Its tokenizer; None for MDLM, DUO, UDLM and SEDD, which use that of GPT-2 or BERT
            and ship none, unless it was given.
    """

    denoiser: Adapter
    tokenizer: Any


def load(
    source: str | Path,
    *,
    adapter: type[MaskedLM] | None = None,
    tokenizer: Any = None,  # noqa: ANN401 (any tokenizer)
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
) -> Loaded:
    """Return the model in a folder, or of a name at Hugging Face, in evaluation mode on the CPU.

    The family is read from `config.json`: every `...ForMaskedLM` of transformers, DiffusionGemma,
    LLaDA and Dream; MDLM, DUO, UDLM and SEDD, whose weights go into `ddm.backbones.DiT`. Weights
    are read from safetensors alone. Needs the extra `transformers`.

    Args:
        source: The folder, or `owner/name`.
        adapter: The conventions, where the configuration does not say them: `ShiftedLM` for a
            causal network that was trained on (DiffuLLaMA, DiffuGPT), for instance.
        tokenizer: The tokenizer, or `TokenIds`; by default the one in the folder.
        trust_remote_code: Whether Python code in the folder may be run. Read it before.
        dtype: Type of the weights; by default as they are stored.

    Raises:
        ValueError: There is no such model, its family is not known, its code is not trusted, a
            package is missing, or weights or tokenizer do not fit the network.
    """
    folder = fetch(source)
    config = read_config(folder)
    layout = layout_of(config)
    if layout is not None:
        mask = getattr(tokenizer, "mask_token_id", getattr(tokenizer, "mask", None))
        denoiser = load_layout(folder, config, layout, mask=mask, dtype=dtype)
        return Loaded(denoiser.eval(), tokenizer)
    adapter_class = adapter or family(config, source)
    model = load_network(folder, config, trust_remote_code=trust_remote_code, dtype=dtype)
    if tokenizer is None:
        tokenizer = _tokenizer(folder, trust_remote_code)
    if issubclass(adapter_class, MaskedLM):
        own = type(model).__module__.startswith("transformers.")
        if issubclass(adapter_class, LLaDA) and own:
            model = Bidirectional(model)  # all of those in transformers are causal
        return Loaded(adapter_class(model, tokenizer).eval(), tokenizer)
    return Loaded(DiffusionGemma(model).eval(), tokenizer)


def fetch(source: str | Path) -> Path:
    """Return the folder of a model; fetches one that is named by `owner/name`.

    Raises:
        ValueError: There is no such folder, and it is no name, or cannot be fetched.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    if folder.is_absolute() or len(folder.parts) != 2 or folder.parts[0] in (".", "..", "~"):
        raise ValueError(
            f"`source` must be a folder with a model, or `owner/name`, got '{source}', which is "
            "neither; check the spelling."
        )
    try:
        from huggingface_hub import snapshot_download

        return Path(snapshot_download(str(source), allow_patterns=list(FILES)))
    except ImportError as error:
        raise _needs("huggingface_hub", error) from error
    except Exception as error:  # whatever networks and names can do wrong
        raise ValueError(
            f"`source` must be a folder with a model, or a name that can be fetched, got "
            f"'{source}' ({_line(error)}); check the spelling, or download it first."
        ) from error


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a model.

    Raises:
        ValueError: There is none.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"`source` must hold a `config.json`, got '{folder}' ({_line(error)}); save the model "
            "with `model.save_pretrained(folder)`."
        ) from error
    if not isinstance(config, dict):
        raise ValueError(f"`config.json` must be a mapping, got a {type(config).__name__}.")
    return config


def family(config: Mapping[str, Any], source: str | Path) -> type[Adapter]:
    """Return the adapter for a configuration.

    Raises:
        ValueError: It names no family that is known.
    """
    kind, architecture = str(config.get("model_type", "")), _architecture(config)
    known = FAMILIES.get(kind.lower())
    if known is not None:
        return known
    if architecture.endswith("ForMaskedLM"):
        return MaskedLM
    raise ValueError(
        f"`source` must be a model of a known family, got '{source}' of the type '{kind}' and the "
        f"architecture '{architecture}'. Name its conventions, `adapter=MaskedLM`, `LLaDA` or "
        "`ShiftedLM` (a causal network that was trained on), or load the network yourself and wrap "
        "it in one of `ddm.adapters`: MaskedLM, LLaDA, ShiftedLM, MDLM, DUO, SEDD, DiffusionGemma."
    )


def _architecture(config: Mapping[str, Any]) -> str:
    names = config.get("architectures") or [""]
    return str(names[0])


def load_network(
    folder: Path,
    config: Mapping[str, Any],
    *,
    trust_remote_code: bool = False,
    dtype: torch.dtype | None = None,
) -> Any:  # noqa: ANN401 (any network)
    """Return the network of transformers in a folder, all of whose weights are there.

    Args:
        folder: The folder, with safetensors.
        config: Its configuration.
        trust_remote_code: Whether Python code in the folder may be run.
        dtype: Type of the weights; by default as they are stored.

    Raises:
        ValueError: transformers is missing, the architecture is not known, its code is not trusted,
            or weights are missing or of a wrong shape.
    """
    try:
        import transformers
    except ImportError as error:
        raise _needs("transformers", error) from error
    kind: Any = getattr(transformers, _architecture(config), None)
    options: dict[str, Any] = {}
    if not (isinstance(kind, type) and issubclass(kind, transformers.PreTrainedModel)):
        names = ("AutoModelForMaskedLM", "AutoModel", "AutoModelForCausalLM")
        name = next((n for n in names if n in config.get("auto_map", {})), None)
        if name is None:
            raise ValueError(
                f"`source` must be an architecture that transformers {transformers.__version__} "
                f"knows, or bring its code, got '{_architecture(config)}' in '{folder}'; install a "
                "later release."
            )
        if not trust_remote_code:
            raise ValueError(
                f"`trust_remote_code` must be true for '{folder}', whose network is code in that "
                f"folder ({config['auto_map'][name]}), got false; read the code, then allow it."
            )
        kind, options = getattr(transformers, name), {"trust_remote_code": True}
    try:
        model, report = kind.from_pretrained(
            folder,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # so that the report names them
            output_loading_info=True,
            **options,
        )
    except Exception as error:  # whatever transformers, safetensors and code of others raise
        raise ValueError(
            f"`source` must hold a network that can be loaded, got '{folder}' ({_line(error)}); "
            "check its files."
        ) from error
    for fault, what in (
        ("missing_keys", "that are not there"),
        ("mismatched_keys", "of another shape"),
    ):
        if keys := sorted(map(str, report[fault])):
            raise ValueError(
                f"`source` must hold all weights of {type(model).__name__}, got '{folder}' with "
                f"{len(keys)} {what}, {', '.join(keys[:4])}, which would be random; take the "
                "whole model, with its head."
            )
    return model


def _tokenizer(folder: Path, trust: bool) -> Any:  # noqa: ANN401 (any tokenizer)
    """Return the tokenizer of a folder."""
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trust)
        words = len(tokenizer) - len(set(tokenizer.all_special_ids))
        problem = "it knows no words" if words <= 0 else None  # made up from the type of the model
    except Exception as error:  # whatever transformers and code of others raise
        problem = _line(error)
    if problem is not None:
        raise ValueError(
            f"`source` must hold the tokenizer of the model, got '{folder}' ({problem}); save it "
            "there with `tokenizer.save_pretrained(folder)`, or give `tokenizer=`."
        )
    return tokenizer


def _needs(package: str, error: ImportError) -> ValueError:
    return ValueError(
        f"`source` needs the package {package}, got {_line(error)!r}; run `pip install "
        "'discrete-diffusion[transformers]'` (`pip install -e '.[transformers]'` in a checkout)."
    )


def _line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
