"""The files of one round, and whether what stands there is of this very round.

round-1/started.json       what decides the round: what was made of anything else is removed
round-1/samples.jsonl      the answers that were learnt from, up to where each goes wrong
round-1/student/           its student; student.metrics.jsonl: a row a step
round-1/checkpoints/       while it learns
round-1/round.json         what came out, written last: the round is done
"""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from distill.core.results import Round, TrainedModel
from distill.core.stored_json import as_type, read_json, write_json
from distill.on_policy.student_answers import student_digest

WAY_OUT = "delete it and run the same command: the round is made again from what is on disk"


@dataclass(frozen=True)
class RoundFiles:
    """The folder of one round."""

    place: Path

    @property
    def student(self) -> Path:
        return self.place / "student"

    @property
    def samples(self) -> Path:
        return self.place / "samples.jsonl"

    @property
    def record(self) -> Path:
        return self.place / "round.json"

    def begin(self, made_from: str) -> None:
        """Note what decides the round; remove what was made of anything else, or is damaged."""
        if self.record.exists() or self._started_from() != made_from:
            shutil.rmtree(self.place, ignore_errors=True)
        write_json(self.place / "started.json", {"made_from": made_from})

    def _started_from(self) -> str | None:
        try:
            return read_json(self.place / "started.json", WAY_OUT).get("made_from")
        except FileNotFoundError:
            return None

    def read(self, made_from: str) -> Round | None:
        """Return the round if it is done, and made from just this; else None.

        Raises DataError where its file is broken.
        """
        try:
            values = read_json(self.record, WAY_OUT)
        except FileNotFoundError:
            return None
        if values.get("made_from") != made_from:
            return None
        return as_type(values, Round, self.record, WAY_OUT)

    def finish(self, made: Round) -> None:
        """Write the round's record, last of all; its checkpoints are needed no more."""
        write_json(self.record, asdict(made), indent=1)
        shutil.rmtree(self.place / "checkpoints", ignore_errors=True)

    def has_whole_student(self) -> bool:
        """Return whether its student is there. Raises DataError where it is not as it was written."""
        from distill.training.written import TRAINING, require_as_trained

        if not (self.student / TRAINING).is_file():
            return False
        require_as_trained(self.place, "student")
        return True

    def trained(self) -> TrainedModel:
        """Return how its student was trained."""
        from distill.training.written import result_of

        return result_of(self.student)

    def has_student_of(self, made: Round) -> bool:
        """Return whether the student of a finished round is still there, as it was."""
        return self.student.is_dir() and student_digest(self.student) == made.student
