"""Tokenizers to trim, of every kind that is met, and texts to try them on."""

import json
import random
from collections.abc import Sequence
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from format_helpers import CHAT_TEMPLATE, SENTENCES, TEACHER, sentencepiece, train_tokenizer
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from distill.models import load
from distill.shaping.bpe import BpeVocabulary
from distill.shaping.pruning import Limits, Pruned, prune
from distill.shaping.rewrite import trimmed_tokenizer
from distill.shaping.trimmed import TrimmedVocabulary

# a sentence in each of 22 scripts, and what is not one
SCRIPTS = {
    "Latin": "Hakuna matata, everything will be fine!",
    "Cyrillic": "Съешь же ещё этих мягких французских булок.",
    "Greek": "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "Arabic": "نص حكيم له سر قاطع وذو شأن عظيم.",
    "Hebrew": "דג סקרן שט בים מאוכזב ולפתע מצא חברה.",
    "Devanagari": "सभी मनुष्यों को गौरव और अधिकार प्राप्त हैं।",
    "Bengali": "সমস্ত মানুষ স্বাধীনভাবে জন্মগ্রহণ করে।",
    "Gurmukhi": "ਸਾਰਾ ਮਨੁੱਖੀ ਪਰਿਵਾਰ ਆਪਣੀ ਮਹਿਮਾ।",
    "Gujarati": "પ્રતિષ્ઠા અને અધિકારોની દૃષ્ટિએ સર્વ માનવો.",
    "Tamil": "மனிதப் பிறிவியினர் சகலரும் சுதந்திரமாகவே.",
    "Telugu": "ప్రతిపత్తిస్వత్వముల విషయమున మానవులెల్లరును.",
    "Thai": "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "Lao": "ມະນຸດທຸກຄົນເກີດມາມີສິດເສລີພາບ",
    "Khmer": "មនុស្សទាំងអស់កើតមកមានសេរីភាព",
    "Myanmar": "လူတိုင်းသည် တူညီ လွတ်လပ်သော",
    "Georgian": "ყველა ადამიანი იბადება თავისუფალი.",
    "Armenian": "Բոլոր մարդիկ ծնվում են ազատ։",
    "Ethiopic": "የሰው ልጅ ሁሉ ሲወለድ ነጻ ነው።",
    "Han": "人人生而自由，在尊严和权利上一律平等。",
    "Kana": "すべての人間は、ウマレナガラニシテ自由であり。",
    "Hangul": "모든 인간은 태어날 때부터 자유로우며.",
    "Tibetan": "འགྲོ་བ་མིའི་རིགས་རྒྱུད།",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 😀👍🏽 ✅️",
    "code": "def f(x):\n\treturn {'a': x**2}  # 3.14159e-10\n",
    "spaces": "  two   three    \n\n\n\t end ",
}


def random_texts(num: int, seed: int = 0) -> list[str]:
    """Texts of random characters of all of Unicode, of ASCII, and of pieces of SCRIPTS."""
    draw = random.Random(seed)
    everything = [*range(0x20, 0xD800), *range(0xE000, 0x110000)]
    pieces = [word for text in SCRIPTS.values() for word in text.split(" ")]
    texts = []
    for _ in range(num):
        texts.append("".join(chr(c) for c in draw.choices(everything, k=draw.randrange(1, 20))))
        texts.append("".join(chr(draw.randrange(32, 127)) for _ in range(draw.randrange(1, 40))))
        texts.append(draw.choice(["", " "]).join(draw.choices(pieces, k=draw.randrange(1, 12))))
    return texts


@cache
def vocabulary_of(tokenizer: Any) -> BpeVocabulary:
    return BpeVocabulary.of(tokenizer)


def counts_of(tokenizer: Any, languages: Sequence[Sequence[str]]) -> np.ndarray:
    """How often each id stands in the texts of each language, float64 [V, L]."""
    num_rows = vocabulary_of(tokenizer).num_rows
    columns = []
    for texts in languages:
        ids = [i for text in texts for i in tokenizer(text, add_special_tokens=False).input_ids]
        columns.append(np.bincount(ids, minlength=num_rows))
    return np.stack(columns, 1).astype(float)


