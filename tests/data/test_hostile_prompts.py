"""Files of prompts as people, spreadsheets, crawls and broken disks make them.

What has one meaning is read as that; all else is refused by file and line, or left out and told.
"""

import csv
import io
import json
import random

import pyarrow
import pyarrow.parquet
import pytest

from distill.data.bad_rows import Left
from distill.data.prompts import read_prompts
from distill.data.samples import normalised

KIND = "prompt files"
BOM = "\ufeff"
TEXTS = [
    "Una mbuzi wangapi?",
    "他有几只羊？一共，多少；",
    'She said "no"; then, 3 | 4?',
    "Two\nlines, and\ta tab",
    "Ẹ̀kọ́ ni kí o ṣe?",
    "a" * 150_000,
    "   spaces  ",
    "कितनी बकरियाँ?",
    "'single', \\back\\slash\\n",
    "😀👨‍👩‍👧 \u2028 line separator",
]


@pytest.fixture
def asked(recipe, tmp_path):
    """Write a file and return what is asked of it: (language, role and content of each turn)."""
    loaded = {}

    def ask(name, content, options="", left=None):
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        (tmp_path / name).write_bytes(data)
        source = f"[{{file: {name}{', ' if options else ''}{options}}}]"
        if source not in loaded:
            loaded[source] = recipe(source)
        prompts = loaded[source].generate.prompts
        read = read_prompts(
            loaded[source], "generate.prompts", prompts, needs_reference=False, left=left
        )
        return [
            (p.language, *((m["role"], m["content"]) for m in p.messages), p.reference)
            for p in read
        ]

    return ask


def user(text, language="en", reference=None):
    return (language, ("user", normalised(text)), reference)


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def turns(*messages):
    """A row of turns, in English: `turns("user", "Hi?", "assistant", "Yes.")`."""
    pairs = zip(messages[::2], messages[1::2], strict=True)
    return {"messages": [{"role": r, "content": c} for r, c in pairs], "language": "en"}


def sharegpt(*messages):
    pairs = zip(messages[::2], messages[1::2], strict=True)
    said = [{"from": name, "value": value} for name, value in pairs]
    return {"conversations": said, "language": "en"}


HI = [user("Hi?")]
ROW = {"prompt": "Hi?", "language": "en"}
PART = {"type": "text", "text": "Hi?"}

