"""Properties of transformers' architectures, by `model_type`.

`tests/engines/test_architectures.py` makes the lists: it builds a tiny random model of each causal architecture that
transformers has, and compares what a list promises with one plain pass over each row alone. An architecture that is in
no list, such as one of a newer transformers, takes the plain way: each row alone, in generation and in the loss.
"""

from collections.abc import Mapping
from math import inf
from typing import Any, TypeAlias

CausalModel: TypeAlias = Any
"""A causal language model of transformers, or peft's wrapper, which hands attributes on in ways that no type has."""


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


BATCHED = _names("""
    afmoe apertus arcee aria_text axk1 bailing_hybrid bamba beam bert bert-generation big_bird biogpt bitnet bloom
    codegen cohere cohere2 cohere2_moe cohere_compass_text ctrl cwm dbrx deepseek_v2 deepseek_v3 diffllama dots1
    electra emu3_text_model ernie ernie4_5 ernie4_5_moe exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo
    flint fuyu gemma gemma2 gemma3 gemma3_text gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text
    glm glm4 glm4_moe glm4_moe_lite got_ocr2 gpt2 gpt_bigcode gpt_neo gpt_neox gpt_neox_japanese gpt_oss gptj
    granite granite_swa granitemoe granitemoe_swa granitemoehybrid granitemoeshared helium hrm_text hunyuan_v1_dense
    hunyuan_v1_moe hy_v3 hyperclovax inkling2_text inkling_text internlm3 iquestcoder jais2 jamba jetmoe kimi_linear
    kolibri1 laguna lfm2 lfm2_moe lfm3 llama llama4 llama4_text longcat_flash mamba mamba2 megatron-bert mellum
    mimo_v2_flash minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral mllama
    modernbert-decoder moss_transcribe_diarize mpt nanochat nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe
    opt persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text
    qwen3_5_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text rembert roc_bert seed_oss smollm3 solar_open stablelm
    starcoder2 vaultgemma xglm youtu zamba zaya
    """)
"""Generation in batches padded on the left, with a cache whose rows are chosen and repeated, is exact."""
TRAINED = _names("""
    afmoe apertus arcee aria_text axk1 bailing_hybrid bamba beam bitnet bloom codegen cohere cohere2 cohere2_moe
    cohere_compass_text cwm dbrx deepseek_v2 deepseek_v3 diffllama dots1 emu3_text_model ernie4_5 ernie4_5_moe
    exaone4 exaone_moe falcon falcon_h1 falcon_mamba flex_olmo flint fuyu gemma gemma2 gemma3 gemma3_text
    gemma3n_text gemma4 gemma4_text gemma4_unified gemma4_unified_text glm glm4 glm4_moe glm4_moe_lite got_ocr2
    gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa granitemoe granitemoe_swa granitemoehybrid
    granitemoeshared helium hrm_text hy_v3 hyperclovax inkling2_text internlm3 iquestcoder jais2 jamba jetmoe
    kimi_linear kolibri1 laguna lfm2 lfm2_moe lfm3 llama longcat_flash mamba mamba2 mellum mimo_v2_flash minicpm3
    minimax minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral moss_transcribe_diarize mpt nanochat
    nemotron nemotron_h olmo olmo2 olmo3 olmo_hybrid olmoe opt persimmon phi phi3 phi4_multimodal phimoe qwen2
    qwen2_moe qwen3 qwen3_5 qwen3_5_moe qwen3_5_moe_text qwen3_5_text qwen3_moe qwen3_next qwen4_exp qwen4_exp_text
    seed_oss smollm3 solar_open stablelm starcoder2 vaultgemma youtu zamba zamba2 zaya
    """)
"""TRL's log-probabilities of a batch padded on either side, and their gradients, are exact."""
SHARED = _names("""
    afmoe apertus arcee aria_text axk1 bitnet codegen cohere cohere2 cohere_compass_text cwm dbrx deepseek_v2
    deepseek_v3 diffllama dots1 emu3_text_model ernie4_5 ernie4_5_moe exaone4 falcon flex_olmo fuyu gemma gemma2
    gemma3_text glm glm4 glm4_moe glm4_moe_lite got_ocr2 gpt_neox gpt_neox_japanese gpt_oss gptj granite granite_swa
    granitemoe granitemoeshared helium hrm_text hy_v3 internlm3 iquestcoder jais2 jetmoe laguna llama longcat_flash
    mellum minicpm3 minimax_m2 minimax_m3_vl_text ministral ministral3 mistral mixtral nanochat nemotron olmo olmo2
    olmo3 olmoe opt persimmon phi phi3 phi4_multimodal phimoe qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3
    solar_open stablelm starcoder2 vaultgemma youtu
    """)
