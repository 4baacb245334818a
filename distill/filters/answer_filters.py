"""What is not worth learning: each filter is a pure function that returns None or why the answer is dropped.

They run from cheap to dear, in the order of REASONS, and the first reason counts. A reason is `name: detail`; the name
is stable and is what gets counted. Filters read the decoded text only, so a retuned filter costs no teacher call.
"""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distill.data.translation import wrong_translation
from distill.filters.contamination import EvalIndex
from distill.filters.dedup import near_duplicates
from distill.filters.identity import identity
from distill.text.language import base_code, wrong_language, wrong_reasoning_language
from distill.text.words import APOSTROPHES, folded, is_unspaced, ngrams, words

REASONS = (
    "truncated",
    "empty",
    "too_short",
    "too_long",
    "long_reasoning",
    "loop",
    "wrong_language",
    "wrong_reasoning_language",
    "refusal",
    "no_refusal",
    "identity",
    "format",
    "wrong_answer",
    "contaminated",
    "duplicate",
    "judge",
    "not_shortest",
)
VERIFIED = (
    None,
    "contaminated",
    "duplicate",
    "judge",
    "not_shortest",
)  # what an answer may be that passed the verifier
LONG_SHARE, LONG_ENOUGH = 0.2, 200_000  # of samples with long reasoning

Grade = Callable[[str, dict[str, Any]], bool]


@dataclass(frozen=True)
class Candidate:
    """An answer to be judged, with what is needed to judge it."""

    prompt: str
    prompt_id: str
    answer_text: str
    reasoning: str | None
    finish_reason: str
    language: str
    reference: str | None = None
    is_translation: bool = False
    num_reasoning_tokens: int = 0
    verify: bool = True
    refusals: str = "drop"

    @property
    def row(self) -> dict[str, Any]:
        """What a task's `grade(answer, row)` may look at."""
        return {"prompt": self.prompt, "language": self.language, "reference": self.reference}


def judge(
    candidate: Candidate,
    *,
    languages: Sequence[str],
    grade: Grade | None = None,
    eval_index: EvalIndex | None = None,
    min_characters: int = 1,
    max_characters: int = 20_000,
    max_reasoning_tokens: int | None = None,
) -> str | None:
    """The first reason to drop the answer, or None. Duplicates need the other answers: see judge_all."""
    c = candidate
    return (
        truncated(c.finish_reason)
        or bad_length(c.answer_text, min_characters, max_characters)
        or long_reasoning(c.num_reasoning_tokens, max_reasoning_tokens)
        or _in_either(loop, c)
        or _named("wrong_language", wrong_language(c.answer_text, c.language, languages, c.prompt))
        or _named(
            "wrong_reasoning_language",
            wrong_reasoning_language(c.reasoning or "", c.language, languages, c.prompt),
        )
        or wrong_refusal(c)
        or _in_either(identity, c)
        or bad_format(c.answer_text)
        or wrong_answer(c, grade)
        or (
            _named("contaminated", eval_index.hit(c.answer_text))
            if eval_index is not None
            else None
        )
    )


def judge_all(
    candidates: Sequence[Candidate],
    *,
    languages: Sequence[str],
    grade: Grade | None = None,
    eval_index: EvalIndex | None = None,
    min_characters: int = 1,
    max_characters: int = 20_000,
    near_duplicate: float = 0.9,
    max_reasoning_tokens: int | None = None,
) -> list[str | None]:
    """For each answer the first reason to drop it, or None; of answers to one prompt that repeat each other (Jaccard
    similarity from `near_duplicate` on) the first stays."""
    reasons = [
        judge(
            c,
            languages=languages,
            grade=grade,
            eval_index=eval_index,
            min_characters=min_characters,
            max_characters=max_characters,
            max_reasoning_tokens=max_reasoning_tokens,
        )
        for c in candidates
    ]
    num_answers = Counter(
        c.prompt_id for c, reason in zip(candidates, reasons, strict=True) if reason is None
    )
    passed = [
        i for i, c in enumerate(candidates) if reasons[i] is None and num_answers[c.prompt_id] > 1
    ]
    texts = [candidates[i].answer_text for i in passed]
    repeats = near_duplicates(texts, near_duplicate, [candidates[i].prompt_id for i in passed])
    for place, original in enumerate(repeats):
        if original is not None:
            reasons[passed[place]] = (
                f"duplicate: repeats answer {passed[original]} to the same prompt"
            )
    return reasons