# name of the file, its content, options of the source, what is asked
ACCEPTED = [
    # byte order marks and line ends
    ("p.jsonl", BOM + lines(ROW), "", HI),
    ("p.json", BOM + json.dumps([ROW]), "", HI),
    ("p.json", BOM + lines(ROW), "", HI),
    ("p.json", "\n " + json.dumps([ROW], indent=2), "", HI),
    ("p.csv", BOM + "prompt,language\nHi?,en\n", "", HI),
    ("p.tsv", BOM + "prompt\tlanguage\nHi?\ten\n", "", HI),
    ("p.txt", BOM + "Hi?\n", "language: en", HI),
    ("p.jsonl", lines(ROW).replace("\n", "\r\n") + "\r\n\r\n", "", HI),
    ("p.jsonl", lines(ROW, ROW).replace("\n", "\r"), "", HI * 2),
    ("p.txt", "Hi?\rHi?", "language: en", HI * 2),
    ("p.csv", "prompt,language\r\nHi?,en\r\n\r\n", "", HI),
    # what separates cells
    ("p.csv", "prompt;language\nHi?;en\n", "", HI),
    ("p.csv", "prompt\tlanguage\nHi?\ten\n", "", HI),
    ("p.csv", "prompt|language\nHi?|en\n", "", HI),
    ("p.csv", "prompt;language\nHi, you, there?;en\n", "", [user("Hi, you, there?")]),
    ("p.csv", '"prompt";"language"\n"Hi; you?";"en"\n', "", [user("Hi; you?")]),
    (
        "p.csv",
        "id;question;a,b;answer\n1;Hi, you?;x;1,5\n",
        "language: en, columns: {prompt: question, reference: answer}",
        [user("Hi, you?", reference="1,5")],
    ),
    ("p.csv", "en;sw\nYes.;Ndiyo.\n", "translate: {en: en, sw: sw}", None),
    (
        "p.csv",
        "Hi?;3\nWho?;4\n",
        "language: en, columns: {prompt: '0', reference: '1'}",
        [user("Hi?", reference="3"), user("Who?", reference="4")],
    ),
    ("p.csv", "prompt,language,,\nHi?,en,,\n", "", HI),  # a spreadsheet's empty columns
    (
        "p.csv",
        "prompt,language,x,x\nHi?,en,1,2\n",
        "columns: {prompt: prompt, language: language}",
        HI,
    ),
    ("p.csv", "prompt,language\n" + "a" * 200_000 + ",en\n", "", [user("a" * 200_000)]),
    ("p.csv", 'prompt,language\n"' + "a\n" * 100_000 + '",en\n', "", [user("a\n" * 100_000)]),
    ("p.tsv", 'prompt\tlanguage\n"Hi?\ten\n', "", [user('"Hi?')]),
    # conversations
    ("p.jsonl", lines(turns("user", "Hi?", "assistant", "Yes.")), "", HI),
    ("p.jsonl", lines(turns("user", "Hi?", "assistant", "Yes.", "assistant", "No.")), "", HI),
    ("p.jsonl", lines(turns("user", "Hi?", "assistant", None)), "", HI),
    (
        "p.jsonl",
        lines(
            turns(
                "system",
                "Be kind.",
                "user",
                "A?",
                "assistant",
                "B.",
                "user",
                "Hi?",
                "assistant",
                "C.",
            )
        ),
        "",
        [
            (
                "en",
                ("system", "Be kind."),
                ("user", "A?"),
                ("assistant", "B."),
                ("user", "Hi?"),
                None,
            )
        ],
    ),
    ("p.jsonl", lines(turns("system", None, "user", "Hi?")), "", HI),
    (
        "p.jsonl",
        lines(turns("developer", "Be kind.", "user", "Hi?")),
        "",
        [("en", ("system", "Be kind."), ("user", "Hi?"), None)],
    ),
    ("p.jsonl", lines(sharegpt("human", "Hi?", "gpt", "Yes.")), "", HI),
    ("p.jsonl", lines(sharegpt("human", "Hi?")), "", HI),
    (
        "p.jsonl",
        lines(sharegpt("system", "Be kind.", "human", "Hi?", "gpt", "Yes.")),
        "",
        [("en", ("system", "Be kind."), ("user", "Hi?"), None)],
    ),
    (
        "p.jsonl",
        lines(sharegpt("human", "Hi?", "gpt", "Yes.") | {"x": 1}),
        "language: en, columns: {messages: conversations}",
        HI,
    ),
    ("p.jsonl", lines({"prompt": [{"role": "user", "content": "Hi?"}], "language": "en"}), "", HI),
    (
        "p.jsonl",
        lines({"prompt": turns("user", "Hi?", "assistant", "Yes.")["messages"], "language": "en"}),
        "",
        HI,
    ),
    ("p.jsonl", lines(turns("user", [PART])), "", HI),
    ("p.jsonl", lines(turns("user", ["Hi?"])), "", HI),
    ("p.jsonl", lines(turns("user", [PART, PART])), "", [user("Hi?\nHi?")]),
    (
        "p.jsonl",
        lines(turns("system", [PART], "user", "Hi?")),
        "",
        [("en", ("system", "Hi?"), ("user", "Hi?"), None)],
    ),
    (
        "p.jsonl",
        lines({"prompt": None, "messages": turns("user", "Hi?")["messages"], "language": "en"}),
        "",
        HI,
    ),
    (
        "p.jsonl",
        lines(
            {
                "messages": [{"role": "user", "content": "Hi?", "name": None, "tool_calls": None}],
                "language": "en",
            }
        ),
        "",
        HI,
    ),
    # nothing is asked: left to the filters, which drop it with a reason
    ("p.jsonl", lines({"prompt": None, "language": "en"}), "", [user("")]),
    ("p.jsonl", lines({"prompt": "", "language": "en"}), "", [user("")]),
    ("p.jsonl", lines({"prompt": "\u200b", "language": "en"}), "", [user("\u200b")]),
    ("p.jsonl", lines(turns("user", None)), "", [user("")]),
    ("p.jsonl", lines(turns("user", [])), "", [user("")]),
    ("p.csv", "prompt,language\n,en\n", "", [user("")]),
    # values
    ("p.jsonl", lines(ROW | {"reference": "١٢"}), "", [user("Hi?", reference="١٢")]),
    ("p.jsonl", '{"prompt": "\\ud83d\\ude00?", "language": "en"}', "", [user("😀?")]),
    ("p.jsonl", '{"prompt": "\\u0000Hi?", "language": "en"}', "", HI),
]

