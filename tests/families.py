"""A two-layer random model of each family's own transformers class, a tiny tokenizer with its special tokens, and a short
template that follows its rules. The templates are fixtures, written for these tests: what they keep of the real ones is
the special tokens, who opens the reasoning, the switch, the own system prompt and what becomes of earlier reasoning."""

import json
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch

from distill.formats.gguf.vocabulary import PRE_TOKENIZERS

ROWS = 448  # of the embedding; the tokenizers have fewer tokens
TEXTS = ["How many apples are left? Seven, since 3 + 4 = 7.", "Habari ya asubuhi", "今天天气很好"]
GQA = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
MLA = {
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 32,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 32,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 0,
}
ROPE = {"rope_type": "default", "rope_theta": 10_000.0}

# "{S}" is the system message or the family's own, "{H}" the messages, an answer without its reasoning
HISTORY = "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}"
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n" + HISTORY + "<|im_end|>\n{% endfor %}"
ASK = "{% if add_generation_prompt %}"
OFF = "{% if enable_thinking is defined and not enable_thinking %}"
DEEPSEEK = (
    "<｜begin▁of▁sentence｜>{% for m in messages %}{% if m.role == 'user' %}<｜User｜>{{ m.content }}{% elif m.role == 'assistant' "
    "%}<｜Assistant｜>"
    + HISTORY
    + "<｜end▁of▁sentence｜>{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
KIMI = (
    "{% if messages[0].role != 'system' %}<|im_system|>system<|im_middle|>You are Kimi, an AI assistant.<|im_end|>{% endif %}"
    "{% for m in messages %}<|im_{{ m.role }}|>{{ m.role }}<|im_middle|>{% if m.role == 'assistant' %}<think></think>{% endif %}"
    + HISTORY
    + "<|im_end|>{% endfor %}"
    + ASK
    + "<|im_assistant|>assistant<|im_middle|>{% endif %}"
)
MINIMAX = (
    "{% if messages[0].role != 'system' %}]~!b[]~b]system\nYou are a helpful assistant.[e~[\n{% endif %}{% for m in messages %}"
    "]~b]{{ 'ai' if m.role == 'assistant' else m.role }}\n"
    + HISTORY
    + "[e~[\n{% endfor %}"
    + ASK
    + "]~b]ai\n<think>\n{% endif %}"
)
ERNIE = (
    "<|begin_of_sentence|>{% for m in messages %}{% if m.role == 'user' %}User: {{ m.content }}\n{% elif m.role == 'assistant' %}"
    "Assistant: {{ m.content }}<|end_of_sentence|>{% else %}{{ m.content }}\n{% endif %}{% endfor %}"
    + ASK
    + "Assistant: {% endif %}"
)
# of ERNIE-4.5-21B-A3B-Thinking: it writes <response> round an answer of before, and always opens the reasoning
ERNIE_THINKING = (
    "<|im_start|>system\n<global_setting>\nthink_mode=True\n</global_setting>{% if messages[0].role == 'system' %}\n\n"
    "{{ messages[0].content }}{% endif %}<|im_end|>\n\n{% for m in messages %}{% if m.role == 'user' %}<|im_start|>user\n"
    "{{ m.content }}<|im_end|>\n\n{% elif m.role == 'assistant' %}<|im_start|>assistant\n<response>\n"
    + HISTORY
    + "\n</response>\n<|im_end|>\n\n{% endif %}{% endfor %}"
    + ASK
    + "<|im_start|>assistant\n<think>\n{% endif %}"
)
# of Hunyuan's dense models: an answer of before is cut out of <answer>
HUNYUAN = (
    "<｜hy_begin▁of▁sentence｜>{% if messages[0].role == 'system' %}{{ messages[0].content }}<｜hy_place▁holder▁no▁3｜>{% endif %}"
    "{% for m in messages %}{% if m.role == 'user' %}<｜hy_User｜>{{ m.content }}{% elif m.role == 'assistant' %}<｜hy_Assistant｜>"
    "{% if '<answer>' in m.content %}{{ m.content.split('<answer>')[-1].split('</answer>')[0].strip() }}{% else %}{{ m.content }}"
    "{% endif %}<｜hy_place▁holder▁no▁2｜>{% endif %}{% endfor %}"
    + ASK
    + "<｜hy_Assistant｜>"
    + OFF
    + "<think>\n\n</think>\n{% endif %}{% endif %}"
)
GLM = (
    "[gMASK]<sop>{% for m in messages %}<|{{ m.role }}|>\n{% if m.role == 'assistant' %}<think></think>\n{% endif %}"
    + HISTORY
    + "{% if m.role == 'user' and enable_thinking is defined and not enable_thinking %}/nothink{% endif %}{% endfor %}"
    + ASK
    + "<|assistant|>"
    + OFF
    + "\n<think></think>{% endif %}{% endif %}"
)
GPT_OSS = (
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\nCurrent date: "
    "{{ strftime_now('%Y-%m-%d') }}\n\nReasoning: {{ reasoning_effort or 'medium' }}<|end|>{% for m in messages %}<|start|>{{ m.role }}"
    "{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if m.role == 'assistant' and loop.last and not add_generation_prompt else '<|end|>' }}{% endfor %}"
    + ASK
    + "<|start|>assistant{% endif %}"
)
LLAMA = (
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}<|eot_id|>{% endfor %}"
    + ASK
    + "<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)

DEEPSEEK_TOKENS = [
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    "<｜User｜>",
    "<｜Assistant｜>",
]
CHATML_TOKENS = ["<|endoftext|>", "<|im_end|>", "<|im_start|>"]
KIMI_TOKENS = [
    "[PAD]",
    "<|im_end|>",
    "<|im_system|>",
    "<|im_user|>",
    "<|im_assistant|>",
    "<|im_middle|>",
]
GPT_OSS_TOKENS = [
    "<|endoftext|>",
    "<|return|>",
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|end|>",
    "<|call|>",
]
CHANNELS = (
    "<|channel|>analysis<|message|>3 + 4<|end|><|start|>assistant<|channel|>final<|message|>7"
)


@dataclass(frozen=True)
class Family:
    """`tokens`: padding, end of answer, others. `said`: a raw answer, from which `reasoning` and "7" are to be read."""

    name: str
    catalogue_id: str
    kind: (
        str  # transformers' names: <kind>Config, <kind>ForCausalLM; "": its template alone is tried
    )
    sizes: dict[str, Any]
    tokens: list[str]
    template: str
    said: str = "7"
    reasoning: str | None = None
    tags_are_special: bool = False
    packs: bool = True
    gguf: bool = False
    changes: dict[str, Any] = field(default_factory=dict)  # of config.json, after saving


DENSE = {"intermediate_size": 128, **GQA}
THOUGHT = {"said": "<think>\n3 + 4\n</think>\n\n7", "reasoning": "3 + 4"}
CLOSED = {"said": "3 + 4\n</think>\n\n7", "reasoning": "3 + 4"}
ERNIE_SAID = "3 + 4\n</think>\n\n<response>\n7\n</response>\n"
HUNYUAN_SAID = "<think>\n3 + 4\n</think>\n<answer>\n7\n</answer>"
QWEN25_SIZES = {
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
ERNIE_TOKENS = ["<unk>", "<|end_of_sentence|>", "<|begin_of_sentence|>", "</s>"]
FAMILIES = [
    Family(
        "qwen2.5",
        "Qwen/Qwen2.5-1.5B",
        "Qwen2",
        QWEN25_SIZES,
        CHATML_TOKENS,
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba Cloud.<|im_end|>\n{% endif %}"
        + CHATML
        + ASK
        + "<|im_start|>assistant\n{% endif %}",
        gguf=True,
    ),
    Family(
        "qwen3",
        "Qwen/Qwen3-8B",
        "Qwen3",
        {**DENSE, "tie_word_embeddings": True},
        CHATML_TOKENS,
        CHATML
        + ASK
        + "<|im_start|>assistant\n"
        + OFF
        + "<think>\n\n</think>\n\n{% endif %}{% endif %}",
        gguf=True,
        **THOUGHT,
    ),
    Family(
        "qwen3-moe",
        "Qwen/Qwen3-30B-A3B-Thinking-2507",
        "Qwen3Moe",
        {**DENSE, "moe_intermediate_size": 32, "num_experts": 8, "num_experts_per_tok": 2},
        CHATML_TOKENS,
        CHATML + ASK + "<|im_start|>assistant\n<think>\n{% endif %}",
        **CLOSED,
    ),
    Family(
        "qwen3.5",
        "Qwen/Qwen3.5-9B",
        "Qwen3_5",
        {
            **DENSE,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "layer_types": ["linear_attention", "full_attention"],
        },
        CHATML_TOKENS,
        CHATML
        + ASK
        + "<|im_start|>assistant\n"
        + OFF
        + "<think>\n\n</think>\n\n{% else %}<think>\n{% endif %}{% endif %}",
        packs=False,
        **CLOSED,
    ),
    Family(
        "deepseek-v3.1",
        "deepseek-ai/DeepSeek-V3.1",
        "DeepseekV3",
        {**MLA, "intermediate_size": 128},
        DEEPSEEK_TOKENS,
        DEEPSEEK + ASK + "<｜Assistant｜>{{ '<think>' if thinking else '</think>' }}{% endif %}",
    ),
    Family(
        "deepseek-r1",
        "deepseek-ai/DeepSeek-R1",
        "DeepseekV3",
        {**MLA, "intermediate_size": 128},
        DEEPSEEK_TOKENS,
        DEEPSEEK + ASK + "<｜Assistant｜><think>\n{% endif %}",
        tags_are_special=True,
        **CLOSED,
    ),
    Family(
        "r1-distill",
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        "Qwen2",
        {**QWEN25_SIZES, "tie_word_embeddings": False},
        DEEPSEEK_TOKENS,
        DEEPSEEK + ASK + "<｜Assistant｜><think>\n{% endif %}",
        gguf=True,
        **CLOSED,
    ),
    Family(
        "kimi-k2",
        "moonshotai/Kimi-K2-Thinking",
        "DeepseekV3",
        {**MLA, "n_group": 1, "intermediate_size": 128},
        KIMI_TOKENS,
        KIMI,
        tags_are_special=True,
        changes={
            "model_type": "kimi_k2",
            "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        },
        **THOUGHT,
    ),
    Family(
        "minimax-m2",
        "MiniMaxAI/MiniMax-M2",
        "MiniMaxM2",
        {
            **GQA,
            "intermediate_size": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rotary_dim": 8,
        },
        ["]!p~[", "[e~[", "]~!b[", "]~b]"],
        MINIMAX,
        **CLOSED,
    ),
    Family(
        "ernie4.5",
        "baidu/ERNIE-4.5-0.3B-PT",
        "Ernie4_5",
        {**DENSE, "tie_word_embeddings": True},
        ERNIE_TOKENS,
        ERNIE,
        gguf=True,
    ),
    Family(
        "ernie4.5-moe",
        "baidu/ERNIE-4.5-21B-A3B-PT",
        "Ernie4_5_Moe",
        {
            "intermediate_size": 128,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "moe_intermediate_size": 32,
            "moe_num_experts": 8,
            "moe_k": 2,
            "moe_num_shared_experts": 1,
        },
        ERNIE_TOKENS,
        ERNIE,
    ),
    Family(
        "ernie4.5-thinking",
        "baidu/ERNIE-4.5-21B-A3B-Thinking",
        "",  # as ernie4.5-moe
        {},
        ["<unk>", "<|im_end|>", "<|im_start|>", "<|begin_of_sentence|>", "</s>"],
        ERNIE_THINKING,
        said=ERNIE_SAID,
        reasoning="3 + 4",
    ),
    Family(
        "hunyuan",
        "tencent/Hunyuan-0.5B-Instruct",
        "",  # its licence lets no other model learn from it
        {},
        [
            "<｜hy_place▁holder▁no▁0｜>",
            "<｜hy_place▁holder▁no▁2｜>",
            "<｜hy_begin▁of▁sentence｜>",
            "<｜hy_User｜>",
            "<｜hy_Assistant｜>",
            "<｜hy_place▁holder▁no▁3｜>",
        ],
        HUNYUAN,
        said=HUNYUAN_SAID,
        reasoning="3 + 4",
    ),
    Family(
        "glm4.5",
        "zai-org/GLM-4.5-Air",
        "Glm4Moe",
        {
            **DENSE,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "use_qk_norm": True,
        },
        ["<|endoftext|>", "<|user|>", "[gMASK]", "<sop>", "<|system|>", "<|assistant|>"],
        GLM,
        **THOUGHT,
    ),
    Family(
        "gpt-oss",
        "openai/gpt-oss-20b",
        "GptOss",
        {
            **GQA,
            "intermediate_size": 32,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "sliding_window": 8,
            "rope_parameters": ROPE,
        },
        GPT_OSS_TOKENS,
        GPT_OSS,
        said=CHANNELS,
        reasoning="3 + 4",
        packs=False,
    ),
    Family(
        "llama",
        "meta-llama/Llama-3.2-1B",
        "Llama",
        {**DENSE, "tie_word_embeddings": True},
        [
            "<|finetune_right_pad_id|>",
            "<|eot_id|>",
            "<|begin_of_text|>",
            "<|start_header_id|>",
            "<|end_header_id|>",
        ],
        LLAMA,
        gguf=True,
    ),
]
WITH_MODEL = [family for family in FAMILIES if family.kind]
BY_NAME = {family.name: family for family in FAMILIES}


@cache
def _bytes_and_merges(name: str) -> str:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    (pattern,), ignore_merges = PRE_TOKENIZERS[name]
    core = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(TEXTS * 3, trainer)
    return core.to_str()


def tokenizer_of(family: Family) -> Any:
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer.from_str(_bytes_and_merges("llama-bpe" if family.name == "llama" else "qwen2"))
    core.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in family.tokens]
    )
    tags = [
        AddedToken(t, special=family.tags_are_special, normalized=False)
        for t in ("<think>", "</think>")
    ]
    (core.add_special_tokens if family.tags_are_special else core.add_tokens)(tags)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=family.tokens[0], eos_token=family.tokens[1]
    )
    tokenizer.chat_template = family.template
    return tokenizer


def model_of(family: Family, tokenizer: Any, **changes: Any) -> Any:
    """In float32 and evaluation mode; what begins as ones or zeros is moved, so that a mistake with it shows."""
    import transformers

    values = {
        "vocab_size": ROWS,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
        **family.sizes,
    } | changes
    torch.manual_seed(0)
    if family.name == "qwen3.5":  # as it is published: the language model is a part
        vision = {
            "depth": 1,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 32,
            "out_hidden_size": 64,
        }
        config = transformers.Qwen3_5Config(text_config=values, vision_config=vision)
        model = transformers.Qwen3_5ForConditionalGeneration(config)
    else:
        model = getattr(transformers, f"{family.kind}ForCausalLM")(
            getattr(transformers, f"{family.kind}Config")(**values)
        )
    with torch.no_grad():
        for tensor in (
            *model.parameters(),
            *(b for n, b in model.named_buffers() if n.endswith("correction_bias")),
        ):
            tensor.add_(0.02 * torch.randn_like(tensor))
    return model.eval()


def save(family: Family, folder: Path) -> Any:
    """Model and tokenizer as a folder like those that are published; returns the model."""
    tokenizer = tokenizer_of(family)
    model = model_of(family, tokenizer)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | family.changes))
    return model
