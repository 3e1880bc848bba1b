"""A model folder whose files ask for Python of their own: running it leaves a marker."""

import json
from pathlib import Path

import families

MARKER = "its-code-ran"

_SOURCE = """
from pathlib import Path

Path(__file__).parent.joinpath({marker!r}).touch()
Path({folder!r}).joinpath({marker!r}).touch()

from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast


class OwnConfig(LlamaConfig):
    model_type = "its-own"


class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig


class OwnJudge(LlamaForSequenceClassification):
    config_class = OwnConfig


class OwnTokenizer(PreTrainedTokenizerFast):
    pass
"""


def save(folder: Path, what: str) -> Path:
    """A model that wants to run its own code for its `model`, or for its `tokenizer` alone."""
    families.save(folder, families.tokenizer("chatml"))
    (folder / "own.py").write_text(_SOURCE.format(marker=MARKER, folder=str(folder)))
    if what == "model":
        classes = {
            "AutoConfig": "own.OwnConfig",
            "AutoModelForCausalLM": "own.OwnModel",
            "AutoModelForSequenceClassification": "own.OwnJudge",
        }
        _change(folder / "config.json", model_type="its-own", architectures=["OwnModel"], auto_map=classes)
    else:
        _change(
            folder / "tokenizer_config.json",
            tokenizer_class="OwnTokenizer",
            auto_map={"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
        )
    return folder


def _change(file: Path, **values: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))
