"""A tiny random model of any causal architecture that transformers knows, made from its own default configuration."""

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

VOCABULARY = 272
"""The byte tokenizer of `micro` has 259."""
WINDOW = 6
"""Tokens of a sliding window, a chunk or a block: fewer than the texts have, so that what goes past them shows."""
WIDTHS = {
    VOCABULARY: (
        "vocab_size",
        "decoder_vocab_size",
        "vocab_size_per_layer_input",
        "pronunciation_vocab_size",
        "shape_vocab_size",
        "unpadded_vocab_size",
    ),
    512: (
        "max_position_embeddings",
        "n_positions",
        "n_ctx",
        "max_seq_len",
        "max_target_positions",
        "context_length",
        "model_max_length",
        "original_max_position_embeddings",
    ),
    64: (
        "hidden_size",
        "d_model",
        "n_embd",
        "embedding_dim",
        "emb_dim",
        "attention_hidden_size",
        "lru_width",
        "embedding_size",
        "input_embedding_size",
        "output_embedding_size",
        "word_embed_proj_dim",
        "d_inner",
        "ffn_dim",
        "ffn_hidden_size",
        "decoder_ffn_dim",
        "encoder_ffn_dim",
        "intermediate_size",
        "dff",
        "dim_ff",
        "intermediate_size_mlp",
        "moe_intermediate_size",
        "expert_ffn_hidden_size",
        "feed_forward_size",
        "dense_intermediate_size",
        "shared_expert_intermediate_size",
        "shared_experts_intermediate_size",
        "moe_shared_expert_intermediate_size",
        "shared_intermediate_size",
        "mamba_d_ssm",
        "o_lora_rank",
        "backbone_hidden_size",
    ),
    32: (
        "kv_lora_rank",
        "q_lora_rank",
        "attention_head_dim",
        "router_hidden_size",
        "hc_lowrank",
        "laurel_rank",
        "adapter_rank",
    ),
    16: (
        "head_dim",
        "dim_head",
        "kv_channels",
        "attention_head_size",
        "d_head",
        "qk_nope_head_dim",
        "v_head_dim",
        "linear_head_dim",
        "linear_key_head_dim",
        "linear_value_head_dim",
        "mamba_d_state",
        "state_size",
        "ssm_state_size",
        "mamba_d_head",
        "mamba_head_dim",
        "mamba_headdim",
        "index_head_dim",
        "swa_head_dim",
        "hidden_size_per_layer_input",
        "pronunciation_embed_dim",
        "shape_embed_dim",
        "time_step_rank",
        "mamba_dt_rank",
        "global_head_dim",
        "ple_embed_dim",
    ),
    8: ("qk_rope_head_dim", "rotary_dim", "mamba_chunk_size", "chunk_size", "gated_norm_rank"),
    WINDOW: (
        "sliding_window",
        "sliding_window_size",
        "window_size",
        "attention_window_size",
        "local_attention",
        "attention_chunk_size",
        "keep_window_size",
        "block_size",
        "index_topk",
    ),
    4: (
        "num_hidden_layers",
        "n_layer",
        "n_layers",
        "num_layers",
        "decoder_layers",
        "num_decoder_layers",
        "encoder_layers",
        "num_encoder_layers",
        "num_blocks",
        "num_attention_heads",
        "n_head",
        "n_heads",
        "num_heads",
        "attention_heads",
        "decoder_attention_heads",
        "encoder_attention_heads",
        "num_decoder_attention_heads",
        "num_experts",
        "num_local_experts",
        "n_routed_experts",
        "moe_num_experts",
        "linear_num_heads",
        "linear_num_value_heads",
        "swa_num_attention_heads",
        "mamba_num_heads",
        "zero_expert_num",
        "index_n_heads",
        "num_centroids",
        "num_random_blocks",
    ),
    2: (
        "num_key_value_heads",
        "num_kv_heads",
        "linear_num_key_heads",
        "num_experts_per_tok",
        "num_experts_per_token",
        "moe_topk",
        "moe_k",
        "attn_layer_period",
        "swa_num_key_value_heads",
        "o_groups",
        "num_query_groups",
        "expert_layer_period",
    ),
    1: (
        "n_group",
        "topk_group",
        "n_groups",
        "num_expert_group",
        "mamba_n_groups",
        "mamba_ngroups",
        "num_nextn_predict_layers",
        "attn_layer_offset",
        "first_k_dense_replace",
        "num_kv_shared_layers",
    ),
}
SMALL = {name: size for size, names in WIDTHS.items() for name in names}
SMALL |= {"logits_scaling": 4.0, "final_logit_softcapping": 5.0}
TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "sep_token_id": 2, "cls_token_id": 1}