@cache
def trimmed(tokenizer: Any, limits: Limits) -> tuple[TrimmedVocabulary, Pruned, BpeVocabulary]:
    """The tokenizer trimmed by the counts of an English and a Swahili sentence alone."""
    vocabulary = vocabulary_of(tokenizer)
    languages = (SENTENCES[:1], SENTENCES[2:3])
    pruned = prune(vocabulary, counts_of(tokenizer, languages), (), limits)
    return trimmed_tokenizer(tokenizer, vocabulary, pruned.kept), pruned, vocabulary


def with_template(core: Tokenizer, **special: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def _changed(core: Tokenizer, change: Any) -> Tokenizer:
    content = json.loads(core.to_str())
    change(content)
    return Tokenizer.from_str(json.dumps(content))


def _with_every_split(content: dict[str, Any]) -> None:
    """Merges as converters from SentencePiece and tiktoken write them: every pair that gives a token."""
    model = content["model"]
    rank = {"".join(pair): place for place, pair in reversed(list(enumerate(model["merges"])))}
    vocab = model["vocab"]
    model["merges"] = [
        [token[:i], token[i:]]
        for token in sorted(rank, key=rank.__getitem__)
        for i in sorted(range(1, len(token)), key=lambda i: vocab.get(token[:i], 0))
        if token[:i] in vocab and token[i:] in vocab
    ]


def _like_llama_2(content: dict[str, Any]) -> None:
    """A space before every text, taken off again where it is decoded; <s> before it."""
    content["normalizer"]["normalizers"].insert(0, {"type": "Prepend", "prepend": "▁"})
    content["decoder"]["decoders"].append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    begin = {"id": "<s>", "ids": [content["model"]["vocab"]["<s>"]], "tokens": ["<s>"]}
    first = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    content["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [first, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": n, "type_id": k}} for k, n in enumerate("AB")],
        "special_tokens": {"<s>": begin},
    }


def _with_holes(content: dict[str, Any]) -> None:
    """Ids from 3 on, an added token below them, three in the middle that no token has."""
    vocab, added = content["model"]["vocab"], content["added_tokens"]
    vocab |= {token["content"]: token["id"] for token in added}
    moved = {token: n + 3 + 3 * (n > 400) for token, n in vocab.items()}
    content["model"]["vocab"] = {"<|first|>": 1, **moved}
    for token in added:
        token["id"] = moved[token["content"]]
    added.insert(0, {**added[0], "id": 1, "content": "<|first|>"})


@cache
def made(name: str) -> Any:
    """A tokenizer of a kind (see KINDS), as a stage loads it."""
    with TemporaryDirectory() as folder:
        _build(name).save_pretrained(folder)
        return load.load_tokenizer(folder)


def _build(name: str) -> Any:
    ends = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    sp_ends = {"eos_token": "</s>", "pad_token": "<unk>", "bos_token": "<s>", "unk_token": "<unk>"}
    if name == "quickstart":
        return load.load_tokenizer(str(TEACHER))
    if name == "llama-bpe":  # takes a whole word that is a token before any merge
        return train_tokenizer("llama-bpe")
    if name == "tiktoken":
        core = train_tokenizer("llama-bpe").backend_tokenizer
        return with_template(_changed(core, _with_every_split), **ends)
    if name == "sentencepiece":
        return with_template(sentencepiece(), **sp_ends)
    if name == "llama 2":
        core = _changed(_changed(sentencepiece(), _with_every_split), _like_llama_2)
        return with_template(core, **sp_ends)
    assert name == "holes"
    core = _changed(train_tokenizer("qwen2").backend_tokenizer, _with_holes)
    return with_template(core, **ends)


KINDS = ("quickstart", "llama-bpe", "tiktoken", "sentencepiece", "llama 2", "holes")
