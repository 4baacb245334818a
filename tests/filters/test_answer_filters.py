"""Each filter by its reason, one sentence each; and sentences that must pass."""

from dataclasses import replace

import pytest

from distill.data.samples import Prompt
from distill.filters import answer_filters
from distill.filters.answer_filters import Candidate, identity, judge, judge_all, loop, refusal
from distill.filters.contamination import EvalIndex
from distill.filters.prompt_filters import PROMPT_REASONS, judge_prompts

GOOD = Candidate(
    prompt="Amina has 4 bags with 12 mangoes each. How many mangoes does she have?",
    prompt_id="p1",
    answer_text="She has four bags and each holds twelve mangoes, so she has 4 x 12 = 48 mangoes.",
    reasoning=None,
    finish_reason="stop",
    language="en",
    reference="48",
)
EVAL_ITEM = "A farmer in the valley keeps 31 goats and 14 sheep, and every spring half of the goats have two young each."


def graded(answer: str, row: dict) -> bool:
    return row["reference"] in answer


def reason_of(candidate: Candidate) -> str | None:
    found = judge(
        candidate,
        languages=["en", "sw"],
        grade=graded,
        eval_index=EvalIndex([EVAL_ITEM]),
        min_characters=10,
        max_characters=2000,
        max_reasoning_tokens=100,
    )
    return found and found.partition(":")[0]


CASES = {
    "truncated": replace(GOOD, finish_reason="length"),
    "empty": replace(GOOD, answer_text=" \n"),
    "too_short": replace(GOOD, answer_text="48."),
    "too_long": replace(GOOD, answer_text=GOOD.answer_text + "." * 2000),
    "long_reasoning": replace(GOOD, reasoning="Let me count again.", num_reasoning_tokens=101),
    "loop": replace(GOOD, answer_text="She has 48 mangoes. " + "So the answer is 48. " * 12),
    "wrong_language": replace(
        GOOD, answer_text="她有四个袋子，每个袋子有十二个芒果，所以一共有 48 个芒果。"
    ),
    "wrong_reasoning_language": replace(
        GOOD, reasoning="四个袋子，每个袋子有十二个芒果，所以一共有四十八个芒果。"
    ),
    "refusal": replace(
        GOOD, answer_text="I'm sorry, but I can't help with questions about 48 mangoes."
    ),
    "no_refusal": replace(GOOD, refusals="require"),
    "identity": replace(
        GOOD, answer_text="I am Qwen, created by Alibaba Cloud. The answer is 48 mangoes."
    ),
    "format": replace(GOOD, answer_text=GOOD.answer_text + "\n```python\nprint(4 * 12)"),
    "wrong_answer": replace(
        GOOD, answer_text="She has four bags and twelve mangoes, so she has 16 mangoes."
    ),
    "contaminated": replace(
        GOOD, answer_text=f"Here is a similar problem, too: {EVAL_ITEM} The answer to yours is 48."
    ),
}


def test_a_good_answer_passes():
    assert reason_of(GOOD) is None


def test_where_a_refusal_is_required_one_passes_and_where_nothing_is_verified_any_answer():
    refused, wrong = CASES["refusal"], CASES["wrong_answer"]
    assert (
        reason_of(replace(refused, refusals="require")) is None
        and reason_of(replace(refused, refusals="keep")) is None
    )
    assert reason_of(replace(GOOD, refusals="keep")) is None
    assert reason_of(replace(wrong, verify=False)) is None
    assert answer_filters.pass_rates(
        [wrong, replace(wrong, prompt_id="p2", verify=False)], ["wrong_answer: x", None]
    ) == {wrong.prompt_id: 0.0}


@pytest.mark.parametrize("reason", CASES)
def test_each_filter_drops_by_its_reason(reason):
    assert reason_of(CASES[reason]) == reason


def test_the_first_reason_in_the_documented_order_counts():
    assert tuple(CASES) == answer_filters.REASONS[: len(CASES)]
    everything_wrong = replace(CASES["refusal"], finish_reason="length", reference="nothing")
    assert reason_of(everything_wrong) == "truncated"
    assert reason_of(replace(everything_wrong, finish_reason="stop")) == "refusal"


def test_answers_to_one_prompt_that_repeat_each_other_are_dropped_but_the_first():
    other_words = replace(
        GOOD,
        answer_text="Multiply the bags by the mangoes in each bag: 4 times 12 makes 48 in all.",
    )
    candidates = [
        GOOD,
        replace(GOOD, answer_text=GOOD.answer_text.upper()),
        other_words,
        replace(GOOD, prompt_id="p2"),
        CASES["empty"],
    ]
    reasons = judge_all(candidates, languages=["en"], grade=graded)
    assert reasons == [
        None,
        "duplicate: repeats answer 0 to the same prompt",
        None,
        None,
        "empty: no answer",
    ]


