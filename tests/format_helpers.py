"""Tiny models of each architecture with a tokenizer, both trained for a moment on six sentences; and a run as quantize finds it."""

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from distill import chat
from distill.core.jsonl import write_jsonl
from distill.core.run_folder import RunFolder
from distill.data.samples import Sample
from distill.formats.gguf.vocabulary import GPT2, PRE_TOKENIZERS, SPACE
from distill.models import load
from distill.recipe import Recipe, load_recipe

RECIPES = Path(__file__).parent.parent / "recipes"
TEACHER = RECIPES / "quickstart" / "teacher"

SENTENCES = [
    "The quick brown fox doesn't jump over 13 lazy dogs; it's 2024 already.",
    "今天天气很好，我们去公园散步吧。机器学习模型可以很小。",
    "Habari ya asubuhi, rafiki yangu. Watoto wanasoma vitabu shuleni.",
    "Selamat pagi, apa kabar? Anak-anak belajar membaca di sekolah.",
    "नमस्ते, आप कैसे हैं? बच्चे स्कूल में किताबें पढ़ते हैं।",
    "def f(x):\n    return x + 1\n\n\tprint(f(41))  # 42",
]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
)
BOS = "<|endoftext|>"
# `model_folder(case.split(",")[0], **options)` makes the model of a case
CASES = {
    "qwen3": {},
    "qwen2": {},
    "llama": {"tie_word_embeddings": False},
    "ernie": {},
    "qwen3.5": {},
    "llama, llama3 rope": {
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 1e4,
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
    "qwen3, yarn rope": {
        "rope_parameters": {
            "rope_type": "yarn",
            "rope_theta": 1e4,
            "factor": 4.0,
            "original_max_position_embeddings": 128,
        }
    },
}
VOCAB_SIZE = 640  # rows of the embedding; the tokenizer has fewer tokens


@cache
def train_tokenizer(name: str) -> Any:
    """Trained on the sentences: byte-level BPE with the split patterns of this name, or like ERNIE's "sentencepiece"."""
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    core = sentencepiece() if name == "sentencepiece" else byte_level(*PRE_TOKENIZERS[name])
    core.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    core.add_tokens(
        [AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)]
    )
    assert isinstance(core, Tokenizer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def byte_level(patterns: tuple[str, ...], ignore_merges: bool) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    core = Tokenizer(BPE(ignore_merges=ignore_merges))
    core.normalizer = normalizers.NFC()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(
                pre_tokenizers.Split(Regex(pattern), "isolated")
                for pattern in patterns
                if pattern != GPT2
            ),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=patterns[-1] == GPT2),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    core.train_from_iterator(SENTENCES * 4, trainer)
    return core


def sentencepiece() -> Any:
    """Spaces as ▁, unknown characters as bytes, no split before the merges: the steps of ERNIE 4.5's tokenizer.json."""
    from tokenizers import Tokenizer, decoders, normalizers
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer

    core = Tokenizer(BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Replace(" ", SPACE)])
    core.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    core.train_from_iterator([" " + word for s in SENTENCES * 4 for word in s.split(" ")], trainer)
    content = json.loads(core.to_str())
    content["added_tokens"] = content["added_tokens"][
        :3
    ]  # the bytes are part of the vocabulary, no marks of their own
    return Tokenizer.from_str(json.dumps(content))


def build_model(kind: str, **overrides: Any) -> Any:
    """A random model of hidden size 256."""
    import transformers

    values = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }
    if kind != "qwen2":
        values["head_dim"] = 64
    name = {
        "qwen3": "Qwen3",
        "qwen2": "Qwen2",
        "llama": "Llama",
        "ernie": "Ernie4_5",
        "qwen3.5": "Qwen3_5",
    }[kind]
    if kind == "qwen3.5":
        values |= {
            "num_hidden_layers": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 4,
        }
    config = getattr(transformers, "Qwen3_5TextConfig" if kind == "qwen3.5" else f"{name}Config")(
        **(values | overrides)
    )
    torch.manual_seed(0)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with (
        torch.no_grad()
    ):  # norms and biases begin as ones and zeros, which would hide a wrong tensor
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def train(model: Any, tokenizer: Any) -> None:
    """Until its predictions are no longer flat: in a random model every top token hangs on the last bit."""
    texts = [tokenizer(t + "<|im_end|>", return_tensors="pt").input_ids for t in SENTENCES]
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(12):
        for ids in texts:
            model(input_ids=ids, labels=ids).loss.backward()
            optimizer.step()
            optimizer.zero_grad()


