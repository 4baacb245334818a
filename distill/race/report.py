"""What came out of a race: a row a candidate, who won, and by how much.

shape/shape.json     the rows, and the race that they are of
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.core.files import files_under
from distill.core.intervals import paired_bootstrap
from distill.core.run_folder import Fingerprint, RunFolder, differences
from distill.core.stored_json import as_type, read_json, write_json
from distill.deploy.targets import MEMORY_BOUND, Target
from distill.race.candidates import Values
from distill.race.recipes import decided_by
from distill.race.stages import Folders, Measured, race_changed
from distill.race.stored import WAY_OUT, Race, Wishes, goes_on
from distill.recipe import Recipe


@dataclass(frozen=True)
class Row:
    """A candidate that was raced.

    `num_bytes`: of its file. `bytes_per_token`: of weights that decoding a token reads; None for a
    folder. `failed`: which gate of `quantize` its file does not pass.
    """

    name: str
    values: Values
    num_bytes: int
    bytes_per_token: int | None
    fits: bool
    failed: str | None
    measured: Measured


@dataclass(frozen=True)
class Outcome:
    """A finished race: its rows, the best first. `decided_by`: what of the recipe it ran by."""

    race: Race
    rows: list[Row]
    decided_by: Fingerprint

    @property
    def winner(self) -> Row | None:
        """Return the best that fits; None where none does."""
        return next((row for row in self.rows if row.fits), None)


def outcome_of(race: Race, rows: Sequence[Row], ran_by: Fingerprint) -> Outcome:
    return Outcome(race, sorted(rows, key=lambda row: row.measured.nll_after), ran_by)


def store(folders: Folders, outcome: Outcome) -> Path:
    path = _path(folders)
    write_json(path, asdict(outcome), indent=1)
    return path


def stored_outcome(folders: Folders) -> Outcome | None:
    """Return what was stored, None where nothing was. Raises DataError where it is broken."""
    path = _path(folders)
    try:
        return as_type(read_json(path, WAY_OUT), Outcome, path, WAY_OUT)
    except FileNotFoundError:
        return None


def finished(recipe: Recipe, wishes: Wishes) -> Outcome | None:
    """Return what came out of the recipe's race, if that is over and it asks for no other one.

    Raises RaceChanged where the race was run by other values than the recipe's.
    """
    folders = Folders(RunFolder.of(recipe))
    outcome = stored_outcome(folders)
    answers = folders.run.manifest("generate", dict)
    digest = None if answers is None else answers.digest
    if outcome is None or not goes_on(outcome.race, recipe, digest, wishes):
        return None
    if changes := differences(outcome.decided_by, decided_by(recipe, outcome.race)):
        raise race_changed(_path(folders), changes)
    return outcome


def _path(folders: Folders) -> Path:
    return folders.path / "shape.json"


def text(outcome: Outcome, target: Target | None) -> str:
    """Return the table, the best first, and what is to be said of it."""
    race = outcome.race
    has_task = any(row.measured.exact_match is not None for row in outcome.rows)
    speed = "" if target is None else f"{'tokens/s':>14}"
    exact = f"{'exact match':>13}" if has_task else ""
    lines = [
        f"shape: {race.limits}; {race.tokens:,} tokens each",
        f"  {'candidate':<32}{'parameters':>15}{'MB':>10}{speed}{'NLL/byte':>10}{'healed':>9}{exact}",
    ]
    lines += [_line(row, target, has_task) for row in outcome.rows]
    lines += [f"  left out: {out.name}: {out.reason}" for out in race.left_out]
    num = len(outcome.rows[0].measured.nats)
    lines.append(
        f"NLL/byte: nats a byte of the answers to {num} held-out prompts, before and after "
        f"(healed) the short distillation; MB: of the {race.format} file; * beyond the budget"
    )
    if target is not None:
        low, high = target.share
        lines.append(
            f"tokens/s: an ESTIMATE for {target.name}: {target.bandwidth / 1e9:g} GB/s, of which "
            f"decoding reaches {low:.0%} to {high:.0%}"
        )
    for row in outcome.rows:
        if row.failed is not None:
            lines.append(f"{row.name}: its {race.format} file fails its check: {row.failed}")
    worse = [r.name for r in outcome.rows if r.measured.nll_after > r.measured.nll_before]
    if worse:
        lines.append(
            f"{', '.join(worse)}: worse after the distillation than before it: train.learning_rate "
            "is too high for a student that begins so well, or there is too little to learn from"
        )
    return "\n".join([*lines, *_verdict(outcome)])


def _line(row: Row, target: Target | None, has_task: bool) -> str:
    measured = row.measured
    mark = " " if row.fits else "*"
    speed = "" if target is None else f"{_speed(row, target):>14}"
    exact = ""
    if has_task:
        exact = f"{measured.exact_match or 0:>13.1%}"
    return (
        f"{mark} {row.name:<32}{measured.num_parameters:>15,}{row.num_bytes / 1e6:>10,.1f}{speed}"
        f"{measured.nll_before:>10.4f}{measured.nll_after:>9.4f}{exact}"
    )


def _speed(row: Row, target: Target) -> str:
    if row.bytes_per_token is None or row.bytes_per_token < MEMORY_BOUND:
        return "?"
    low, high = target.decode(row.bytes_per_token)
    return f"{low:,.0f} to {high:,.0f}"


def _verdict(outcome: Outcome) -> list[str]:
    """Return who won, and by how much, against what chance makes of it."""
    winner = outcome.winner
    if winner is None:
        return ["no candidate's file fits the budget: raise it, and run the same command"]
    others = [row for row in outcome.rows if row.fits and row is not winner]
    if not others:
        return [f"{winner.name} is the only one that fits"]
    return _comparison(outcome, winner, others)


def _comparison(outcome: Outcome, winner: Row, others: Sequence[Row]) -> list[str]:
    """Return by how much the winner is ahead of the `others` that fit, and what that is worth."""
    second = others[0]
    found = paired_bootstrap(_pairs(winner.measured, second.measured), seed=outcome.decided_by.seed)
    gap, least, most = -found["difference"], -found["high"], -found["low"]
    lines = [
        f"{winner.name} wins: {gap:.4f} nats a byte below {second.name} "
        f"[{least:.4f}, {most:.4f}: 95 % over the held-out answers]"
    ]
    if least <= 0:
        lines.append("that may be chance: take the smaller or the faster of the two")
    lines.append(
        "one training each: another seed moves each of them too, by how much is not measured here"
    )
    lines.append(
        "chosen on held-out prompts that the run's report scores, too: the winner's figures there are "
        "a little too good"
    )
    return lines + _by_task(winner, [winner, *others])


def _pairs(first: Measured, second: Measured) -> list[tuple[float, float]]:
    """Return (difference in nats, bytes) of each answer: they are of the same texts."""
    return [
        (a - b, float(size))
        for a, b, size in zip(first.nats, second.nats, first.num_bytes, strict=True)
    ]


def _by_task(winner: Row, fitting: Sequence[Row]) -> list[str]:
    """Return a line where another one solves more of the task: the two need not agree."""
    best = max(fitting, key=lambda row: row.measured.exact_match or 0.0)
    if (best.measured.exact_match or 0.0) <= (winner.measured.exact_match or 0.0):
        return []
    low, high = best.measured.interval or (0.0, 1.0)
    return [
        f"by exact match it would be {best.name}: {best.measured.exact_match:.1%} "
        f"[{low:.1%}, {high:.1%}], the winner {winner.measured.exact_match or 0:.1%}"
    ]


def deletable(folders: Folders) -> str:
    """Return what the race left on the disk, and what of it is needed."""
    num_bytes = sum(path.stat().st_size for path in files_under(folders.path))
    return (
        f"{folders.path}: {num_bytes / 1e6:,.0f} MB; nothing but shape.json is needed any more. Each "
        "candidate's folder there is one for `chat` and `bench`; delete what you do not want"
    )