BAD_ROWS = [
    # two meanings
    '{"prompt": "Hi?", "language": "en", "prompt": "Who?"}',
    '{"prompt": "Hi?", "language": "en", "language": "sw"}',
    '{"messages": [{"role": "user", "role": "system", "content": "Hi?"}], "language": "en"}',
    json.dumps(ROW | turns("user", "Who?")),
    json.dumps(turns("user", "Who?") | sharegpt("human", "Hi?")),
    # no JSON, or no object
    "{",
    '{"prompt": "Hi?" "language": "en"}',
    '{"prompt": "Hi?", "language": "en"}}',
    '{"prompt": "Hi?", "language": "en"',
    "{'prompt': 'Hi?', 'language': 'en'}",
    "[]",
    '"Hi?"',
    "1",
    "null",
    "Hi?",
    '{"prompt": "' + "x" * 100_000,
    "[" * 20_000 + "]" * 20_000,
    '{"prompt": "Hi?", "id": ' + "[" * 20_000 + "]" * 20_000 + ', "language": "en"}',
    '{"prompt": "Hi?", "language": "en", "id": ' + "1" * 5000 + "}",
    '{"prompt": "Hi\0?", "language": "en"}',
    # half a character
    '{"prompt": "Una \\ud83d mbuzi", "language": "en"}',
    '{"prompt": "\\ude00\\ud83d", "language": "en"}',
    '{"prompt": "Hi?", "language": "en", "reference": "\\udc00"}',
    '{"prompt": "Hi?", "language": "en", "id": "\\ud800"}',
    '{"prompt": "Hi?", "language": "\\ud800"}',
    '{"messages": [{"role": "system", "content": "\\ud800"}, {"role": "user", "content": "Hi?"}], "language": "en"}',
    # no prompt
    "{}",
    '{"language": "en"}',
    json.dumps({"promt": "Hi?", "language": "en"}),
    json.dumps(ROW | {"langauge": "sw"}),
    json.dumps({"language": "en", "x" * 100_000: 1}),
    json.dumps(ROW | {"prompt": 5}),
    json.dumps(ROW | {"prompt": True}),
    json.dumps(ROW | {"prompt": {"text": "Hi?"}}),
    json.dumps(ROW | {"prompt": ["Hi?"]}),
    json.dumps(ROW | {"prompt": [["x" * 1000] * 1000]}),
    json.dumps(ROW | {"prompt": {"x" * 100_000: "Hi?"}}),
    json.dumps({"messages": "Hi?", "language": "en"}),
    json.dumps({"messages": "x" * 100_000, "language": "en"}),
    json.dumps({"messages": {"role": "user", "content": "Hi?"}, "language": "en"}),
    json.dumps({"conversations": "Hi?", "language": "en"}),
    # no language of the recipe's
    json.dumps({"prompt": "Hi?"}),
    json.dumps({"prompt": "Hi?", "language": "fr"}),
    json.dumps({"prompt": "Hi?", "language": ""}),
    json.dumps({"prompt": "Hi?", "language": 5}),
    json.dumps({"prompt": "Hi?", "language": ["en"]}),
    json.dumps({"prompt": "Hi?", "language": "x" * 100_000}),
    # no conversation
    json.dumps({"messages": [], "language": "en"}),
    json.dumps(turns("assistant", "Yes.")),
    json.dumps(turns("system", "Be kind.")),
    json.dumps(turns("user", "Hi?", "system", "Be kind.")),
    json.dumps(turns("usr", "Hi?")),
    json.dumps(turns("x" * 100_000, "Hi?")),
    json.dumps(turns(None, "Hi?")),
    json.dumps(turns(5, "Hi?")),
    json.dumps({"messages": ["Hi?"], "language": "en"}),
    json.dumps({"messages": [None], "language": "en"}),
    json.dumps({"messages": [{"content": "Hi?"}], "language": "en"}),
    json.dumps(turns("user", 5)),
    json.dumps(turns("user", {"text": "Hi?"})),
    json.dumps(turns("user", "A?", "assistant", None, "user", "Hi?")),
    json.dumps(turns("user", None, "assistant", "Yes.", "user", "Hi?")),
    json.dumps(sharegpt("bing", "Hi?")),
    # pictures and tools
    json.dumps(turns("user", [PART, {"type": "image_url", "image_url": {"url": "x" * 100_000}}])),
    json.dumps(turns("user", [{"type": "image"}])),
    json.dumps(turns("user", [None])),
    json.dumps(turns("user", "Hi?", "tool", "22 °C", "assistant", "Warm.")),
    json.dumps(turns("tool", "22 °C", "user", "Hi?")),
    json.dumps(sharegpt("human", "Hi?", "function_call", "{}", "observation", "22 °C", "gpt", "Warm.")),
    json.dumps({"messages": [*turns("user", "Hi?")["messages"], {"role": "assistant", "tool_calls": [{"id": "1"}]}], "language": "en"}),
]  # fmt: skip