def choose_shortest(
    candidates: Sequence[Candidate], reasons: Sequence[str | None], most: int | None
) -> list[str | None]:
    """`reasons`; of the answers to one prompt that have none all but the `most` shortest, with their reasoning, get one."""
    found = list(reasons)
    taken: Counter[str] = Counter()
    for i in sorted(
        range(len(found)),
        key=lambda i: len(candidates[i].answer_text) + len(candidates[i].reasoning or ""),
    ):
        if most is not None and found[i] is None:
            taken[candidates[i].prompt_id] += 1
            if taken[candidates[i].prompt_id] > most:
                found[i] = f"not_shortest: {most} good answers to the prompt are shorter"
    return found


def pass_rates(candidates: Sequence[Candidate], reasons: Sequence[str | None]) -> dict[str, float]:
    """Share of the answers to each prompt that passed the verifier, and what comes before it."""
    draws = Counter(c.prompt_id for c in candidates if c.verify)
    passed = Counter(
        c.prompt_id
        for c, why in zip(candidates, reasons, strict=True)
        if (why and why.partition(":")[0]) in VERIFIED
    )
    return {prompt_id: round(passed[prompt_id] / num, 4) for prompt_id, num in draws.items()}


def long_reasoning_warning(num_long: int, num_kept: int, max_reasoning_tokens: int) -> str | None:
    """Small students (up to 3B) lose what they knew to long reasoning: of 8,000 such rows up to 75 % of the score (Through the
    Valley, arXiv 2506.07712). A fifth of the rows is borne (Mix-Long, arXiv 2502.12143), or 200,000 of them.

    A warning, no error: once the answers are paid for, another `reasoning` sorts them anew for nothing. `probe` and `--estimate` say
    it before (long_reasoning_ahead).
    """
    if num_long <= LONG_SHARE * num_kept or num_long >= LONG_ENOUGH:
        return None
    return (
        f"{num_long:,} of {num_kept:,} samples have more than {max_reasoning_tokens:,} tokens of reasoning; a student of up to 3B "
        f"parameters bears {LONG_SHARE:.0%}, or {LONG_ENOUGH:,} and more: set generate.reasoning to short or drop"
    )


def long_reasoning_ahead(
    candidates: Sequence[Candidate],
    reasons: Sequence[str | None],
    num_wanted: int,
    max_reasoning_tokens: int,
) -> str | None:
    """The same warning of `num_wanted` answers that will be like these, or None."""
    kept = [c for c, reason in zip(candidates, reasons, strict=True) if reason is None]
    num_long = sum(c.num_reasoning_tokens > max_reasoning_tokens for c in kept)
    if num_long * num_wanted >= LONG_ENOUGH * len(candidates):
        return None
    warning = long_reasoning_warning(num_long, len(kept), max_reasoning_tokens)
    return warning and f"too much long reasoning, if all are like these: {warning}"


def _named(name: str, detail: str | None) -> str | None:
    return None if detail is None else f"{name}: {detail}"


def _in_either(check: Callable[[str], str | None], candidate: Candidate) -> str | None:
    """The student learns the reasoning too, so that is checked after the answer."""
    reason = check(candidate.answer_text)
    if reason is None and candidate.reasoning and (found := check(candidate.reasoning)):
        reason = f"{found} (in the reasoning)"
    return reason


def truncated(finish_reason: str) -> str | None:
    if finish_reason == "error":
        return "error: the server refused this request"
    return None if finish_reason == "stop" else f"truncated: the answer ended by {finish_reason}"


def bad_length(text: str, min_characters: int, max_characters: int) -> str | None:
    """Characters, not words: a Chinese answer is one word long."""
    length = len(text.strip())
    if not length:
        return "empty: no answer"
    if length < min_characters:
        return f"too_short: {length} characters, at least {min_characters}"
    if length > max_characters:
        return f"too_long: {length} characters, at most {max_characters}"
    return None


