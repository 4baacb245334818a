"""Shop and market problems in five languages, with short step-by-step answers: the quickstart's work.

`examples` makes problems, `grade` checks an answer by its final line, `answer` writes a right answer in one of many
wordings: the quickstart's teacher is trained on those, so that its distribution has something to teach.

The wording in Chinese, Swahili, Indonesian and Hindi has not been reviewed by native speakers.
"""

import random
from dataclasses import dataclass
from typing import Any

from distill.rows import digest
from distill.tasks.final_number import numbers

VERSION = 1
LANGUAGES = ("en", "zh", "sw", "id", "hi")
KINDS = ("total", "change", "profit", "stock", "share")


@dataclass(frozen=True)
class Wording:
    """What one language needs. Prompts and steps are format strings; lists are alternatives."""

    names: list[str]
    goods: list[str]
    prompts: dict[str, list[str]]
    operations: dict[str, str]  # in words
    openings: list[str]
    first: list[str]
    then: list[str]
    stop: str
    final: str
    capital: bool = True


WORDING = {
    "en": Wording(
        names=["Ama", "Kofi", "Esi", "Yaw"],
        goods=["mangoes", "pens", "eggs", "yams", "cups", "fish"],
        prompts={
            "total": [
                "{n} buys {a} {g} at {p} cedis each and {b} {h} at {q} cedis each. How much does {n} pay?",
                "{g} cost {p} cedis each and {h} cost {q}. What do {a} {g} and {b} {h} cost?",
            ],
            "change": [
                "{n} buys {a} {g} at {p} cedis each and pays with {m} cedis. How much change does {n} get?",
                "{a} {g} at {p} cedis each are paid with {m} cedis. What is the change?",
            ],
            "profit": [
                "{n} buys {a} {g} at {p} cedis each and sells each for {q}. What is the profit?",
                "{n} sells {a} {g} for {q} cedis each. Each cost {p}. What does {n} gain?",
            ],
            "stock": [
                "{n} has {m} {g}, sells {a} and gets {b} more. How many are left?",
                "There are {m} {g} in the shop. {a} are sold and {b} come in. How many are there now?",
            ],
            "share": [
                "{a} friends share {m} cedis equally. How much does each get?",
                "{n} puts {m} {g} into {a} bags, equally. How many are in each?",
            ],
        },
        operations={"×": "times", "+": "plus", "-": "minus", "÷": "divided by", "=": "is"},
        openings=["Let us count. ", "Step by step. "],
        first=["", "First, ", "We get "],
        then=["", "Then ", "Next, "],
        stop=". ",
        final="Answer: ",
    ),
    "zh": Wording(
        names=["小明", "王芳", "李华", "张丽"],
        goods=["苹果", "鸡蛋", "铅笔", "杯子", "土豆", "橘子"],
        prompts={
            "total": [
                "{n}买了{a}个{g}，每个{p}元，又买了{b}个{h}，每个{q}元。{n}一共付多少元？",
                "{g}每个{p}元，{h}每个{q}元。{a}个{g}和{b}个{h}一共多少元？",
            ],
            "change": [
                "{n}买了{a}个{g}，每个{p}元，付了{m}元。应找回多少元？",
                "{a}个{g}每个{p}元，付{m}元，找回多少元？",
            ],
            "profit": [
                "{n}买进{a}个{g}，每个{p}元，卖出每个{q}元。赚了多少元？",
                "{n}卖出{a}个{g}，每个{q}元，进价每个{p}元。利润是多少元？",
            ],
            "stock": [
                "{n}有{m}个{g}，卖了{a}个，又进了{b}个。还有多少个？",
                "店里有{m}个{g}，卖出{a}个，进货{b}个。现在有多少个？",
            ],
            "share": ["{a}个朋友平分{m}元，每人得多少元？", "{n}把{m}个{g}平均装进{a}个袋子，每袋多少个？"],
        },
        operations={"×": "乘", "+": "加", "-": "减", "÷": "除以", "=": "等于"},
        openings=["我们来算一下。", "一步一步算。"],
        first=["", "首先，", "先算"],
        then=["", "然后", "再算"],
        stop="。",
        final="答案：",
        capital=False,
    ),
    "sw": Wording(
        names=["Amina", "Juma", "Neema", "Baraka"],
        goods=["maembe", "mayai", "kalamu", "vikombe", "samaki", "mikate"],
        prompts={
            "total": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na {h} {b} kwa shilingi {q} kila moja. {n} analipa kiasi gani?",
                "{g} ni shilingi {p} kila moja na {h} ni {q}. {g} {a} na {h} {b} ni shilingi ngapi?",
            ],
            "change": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na kulipa shilingi {m}. Anarudishiwa kiasi gani?",
                "{g} {a} kwa shilingi {p} kila moja, malipo ni shilingi {m}. Chenji ni kiasi gani?",
            ],
            "profit": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na kuuza kila moja kwa {q}. Faida ni kiasi gani?",
                "{n} anauza {g} {a} kwa shilingi {q} kila moja. Kila moja ilinunuliwa kwa {p}. Faida ni nini?",
            ],
            "stock": [
                "{n} ana {g} {m}, anauza {a} na kupata {b} zaidi. Zimebaki ngapi?",
                "Dukani kuna {g} {m}. Zinauzwa {a} na zinaletwa {b}. Sasa ziko ngapi?",
            ],
            "share": [
                "Marafiki {a} wanagawana shilingi {m} sawa. Kila mmoja anapata ngapi?",
                "{n} anaweka {g} {m} katika mifuko {a} sawasawa. Kila mfuko una ngapi?",
            ],
        },
        operations={"×": "mara", "+": "jumlisha", "-": "toa", "÷": "gawanya kwa", "=": "ni"},
        openings=["Tuhesabu. ", "Hatua kwa hatua. "],
        first=["", "Kwanza, ", "Tunapata "],
        then=["", "Kisha ", "Halafu "],
        stop=". ",
        final="Jibu: ",
    ),
    "id": Wording(
        names=["Budi", "Siti", "Dewi", "Agus"],
        goods=["mangga", "telur", "pensil", "gelas", "ikan", "roti"],
        prompts={
            "total": [
                "{n} membeli {a} {g} seharga {p} ribu per buah dan {b} {h} seharga {q} ribu per buah. Berapa ribu yang dibayar {n}?",
                "Harga {g} {p} ribu dan harga {h} {q} ribu per buah. Berapa ribu harga {a} {g} dan {b} {h}?",
            ],
            "change": [
                "{n} membeli {a} {g} seharga {p} ribu per buah dan membayar {m} ribu. Berapa ribu kembaliannya?",
                "{a} {g} seharga {p} ribu per buah dibayar dengan {m} ribu. Berapa kembaliannya?",
            ],
            "profit": [
                "{n} membeli {a} {g} seharga {p} ribu per buah dan menjual tiap buah {q} ribu. Berapa ribu untungnya?",
                "{n} menjual {a} {g} seharga {q} ribu per buah. Modal tiap buah {p} ribu. Berapa untungnya?",
            ],
            "stock": [
                "{n} punya {m} {g}, menjual {a} dan mendapat {b} lagi. Berapa sisanya?",
                "Di toko ada {m} {g}. Terjual {a} dan datang {b}. Berapa jumlahnya sekarang?",
            ],
            "share": [
                "{a} teman membagi {m} ribu sama rata. Berapa ribu untuk tiap orang?",
                "{n} memasukkan {m} {g} ke dalam {a} tas sama banyak. Berapa isi tiap tas?",
            ],
        },
        operations={"×": "kali", "+": "tambah", "-": "kurang", "÷": "bagi", "=": "adalah"},
        openings=["Mari kita hitung. ", "Langkah demi langkah. "],
        first=["", "Pertama, ", "Kita dapat "],
        then=["", "Lalu ", "Kemudian "],
        stop=". ",
        final="Jawaban: ",
    ),
    "hi": Wording(
        names=["आशा", "रवि", "मीना", "मोहन"],
        goods=["आम", "अंडे", "कलम", "कप", "सेब", "केले"],
        prompts={
            "total": [
                "{n} ने {p} रुपये वाले {a} {g} और {q} रुपये वाले {b} {h} लिए। कुल कितने रुपये देने होंगे?",
                "एक {g} का दाम {p} रुपये और एक {h} का {q} रुपये है। {a} {g} और {b} {h} का दाम कितना होगा?",
            ],
            "change": [
                "{n} ने {p} रुपये वाले {a} {g} लिए और {m} रुपये दिए। कितने रुपये वापस मिलेंगे?",
                "{p} रुपये वाले {a} {g} के लिए {m} रुपये दिए। कितने रुपये वापस मिलेंगे?",
            ],
            "profit": [
                "{n} ने {p} रुपये वाले {a} {g} लिए और हर एक {q} रुपये में बेचा। लाभ कितना हुआ?",
                "{n} ने {a} {g} हर एक {q} रुपये में बेचे। हर एक का दाम {p} रुपये था। लाभ कितना हुआ?",
            ],
            "stock": [
                "{n} के पास {m} {g} थे। {a} बेचे और {b} और आए। अब कितने हैं?",
                "दुकान में {m} {g} थे। {a} बिके और {b} आए। अब कितने हैं?",
            ],
            "share": [
                "{a} दोस्तों में {m} रुपये बराबर बाँटे। हर एक को कितने मिले?",
                "{n} ने {m} {g} को {a} थैलों में बराबर रखा। हर थैले में कितने हैं?",
            ],
        },
        operations={"×": "गुणा", "+": "जमा", "-": "घटा", "÷": "भाग", "=": "बराबर"},
        openings=["चलो हिसाब करें। ", "एक एक करके। "],
        first=["", "पहले ", "हमें मिला "],
        then=["", "फिर ", "इसके बाद "],
        stop="। ",
        final="उत्तर: ",
        capital=False,
    ),
}