REFUSED = [
    ("p.csv", "prompt,language,prompt\nHi?,en,Who?\n", "", "'prompt' stands there 2 times"),
    ("p.csv", "prompt;language;language\nHi?;en;sw\n", "", "'language' stands there 2 times"),
    ("p.tsv", "prompt\tlanguage\tprompt\nHi?\ten\tWho?\n", "", "'prompt' stands there 2 times"),
    ("p.csv", "q,q\nHi?,Who?\n", "language: en, columns: {prompt: q}", "'q' stands there 2 times"),
    ("p.csv", 'prompt,language\n"Hi "you"?",en\n', "", "line 2: not CSV"),
    ("p.csv", 'prompt,language\n"Hi?,en\n', "", "not CSV"),
    ("p.csv", "prompt,language\nHi, you?,en\n", "", "line 2: 3 cells, the head line has 2"),
    ("p.csv", "prompt,language\nHi?\n", "", "line 2: 1 cells"),
    ("p.csv", "question;language\nHi?;en\n", "", "unknown field 'question'"),
    ("p.csv", "question;answer\nHi?;en\n", "", "there are question, answer"),
    ("p.csv", "q;a\nHi?;3\n", "language: en, columns: {prompt: question}", "there are q, a"),
    ("p.csv", "prompt,x;language\nHi?,1;en\n", "", "commas and semicolons could both"),
    ("p.csv", "q;l\nHi?;en\n", "language: en, columns: {prompt: 'q;l'}", "'q;l' is several: its cells are separated by semicolons"),
    ("p.csv", "q;p, EUR;l\nHi?;1,5;en\n", "language: en, columns: {prompt: 'q;p'}", "semicolons; there are q, p, EUR, l"),
    ("p.tsv", "q;l\nHi?;en\n", "language: en, columns: {prompt: 'q;l'}", "'q;l' is several: its cells are separated by semicolons"),
    ("p.csv", "Hi, you?;3\n", "language: en, columns: {prompt: '0', reference: '1'}", "commas and semicolons could both"),
    ("p.csv", "Hi?,3\nWho, you?,4\n", "language: en, columns: {prompt: '0', reference: '1'}", "3 cells, the first line has 2"),
    ("p.csv", b"prompt,language\nH\xe9?,en\n", "", "line 2: not UTF-8"),
    ("p.csv", "prompt,language\nHi?,en\n".encode("utf-16"), "", "not UTF-8"),
    ("p.csv", "prompt,language\nHi?,en\n".encode("utf-16-le"), "", "not UTF-8"),
    ("p.csv", "", "", "no prompts in it"),
    ("p.csv", "prompt,language\n", "", "no prompts in it"),
    ("p.txt", b"H\xe9?\n", "language: en", "line 1: not UTF-8"),
    ("p.txt", "Hi?\n".encode("utf-16"), "language: en", "not UTF-8"),
    ("p.txt", "Hi?\n".encode("utf-16-le"), "language: en", "NUL in it"),
    ("p.txt", "", "language: en", "no prompts in it"),
    ("p.jsonl", "", "", "no prompts in it"),
    ("p.jsonl", "\n\n", "", "no prompts in it"),
    ("p.jsonl", lines(ROW).encode("utf-16"), "", "not UTF-8"),
    ("p.jsonl", b'{"prompt": "H\xe9?", "language": "en"}', "", "line 1: not UTF-8"),
    ("p.json", '[{"prompt": "Hi?"', "", "not JSON"),
    ("p.json", '[{"prompt": "Hi?", "prompt": "x"}]', "", "'prompt' stands there twice"),
    ("p.json", "[" * 100_000, "", "nested too deeply"),
    ("p.json", "[1]", "", "item 1: expected an object"),
    ("p.json", b'[{"prompt": "H\xe9?"}]', "", "not JSON in UTF-8"),
    ("p.json", json.dumps({"data": [ROW]}), "", "unknown field 'data'"),
    ("p.json", "[]", "", "no prompts in it"),
    ("p.parquet", b"", "", "not Parquet"),
    ("p.parquet", b"PAR1PAR1", "", "not Parquet"),
    ("p.parquet", lines(ROW), "", "not Parquet"),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ACCEPTED)))