def long_reasoning(num_tokens: int, most: int | None) -> str | None:
    return (
        None
        if most is None or num_tokens <= most
        else f"long_reasoning: {num_tokens} tokens, at most {most}"
    )


# Ten real sentences in a row (SIB-200, 15 languages) compress to 50 % or more, and repeat next to no n-gram.
_MIN_ZLIB_RATIO, _ZLIB_CHARACTERS = 0.2, 400
_MAX_REPEATED, _REPEATED_UNITS = 0.4, 60
_TAIL_PROBE, _TAIL_LENGTH, _TAIL_PERIODS = 24, 100, 4


def loop(text: str) -> str | None:
    """Endless repetition: the end repeats itself, the text compresses too well, or most of its n-grams came before.

    n is 6 words, or 16 characters where a script has no spaces. Compression is taken on code points modulo 256: UTF-8
    spends three bytes on a Hindi letter, two of them always the same, and one threshold would not fit all scripts.
    """
    if reason := _loop_at_end(text):
        return reason
    if len(text) >= _ZLIB_CHARACTERS:
        low_bytes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint8)[
            ::4
        ].tobytes()
        ratio = len(zlib.compress(low_bytes, 1)) / len(low_bytes)
        if ratio < _MIN_ZLIB_RATIO:
            return f"loop: compresses to {100 * ratio:.0f} %"
    units = words(text)
    if len(units) >= _REPEATED_UNITS:
        grams = ngrams(units, 16 if is_unspaced(units) else 6)
        repeated = 1 - len(set(grams)) / len(grams)
        if repeated > _MAX_REPEATED:
            return f"loop: {100 * repeated:.0f} % of its n-grams came before"
    return None


def _loop_at_end(text: str) -> str | None:
    text = text.rstrip()
    probe = text[-_TAIL_PROBE:]
    before = text.rfind(probe, 0, len(text) - 1) if len(text) > _TAIL_LENGTH else -1
    if before < 0:
        return None
    period = len(text) - _TAIL_PROBE - before
    span = max(period * _TAIL_PERIODS, _TAIL_LENGTH)
    tail = text[-span:]
    if (
        len(text) < span
        or tail[period:] != tail[:-period]
        or not any(c.isalnum() for c in tail[:period])
    ):
        return None  # a rule of dashes is no loop
    return f"loop: ends with {tail[-period:][:60]!r} {span // period} times or more"


