"""Programs that cheat, and what honest programs and tests may do with each other."""

import random

import pytest

from distill.tasks import python_tests, sandbox

KIND = "programs against the box"
SEED = 14
NUM_MIXED = 12
LACK = sandbox.lack(strict=True)
pytestmark = pytest.mark.skipif(LACK is not None, reason=f"code cannot be sandboxed here: {LACK}")

TESTS = "assert add(1, 2) == 3\nassert add(-1, 1) == 0"
FORMS = [
    TESTS,
    "def check(candidate):\n    assert candidate(1, 2) == 3\n    assert 3 == candidate(2, 1)\ncheck(add)",
    "expected = [3, 7]\nassert [add(1, 2), add(3, 4)] == expected, 'no'",
    "assert abs(add(0.5, 0.25) - 0.75) < 1e-6\nassert not add(1, 2) != 3",
    "for a in range(3):\n    assert add(a, a) in (2 * a,)\nassert isinstance(add(1, 1), int)",
]
ALWAYS = """
class Always:
    def __eq__(self, other): return True
    def __ne__(self, other): return False
    __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __eq__
    def __sub__(self, other): return 0
    __rsub__ = __add__ = __radd__ = __abs__ = __sub__
    def __hash__(self): return hash(3)
    def __bool__(self): return True
    def __array__(self, *a, **k): return 3
"""
# what a program does to pass tests that it has not solved
CHEATS = {
    "always equal": ALWAYS + "def add(a, b): return Always()",
    "a number always equal": (
        "class N(int):\n    __eq__ = lambda s, o: True\n    __ne__ = lambda s, o: False\n"
        "    __sub__ = __rsub__ = lambda s, o: 0\n    __hash__ = int.__hash__\n"
        "def add(a, b): return N(9)"
    ),
    "a list always equal": (
        "class L(list):\n    __eq__ = lambda s, o: True\n    __hash__ = None\n"
        "def add(a, b): return L()"
    ),
    "unittest's ANY": "from unittest.mock import ANY\ndef add(a, b): return ANY",
    "ANY as the function": "from unittest.mock import MagicMock\nadd = MagicMock()",
    "exit as if passed": "import os\nos._exit(93)",
    "exit in the function": "import os\ndef add(a, b): os._exit(93)",
    "exit 0 in the function": "import sys\ndef add(a, b): sys.exit(0)",
    "exit at the end": "import atexit, os\natexit.register(os._exit, 93)\ndef add(a, b): return 9",
    "a hook for errors": (
        "import os, sys\nsys.excepthook = lambda *a: os._exit(93)\ndef add(a, b): return 9"
    ),
    "kill all others": (
        "import os, signal\ndef add(a, b):\n    signal.signal(15, lambda *a: os._exit(93))\n"
        "    os.kill(-1, 9)\n    return 9"
    ),
    "all parents and children": (
        "import os\ndef add(a, b):\n    for n in range(1, 40):\n        if n != os.getpid():\n"
        "            try: os.kill(n, 9)\n            except OSError: pass\n    return 9"
    ),
    "no assertions": "import builtins\nbuiltins.AssertionError = ValueError\ndef add(a, b): return 9",
    "no exec": (
        "import builtins, ast\nbuiltins.exec = builtins.compile = ast.parse = lambda *a, **k: None\n"
        "def add(a, b): return 9"
    ),
    "own abs, isinstance and range": (
        "def abs(x): return 0\ndef isinstance(*a): return True\ndef range(n): return ()\n"
        "def add(a, b): return 3 if a < 3 else 7"
    ),
    "patched in builtins": (
        "import builtins\nbuiltins.abs = lambda x: 0\nbuiltins.range = lambda n: []\n"
        "builtins.isinstance = lambda *a: True\ndef add(a, b): return 9"
    ),
    "what its callers know": (
        "import sys\nMARK = 'zeb' + 'ra'\ndef add(a, b):\n    frame = sys._getframe()\n"
        "    while frame:\n"
        "        for value in [*frame.f_locals.values(), *frame.f_globals.values()]:\n"
        "            if value is not MARK and MARK in str(value): return a + b\n"
        "        frame = frame.f_back\n    return 9"
    ),
    "what is in memory": (
        "import gc\nMARK = 'zeb' + 'ra'\ndef add(a, b):\n    for thing in gc.get_objects():\n"
        "        if type(thing) is list and any(type(x) is str and MARK in x and x is not MARK "
        "for x in thing): return a + b\n    return 9"
    ),
    "the tests' file": (
        "import glob\nMARK = b'zeb' + b'ra'\ndef add(a, b):\n"
        "    for path in [*glob.glob('*'), *glob.glob('/proc/*/fd/*'), '/proc/1/mem', '/dev/stdin']:\n"
        "        try: text = open(path, 'rb').read()\n        except OSError: continue\n"
        "        if MARK in text: return a + b\n    return 9"
    ),
    "all open files": (
        "import os\nMARK = b'zeb' + b'ra'\nfound = False\nfor n in range(64):\n"
        "    try: found |= MARK in os.pread(n, 9999, 0)\n    except OSError: pass\n"
        "def add(a, b): return a + b if found else 9"
    ),
    "forged messages": (
        "import os\nfor n in range(3, 64):\n    try: os.write(n, b'{\"ready\": true}\\n' + "
        "b'{\"value\": [], \"passed\": true}\\n' * 3)\n    except OSError: pass\nos._exit(93)"
    ),
    "wait and say nothing": "import time\ndef add(a, b):\n    time.sleep(0.3)\n    exit()",
    "raise what ends tests": "def add(a, b): raise StopIteration",
    "raise an exit": "def add(a, b): raise SystemExit(93)",
}  # fmt: skip


