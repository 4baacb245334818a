"""What two tokenizers have in common, told on the prompts before the teacher has cost anything."""

from collections.abc import Iterable
from itertools import islice

from distill.data.samples import Prompt
from distill.signals.alignment import SPLIT_DIGITS
from distill.teachers.base import Teacher
from distill.teachers.byte_chunks import alignment_of, students_bytes, teachers_bytes

NUM_TEXTS = 500  # prompts that are aligned


def planned_chunks(teacher: Teacher, prompts: Iterable[Prompt]) -> str:
    """Return what capture.signal chunks will find, by some prompts' texts.

    Raises MismatchError, with the way out, for a tokenizer whose tokens are not bytes of the text.
    """
    tokenizers = teacher.tokenizers
    own, others = teachers_bytes(teacher), students_bytes(tokenizers.student)
    if teacher.recipe.student.vocabulary is not None:
        return "capture.signal chunks: of the trimmed tokenizer's tokens, which are known when it is made"
    if tokenizers.same:
        return (
            "capture.signal chunks: the student has the teacher's own tokenizer, so each chunk is of "
            "the same tokens; capture.signal sampled tells it more"
        )
    num_tokens = num_chunks = num_split = 0
    for prompt in islice(prompts, NUM_TEXTS):
        ids, students_ids = (
            tokenizer(prompt.text, add_special_tokens=False).input_ids
            for tokenizer in (tokenizers.asked, tokenizers.student)
        )
        alignment = alignment_of(ids, students_ids, own, others)
        num_tokens += len(students_ids)
        num_chunks += len(alignment.kinds)
        num_split += alignment.count(SPLIT_DIGITS)
    return (
        f"capture.signal chunks: {num_tokens / max(num_chunks, 1):.2f} of the student's tokens between "
        f"two cuts that both tokenizers make (in the prompts); {num_split / max(num_chunks, 1):.1%} of "
        "these pieces have a number that the two split otherwise, and get no soft loss"
    )
