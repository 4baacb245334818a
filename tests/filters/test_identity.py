"""A teacher that speaks of itself, and facts about models and people."""

import pytest

from distill.filters.identity import identity, names_of_model
from distill.text.text import Text


@pytest.mark.parametrize(
    "text",
    [
        "I am Qwen, a large language model created by Alibaba Cloud.",
        "Hello! I'm DeepSeek-V3, an AI assistant.",
        "我是通义千问，由阿里云开发的大语言模型。",
        "我是文心一言，很高兴认识你。",
        "我是月之暗面科技有限公司训练的大语言模型 Kimi。",
        "My name is Kimi and I was made by Moonshot AI.",
        "Mimi ni Qwen, msaidizi wa AI.",
        "Je suis ChatGLM, un assistant.",
        "Soy MiniMax-M2, un asistente.",
        "Saya adalah ERNIE, asisten dari Baidu.",
        "मैं Qwen हूँ, एक सहायक।",
        "أنا ديب سيك DeepSeek، مساعد ذكي.",
        "I am Hunyuan, developed by Tencent.",
        "I am a language model trained by Google.",
        "I'm Claude, an AI assistant.",
        "I was created by Zhipu to help people.",
        "我叫豆包。",
        "Ｉ ａｍ Ｑｗｅｎ.",
        "As Qwen, I have no feelings.",
        "Alibaba Cloud developed me to help people.",
        "是深度求索公司开发了我。",
        "My creators at DeepSeek did not tell me.",
        "मैं एक एआई हूँ जिसे अलीबाबा ने बनाया है।",
        "أنا نموذج لغوي من علي بابا.",
        "Mimi ni mfano wa lugha ulioundwa na Alibaba.",
    ],
)
def test_a_teacher_that_speaks_of_itself_is_found(text):
    assert identity(Text(text)) is not None


@pytest.mark.parametrize(
    "text",
    [
        "Qwen is a family of models released by Alibaba Cloud under Apache-2.0.",
        "DeepSeek 和 Kimi 都是中国的大语言模型。",
        "My name is Claude Dupont and I sell bread in Lomé.",
        "I am a farmer. Google lists many markets.",
        "I am sure that the metal is iron.",
        "I am government staff.",
        "我是一名百度的司机。",
        "Saya membeli mangga di pasar.",
        "Firms such as OpenAI, I think, earn little. Tools such as Qwen, in my view, help.",
        "मैं अलीबाबा और चालीस चोर की कहानी पढ़ता हूँ।",
        "The stories of Ali Baba made me laugh.",
    ],
)
def test_facts_about_models_and_people_called_claude_pass(text):
    assert identity(Text(text)) is None


def test_the_names_of_several_teachers_count_where_it_says_what_it_is():
    names = names_of_model("CohereLabs/aya-expanse-8b")
    assert names == ("aya",)
    says = "I am Aya, an AI assistant made by Cohere."
    assert identity(Text(says)) is None and identity(Text(says), names)
    for fact in ("I am Aya, and I live in Moroni.", "This aya is read at dawn by the assistant."):
        assert identity(Text(fact), names) is None
    assert names_of_model("./7b") == ()