def passes(program, tests):
    """Return the verdict; the tests have a word that a program which reads them would find."""
    answer = f"```python\n{program}\n```"
    return python_tests.grade(answer, {"reference": f"MARK = 'zebra'\n{tests}"})


def test_no_cheat_passes(tally):
    for number, (name, program) in enumerate(CHEATS.items()):
        tests = FORMS[number % len(FORMS)]
        tally.must_accept(name, lambda p=program, t=tests: passes(p, t), False)


def test_no_mix_of_cheats_passes(tally):
    """Try two cheats at once, in a seeded order, against any form of tests."""
    rng = random.Random(SEED)
    for number in range(NUM_MIXED):
        first, second = rng.sample(sorted(CHEATS), 2)
        tests = rng.choice(FORMS)
        label = f"{number}: {first}, {second}: {tests!r}"
        program = f"{CHEATS[first]}\n{CHEATS[second]}"
        tally.must_accept(label, lambda p=program, t=tests: passes(p, t), False)


@pytest.mark.parametrize(
    "handler", ["except Exception: pass", "except: pass", "except (SystemExit, EOFError): pass"]
)
def test_a_program_that_ends_where_an_error_is_awaited_has_not_passed(handler):
    tests = f"try:\n    add(1)\n    raise KeyError\n{handler}"
    assert not passes("import os\ndef add(a): os._exit(93)", tests)


