"""The words of the market problems (market.py) in five languages.

The wording in Chinese, Swahili, Indonesian and Hindi has not been reviewed by native speakers.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """The words of one language. Prompts and steps are format strings; lists are alternatives."""

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