def test_an_odd_file_with_one_meaning_is_read_as_that(tally, asked, number):
    name, content, options, expected = ACCEPTED[number]
    what = f"{name} {content[:60]!r} {options}"
    if expected is None:  # translation pairs
        asked_for = lambda: [a[-1] for a in asked(name, content, options)]  # noqa: E731
        tally.must_accept(what, asked_for, ["Ndiyo.", "Yes."])
    else:
        tally.must_accept(what, lambda: asked(name, content, options), expected)


@pytest.mark.parametrize("number", range(len(BAD_ROWS)))
def test_a_row_that_is_no_prompt_is_refused_by_its_line_and_left_out_of_many(tally, asked, number):
    bad, good = BAD_ROWS[number], lines(ROW)
    message = tally.must_refuse(bad[:80], lambda: asked("p.jsonl", good + bad + "\n"))
    assert "p.jsonl, line 2: " in message and "\n" not in message and len(message) < 900, message
    left = Left()
    many = good * 10 + bad + "\n" + good * 9
    tally.must_accept(bad[:80], lambda: asked("p.jsonl", many, left=left), HI * 19)
    assert left.by_reason.total() == 1 and len(left.notes) == 1
    assert left.notes[0].startswith("generate.prompts: p.jsonl: 1 of 20 rows are left out (")
    assert "p.jsonl, line 11: " in left.notes[0] and len(left.notes[0]) < 600


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_file_without_one_meaning_is_refused_by_name(tally, asked, number):
    name, content, options, words = REFUSED[number]
    message = tally.must_refuse(f"{content[:60]!r}", lambda: asked(name, content, options))
    assert name in message and words in message and len(message) < 600, message