def save(
    folder: Path,
    kind: str,
    *,
    tokenizer: str | None = None,
    dtype: torch.dtype = torch.float32,
    **overrides: Any,
) -> Path:
    chosen = train_tokenizer(
        tokenizer
        or {"llama": "llama-bpe", "ernie": "sentencepiece", "qwen3.5": "qwen35"}.get(kind, "qwen2")
    )
    shard_size = overrides.pop("shard_size", "5GB")
    trained = overrides.pop("trained", False)
    model = build_model(kind, **overrides)
    if trained:
        train(model, chosen)
    ends = chosen.convert_tokens_to_ids(["<|im_end|>", "<|endoftext|>"])
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = ends, ends[1]
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    chosen.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sentences() -> list[str]:
    return SENTENCES


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_folder("qwen3", trained=True)`: the folder of such a model, made once a session. Do not change it."""
    made: dict[str, Path] = {}

    def make(kind: str, **options: Any) -> Path:
        key = f"{kind} {json.dumps(options, sort_keys=True, default=str)}"
        if key not in made:
            made[key] = save(tmp_path_factory.mktemp(kind), kind, **options)
        return made[key]

    return make


def sample(number: int, language: str, prompt_ids: list[int], answer_ids: list[int]) -> Sample:
    key = f"{number:064x}"
    return Sample(key, key, "?", language, None, "!", prompt_ids, answer_ids)


def trained(tmp_path: Path, *overrides: str) -> tuple[Recipe, RunFolder]:
    """A run as quantize finds it, its student the quickstart's teacher; kept answers in one language."""
    recipe = load_recipe(
        RECIPES / "quickstart.yaml",
        ["quantize.num_sequences=2", "train.validation_share=0.25", *overrides],
    )
    folder = RunFolder(tmp_path)
    shutil.copytree(TEACHER, folder.stage("train") / "student", dirs_exist_ok=True)
    tokenizer = load.load_tokenizer(str(TEACHER))
    start = chat.prompt_ids(tokenizer, "How much are 3 mangoes?")
    rows = [
        sample(n, "en", start, tokenizer(f"{n} shillings for {n} mangoes.").input_ids)
        for n in range(1, 30)
    ]
    folder.stage("generate").mkdir(exist_ok=True, parents=True)
    write_jsonl(folder.stage("generate") / "kept.jsonl", [s.row() for s in rows])
    folder.stage("quantize").mkdir(exist_ok=True, parents=True)
    return recipe, folder


def change_tokenizer(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def with_bos(folder: Path, *, tokenizer_adds: bool, template_writes: bool, eos: bool) -> None:
    """Give the student a bos, added by its tokenizer to plain text, written by its template, or both."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"bos_token": BOS}))
    ids = load.load_tokenizer(str(folder)).get_vocab()
    added = [BOS] * tokenizer_adds + ["A"] + ["<|im_end|>"] * eos

    def post_process(content: dict[str, Any]) -> None:
        content["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [
                {"Sequence": {"id": "A", "type_id": 0}}
                if name == "A"
                else {"SpecialToken": {"id": name, "type_id": 0}}
                for name in added
            ],
            "pair": [],
            "special_tokens": {
                name: {"id": name, "ids": [ids[name]], "tokens": [name]}
                for name in (BOS, "<|im_end|>")
            },
        }

    change_tokenizer(folder, post_process)
    if template_writes:
        template = folder / "chat_template.jinja"
        template.write_text(BOS + template.read_text())