# (an apology that opens the answer, "cannot" after it, a refusal without apology). Casefolded NFKC, straight apostrophes.
_REFUSALS: dict[str, tuple[str, str, str]] = {
    "en": (
        r"(i'?m |i am )?(so |very |really )?sorry|i apologi[sz]e|my apologies|(unfortunately|i'?m afraid|i am afraid),? (that )?i\b",
        r"\b(can't|cannot|can not|unable to|not able to|won't|not allowed|must decline|not comfortable)\b",
        r"i (can't|cannot|can not|won't|will not|am unable to|'m unable to|am not able to|must decline to|must refuse to)"
        r" (help|assist|provide|answer|discuss|comply|fulfil|fulfill|support|engage|create|generate|write|give|do that|"
        r"participate|respond|share|offer|continue)|i'?m (unable|not able) to (help|assist|provide|answer|discuss|comply)|"
        r"as an? (ai|artificial intelligence|language model|large language model|responsible)\b[^.]{0,80}"
        r"(can't|cannot|don't|do not|unable|not able|won't)",
    ),
    "zh": (
        r"(非常|很|十分|真的)?(抱歉|对不起|對不起|不好意思)",
        r"(无法|無法|不能|不可以|没办法|沒辦法|不便|不会)",
        r"我(无法|無法|不能|不便)(提供|回答|协助|協助|帮助|幫助|满足|讨论|討論|生成|继续|參與|参与|为您|给出)|"
        r"作为(一个|一名)?(ai|人工智能|语言模型|大语言模型|大型语言模型)[^。]{0,30}(无法|不能|不会|没有)|"
        r"(我们|咱们)?(换个|聊点)(别的)?(话题|其他)|让我们换个话题|这个问题我(暂时)?(无法|不能)回答|根据相关法律法规",
    ),
    "fr": (
        r"(je suis |je suis vraiment )?désolée?|pardon|je m'excuse|je regrette|malheureusement,? je",
        r"ne (peux|puis|pourrai|suis) pas|impossible|pas en mesure",
        r"je ne (peux|puis|suis) pas (en mesure |capable )?(de |d'|vous |t')?(aider|fournir|répondre|donner|discuter|créer|"
        r"assister|satisfaire)|en tant qu'(ia|intelligence artificielle|modèle de langage)[^.]{0,80}ne (peux|puis|suis)",
    ),
    "es": (
        r"lo siento|lo lamento|perdón|disculpa",
        r"no (puedo|podré|podemos|me es posible|estoy en condiciones)",
        r"no puedo (ayudar|proporcionar|responder|brindar|ofrecer|asistir|cumplir|hablar|crear|generar)|"
        r"como (una )?(ia|inteligencia artificial|modelo de lenguaje)[^.]{0,80}no (puedo|tengo)",
    ),
    "pt": (
        r"(sinto muito|lamento|desculp[ae]|peço desculpas?)",
        r"não (posso|consigo|poderei|estou autorizado)",
        r"(eu )?não (posso|consigo) (ajudar|fornecer|responder|oferecer|auxiliar|discutir|criar|gerar|atender)|"
        r"como (uma )?(ia|inteligência artificial|modelo de linguagem)[^.]{0,80}não (posso|tenho)",
    ),
    "de": (
        r"(es tut mir|tut mir) (sehr )?leid|entschuldigung|leider kann ich",
        r"(kann|darf|möchte)[^.]{0,60}nicht|nicht in der lage",
        r"ich kann (ihnen |dir )?(dabei |damit |diese anfrage )?(leider )?nicht (helfen|beantworten|weiterhelfen|bereitstellen)",
    ),
    "sw": (
        r"samahani|pole sana|naomba radhi|ninaomba radhi|kwa bahati mbaya,? (mimi )?(?=si)",
        r"\b(siwezi|sitaweza|siruhusiwi|haiwezekani|sina uwezo)\b",
        r"(mimi )?siwezi (kusaidia|kukusaidia|kutoa|kujibu|kuzungumzia|kujadili|kufanya hivyo|kutimiza)|"
        r"kama (ai|akili bandia|modeli ya lugha)[^.]{0,80}(siwezi|sina)",
    ),
    "ha": (
        r"(yi|ku yi|ka yi) ha[kƙ]uri|ina ba da ha[kƙ]uri|na yi nadama|gafara",
        r"ba (zan iya|na iya|ni da ikon|zai yiwu)",
        r"ba (zan|na) iya (taimaka|ba da|bayar da|amsa|yin|tattauna)",
    ),
    "yo": (
        r"(ẹ |e )?(má|ma) (bínú|binu)|(mo |ẹ )?(tọrọ|toro) (àforíjì|aforiji|gáfárà|gafara)|(ó |o )?(bani|ba mi) nínú jẹ́",
        r"(mi ò|mi kò|mi o|n kò|èmi kò|emi ko) (lè|le)",
        r"(mi ò|mi kò|èmi kò|emi ko|mi o) (lè|le) (ràn|ran|pèsè|pese|dáhùn|dahun|fún|fun|ṣe)",
    ),
    "id": (
        r"(mohon )?maaf|saya (mohon |minta )maaf|sayangnya,? saya",
        r"(tidak|tak|belum) (bisa|dapat|mampu|boleh|diizinkan)",
        r"saya (tidak|tak) (bisa|dapat) (membantu|memberikan|menjawab|menyediakan|membahas|memenuhi|membuat)|"
        r"sebagai (sebuah )?(ai|kecerdasan buatan|model bahasa)[^.]{0,80}(tidak|tak) (bisa|dapat|memiliki)",
    ),
    "vi": (
        r"(tôi |mình )?(rất |thành thật )?(xin lỗi|lấy làm tiếc)|rất tiếc,? tôi",
        r"không thể|không được phép|không có khả năng",
        r"tôi không thể (giúp|cung cấp|trả lời|hỗ trợ|thảo luận|tạo|đáp ứng|thực hiện)|"
        r"là (một )?(ai|trí tuệ nhân tạo|mô hình ngôn ngữ)[^.]{0,80}không (thể|có)",
    ),
    "hi": (
        r"(मुझे )?(खेद|अफ़?सोस)|क्षमा (करें|कीजिए|चाहता|चाहती)|माफ़? ?(करें|कीजिए|कीजिएगा)|माफ़ी",
        r"नहीं (कर|दे|बता|पा)?\s?(सकता|सकती|सकते|पाऊंगा|पाऊँगा|पाऊंगी)|असमर्थ",
        r"मैं (इस|इसमें|आपकी|इसका|ऐसी|ऐसा|यह)[^।]{0,60}(नहीं (कर|दे|बता)?\s?(सकता|सकती)|असमर्थ)",
    ),
    "bn": (
        r"(আমি )?(আন্তরিকভাবে )?(দুঃখিত|ক্ষমাপ্রার্থী)|ক্ষমা করবেন|মাফ করবেন",
        r"(পারি|পারব|পারবো|পারছি|সম্ভব) না|পারি না|অক্ষম|সম্ভব নয়",
        r"আমি (এই|এ ধরনের|এটি|এতে|আপনাকে)[^।]{0,60}(পারি|পারব|পারবো|পারছি) না",
    ),
    "ur": (
        r"معذرت|معاف|مجھے افسوس",
        r"نہیں (کر|دے|بتا)? ?(سکتا|سکتی)|قاصر",
        r"میں (اس|یہ|آپ)[^۔]{0,60}نہیں (کر|دے|بتا) ?(سکتا|سکتی)",
    ),
    "ar": (
        r"(أنا )?(آسف|اسف|آسفة|متأسف)|عذر[اًا]+|أعتذر|اعتذر|المعذرة|نأسف",
        r"لا (يمكنني|أستطيع|استطيع|أقدر|يمكن)|لن (أتمكن|أستطيع)|غير قادر",
        r"لا (يمكنني|أستطيع|استطيع) (مساعدت|تقديم|الإجابة|المساعدة|توفير|مناقشة|إنشاء|تلبية|القيام)|"
        r"(بصفتي|كوني|باعتباري) (نموذج|ذكاء|مساعد)[^.]{0,80}(لا|لن|ليس)",
    ),
    "am": (
        r"ይቅርታ|አዝናለሁ",
        r"(አልችልም|አልችልም።|አይቻልም|አይፈቀድልኝም|አልተፈቀደልኝም)",
        r"(ልረዳዎት|ልረዳህ|ልረዳሽ|ልመልስ|መስጠት|መርዳት|መመለስ) አልችልም",
    ),
    "ta": (
        r"மன்னிக்கவும்|மன்னியுங்கள்|வருந்துகிறேன்",
        r"(முடியாது|இயலாது|முடியவில்லை|இயலவில்லை)",
        r"என்னால்[^.]{0,80}(உதவ|வழங்க|பதிலளிக்க) ?(முடியாது|இயலாது)",
    ),
    "th": (
        r"(ผม|ฉัน|ดิฉัน)?(ต้อง)?(ขออภัย|ขอโทษ|เสียใจ)",
        r"ไม่(สามารถ|ได้รับอนุญาต|อาจ)|ทำไม่ได้",
        r"(ผม|ฉัน|ดิฉัน)ไม่สามารถ(ช่วย|ให้|ตอบ|สร้าง|ดำเนินการ)",
    ),
    "my": (
        r"(ဝမ်းနည်း|တောင်းပန်|ခွင့်လွှတ်|စိတ်မကောင်း)",
        r"မ(ပေး|ကူညီ|ဖြေ|လုပ်)[^။]{0,20}နိုင်|မရနိုင်|မနိုင်ပါ",
        r"(ကျွန်ုပ်|ကျွန်တော်|ကျွန်မ)[^။]{0,60}(မကူညီနိုင်|မဖြေနိုင်|မပေးနိုင်)",
    ),
    "ru": (
        r"(мне )?(очень )?(жаль|извините|простите|прошу прощения)|к сожалению,? я",
        r"не (могу|смогу|в состоянии|имею права)",
        r"я не (могу|смогу) (помочь|предоставить|ответить|обсуждать|выполнить|создать)",
    ),
    "ja": (
        r"(大変)?(申し訳|すみません|ごめんなさい|恐れ入りますが)",
        r"(できません|できかねます|お答えできない|いたしかねます)",
        r"(その|この)(ご)?(質問|要望|依頼|リクエスト)には?(お答え|お応え|対応)(できません|できかねます|いたしかねます)",
    ),
    "ko": (
        r"(정말 )?(죄송|미안|유감)",
        r"(할 수 없|드릴 수 없|수 없습니다|불가능)",
        r"(도와드릴|답변드릴|제공할|답변할) 수 없",
    ),
}
_OPENING = 200  # characters in which a refusal shows


