"""The logs of a teacher's answers, and which of their rows counts."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distill.core.jsonl import Row, placed_row_logs
from distill.core.stored_json import broken, field_problem, read_json
from distill.recipe import Recipe
from distill.teachers.logged_rows import ChosenRows, LoggedRows, heads_of
from distill.teachers.server.budget import Prices, UsageLog, Whose

PILOT = "probe.json"
PILOT_WAY_OUT = "delete it and run the same command: answers that are on disk are not asked again"
MOST_IDS = 2**31  # of any tokenizer
# what every reader of a row relies on
FIELDS = {
    "key": str,
    "seed": int,
    "finish_reason": str,
    "max_new_tokens": int,
    "text": str,
    "token_ids": list,
}


@dataclass(frozen=True)
class AnswerLog:
    """One log: an append-only folder of a stage that asks.

    `stage` is the folder of its stage, `work` that one's name. `unit` is what its answers are called
    where progress is shown, `prices` are those of the server that answers. `num_ids` returns how many
    token ids the tokenizer of its answers has, or None where that may change. `only_of`: they are
    those of the rows of this model alone, one of several that answer here.
    """

    stage: Path
    name: str
    unit: str
    prices: Prices
    num_ids: Callable[[], int | None] = lambda: None
    work: str = "generate"
    only_of: str | None = None

    @property
    def folder(self) -> Path:
        return self.stage / self.name

    @property
    def leases(self) -> Path:
        """Return where jobs claim what they ask."""
        return self.stage / "leases"


@dataclass(frozen=True)
class AnswerLogs:
    """The logs of `generate`: answers, prompts that the teacher wrote, and replies of the judge.

    `scored`: what a server took to score given tokens; it holds no answers. `held_out`: answers that
    nobody learns from (teachers/held_out.py).
    """

    answers: AnswerLog
    written_prompts: AnswerLog
    verdicts: AnswerLog
    scored: AnswerLog
    held_out: AnswerLog

    @classmethod
    def of(cls, recipe: Recipe, stage: Path, num_ids: Callable[[], int | None]) -> "AnswerLogs":
        """Return the logs in `stage`, the folder of `generate`; `num_ids`: see AnswerLog."""
        options = recipe.generate
        teachers = judges = Prices(options.price_prompt, options.price_answer)
        if options.judge_server is not None:  # else the teacher judges
            judges = Prices(options.judge_price_prompt, options.judge_price_answer)
        only_of = recipe.teacher.model if recipe.route else None
        return cls(
            AnswerLog(stage, "raw", "answers", teachers, num_ids, only_of=only_of),
            AnswerLog(stage, "raw_prompts", "prompts", teachers, num_ids, only_of=only_of),
            AnswerLog(stage, "judged", "verdicts", judges, num_ids, only_of=only_of),
            AnswerLog(stage, "scored", "sequences", teachers, num_ids, only_of=only_of),
            AnswerLog(stage, "held_out", "answers", teachers, num_ids, only_of=only_of),
        )

    def usage_log(
        self, prices: Mapping[Whose, Prices] | None = None, only: Whose | None = None
    ) -> UsageLog:
        """Return what all of them say was used; `prices` and `only`: see UsageLog."""
        logs = (self.answers, self.written_prompts, self.verdicts, self.scored, self.held_out)
        return UsageLog({log.folder: log.prices for log in logs}, prices, only)


def pilot_groups(stage: Path) -> list[list[str]]:
    """Return the ids of the prompts that were asked before the others in this run folder.

    A list for each pilot sample (pilot/pilot_sample.py). `stage`: the folder of `generate`.
    """
    return read_pilot(stage).get("groups", [])


def read_pilot(stage: Path) -> dict[str, Any]:
    """Return what the pilot samples noted down (pilot/pilot_sample.py); nothing where none was asked.

    Raises DataError, with the way out, where the file is broken.
    """
    path = stage / PILOT
    try:
        notes = read_json(path, PILOT_WAY_OUT)
    except FileNotFoundError:
        return {}
    groups = notes.get("groups", [])
    if not _are_lists_of_ids(groups):
        raise broken(path, "groups: no lists of the prompts' ids", PILOT_WAY_OUT)
    if problem := field_problem({"taken": {}} | notes, {"taken": dict}):
        raise broken(path, problem, PILOT_WAY_OUT)
    return notes


def _are_lists_of_ids(groups: Any) -> bool:
    if not isinstance(groups, list) or not all(isinstance(group, list) for group in groups):
        return False
    return all(isinstance(prompt_id, str) for group in groups for prompt_id in group)


@dataclass
class LoggedAnswers:
    """What is in a log: its rows, and notes on lines that are torn, and on rows that are set aside.

    A row is set aside where it is not what we write, or holds token ids that no text has: earlier
    versions took those from a server. It stays in its file, and is asked for again.
    """

    rows: LoggedRows = field(default_factory=LoggedRows)
    torn: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)


def read_log(log: AnswerLog) -> LoggedAnswers:
    """Read a log; its rows stay on disk (logged_rows.py)."""
    found = LoggedAnswers()
    num_ids: int | None = None
    for place, row in placed_row_logs(log.folder, found.torn):
        num_ids = num_ids or log.num_ids()
        is_of_log = log.only_of in (None, row.get("teacher"))
        problem = row_problem(row, num_ids if is_of_log else None)
        if problem is None:
            found.rows.take(place, row)
        else:
            found.bad.append(problem)
    return found


def read_answers(log: AnswerLog) -> tuple[LoggedRows, list[str]]:
    """Return (rows, notes on lines that do not count) of a log."""
    found = read_log(log)
    return found.rows, found.torn + found.bad


def row_problem(row: Row, num_ids: int | None) -> str | None:
    """Return why a row of a log does not count, or None; `num_ids`: see AnswerLog."""
    answer = f"the answer {str(row.get('key'))[:40]!r}"
    wrong = [name for name, kind in FIELDS.items() if not isinstance(row.get(name), kind)]
    if wrong:
        return f"{answer}: no {', '.join(wrong)} as it should be"
    ids = row["token_ids"]
    if not ids:
        return None
    if {*map(type, ids)} != {int} or min(ids) < 0:
        return f"{answer}: token ids that are none"
    num_ids = num_ids or MOST_IDS
    if max(ids) >= num_ids:
        return f"{answer}: token id {max(ids)}, and the tokenizer has {num_ids:,} ids"
    return None


def final_rows(rows: Sequence[Row], recipe: Recipe, longest: int | None = None) -> ChosenRows:
    """Return the best row of each key for which nothing more is to be asked.

    It is final, or was cut and is refused at this length. `longest`: tokens of an answer, where that
    is not generate.max_new_tokens.
    """
    heads = heads_of(rows)
    longest = longest or recipe.generate.max_new_tokens

    def is_final(row: Row) -> bool:
        if row["finish_reason"] == "error":
            return not recipe.generate.retry_errors
        return row["finish_reason"] != "length" or row["max_new_tokens"] >= longest

    refused = {
        head["key"]
        for head in heads
        if head["finish_reason"] == "error" and is_final(head) and head["max_new_tokens"] >= longest
    }
    best = best_rows(rows).numbers
    final = {
        key: number for key, number in best.items() if is_final(heads[number]) or key in refused
    }
    return ChosenRows(rows, final)


def best_rows(rows: Sequence[Row]) -> ChosenRows:
    """Return one row a key.

    A finished answer comes before a cut one, the longer cut before the shorter, any before an
    error, then the first written.
    """
    heads = heads_of(rows)
    best: dict[str, int] = {}
    for number, head in enumerate(heads):
        old = best.get(head["key"])
        if old is None or _rank(head) > _rank(heads[old]):
            best[head["key"]] = number
    return ChosenRows(rows, best)


def read_best_rows(log: AnswerLog) -> ChosenRows:
    """Return one row a key of what is on disk."""
    return best_rows(read_log(log).rows)


def read_rows_of(log: AnswerLog, keys: Iterable[str]) -> dict[str, Row]:
    """Return the row of each of the keys that is on disk; no other is read."""
    chosen = read_best_rows(log)
    return {key: chosen[key] for key in keys if key in chosen}


def _rank(row: Row) -> tuple[int, int]:
    if row["finish_reason"] == "length":
        return 1, row["max_new_tokens"]
    return (0 if row["finish_reason"] == "error" else 2), 0
