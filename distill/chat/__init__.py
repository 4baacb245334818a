"""Chat templates, reasoning in answers, and what tells one tokenizer from another."""

from distill.chat.fingerprints import (
    fingerprint_of_format,
    fingerprint_of_template,
    fingerprint_of_tokenizer,
    require_same_tokenizer,
    same_template,
    same_tokenizer,
)
from distill.chat.marks import TemplateMarks, own_mark, template_marks
from distill.chat.probes import PROBES
from distill.chat.reasoning import (
    Marks,
    answer_marks,
    dropped_tokens,
    opens_thinking,
    split_thinking,
    text_of,
)
from distill.chat.retokenize import retokenize_answer, target_ids, without_reasoning
from distill.chat.template import (
    SWITCHES,
    Messages,
    dated,
    end_of_turn,
    prompt_ids,
    prompt_text,
    stop_ids,
    thinking_of,
    thinking_switch,
    user_turn,
    with_system_prompt,
)

__all__ = [
    "PROBES",
    "SWITCHES",
    "Marks",
    "Messages",
    "TemplateMarks",
    "answer_marks",
    "dated",
    "dropped_tokens",
    "end_of_turn",
    "fingerprint_of_format",
    "fingerprint_of_template",
    "fingerprint_of_tokenizer",
    "opens_thinking",
    "own_mark",
    "prompt_ids",
    "prompt_text",
    "require_same_tokenizer",
    "retokenize_answer",
    "same_template",
    "same_tokenizer",
    "split_thinking",
    "stop_ids",
    "target_ids",
    "template_marks",
    "text_of",
    "thinking_of",
    "thinking_switch",
    "user_turn",
    "with_system_prompt",
    "without_reasoning",
]