def test_filters_can_be_left_out():
    bare = replace(CASES["wrong_answer"], reference=None)
    assert judge(bare, languages=["en"]) is None


@pytest.mark.parametrize(
    "text",
    [
        "The plan is good. "
        + "We go to the market and buy mangoes for the family. " * 6
        + "Then we rest.",
        "他去市场买芒果，" * 30,
        "मैं बाज़ार जाता हूँ और आम खरीदता हूँ। " * 12,
        "wait, " * 60 + "the answer is 48",
        "Let me check the sum again and again. " * 5 + "Let me check the s",
        "ha" * 200,
    ],
)
def test_repetition_is_found_in_every_script_at_the_end_and_in_the_middle(text):
    assert (loop(text) or "").startswith("loop: ")


@pytest.mark.parametrize(
    "text",
    [
        "\n".join(f"7 x {i} = {7 * i}" for i in range(1, 30)),
        "1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30",
        "| name | goats |\n|------|-------|\n| Amina | 12 |\n| Juma | 7 |\n" + "-" * 120,
        "Very, very, very, very good!",
        "No. No. No.",
    ],
)
def test_tables_and_lists_are_no_loops(text):
    assert loop(text) is None


def test_the_reasoning_is_checked_for_loops_identity_and_language():
    assert reason_of(replace(GOOD, reasoning="等等，" * 200)) == "loop"
    assert (
        reason_of(replace(GOOD, reasoning="I am Qwen, so I shall count the mangoes first."))
        == "identity"
    )
    swahili = replace(
        GOOD,
        language="sw",
        answer_text="Ana mifuko minne yenye maembe kumi na mawili, kwa hiyo ana maembe 48.",
    )
    assert (
        reason_of(
            replace(
                swahili, reasoning="Four bags with twelve mangoes each are forty-eight mangoes."
            )
        )
        is None
    )
    assert (
        reason_of(replace(swahili, reasoning="四个袋子，每袋十二个芒果，一共四十八个。"))
        == "wrong_reasoning_language"
    )


REFUSALS = {
    "en": "I’m sorry, but I can’t assist with that request.",
    "zh": "抱歉，我无法回答这个问题。",
    "fr": "Je suis désolé, mais je ne peux pas vous aider avec cette demande.",
    "sw": "Samahani, siwezi kukusaidia na ombi hilo.",
    "id": "Maaf, saya tidak bisa membantu permintaan tersebut.",
    "hi": "क्षमा करें, मैं इस अनुरोध में आपकी सहायता नहीं कर सकता।",
    "es": "Lo siento, pero no puedo ayudarte con eso.",
    "pt": "Desculpe, mas não posso ajudar com isso.",
    "ar": "عذراً، لا يمكنني مساعدتك في هذا الطلب.",
    "de": "Es tut mir leid, aber dabei kann ich Ihnen nicht helfen.",
    "vi": "Xin lỗi, tôi không thể giúp bạn với yêu cầu này.",
    "bn": "দুঃখিত, আমি এই অনুরোধে সাহায্য করতে পারব না।",
    "th": "ขออภัย ฉันไม่สามารถช่วยเรื่องนี้ได้",
    "ta": "மன்னிக்கவும், என்னால் இந்தக் கோரிக்கைக்கு உதவ முடியாது.",
    "am": "ይቅርታ፣ በዚህ ጥያቄ ልረዳዎት አልችልም።",
    "ha": "Yi haƙuri, ba zan iya taimaka maka da wannan ba.",
    "yo": "Ẹ má bínú, mi ò lè ràn yín lọ́wọ́ pẹ̀lú ìbéèrè yìí.",
    "ru": "Извините, я не могу помочь с этим запросом.",
    "ja": "申し訳ありませんが、そのご質問にはお答えできません。",
    "ko": "죄송합니다. 그 요청은 도와드릴 수 없습니다.",
}


@pytest.mark.parametrize("language", REFUSALS)
def test_a_refusal_is_found_in_its_language(language):
    assert answer_filters.knows_refusals(language)
    assert (refusal(REFUSALS[language], language) or "").startswith("refusal: opens with")


