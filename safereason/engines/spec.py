"""A model as a person names it: `org/name` on the Hub, a folder, a run directory, or `embedded/smollm2-135m`.

An engine may precede it: `hf/…` (transformers), `vllm/…` (vLLM in this process) or `openai/…` (any server of that
API); without one, `engines.open.chosen_engine` takes what suits the machine. A revision of the Hub may follow it:
`org/name@REVISION`.
"""

import json
import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, get_args

from safereason.engines import architectures, embedded, hub, weights
from safereason.errors import InputError
from safereason.files import read_json
from safereason.runs.directory import digest, is_finished, read_manifest

EngineName = Literal["hf", "vllm", "openai"]


@dataclass(frozen=True)
class ModelSpec:
    """A model and the engine that runs it, as a person names the two."""

    name: str
    """A Hub id, a path, the embedded model's name, or the name that a server knows it by."""
    engine: EngineName | None = None
    """The engine that is named; None leaves it to the machine."""
    revision: str | None = None
    """Branch, tag or commit of a Hub id; None for its default branch."""

    @classmethod
    def parse(cls, text: str) -> "ModelSpec":
        """The model that a command line or a recipe names; nothing is looked up but whether a path exists."""
        prefix, slash, rest = text.partition("/")
        name = text
        engine: EngineName | None = None
        for engine_name in get_args(EngineName):
            if slash and prefix == engine_name:
                name = rest
                engine = engine_name
        hub_id, at, revision = name.rpartition("@")
        # A folder may have an @ in its name, and a server's model may, too.
        if at and revision and engine != "openai" and hub.is_id(hub_id) and not os.path.exists(name):
            return cls(hub_id, engine, revision)
        return cls(name, engine)

    def __str__(self) -> str:
        """The text that `parse` reads as this model."""
        text = self.name
        if self.engine is not None:
            text = f"{self.engine}/{text}"
        if self.revision is not None:
            text = f"{text}@{self.revision}"
        return text

    def absolute(self) -> "ModelSpec":
        """The same model, named so that it is found from any folder: a path on this machine becomes an absolute one."""
        if not self.name or not os.path.exists(self.name):
            return self
        return replace(self, name=str(Path(self.name).resolve()))

    @property
    def recorded_name(self) -> str:
        """Its name in identities and records: transformers draws the same completions whether it was named or not."""
        if self.engine == "hf":
            return str(replace(self, engine=None))
        return str(self)

    @property
    def is_remote(self) -> bool:
        """Whether a server runs it, so that neither its weights nor its tokenizer are here."""
        return self.engine == "openai"

    @property
    def has_weights(self) -> bool:
        """Whether its weights and hidden states can be had while it runs: transformers gives them, vLLM does not."""
        return self.engine in ("hf", None)

    @cached_property
    def location(self) -> str:
        """The folder of its files, or its Hub id. A revision is downloaded: its folder is in the Hub client's cache.

        Raises:
            InputError: A server runs it, a run holds no model, a path does not exist, or a revision cannot be had.
        """
        if self.is_remote:
            raise InputError(f"{self}: a server runs this model; name one whose files are here or on the Hub")
        if self.name == embedded.NAME:
            return str(embedded.model_folder())
        if self.name.startswith("embedded/"):
            raise InputError(f"{self.name}: the embedded model is called {embedded.NAME}")
        path = Path(self.name)
        # A run comes before a plain folder: its model lies one level down.
        if read_manifest(path) is not None:
            if not any((path / "model" / file).is_file() for file in ("config.json", weights.ADAPTER)):
                raise InputError(f"{path}: this run holds no model; name an sft or rl run that finished")
            return str(path / "model")
        if os.path.isdir(path):
            return str(path)
        if not hub.is_id(self.name):
            raise InputError(
                f"{self.name}: no such model; give a folder, a run directory, {embedded.NAME} or a hub id org/name"
            )
        if self.revision is not None:
            return hub.snapshot(self.name, self.revision)
        return self.name

    @property
    def adapter(self) -> str | None:
        """The folder, where it holds adapters alone; None for a whole model."""
        if (Path(self.location) / weights.ADAPTER).is_file():
            return self.location
        return None

    @cached_property
    def base(self) -> "ModelSpec | None":
        """The model that its adapters belong to; None for a whole model.

        Raises:
            InputError: The adapters do not say which one.
        """
        if self.adapter is None:
            return None
        file = Path(self.adapter) / weights.ADAPTER
        config = read_json(file)
        base = None
        if isinstance(config, dict):
            base = config.get("base_model_name_or_path")
        if not base:
            raise InputError(f"{file}: does not say which model the adapter belongs to; set base_model_name_or_path")
        return ModelSpec.parse(base)

    def check(self) -> None:
        """Refuses a model that cannot be one or cannot be had, without loading anything.

        Raises:
            InputError: It has no location, the Hub does not have it, or its architecture cannot be run here.
        """
        if self.is_remote:
            return
        if self.revision is not None:  # its location would be its download
            hub.check(self.name, self.revision)
            return
        hub.check(self.location)
        if self.has_weights:
            self.check_architecture()

    def check_architecture(self) -> None:
        """Refuses a folder whose configuration is of no model that can be run here; the Hub is not contacted.

        Raises:
            InputError: It is of none.
        """
        whole = self.base or self
        file = Path(whole.location) / "config.json"
        if not file.is_file():
            return
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return  # loading it says what is wrong with it
        check_architecture(self.location, config)

    def contents(self) -> str | None:
        """A hash of the files of a folder, in hexadecimal; None for what is known by its name or by its run.

        Raises:
            InputError: The folder's configuration of adapters cannot be read.
        """
        if self.is_remote or self.name == embedded.NAME:
            return None
        return weights.contents_of(Path(self.name))

    def label(self) -> str:
        """A short name for the name of a run directory, which ends in a hash that tells equal ones apart."""
        run = read_manifest(Path(self.name))
        if run is not None:
            return f"{run['stage']}.{digest(run['identity'])}"
        return str(self).rstrip("/").split("/")[-1]

    def identity(self) -> str:
        """The model's part of a run's identity: stage, recipe and hash of a run, else its name.

        Raises:
            InputError: It is a run that did not finish.
        """
        path = Path(self.name)
        run = read_manifest(path)
        if run is None or self.is_remote:
            return self.recorded_name
        if not is_finished(path):
            raise InputError(f"{self}: this {run['stage']} run is not finished; resume it first")
        # vLLM draws other completions than transformers from the same seed.
        engine = ""
        if self.engine == "vllm":
            engine = "vllm/"
        return f"{engine}{run['stage']}/{run['recipe']}/{digest(run['identity'])}"


def check_architecture(location: str, config: object) -> None:
    """Refuses a model that is no causal language model which can be run here.

    Args:
        location: The model, for the message.
        config: The contents of its `config.json`.

    Raises:
        InputError: It is none.
    """
    if isinstance(config, dict) and (reason := architectures.refusal(config)):
        raise InputError(f"{location}: {reason}; name a causal language model, such as one of Qwen3 or Llama")