"""Computing a common beginning of several prompts once is exact, too: in generation, in the loss and in attacks."""
PROJECTED = TRAINED - _names("hyperclovax qwen3_5 qwen3_5_moe qwen4_exp")
"""Log-probabilities from the last hidden states are exact: the output layer maps them to logits, which are scaled and
capped as the configuration says."""
REREAD = _names("""
    axk2 camembert data2vec-text deepseek_v32 deepseek_v4 doge glm_moe_dsa hy_v4 roberta roberta-prelayernorm
    xlm-roberta xlm-roberta-xl xmod zamba2
    """)
"""The cache is not exact for a row alone either: attention that chooses its tokens, or positions counted by padding."""
REFUSED = {
    "blt": "cuts a text into patches by a second model",
    "cpmant": "reads a prompt in both directions",
    "gemma4_assistant": "only drafts tokens for another model",
    "gemma4_unified_assistant": "only drafts tokens for another model",
    "moshi": "writes sound",
    "musicgen": "writes sound",
    "musicgen_melody": "writes sound",
    "prophetnet": "predicts several tokens at once, of texts that it was given whole",
    "reformer": "sorts a text into buckets, so that a token hangs on how long the text is",
    "xlm": "reads a text in both directions",
    "xlnet": "reads a text in both directions",
}
"""Types that cannot be run here, with the reason."""
ENCODERS = _names("""
    bert bert-generation big_bird camembert data2vec-text electra ernie megatron-bert rembert roberta
    roberta-prelayernorm roc_bert roformer xlm-roberta xlm-roberta-xl xmod
    """)
"""Types that read in both directions unless their configuration says otherwise."""
STRETCHED = ("dynamic", "longrope")
"""Types of rotary embeddings that depend on the length of the whole batch."""
ORIGINAL = "original_max_position_embeddings"
TURNED_ON = ("sliding_window", "alibi")
"""Keys by which a configuration turns on what sharing would get wrong."""


def kind(model: CausalModel) -> str:
    """The model's `model_type`."""
    return str(model.config.model_type)


def reach(model: CausalModel) -> float:
    """Tokens up to which a batch's longest row does not change how the positions of all its rows are encoded.

    Dynamic and long rotary embeddings stretch once a text is longer than what the model was first trained on.
    """
    config = model.config.get_text_config(decoder=True)
    parameters = getattr(config, "rope_parameters", None) or {}
    # Models with several kinds of attention layers have one set of parameters for each kind.
    sets = [parameters]
    if all(isinstance(value, dict) for value in parameters.values()):
        sets = list(parameters.values())
    for rope in sets:
        if rope.get("rope_type") in STRETCHED:
            length = rope.get(ORIGINAL) or getattr(config, ORIGINAL, None) or config.max_position_embeddings
            return int(length)
    return inf


def is_batched(model: CausalModel, longest: int = 0) -> bool:
    """Whether rows of different lengths, the longest of so many tokens, may be generated together."""
    return kind(model) in BATCHED and longest <= reach(model)


def trains_in_batches(model: CausalModel, longest: int) -> bool:
    """Whether rows of different lengths, the longest of so many tokens, may be in one pass of a loss."""
    return kind(model) in TRAINED and longest <= reach(model)


def projects(model: CausalModel) -> bool:
    """Whether logits can be computed from the last hidden states, a few tokens at a time."""
    return kind(model) in PROJECTED


def rereads(model: CausalModel, length: int) -> bool:
    """Whether a row alone must be read again, all its tokens, for the next one."""
    return kind(model) in REREAD or length > reach(model)


def shares_prompts(model: CausalModel) -> bool:
    """Whether what several prompts begin with may be computed once: each token sees all before it, padding aside."""
    config = model.config.get_text_config(decoder=True)
    settings: dict[str, object] = {}
    for name in ("layer_types", *TURNED_ON):
        settings[name] = getattr(config, name, None)
    # Stretched embeddings depend on the longest prompt, so that no prompt's beginning is the same for all.
    return reach(model) == inf and shares_layers(kind(model), settings)


def shares_layers(name: str, config: Mapping[str, object]) -> bool:
    """`shares_prompts` for a `model_type` and a configuration, which may turn on windows or position biases."""
    layers = config.get("layer_types")
    if isinstance(layers, (list, tuple)) and layers:
        has_window = set(layers) != {"full_attention"}
    else:
        # Qwen2's configurations name a window even where another key turns it off.
        has_window = config.get("sliding_window") is not None and bool(config.get("use_sliding_window", True))
    return name in SHARED and not has_window and not config.get("alibi")


def refusal(config: Mapping[str, object]) -> str | None:
    """The reason why a model of this `config.json` cannot be run here; None where it can."""
    name = str(config.get("model_type"))
    if name in REFUSED:
        return f"its architecture, {name}, {REFUSED[name]}"
    # The same architecture is a causal model in some checkpoints and a masked one in others.
    if name in ENCODERS and not config.get("is_decoder"):
        return f"its architecture, {name}, reads texts in both directions, as its config.json has no `is_decoder: true`"
    return None