def test_refusals_in_english_and_chinese_are_found_in_answers_in_any_language():
    assert refusal(REFUSALS["en"], "wo") and refusal(REFUSALS["zh"], "sw")
    assert refusal("As an AI language model, I cannot have opinions.", "sw")
    assert refusal("**I cannot provide** instructions for that.", "en")
    assert not answer_filters.knows_refusals("wo")


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("No, 7 is not an even number.", "en"),
        ("I'm sorry to hear that your goat is ill. Give it clean water.", "en"),
        ("I can't believe how fast it grew, wrote the farmer.", "en"),
        (
            "Unfortunately, when you copy a film its borders will most likely be cut and it won't look right.",
            "en",
        ),
        (
            "To stop the process, you cannot use this command; use kill instead. Sorry for the confusion.",
            "en",
        ),
        ("Samahani ni neno la kuomba radhi kwa Kiswahili.", "sw"),
        ("不能被 2 整除的数叫做奇数。", "zh"),
        ("Malheureusement, la récolte ne sera pas bonne cette année.", "fr"),
        ("Maaf adalah kata yang dipakai untuk meminta ampun.", "id"),
    ],
)
def test_answers_that_only_look_like_refusals_pass(text, language):
    assert refusal(text, language) is None


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
    assert (identity(text) or "").startswith("identity: ")


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
    assert identity(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "It is 48.<|im_end|>\n<|im_start|>user",
        "<｜end▁of▁sentence｜>It is 48.",
        "It is 48.</think>",
        "[INST] How many? [/INST] 48",
        "Kuna maembe 4\ufffd8.",
        "It is 4\ud8008.",
        "So the answer is \\boxed{\\frac{1}{2}.",
        "~~~\ncode\n```\n",
        "````md\n```\ncode\n```\n",
    ],
)
def test_what_is_broken_or_left_open_is_no_format_to_learn(text):
    assert (answer_filters.bad_format(text) or "").startswith("format: ")


@pytest.mark.parametrize(
    "text",
    [
        "First \\boxed{1, then \\boxed{2}.",
        "```python\nprint('```')\n```\nand ``inline`` and\n  ```\n  x\n  ```",
        "````md\n```\ncode\n```\n````",
        "In F#, [1; 2] |> List.map f <| x. I think </b> is HTML.",
        "~~strike~~ and a || b |",
    ],
)
def test_code_formulas_and_pipes_are_well_formed(text):
    assert answer_filters.bad_format(text) is None


def test_of_the_good_answers_to_a_prompt_the_shortest_stay():
    texts = ["a long answer", "short", "not so short", "short too"]
    candidates = [replace(GOOD, answer_text=t) for t in texts] + [
        replace(GOOD, prompt_id="p2", answer_text="alone, and as long as it is")
    ]
    reasons = [None, None, "loop: x", None, None]
    chosen = answer_filters.choose_shortest(candidates, reasons, 1)
    assert [r and r.partition(":")[0] for r in chosen] == [
        "not_shortest",
        None,
        "loop",
        "not_shortest",
        None,
    ]
    assert answer_filters.choose_shortest(candidates, reasons, None) == reasons
    thinks = [replace(candidates[1], reasoning="much to think of"), *candidates[1:]]
    assert answer_filters.choose_shortest(thinks, [None, None, None, None, None], 1)[0].startswith(
        "not_shortest"
    )


def test_the_pass_rate_is_the_share_that_was_verified_whatever_came_after():
    candidates = [replace(GOOD, prompt_id=p) for p in "aaaab"]
    rates = answer_filters.pass_rates(
        candidates, [None, "wrong_answer: x", "duplicate: y", "truncated: z", "loop: w"]
    )
    assert rates == {"a": 0.5, "b": 0}
    assert {r for r in answer_filters.VERIFIED if r} == set(
        answer_filters.REASONS[answer_filters.REASONS.index("wrong_answer") + 1 :]
    )


def prompts_of(*texts: str, language: str = "en", system: str | None = None) -> list[Prompt]:
    before = ({"role": "system", "content": system},) if system else ()
    return [Prompt((*before, {"role": "user", "content": text}), language) for text in texts]


def test_prompts_are_judged_before_they_cost_anything():
    prompts = [
        "How many goats?",
        " ",
        "how  many goats?",
        "bad \x07 bell",
        "x" * 60,
        EVAL_ITEM,
        "How\n\tthen?",
    ]
    reasons = judge_prompts(
        prompts_of(*prompts), eval_index=EvalIndex([EVAL_ITEM]), max_characters=120
    )
    assert [reason and reason.partition(":")[0] for reason in reasons] == [
        None,
        "empty_prompt",
        "duplicate_prompt",
        "broken_prompt",
        None,
        "contaminated",
        None,
    ]
    assert judge_prompts(prompts_of("x" * 60), max_characters=50) == [
        "prompt_too_long: 60 characters, at most 50"
    ]
    assert reasons[2] == "duplicate_prompt: same as prompt 0"
    assert all(reason is None or reason.partition(":")[0] in PROMPT_REASONS for reason in reasons)


def test_a_swahili_refusal_list_does_not_fire_on_an_ordinary_answer():
    answer = "Ana mifuko minne na kila mmoja una maembe kumi na mawili, kwa hiyo ana maembe 48."
    assert (
        judge(
            replace(GOOD, language="sw", answer_text=answer), languages=["en", "sw"], grade=graded
        )
        is None
    )


