"""A teacher that speaks of itself: the student is another model, and must not be called Qwen."""

import re
from functools import cache

from distill.text.text import Text
from distill.text.words import APOSTROPHES

# Names that are only a model's or its maker's; and words of everyday life that need "AI" beside
# them.
_OWN_NAMES = (
    "qwen",
    "qwq",
    "tongyi",
    "通义",
    "通義",
    "千问",
    "千問",
    "alibaba cloud",
    "阿里云",
    "deepseek",
    "深度求索",
    "深度搜索",
    "kimi",
    "moonshot ai",
    "月之暗面",
    "minimax",
    "稀宇",
    "ernie",
    "wenxin",
    "文心",
    "chatglm",
    "glm-",
    "glm4",
    "z.ai",
    "zhipu",
    "智谱",
    "智譜",
    "minicpm",
    "openbmb",
    "面壁",
    "modelbest",
    "hunyuan",
    "混元",
    "internlm",
    "intern-s1",
    "书生",
    "浦语",
    "01.ai",
    "零一万物",
    "零一萬物",
    "doubao",
    "豆包",
    "chatgpt",
    "gpt-",
    "gpt4",
    "openai",
    "anthropic",
    "डीपसीक",
    "क्वेन",
    "चैटजीपीटी",
    "ओपनएआई",
    "ডিপসিক",
    "চ্যাটজিপিটি",
    "ওপেনএআই",
    "ديب سيك",
    "تشات جي بي تي",
    "ディープシーク",
    "딥시크",
    "дипсик",
)
_COMMON_NAMES = (
    "llama",
    "gemma",
    "gemini",
    "claude",
    "meta",
    "google",
    "baidu",
    "百度",
    "alibaba",
    "阿里",
    "tencent",
    "腾讯",
    "騰訊",
    "bytedance",
    "字节",
    "mistral",
    "moonshot",
    "yi-1.5",
    "yi-34b",
    "glm",
    "अलीबाबा",
    "আলিবাবা",
    "علي بابا",
    "アリババ",
    "알리바바",
    "алибаба",
)
_ARTIFICIAL = (
    r"\bai\b|assistant|language model|chatbot|助手|助理|人工智能|语言模型|語言模型|大模型|assistente?|asistente|modelo de|modèle|"
    r"modeli ya lugha|mfano wa lugha|akili (?:bandia|mnemba)|एआई|এআই|"
    r"msaidizi|asisten|model bahasa|trợ lý|mô hình|सहायक|मॉडल|সহায়ক|মডেল|مساعد|نموذج|ассистент|модель|"
    r"アシスタント|モデル|모델|ผู้ช่วย|โมเดล|உதவியாளர்|ረዳት|mataimaki|olùrànlọ́wọ́"
)
_FIRST_PERSON = (
    r"\bi am\b|\bi'm\b|\bmy (?:name is|creators?|developers?|makers?)\b|"
    r"\bi was (?:created|made|developed|trained|built)\b|\bcall me\b|我是|我叫|我的名字|我由|作为|"
    r"\bje suis\b|je m'appelle|mon nom est|j'ai été|\bsoy\b|me llamo|mi nombre es|fui (?:creado|desarrollado|criado|treinado|"
    r"desenvolvido)|\bsou\b|me chamo|meu nome é|\bich bin\b|mein name|ich heiße|\bmimi ni\b|jina langu|\bnaitwa\b|ninaitwa|"
    r"nimetengenezwa|\bsaya adalah\b|nama saya|\bsaya\b|\btôi là\b|\bmình là\b|tên tôi|tên là|\bni ne\b|\bsunana\b|\bmo jẹ́|"
    r"orúkọ mi|\bemi ni\b|मैं|मेरा नाम|मेरे|আমি|আমার নাম|میں|میرا نام|أنا|اسمي|እኔ|ስሜ|நான்|என் பெயர்|ผมคือ|ฉันคือ|ผมชื่อ|ฉันชื่อ|"
    r"ကျွန်ုပ်|ကျွန်တော်|ကျွန်မ|\bя\b|меня зовут|私は|저는|제 이름은|나는"
)
_LITERAL_NAMES = (*_OWN_NAMES, *_COMMON_NAMES)


@cache
def _any_of(names: tuple[str, ...]) -> re.Pattern[str]:
    # Latin names as whole words (metal is not Meta); Chinese has no word boundaries
    return re.compile("|".join(rf"(?<![a-z]){re.escape(name)}(?![a-z])" for name in names))


_SAYS_I, _SAYS_AI = re.compile(_FIRST_PERSON), re.compile(_ARTIFICIAL)
_MADE_ME = re.compile(
    r"\b(?:created|made|developed|trained|built|designed) me\b"
    r"|(?:开发|训练|创造|研发|设计|開發|訓練|創造)了?我"
)
_AND_I = re.compile(r"(?:, an? [^,]{0,40})?, i\b")
_BETWEEN = 60  # characters between "I am" and the name
_SENTENCE_STOP = re.compile(r"[!?。！？।॥።\n]|\.\s")


def names_of_model(model: str) -> tuple[str, ...]:
    """Return what a model may call itself, by its id: `aya` of CohereLabs/aya-expanse-8b."""
    found = re.match(r"[a-z]{3,}", model.rstrip("/").rpartition("/")[2].lower())
    return () if found is None else (found[0],)


def identity(text: Text, more_names: tuple[str, ...] = ()) -> str | None:
    """Return the passage in which the teacher speaks of itself, or None.

    "I am Qwen", 我是通义千问, "As Kimi, I ...", "Alibaba Cloud developed me": a name must stand
    within 60 characters after a first person, or before "made me", in the same sentence, so that
    facts about models stay. A name that people and other firms bear too (Claude, Meta, Yi) needs
    "AI", "model" or the like beside it; so does each of `more_names`, in small letters.
    """
    folded, names = text.folded, _LITERAL_NAMES + more_names
    if not any(name in folded for name in names):
        return None  # nearly every answer ends here, ten times as fast as by the pattern
    for sentence in _SENTENCE_STOP.split(folded.translate(APOSTROPHES)):
        for name in _any_of(names).finditer(sentence):
            is_own_name = name[0] in _OWN_NAMES or _SAYS_AI.search(sentence)
            if is_own_name and _speaks_of_itself(sentence, name):
                return repr(sentence[max(0, name.start() - 30) : name.end() + 10].strip())
    return None


def _speaks_of_itself(sentence: str, name: re.Match[str]) -> bool:
    """Return whether the sentence says that the speaker bears the name."""
    before = sentence[max(0, name.start() - _BETWEEN) : name.start()]
    after = sentence[name.end() : name.end() + _BETWEEN]
    if _SAYS_I.search(before) or _MADE_ME.search(after):
        return True
    is_as = before.endswith("as ") and not before.endswith("such as ")
    return is_as and _AND_I.match(after) is not None
