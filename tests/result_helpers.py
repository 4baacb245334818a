"""Results of stages, for tests that need a finished stage and care for few of its figures."""

from typing import Any

from distill.core.results import FileCheck, GenerateResult


def file_check(**figures: Any) -> FileCheck:
    """A file that is as good as the student, but for what is given."""
    same: dict[str, Any] = {
        "bytes": 1,
        "bits_per_weight": 16.0,
        "runtime": "llama.cpp",
        "tokenization": "identical",
        "max_logp_difference": 0.0,
        "nll": 1.0,
        "student_nll": 1.0,
        "nll_change": 0.0,
        "kl": 0.0,
        "kl_error": 0.0,
        "num_kl_tokens": 1,
        "top_token_agreement": 1.0,
        "num_tokens": 1,
        "top_token_agreement_without_ties": 1.0,
        "peak_memory": None,
        "prefill_speed": 1.0,
        "decode_speed": 1.0,
    }
    return FileCheck(**same | figures)


def generate_result(**figures: Any) -> GenerateResult:
    """One answer, kept."""
    one: dict[str, Any] = {
        "num_prompts": 1,
        "num_asked": 1,
        "num_kept": 1,
        "num_dropped": 0,
        "dropped_by_reason": {},
        "kept_by_language": {"en": 1},
        "num_held_out": 1,
        "num_answer_tokens": 2,
        "num_broken_log_lines": 0,
        "vocab_size": 10,
        "format": "",
        "retokenized": None,
        "num_skipped": {},
        "prompts_by_language": {"en": 1},
        "by_language": {"en": {"kept": 1}},
        "prompts_by_tries": {1: 1},
        "num_prompts_without_answer": 0,
        "prompts_by_source": {"prompts.jsonl": 1},
        "num_long_reasoning": 0,
        "seed": 0,
        "warning": None,
    }
    return GenerateResult(**one | figures)