@dataclass(frozen=True)
class Problem:
    """A question with the steps that solve it: (left, operation, right, result), the last result is the answer."""

    kind: str
    language: str
    prompt: str
    steps: tuple[tuple[int, str, int, int], ...]

    @property
    def reference(self) -> str:
        return str(self.steps[-1][3])

    def row(self) -> dict[str, str]:
        ident = digest("market", str(VERSION), self.prompt)[:16]
        return {"id": ident, "prompt": self.prompt, "language": self.language, "reference": self.reference, "kind": self.kind}


def problem(rng: random.Random, language: str, kind: str) -> Problem:
    """A random problem; numbers are small, so that a tiny model can learn to reckon."""
    w = WORDING[language]
    name = rng.choice(w.names)
    g, h = rng.sample(w.goods, 2)
    a, b, p, q = (rng.randint(2, 9) for _ in range(4))
    m = 0
    if kind == "total":
        steps = ((a, "×", p, a * p), (b, "×", q, b * q), (a * p, "+", b * q, a * p + b * q))
    elif kind == "change":
        m = rng.choice([note for note in (20, 50, 100) if note > a * p])
        steps = ((a, "×", p, a * p), (m, "-", a * p, m - a * p))
    elif kind == "profit":
        p, q = sorted((p, q)) if p != q else (p, p + rng.randint(1, 4))
        steps = ((q, "-", p, q - p), (q - p, "×", a, (q - p) * a))
    elif kind == "stock":
        m = rng.randint(12, 60)
        steps = ((m, "-", a, m - a), (m - a, "+", b, m - a + b))
    else:
        m = a * q
        steps = ((m, "÷", a, q),)
    text = rng.choice(w.prompts[kind]).format(n=name, g=g, h=h, a=a, b=b, p=p, q=q, m=m)
    if w.capital:
        text = text[0].upper() + text[1:]
    return Problem(kind, language, text, steps)