PASSAGE = " ".join(
    f"In the {name} the farmers of the valley {verb}, and the traders who came by boat {other} before they went home across the lake."
    for name, verb, other in [
        ("spring", "mended their nets", "sold them salt"),
        ("early summer", "planted beans", "bought the last maize"),
        ("late summer", "fed the goats", "rested for a week"),
        ("autumn", "dried the fish", "paid with cloth"),
        ("winter", "told long stories", "stayed away"),
        ("dry years", "walked to the river", "brought water in barrels"),
        ("wet years", "built walls of stone", "could not land"),
        ("old days", "had no boats at all", "came on foot"),
        ("last century", "began to count the fish", "kept books"),
        ("present", "send their children to school", "carry the teachers"),
    ]
)
ABOUT_IT = [
    "What did the farmers do in spring?",
    "Why could the traders not land in wet years?",
    "Who carries the teachers across the lake?",
    "What did the traders sell in spring?",
]


def names(reasons: list[str | None]) -> list[str | None]:
    return [reason and reason.partition(":")[0] for reason in reasons]


@pytest.mark.parametrize(
    "form",
    [
        "{passage}\n\n{question}",
        "{question} {passage}",
        "Text: {passage} Question: {question} Answer:",
    ],
)
def test_questions_about_one_passage_are_not_duplicates_of_each_other(form):
    asked = prompts_of(*(form.format(passage=PASSAGE, question=question) for question in ABOUT_IT))
    assert judge_prompts(asked, near_duplicate=0.9) == [None] * 4
    assert judge_prompts(asked, near_duplicate=0.7) == [None] * 4


def test_prompts_that_say_the_same_are_still_duplicates_with_a_long_context():
    first = f"{PASSAGE} {ABOUT_IT[0]}"
    again = [
        first.replace("spring?", "Spring ?\n"),
        first.replace("mended", "mennded"),
        first.replace("farmers do", "farmres do"),
        first.replace("barrels", "barels").replace("teachers", "techers"),
        first.replace("across the lake", "acros the lake", 1),
    ]
    asked = prompts_of(first, *again, language="en")
    assert names(judge_prompts(asked, near_duplicate=0.9)) == [
        None,
        *["near_duplicate_prompt"] * len(again),
    ]
    stayed = "who came by boat and stayed for the night and slept under the trees of the shore " * 3
    ends = [f"The traders {stayed} sold {what}." for what in ("salt", "rice")] + [
        "They sold salt.",
        "They sold rice.",
    ]
    asked = prompts_of(*(f"{PASSAGE} {end}" for end in ends))
    assert names(judge_prompts(asked, near_duplicate=0.9)) == [
        None,
        "near_duplicate_prompt",
        None,
        None,
    ]


def test_a_shared_system_message_makes_no_duplicates_and_another_one_another_prompt():
    asked = prompts_of(*ABOUT_IT, system=PASSAGE)
    assert judge_prompts(asked, near_duplicate=0.7) == [None] * 4
    other = prompts_of(ABOUT_IT[0] + " " + PASSAGE, system="Answer a child.") + prompts_of(
        ABOUT_IT[0] + " " + PASSAGE
    )
    assert judge_prompts(other, near_duplicate=0.7) == [None, None]


def test_many_prompts_of_one_form_are_compared_by_what_is_theirs():
    """A sentence that many have is not compared, but numbers in it count."""
    towns = [
        "Kisumu",
        "Arusha",
        "Kitale",
        "Mwanza",
        "Lindi",
        "Moshi",
        "Tanga",
        "Nakuru",
        "Eldoret",
        "Iringa",
        "Mbeya",
        "Songea",
    ]
    texts = [f"{PASSAGE} Which of them came from {town}?" for town in towns]
    found = judge_prompts(
        prompts_of(
            *texts,
            texts[3].replace("Which", "which"),
            texts[3] + " Choose 1.",
            texts[3] + " Choose 2.",
        ),
        near_duplicate=0.9,
    )
    assert names(found) == [None] * 12 + ["duplicate_prompt", None, None]


def test_the_language_of_a_prompt_is_that_of_its_user():
    question = "Mkulima ana mbuzi ishirini na wanne, anauza saba sokoni. Ana mbuzi wangapi sasa?"
    (asked,) = prompts_of(
        question,
        language="sw",
        system="You are a helpful assistant of farmers. Answer in short sentences. " * 3,
    )
    assert judge_prompts([asked], languages=["sw"]) == [None]
    (asked,) = prompts_of(
        "How many goats does the farmer have now?", language="sw", system=question
    )
    assert names(judge_prompts([asked], languages=["sw"])) == ["wrong_prompt_language"]