def test_csv_in_any_dialect_gives_its_cells(tally, asked):
    dice = random.Random(14)
    for number in range(40):
        texts = [dice.choice(TEXTS) + str(number) for _ in range(dice.randint(1, 4))]
        file = io.StringIO()
        writer = csv.writer(
            file,
            delimiter=dice.choice(",;\t|"),
            quoting=dice.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
            lineterminator=dice.choice(["\n", "\r\n"]),
        )
        columns = dice.sample(["prompt", "language", "id", "reference"], 4)
        writer.writerow(columns)
        for text in texts:
            row = {"prompt": text, "language": "sw", "id": "7", "reference": text}
            writer.writerow([row[column] for column in columns])
        content = dice.choice(["", BOM]) + file.getvalue()
        expected = [user(text, "sw", text) for text in texts]
        tally.must_accept(f"dialect {number}", lambda c=content: asked("d.csv", c), expected)


# heads of people's own sheets: none of ours
HEADS = [
    ["Frage", "Sprache", "Antwort"],
    ["question", "lang", "answer"],
    ["Preis, in EUR", "Text; Frage", "x|y"],
    ["swali", "lugha"],
    ["题目", "语言", "答案", "来源"],
]


def test_a_sheet_with_a_head_of_its_own_is_split_whatever_separates_it(tally, asked):
    """Without `columns` that is said with its columns; two cells are never taken for one."""
    dice = random.Random(15)
    for number in range(24):
        mark = dice.choice(",;\t|")
        quoting = dice.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
        head = dice.choice(HEADS)
        texts = [dice.choice(TEXTS[:5]) + str(n) for n in range(dice.randint(2, 5))]
        file = io.StringIO()
        writer = csv.writer(file, delimiter=mark, quoting=quoting, lineterminator="\n")
        writer.writerows([head, *([text, *"sw"[: len(head) - 2], "7"] for text in texts)])
        content = file.getvalue()
        what = f"head {number}: {head} {mark!r}"
        message = tally.must_refuse(what, lambda c=content: asked("h.csv", c))
        assert "columns: {" in message and f"there are {', '.join(head)}" in message, message
        columns = f"language: sw, columns: {{prompt: {json.dumps(head[0], ensure_ascii=False)}}}"
        expected = [user(text, "sw") for text in texts]
        tally.must_accept(what, lambda c=content, o=columns: asked("h.csv", c, o), expected)
        if mark == "\t":  # YAML's own quoting would be tested here
            continue
        joined = json.dumps(content.partition("\n")[0], ensure_ascii=False)
        columns = f"language: sw, columns: {{prompt: {joined}}}"
        tally.must_refuse(f"{what}, joined", lambda c=content, o=columns: asked("h.csv", c, o))


def test_json_however_it_is_written_gives_its_rows(tally, asked):
    dice = random.Random(41)
    for number in range(30):
        texts = [dice.choice(TEXTS) + str(number) for _ in range(dice.randint(1, 4))]
        rows = [{"prompt": text, "language": "sw", "reference": text} for text in texts]
        is_ascii, end = dice.random() < 0.5, dice.choice(["\n", "\r\n", "\n\n"])
        if dice.random() < 0.4:
            name = "j.json"
            content = json.dumps(rows, ensure_ascii=is_ascii, indent=dice.choice([None, 2]))
        else:
            name = "j.jsonl"
            content = end.join(json.dumps(row, ensure_ascii=is_ascii) for row in rows)
        content = dice.choice(["", BOM]) + content
        expected = [user(text, "sw", text) for text in texts]
        tally.must_accept(f"JSON {number}", lambda n=name, c=content: asked(n, c), expected)