def examples(num: int, seed: int, languages: tuple[str, ...] = LANGUAGES, *, split: str | None = None) -> list[dict[str, str]]:
    """`num` different problems, taking turns over languages and kinds. `split` keeps only that part (see split_of)."""
    return [p.row() for p in problems(num, seed, languages, split=split)]


def problems(num: int, seed: int, languages: tuple[str, ...] = LANGUAGES, *, split: str | None = None) -> list[Problem]:
    rng = random.Random(f"market/{VERSION}/{seed}")
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < num:
        language = languages[len(found) % len(languages)]
        kind = KINDS[len(found) // len(languages) % len(KINDS)]
        # a kind with few different problems runs dry: then any kind will do
        made = problem(rng, language, kind if misses < 200 else rng.choice(KINDS))
        misses += 1
        if made.prompt not in found and (split is None or split_of(made.prompt) == split):
            found[made.prompt] = made
            misses = 0
    return list(found.values())


def split_of(prompt: str) -> str:
    """`teacher` (90 %: what the teacher may be trained on), `prompts` (8 %) or `eval` (2 %), by the question's hash."""
    bucket = int(digest("market split", prompt)[:8], 16) % 100
    return "teacher" if bucket < 90 else "prompts" if bucket < 98 else "eval"


def answer(made: Problem, rng: random.Random) -> str:
    """A right answer in one of many wordings."""
    w = WORDING[made.language]
    steps = list(made.steps)
    if made.kind == "total" and rng.random() < 0.3:
        steps[0], steps[1] = steps[1], steps[0]
        left, _, right, result = steps[2]
        steps[2] = (right, "+", left, result)
    text = rng.choices(["", *w.openings], [0.6, 0.25, 0.15])[0]
    style = rng.choices(["×", "*", "words"], [0.55, 0.2, 0.25])[0]
    for number, (left, operation, right, result) in enumerate(steps):
        text += rng.choices(w.then if number else w.first, [0.5, 0.3, 0.2])[0]
        text += _expression(w, left, operation, right, result, style) + w.stop
    return text.strip() + "\n" + w.final + made.reference


def _expression(w: Wording, left: int, operation: str, right: int, result: int, style: str) -> str:
    if style == "words":
        space = " " if w.stop != "。" else ""
        return space.join([str(left), w.operations[operation], str(right), w.operations["="], str(result)])
    symbol = {"×": "*", "÷": "/"}.get(operation, operation) if style == "*" else operation
    return f"{left}{symbol}{right}={result}"


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Whether the number on the last final line ("Answer: 57", "答案：57" ...) equals `row["reference"]`."""
    for line in reversed(answer_text.splitlines()):
        if any(line.strip().startswith(w.final.strip()) for w in WORDING.values()):
            found = numbers(line)
            return bool(found) and found[-1] == numbers(str(row["reference"]))[-1]
    return False
