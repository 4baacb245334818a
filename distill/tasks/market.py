"""Shop and market problems in five languages, with short step-by-step answers: the quickstart's work.

`examples` makes problems, `grade` checks an answer by its final line, `answer` writes a right answer in one of many
wordings: the quickstart's teacher is trained on those, so that its distribution has something to teach.

The wording in Chinese, Swahili, Indonesian and Hindi has not been reviewed by native speakers.
"""

import random
import unicodedata
from collections.abc import Collection, Set
from dataclasses import dataclass
from typing import Any

from distill.core.digests import canonical_json, digest
from distill.tasks.final_number import numbers

VERSION = 1
LANGUAGES = ("en", "zh", "sw", "id", "hi")
KINDS = ("total", "change", "profit", "stock", "share", "discount")
SPLITS = ("teacher", "facts", "prompts", "eval")


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
    space: str = " "  # between words


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
                "{n} has {m} {g}, sells {a} and gets {b} more. How many does {n} have now?",
                "There are {m} {g} in the shop. {a} are sold and {b} come in. How many are there now?",
            ],
            "share": [
                "{a} friends share {m} cedis equally. How much does each get?",
                "{n} puts {m} {g} into {a} bags, equally. How many are in each?",
            ],
            "discount": [
                "{n} buys {a} {g} at {p} cedis each. The seller takes {q} cedis off. How much does {n} pay?",
                "{a} {g} cost {p} cedis each, with {q} cedis off the total. What is to be paid?",
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
        goods=["苹果", "鸡蛋", "面包", "杯子", "土豆", "橘子"],
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
            "share": [
                "{a}个朋友平分{m}元，每人得多少元？",
                "{n}把{m}个{g}平均装进{a}个袋子，每袋多少个？",
            ],
            "discount": [
                "{n}买了{a}个{g}，每个{p}元，店主少收{q}元。{n}付多少元？",
                "{g}每个{p}元，买{a}个，总价减{q}元。要付多少元？",
            ],
        },
        operations={"×": "乘", "+": "加", "-": "减", "÷": "除以", "=": "等于"},
        openings=["我们来算一下。", "一步一步算。"],
        first=["", "首先，", "先算"],
        then=["", "然后", "再算"],
        stop="。",
        final="答案：",
        space="",
    ),
    "sw": Wording(
        names=["Amina", "Juma", "Neema", "Baraka"],
        goods=["maembe", "mayai", "kalamu", "chupa", "ndizi", "machungwa"],  # all take "kila moja"
        prompts={
            "total": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na {h} {b} kwa shilingi {q} kila moja. {n} analipa kiasi gani?",
                "Bei ya {g} ni shilingi {p} kila moja na {h} ni {q}. Bei ya {g} {a} na {h} {b} ni shilingi ngapi?",
            ],
            "change": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na kulipa shilingi {m}. Anarudishiwa kiasi gani?",
                "{g} {a} kwa shilingi {p} kila moja, malipo ni shilingi {m}. Chenji ni kiasi gani?",
            ],
            "profit": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja na kuuza kila moja kwa {q}. Faida ni kiasi gani?",
                "{n} anauza {g} {a} kwa shilingi {q} kila moja. Bei ya kununua ni {p} kila moja. Faida ni kiasi gani?",
            ],
            "stock": [
                "{n} ana {g} {m}, anauza {a} na kupata {b} zaidi. Idadi sasa ni ngapi?",
                "Dukani kuna {g} {m}. Muuzaji anauza {a} na kuletewa {b}. Idadi sasa ni ngapi?",
            ],
            "share": [
                "Marafiki {a} wanagawana shilingi {m} sawasawa. Kila mmoja anapata shilingi ngapi?",
                "{n} anaweka {g} {m} katika mifuko {a} sawasawa. Idadi katika kila mfuko ni ngapi?",
            ],
            "discount": [
                "{n} ananunua {g} {a} kwa shilingi {p} kila moja. Anapunguziwa shilingi {q}. {n} analipa kiasi gani?",
                "Bei ya {g} ni shilingi {p} kila moja. Kwa {g} {a} kuna punguzo la shilingi {q}. Malipo ni kiasi gani?",
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
        goods=["mangga", "jeruk", "pensil", "gelas", "buku", "roti"],
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
                "{n} punya {m} {g}, menjual {a} dan mendapat {b} lagi. Berapa {g} yang dimiliki {n} sekarang?",
                "Di toko ada {m} {g}. Terjual {a} dan datang {b}. Berapa jumlahnya sekarang?",
            ],
            "share": [
                "{a} teman membagi {m} ribu sama rata. Berapa ribu untuk tiap orang?",
                "{n} memasukkan {m} {g} ke dalam {a} tas sama banyak. Berapa isi tiap tas?",
            ],
            "discount": [
                "{n} membeli {a} {g} seharga {p} ribu per buah dan mendapat potongan {q} ribu. Berapa ribu yang dibayar {n}?",
                "Harga {g} {p} ribu per buah. Untuk {a} {g} ada potongan {q} ribu. Berapa ribu yang harus dibayar?",
            ],
        },
        operations={"×": "kali", "+": "tambah", "-": "kurang", "÷": "bagi", "=": "sama dengan"},
        openings=["Mari kita hitung. ", "Langkah demi langkah. "],
        first=["", "Pertama, ", "Kita dapat "],
        then=["", "Lalu ", "Kemudian "],
        stop=". ",
        final="Jawaban: ",
    ),
    "hi": Wording(
        names=["आशा", "रवि", "मीना", "मोहन"],
        goods=["आम", "अंडे", "पेन", "कप", "सेब", "केले"],
        prompts={
            "total": [
                "{n} ने {p} रुपये वाले {a} {g} और {q} रुपये वाले {b} {h} लिए। कुल कितने रुपये देने होंगे?",
                "एक {g} का दाम {p} रुपये और एक {h} का {q} रुपये है। {a} {g} और {b} {h} लेने पर कुल कितने रुपये होंगे?",
            ],
            "change": [
                "{n} ने {p} रुपये वाले {a} {g} लिए और {m} रुपये दिए। कितने रुपये वापस मिलेंगे?",
                "{p} रुपये वाले {a} {g} लिए और {m} रुपये दिए। कितने रुपये वापस मिलेंगे?",
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
                "{n} ने {a} थैलों में कुल {m} {g} बराबर रखे। हर थैले में कितने हैं?",
            ],
            "discount": [
                "{n} ने {p} रुपये वाले {a} {g} लिए। दुकानदार ने {q} रुपये कम किए। कितने रुपये देने होंगे?",
                "एक {g} का दाम {p} रुपये है। {a} {g} लेने पर {q} रुपये की छूट है। कितने रुपये देने होंगे?",
            ],
        },
        operations={"×": "गुणा", "+": "जमा", "-": "घटा", "÷": "भाग", "=": "बराबर"},
        openings=["चलो हिसाब करें। ", "एक एक करके। "],
        first=["", "पहले ", "हमें मिला "],
        then=["", "फिर ", "इसके बाद "],
        stop="। ",
        final="उत्तर: ",
    ),
}