ALL_KINDS = """
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
Point = namedtuple("Point", "x y")
def every(): return [None, True, 1, -2**70, 10**5000, 0.5, "é", b"b", (1, [2]), {1, 2}, frozenset("a"),
    {1: {"a": ()}}, 1j, range(3), Fraction(1, 3), Decimal("0.1"), date(2024, 1, 2), deque([1]),
    datetime(2024, 1, 2, 3, 4), timedelta(1, 2, 3), Counter("aab"), OrderedDict(a=1), Point(1, 2)]
def default():
    made = defaultdict(int)
    made["a"] += 1
    return made
"""
STACK = """
class Empty(Exception): pass
class Stack:
    def __init__(self, *items): self.items = list(items)
    def push(self, item): self.items.append(item)
    def pop(self):
        if not self.items: raise Empty("nothing", 0)
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __getitem__(self, n): return self.items[n]
    def __eq__(self, other): return self.items == other.items
    def __str__(self): return f"Stack{tuple(self.items)}"
    def __enter__(self): return self
    def __exit__(self, *error): self.items.clear()
"""
HONEST = {
    "values of every kind": (
        ALL_KINDS,
        "import collections, datetime, decimal, fractions\n"
        "a = every()\nb = [None, True, 1, -2**70, 10**5000, 0.5, 'é', b'b', (1, [2]), {1, 2},"
        "frozenset('a'), {1: {'a': ()}}, 1j, range(3), fractions.Fraction(1, 3),"
        "decimal.Decimal('0.1'), datetime.date(2024, 1, 2), collections.deque([1]),"
        "datetime.datetime(2024, 1, 2, 3, 4), datetime.timedelta(1, 2, 3), Counter('aab'),"
        "collections.OrderedDict(a=1), (1, 2)]\n"
        "assert a == b and [type(v) for v in a[:-1]] == [type(v) for v in b[:-1]]\n"
        "assert a[-1].x == 1 and default() == {'a': 1} and type(every()[0]) is type(None)",
    ),
    "changed in place": (
        "def order(x): x.sort()\ndef turn(m):\n    m[0][0], m[1][1] = m[1][1], m[0][0]\n"
        "def count(d, k): d[k] = d.get(k, 0) + 1\ndef fill(x, *, n): x += [0] * n",
        "a = [3, 1, 2]\norder(a)\nassert a == [1, 2, 3]\nm = [[1, 2], [3, 4]]\nrow = m[0]\nturn(m)\n"
        "assert m == [[4, 2], [3, 1]] and row == [4, 2]\nd = {}\ncount(d, 'x')\ncount(d, 'x')\n"
        "assert d == {'x': 2}\nb = []\nfill(x=b, n=2)\nassert b == [0, 0]",
    ),
    "a class": (
        STACK,
        "s = Stack(1, 2)\ns.push(3)\nassert len(s) == 3 and s.pop() == 3 and list(s) == [1, 2]\n"
        "assert s[0] == 1 and s == Stack(1, 2) and s != Stack(2) and str(s) == 'Stack(1, 2)'\n"
        "assert isinstance(s, Stack) and 2 in s and 5 not in s and not isinstance(3, Stack)\n"
        "s.items = []\nassert not s\ntry:\n    s.pop()\n    assert False\n"
        "except Empty as error:\n    assert error.args == ('nothing', 0) and isinstance(error, Exception)\n"
        "with Stack(7) as t:\n    assert t.items == [7]\nassert t.items == []",
    ),
    "functions to and fro": (
        "def twice(f, x): return f(f(x))\ndef adder(n): return lambda x: x + n\n"
        "def gen(n):\n    for k in range(n): yield k\ndef memo(f):\n    seen = {}\n"
        "    def g(x):\n        if x not in seen: seen[x] = f(x)\n        return seen[x]\n    return g",
        "assert twice(lambda x: x + 3, 1) == 7 and twice(adder(2), 1) == 5 and adder(2)(3) == 5\n"
        "assert list(gen(3)) == [0, 1, 2] and sum(gen(4)) == 6 and sorted(gen(2), reverse=True) == [1, 0]\n"
        "calls = []\n@memo\ndef slow(x):\n    calls.append(x)\n    return x * x\n"
        "assert slow(3) == 9 and slow(3) == 9 and calls == [3]\nassert list(map(adder(1), [1])) == [2]\n"
        "try:\n    twice(lambda x: 1 / 0, 1)\n    assert False\nexcept ZeroDivisionError:\n    pass",
    ),
    "arrays": (
        "import numpy as np\ndef double(x): return np.asarray(x) * 2\ndef zero(x): x[:] = 0\n"
        "def mean(x): return np.mean(x)",
        "assert np.array_equal(double([1, 2]), np.array([2, 4])) and double([3]).dtype == int\n"
        "a = np.ones(2)\nzero(a)\nassert (a == 0).all() and mean([1, 2]) == 1.5",
    ),
    "what the program imports": (
        "import math\nfrom math import sqrt\nfrom typing import List\nONE = 1\n"
        "def hypotenuse(a: float, b: float) -> float: return sqrt(a * a + b * b)",
        "assert math.isclose(hypotenuse(3, 4), 5) and ONE == 1 and sqrt(4) == 2\nx: List[int] = []",
    ),
    "a generator of asyncio": (
        "import asyncio\nasync def wait(x): return x\ndef now(x): return asyncio.run(wait(x))",
        "assert now(3) == 3",
    ),
    "names of the program's classes": (
        "class A: pass\ndef f(): 'Say.'\n",
        "assert A.__name__ == 'A' and f.__name__ == 'f' and f() is None",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_honest_programs_pass(name):
    program, tests = HONEST[name]
    outcome = sandbox.run(program, tests=tests, strict=True)
    assert outcome.passed, outcome.output


@pytest.mark.parametrize(
    ("tests", "reason"),
    [
        ("", "no tests"),
        ("# nothing", "no tests"),
        ("assert (", "SyntaxError"),
        ("assert add(1, 2) == 4", "AssertionError"),
        ("assert other(1)", "NameError"),
        ("class T: pass\nadd(T(), 1)", "hand the program a T: no plain value"),
        ("assert abs(add(1, 1)) == 2\nassert pow(1, 1) == 1", "redefines pow"),
    ],
)
def test_why_it_did_not_pass_is_told(tests, reason):
    program = "def add(a, b): return a + b\ndef pow(a, b): return 1"
    outcome = sandbox.run(program, tests=tests, strict=True)
    assert not outcome.passed and reason in outcome.output