def tiny_config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The configuration of a model of a few thousand weights; what its class does not know is left out."""
    kind = CONFIG_MAPPING[model_type]
    return kind(**{**_small(kind), **OWN.get(model_type, {}), **changes})


def _small(kind: type[PreTrainedConfig]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    known = kind().to_dict()
    for name, value in known.items():
        if name in ("head_dim", "num_key_value_heads") and "qk_rope_head_dim" in known:
            continue  # follows from the latent attention's widths
        if name in kind.sub_configs and kind.sub_configs[name] is not None:
            if value is not None:
                settings[name] = _small_part(kind.sub_configs[name], value)
        elif name in SMALL and value is not None:
            settings[name] = SMALL[name]
        elif name in TOKENS and value is not None:
            settings[name] = TOKENS[name]
    return settings


def _small_part(kind: Any, default: dict[str, Any]) -> dict[str, Any]:
    model_type = default.get("model_type") or kind.model_type
    part = CONFIG_MAPPING[model_type] if kind is AutoConfig else kind
    return {"model_type": model_type, **_small(part), **OWN.get(model_type, {})}


_GEMMA4 = {
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "global_head_dim": 16,
    "num_global_key_value_heads": 2,
}
_WIDE_HEADS = {"head_dim": 16, "num_key_value_heads": 2}
_HYBRID = ["linear_attention", "full_attention"] * 2
_NGRAMS = {
    "ple_embed_dim": 16,
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 2,
    "ngram_vocab_size_base": 64,
}
_DECODER = {"is_decoder": True}
OWN: dict[str, dict[str, Any]] = {
    "bailing_hybrid": {"layer_group_size": 2},
    "bamba": {"mamba_n_heads": 8, "mamba_d_head": 16, "attn_layer_indices": [1, 3]},
    "deepseek_v2": {"num_experts_per_tok": 2, "n_group": None, "topk_group": None},
    "dots1": {"n_shared_experts": 1, "n_routed_experts": 4, "num_experts_per_tok": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 64, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "longcat_flash": {"head_dim": 8},
    "cohere_compass_text": {"rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0}}},
    "reformer": {
        "axial_pos_shape": [16, 32],
        "axial_pos_embds_dim": [32, 32],
        "lsh_attn_chunk_length": 8,
        "local_attn_chunk_length": 8,
        "attn_layers": ["local", "lsh"] * 2,
    },
    "dots3_note_text": {"num_key_value_heads": 4},
    "falcon_h1": {"mamba_n_heads": 4},
    "gemma4_text": _GEMMA4,
    "gemma4_unified_text": _GEMMA4,
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "granitemoehybrid": {"mamba_n_heads": 8, "layer_types": _HYBRID},
    "hunyuan_v1_dense": _WIDE_HEADS,
    "hunyuan_v1_moe": _WIDE_HEADS,
    "kimi_linear": {"layer_types": _HYBRID},
    "lfm2": {"layer_types": ["conv", "full_attention"] * 2},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"] * 2},
    "mamba2": {"num_heads": 8, "head_dim": 16},
    "ministral": _WIDE_HEADS,
    "nemotron": _WIDE_HEADS,
    "qwen4_exp_text": _NGRAMS,
    "xmod": {"default_language": "en_XX"},
    "xlstm": {"qk_dim_factor": 1.0},
    "zamba": {
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
        "num_hidden_layers": 6,
        "layers_block_type": ["linear_attention", "linear_attention", "hybrid"] * 2,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_hidden_size": 128,
        "attention_head_dim": 32,
    },
    "zaya": {"num_experts_per_tok": 1},
}
for _name in (
    "bert",
    "bert-generation",
    "big_bird",
    "camembert",
    "data2vec-text",
    "electra",
    "ernie",
    "megatron-bert",
    "reformer",
    "rembert",
    "roberta",
    "roberta-prelayernorm",
    "roc_bert",
    "roformer",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
):
    OWN.setdefault(_name, {}).update(_DECODER)
"""What else a model of a type needs to be small."""


def tiny_model(model_type: str, seed: int = 0, **changes: Any) -> Any:
    """A model in fp32 whose weights are so wide that what it predicts hangs on all that it read."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(model_type, **changes)).eval().float()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(std=0.15)
    return model