# NFKC makes the wide colon a plain one
FINALS = tuple(unicodedata.normalize("NFKC", w.final).strip() for w in WORDING.values())


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
        return {
            "id": ident,
            "prompt": self.prompt,
            "language": self.language,
            "reference": self.reference,
            "kind": self.kind,
        }


def problem(rng: random.Random, language: str, kind: str) -> Problem:
    """A random problem; numbers are small, so that a tiny model can learn to reckon."""
    w = WORDING[language]
    name = rng.choice(w.names)
    g, h = rng.sample(w.goods, 2)
    a, b, p, q = (rng.randint(2, 9) for _ in range(4))
    m = 0
    if kind == "total":
        a, b = (
            rng.randint(2, 5),
            rng.randint(2, 5),
        )  # every number of every step has at most two digits
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
    elif kind == "discount":
        q = rng.randint(2, 9 if a * p > 9 else a * p - 1)
        steps = ((a, "×", p, a * p), (a * p, "-", q, a * p - q))
    else:
        m = a * q
        steps = ((m, "÷", a, q),)
    text = rng.choice(w.prompts[kind]).format(n=name, g=g, h=h, a=a, b=b, p=p, q=q, m=m)
    return Problem(kind, language, text[0].upper() + text[1:], steps)


def examples(
    num: int,
    seed: int,
    languages: tuple[str, ...] = LANGUAGES,
    *,
    splits: Collection[str] = SPLITS,
    without: Set[str] = frozenset(),
) -> list[dict[str, str]]:
    """Rows of `problems`."""
    return [p.row() for p in problems(num, seed, languages, splits=splits, without=without)]


def problems(
    num: int,
    seed: int,
    languages: tuple[str, ...] = LANGUAGES,
    *,
    splits: Collection[str] = SPLITS,
    without: Set[str] = frozenset(),
) -> list[Problem]:
    """`num` different problems, taking turns over languages and kinds, of `splits` (see split_of) and not asked in `without`."""
    rng = random.Random(f"market/{VERSION}/{seed}")
    found: dict[str, Problem] = {}
    misses = 0
    while len(found) < num:
        language = languages[len(found) % len(languages)]
        kind = KINDS[len(found) // len(languages) % len(KINDS)]
        # a kind with few different problems runs dry: then any kind will do
        made = problem(rng, language, kind if misses < 200 else rng.choice(KINDS))
        misses += 1
        if made.prompt not in found and made.prompt not in without and split_of(made) in splits:
            found[made.prompt] = made
            misses = 0
    return list(found.values())


def split_of(made: Problem) -> str:
    """`teacher` (84 %), `prompts` (10 %) or `eval` (6 %), by a hash of the kind and the numbers: numbers of one split are in
    no other, in any language. Two exceptions, for a table with holes cannot be learnt: division has only 64 pairs of
    numbers and is held out by the question; and a difference such as 100-63 comes from one pair of factors alone, so half
    of the questions of `change` and `discount` that `prompts` and `eval` would have are `facts`, which may be learnt from.
    """
    key = made.prompt if made.kind == "share" else canonical_json(sorted(made.steps))
    bucket = _percent(made.kind, key)
    if bucket >= 84 and made.kind in ("change", "discount") and _percent("facts", made.prompt) < 50:
        return "facts"
    return "teacher" if bucket < 84 else "prompts" if bucket < 94 else "eval"


def _percent(*what: str) -> int:
    return int(digest("market split", *what)[:8], 16) % 100


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
        return w.space.join(
            [str(left), w.operations[operation], str(right), w.operations["="], str(result)]
        )
    symbol = {"×": "*", "÷": "/"}.get(operation, operation) if style == "*" else operation
    return f"{left}{symbol}{right}={result}"


def grade(answer_text: str, row: dict[str, Any]) -> bool:
    """Whether the number on the last final line ("Answer: 57", "答案：57" ...) equals `row["reference"]`."""
    for line in reversed(answer_text.splitlines()):
        if unicodedata.normalize("NFKC", line).strip().startswith(FINALS):
            found = numbers(line)
            return bool(found) and found[-1] == numbers(str(row["reference"]))[-1]
    return False
