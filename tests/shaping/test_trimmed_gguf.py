"""A trimmed tokenizer in a GGUF file: llama.cpp reads a text as the ids that the student has learnt."""

import random
import string
import unicodedata

import transformers
from format_helpers import SENTENCES
from shaping_helpers import SCRIPTS, counts_of, made, vocabulary_of

from distill.formats.gguf.byte_tokens import NEVER_IN_TEXT, texts_with
from distill.formats.gguf.vocabulary import absent_bytes
from distill.formats.gguf.write import write_gguf
from distill.llama_cpp.model import LlamaModel
from distill.shaping.pruning import Limits, prune
from distill.shaping.rewrite import trimmed_tokenizer

NUM_TEXTS = 2_500  # for each of eight tokenizers: 20,000 with Qwen's
NUM_PROMPTS = 400
SIZE = 8_192  # tokens to keep at most, and at most two thirds

# Letters and digits of Unicode 16 and 17: the tokenizer's tables have them, those of llama.cpp end
# before. So the two split a text there otherwise, whether it was trimmed or not.
TOO_NEW = """1C89-1C8A A7CB-A7CD A7DA-A7DC 105C0-105F3 10D40-10D65 10D6F-10D85 10EC2-10EC4
11380-113B7 113D1-113D3 116D0-116E3 11BC0-11BE0 11BF0-11BF9 11DE0-11DE9 13460-143FA 16100-1611D
16130-16139 16D40-16D79 16FF4-16FF6 18CFF-18CFF 1CCF0-1CCF9 1E5D0-1E5FA"""

CODE = """def f(x):
\treturn {'a': [x ** 2, -1e-10]}
# 0x7f
if (a[i] != b->c && ~d)
{ printf("%5.2f\\n", *e); }
SELECT * FROM t WHERE id >= 10;
<div class="x">&amp;</div>
https://example.org/?q=a_b&n=12
\\t\\\\
$HOME
@me
#1""".splitlines()
CONTRACTIONS = [
    "I'm", "he'S", "we'll", "they'VE", "don't", "'tis", "O'Neil",
    "'d'd", "'RE", "rock'n'roll", "it’s", "'s", "''s", "'ll",
]  # fmt: skip
EMOJI = [
    "👩\u200d👩\u200d👧\u200d👦", "🏳️\u200d🌈", "👍🏽", "✅️", "🇹🇿", "1️⃣",
    "❤️\u200d🔥", "😀", "🧑🏿\u200d🚀", "\u200d", "\ufe0f",
]  # fmt: skip
SPACES = [" ", "\n", "\t", "\r\n", "\r", "\u00a0", "\u3000", "\u2009", "\u200b", "\u2028", "\x0b"]
LETTERS = "aeonsZбकআกあ漢한ا"


class Fuzz:
    """Texts in NFC, each of one of the kinds below or of several together."""

    def __init__(self, seed, marks):
        self.draw = random.Random(seed)
        self.words = [word for text in (*SCRIPTS.values(), *SENTENCES) for word in text.split(" ")]
        self.marks = marks

    def text(self):
        kinds = (
            self.scripts, self.characters_of_a_script, self.emoji, self.combining_marks, self.code,
            self.digits, self.spaces, self.contractions, self.looks_like_marks, self.unicode,
            self.ascii,
        )  # fmt: skip
        num_parts = self.draw.choice([1, 1, 1, 3])
        parts = [self.draw.choice(kinds)() for _ in range(num_parts)]
        return unicodedata.normalize("NFC", self.draw.choice(["", " "]).join(parts))

    def some(self, choices, most=12):
        return self.draw.choices(choices, k=self.draw.randint(1, most))

    def scripts(self):
        return self.draw.choice(["", " "]).join(self.some(self.words))

    def characters_of_a_script(self):
        return "".join(self.some(self.draw.choice(list(SCRIPTS.values())), 24))

    def emoji(self):
        return "".join(self.some([*EMOJI, "ok", " "]))

    def combining_marks(self):
        marks = "\u0301\u0308\u0323\u0327\u093f\u094d\u064e\u0e31\u3099\u20dd"
        return "".join(c + "".join(self.some(marks, 3)) for c in self.some(LETTERS))

    def code(self):
        return self.draw.choice(["", " ", "\n    "]).join(self.some(CODE))

    def digits(self):
        digits = string.digits * 3 + ".,-:/ ٣५๗²½Ⅷ１"
        return "".join(self.some(digits, 20))

    def spaces(self):
        return "".join(run * self.draw.randint(1, 5) for run in self.some([*SPACES, "a", "b!"]))

    def contractions(self):
        return self.draw.choice(["", " "]).join(self.some(CONTRACTIONS))

    def looks_like_marks(self):
        mark = self.draw.choice(self.marks)
        place = self.draw.randrange(len(mark))
        changed = mark[:place] + self.draw.choice(["", " ", "|", "<", mark[place]]) + mark[place:]
        return self.draw.choice(["", " ", "x"]).join([changed, mark, "[PAD 70]", mark[:place]])

    def unicode(self):
        planes = [(0x20, 0xD800), (0xE000, 0x10000), (0x10000, 0x20000), (0x20000, 0x110000)]
        return "".join(chr(self.draw.randrange(*self.draw.choice(planes))) for _ in range(8))

    def ascii(self):
        return "".join(chr(self.draw.randrange(1, 128)) for _ in range(self.draw.randint(1, 30)))


