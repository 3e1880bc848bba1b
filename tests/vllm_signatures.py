"""What vLLM takes and gives, as far as the engine uses it.

python tests/vllm_signatures.py > tests/vllm_signatures.json     where vLLM is installed
"""

import dataclasses
import inspect
import json
from pathlib import Path
from typing import Any

RECORD = Path(__file__).with_suffix(".json")


def recorded() -> dict[str, Any]:
    """What the file says."""
    return json.loads(RECORD.read_text(encoding="utf-8"))


def live() -> dict[str, Any]:
    """What the installed vLLM says."""
    import vllm
    from vllm.engine.arg_utils import EngineArgs
    from vllm.logprobs import Logprob
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import RequestOutputKind

    engine = vllm.LLMEngine
    return {
        "version": vllm.__version__,
        # `LLM` hands what it does not name on to these.
        "LLM": sorted({*_names(vllm.LLM), *(field.name for field in dataclasses.fields(EngineArgs))}),
        "SamplingParams": sorted(_names(vllm.SamplingParams)),
        "LoRARequest": sorted(_names(LoRARequest)),
        "LLMEngine.add_request": _names(engine.add_request),
        "LLMEngine.step": _names(engine.step),
        "LLMEngine.abort_request": _names(engine.abort_request),
        "RequestOutput": sorted(_names(vllm.RequestOutput)),
        "CompletionOutput": sorted(field.name for field in dataclasses.fields(vllm.CompletionOutput)),
        "Logprob": sorted(_names(Logprob)),
        "RequestOutputKind": sorted(RequestOutputKind.__members__),
    }


def _names(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name not in ("self", "kwargs")]


if __name__ == "__main__":
    print(json.dumps(live(), indent=1))