def _compile_refusal(sorry: str, cannot: str, flat: str) -> re.Pattern[str]:
    # "Sorry, to get there you cannot ..." may be an answer, so the apology alone does not count
    return re.compile(rf"(?:(?:{sorry})(?s:.{{0,140}}?)(?:{cannot})|(?:{flat}))")


_REFUSAL_PATTERNS = {language: _compile_refusal(*parts) for language, parts in _REFUSALS.items()}


def knows_refusals(language: str) -> bool:
    """Whether there is a phrase list; for the other languages only English and Chinese refusals are found."""
    return base_code(language) in _REFUSALS


def refusal(text: str, language: str) -> str | None:
    """Whether the answer opens with a refusal in its language, in English or in Chinese.

    By phrases, as in XSTest (Röttger et al. 2024), but stricter: "No," and a bare apology are not refusals. A refusal
    that opens with a lecture is missed.
    """
    opening = folded(text)[:_OPENING].translate(APOSTROPHES).lstrip(" \n\t*_#>\"'“”«-—")
    for code in dict.fromkeys((base_code(language), "en", "zh")):
        pattern = _REFUSAL_PATTERNS.get(code)
        if pattern is not None and (found := pattern.match(opening)):
            return f"refusal: opens with {found[0][:60]!r}"
    return None