def test_a_damaged_line_of_json_costs_that_line_alone(tally, asked):
    """The other lines say what they said; Python's own reader says whether the damaged one does."""
    dice = random.Random(5)
    good = [json.dumps({"prompt": f"{text[:40]} {n}", "language": "sw"}).encode() for n, text in enumerate(TEXTS * 2)]  # fmt: skip
    for number in range(40):
        damaged = bytearray(good[10])
        for _ in range(dice.randint(1, 3)):
            damaged[dice.randrange(len(damaged))] = dice.choice([0, 34, 92, 123, 125, 195, 255, 65])
        damaged = bytes(damaged[: dice.choice([5, 20, len(damaged)])])
        expected = [user(json.loads(line)["prompt"], "sw") for line in good]
        expected[10:11] = _as_python_reads(damaged)
        content = b"\n".join([*good[:10], damaged, *good[11:]])
        tally.must_accept(f"damaged {number}", lambda c=content: asked("x.jsonl", c), expected)


def _as_python_reads(line):
    try:
        row = json.loads(line.decode())
        text = row["prompt"]
    except (ValueError, KeyError, TypeError):
        return []
    text.encode()
    return [user(text, "sw")] if row.keys() == {"prompt", "language"} and row["language"] == "sw" else []  # fmt: skip


def parquet(table, **options):
    file = io.BytesIO()
    pyarrow.parquet.write_table(table, file, **options)
    return file.getvalue()


def test_damaged_parquet_is_refused_or_says_what_it_said(tally, asked):
    rows = [{"prompt": f"Una mbuzi {n} wangapi?", "language": "sw"} for n in range(30)]
    whole = parquet(pyarrow.Table.from_pylist(rows), write_page_checksum=True, use_dictionary=False)
    expected = [user(row["prompt"], "sw") for row in rows]
    tally.must_accept("whole", lambda: asked("w.parquet", whole), expected)
    dice = random.Random(9)
    for number in range(60):
        damaged = bytearray(whole)
        if number % 6 == 0:
            damaged = damaged[: dice.randrange(len(whole))]
        else:
            damaged[dice.randrange(len(whole))] ^= 1 << dice.randrange(8)
        tally.refuse_or(
            f"flip {number}",
            lambda d=bytes(damaged): asked("w.parquet", d),
            lambda read: read == expected,
        )


def test_odd_parquet(tally, asked):
    column = pyarrow.array(["Hi?"])
    twice = pyarrow.table([column, column, pyarrow.array(["en"])], ["prompt", "prompt", "language"])
    message = tally.must_refuse("a column twice", lambda: asked("t.parquet", parquet(twice)))
    assert "t.parquet: the column 'prompt' stands there 2 times" in message
    unused = pyarrow.table([column, column, column], ["x", "x", "prompt"])
    tally.must_accept(
        "an unused column twice",
        lambda: asked("u.parquet", parquet(unused), "language: en, columns: {prompt: prompt}"),
        HI,
    )
    odd = {
        "null": (pyarrow.array([None, "Hi?"]), [user(""), *HI]),
        "large": (pyarrow.array(["Hi?"], pyarrow.large_string()), HI),
        "dictionary": (pyarrow.array(["Hi?"]).dictionary_encode(), HI),
        "turns": (pyarrow.array([[{"role": "user", "content": "Hi?", "x": None}]]), HI),
        "sharegpt": (pyarrow.array([[{"from": "human", "value": "Hi?"}]]), HI),
    }
    for name, (values, expected) in odd.items():
        table = pyarrow.table({"prompt": values, "language": ["en"] * len(values)})
        tally.must_accept(name, lambda t=table: asked("o.parquet", parquet(t)), expected)
    for name, values in {
        "bytes": pyarrow.array([b"Hi?"]),
        "number": pyarrow.array([5]),
        "date": pyarrow.array([2**62], pyarrow.timestamp("us")),
        "not UTF-8": pyarrow.StringArray.from_buffers(
            1, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0"), pyarrow.py_buffer(b"\xe9")
        ),
    }.items():
        table = pyarrow.table({"prompt": values, "language": ["en"]})
        message = tally.must_refuse(name, lambda t=table: asked("b.parquet", parquet(t)))
        assert "b.parquet, row 1: " in message