def trimmed_by_every_script(parent):
    vocabulary = vocabulary_of(parent)
    counts_VL = counts_of(parent, (SENTENCES, list(SCRIPTS.values())))
    limits = Limits(min(SIZE, len(parent) * 2 // 3), None)
    pruned = prune(vocabulary, counts_VL, (), limits)
    return trimmed_tokenizer(parent, vocabulary, pruned.kept).tokenizer


def written(tokenizer, folder):
    """Return (the folder, the GGUF file) of a random narrow model with this tokenizer, and with padding."""
    config = transformers.Qwen3Config(
        vocab_size=len(tokenizer) // 64 * 64 + 128, hidden_size=32, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=1, num_key_value_heads=1, head_dim=32,
        tie_word_embeddings=True, max_position_embeddings=64,
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder, write_gguf(folder, folder / "model.gguf", "f16").path


def bytes_without_a_token(parent):
    vocabulary = vocabulary_of(parent)
    present = {vocabulary.bytes_of(number)[0] for number in vocabulary.byte_ids}
    return sorted({*range(256)} - NEVER_IN_TEXT - present)


def without(texts, absent):
    """Leave out what llama.cpp and the tokenizer read otherwise before any trimming.

    That is characters that are too new, and those with a byte that the parent has no token for: the
    tokenizer drops such a byte before it joins the neighbours, llama.cpp after.
    """
    ranges = [[int(end, 16) for end in ends.split("-")] for ends in TOO_NEW.split()]
    too_new = {chr(number) for first, last in ranges for number in range(first, last + 1)}
    kept = ([c for c in text if c not in too_new and not absent & {*c.encode()}] for text in texts)
    return ["".join(characters) for characters in kept]


def test_llama_cpp_reads_fuzzed_texts_as_the_trimmed_tokenizer(parent, tmp_path):
    tokenizer = trimmed_by_every_script(parent)
    folder, path = written(tokenizer, tmp_path)
    absent, marks = absent_bytes(folder), list(parent.get_added_vocab())
    assert absent == bytes_without_a_token(parent)
    fuzz = Fuzz(0, marks)
    texts = without([fuzz.text() for _ in range(NUM_TEXTS)], {*absent}) + texts_with(absent)
    begin = tokenizer.bos_token or ""  # where the file says so, llama.cpp puts one there
    pairs = zip(texts[:NUM_PROMPTS], texts[NUM_PROMPTS:], strict=False)
    prompts = [f"{begin}{a}{fuzz.draw.choice(marks)}{b}" for a, b in pairs]
    as_text = tokenizer(texts, add_special_tokens=False, split_special_tokens=True).input_ids
    as_prompt = tokenizer(prompts, add_special_tokens=False).input_ids
    with LlamaModel(path, num_threads=1, context_length=64) as llama:
        for text, ids in zip(texts, as_text, strict=True):
            assert llama.tokenize(text) == ids, text
        for text, ids in zip(prompts, as_prompt, strict=True):
            assert llama.tokenize_prompt(text) == ids, text


def test_letters_too_new_for_llama_cpp_are_split_otherwise_before_any_trimming(tmp_path):
    """When this fails, llama.cpp's tables are newer: shorten TOO_NEW."""
    parent, text = made("llama-bpe"), "'s\U00013670't"
    _, path = written(parent, tmp_path)
    with LlamaModel(path, num_threads=1, context_length=64) as llama:
        assert llama.tokenize(text) != parent(text, add_special_tokens=False).input_ids
    assert without([text], set()) == ["'s't"]