def wrong_refusal(c: Candidate) -> str | None:
    """A refusal where an answer is wanted, or an answer where the source of the prompt requires a refusal."""
    found = None if c.refusals == "keep" else refusal(c.answer_text, c.language)
    if c.refusals != "require":
        return found
    return None if found else f"no_refusal: opens with {c.answer_text.strip()[:60]!r}"


# marks of chat templates, written out as text; what a broken decoder leaves
_MARKS = re.compile(r"<[|｜][\w▁]{2,40}[|｜]>|</?think>|\[/?INST\]|<(?:start|end)_of_turn>")
_BROKEN = re.compile(r"[\ufffd\ud800-\udfff]")
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})(.*)$", re.MULTILINE)


def bad_format(text: str) -> str | None:
    """Whether a template's marks or broken characters are left in it, or a block of code or a \\boxed{} is never closed."""
    if found := _BROKEN.search(text) or (
        _MARKS.search(text) if "<" in text or "INST" in text else None
    ):
        return f"format: {found[0]!r} is left in it"
    fence = ""
    for line in _FENCE.finditer(text) if "```" in text or "~~~" in text else ():
        if not fence:
            fence = line[1]
        elif line[1].startswith(fence) and not line[2].strip():
            fence = ""
    if fence:
        return f"format: a block that {fence} opens is not closed"
    boxed = text.rfind("\\boxed{")
    if boxed >= 0 and text.count("{", boxed) > text.count("}", boxed):
        return f"format: not closed: {text[boxed : boxed + 40]!r}"
    return None


def wrong_answer(candidate: Candidate, grade: Grade | None) -> str | None:
    """What the task's verifier says; of a translation, what chrF says. None where there is nothing to go by."""
    c = candidate
    if c.is_translation:
        return _named("wrong_answer", wrong_translation(c.answer_text, c.reference or ""))
    if grade is None or not c.verify or grade(c.answer_text, c.row):
        return None
    return f"wrong_answer: not {c.reference!r}: {c.answer_text.strip()[-60:]!r}"
