"""Ask one model the questions of one benchmark in one language: a row a question.

A row of choices has the log-likelihood of each, the likeliest one (`chosen`), and the likeliest by
the byte of its text (`chosen_by_byte`), which does not favour short choices. They are `acc` and
`acc_bytes` of lm-evaluation-harness; its `acc_norm` is by the character. Of equals the first is
chosen. A row of a number has the answer, and whether its last number is the right one. `cut`: what
stands before the answer is longer than the model reads, and lost its beginning.
"""

from typing import Any

from distill import chat
from distill.benchmarks.answering import Answerer, Model, OnDone, told
from distill.benchmarks.encoding import Encoder
from distill.benchmarks.items import Item, Questions
from distill.tasks.final_number import grade

AskedRow = dict[str, Any]


def ask(model: Model, answerer: Answerer, questions: Questions, advance: OnDone) -> list[AskedRow]:
    """Return a row a question. `advance(how many)` is called as questions are done."""
    if questions.benchmark.kind == "choices":
        return _choose(model, answerer, questions, told(advance))
    return _calculate(model, answerer, questions, told(advance))


def _choose(
    model: Model, answerer: Answerer, questions: Questions, on_done: OnDone
) -> list[AskedRow]:
    encoder = Encoder(model.tokenizer, model.longest)
    parts = encoder.parts(questions.items, questions.benchmark.delimiter)
    found = answerer.log_likelihoods([part.asked for part in parts], on_done)
    sums = [[0.0] * len(item.choices) for item in questions.items]
    for part, values in zip(parts, found, strict=True):
        for choice, value in zip(part.choices, values, strict=True):
            sums[part.item][choice] = value
    cut = {part.item for part in parts if part.is_cut}
    return [
        _chosen(item, of, is_cut=number in cut)
        for number, (item, of) in enumerate(zip(questions.items, sums, strict=True))
    ]


def _chosen(item: Item, log_likelihoods: list[float], *, is_cut: bool) -> AskedRow:
    lengths = [len(choice.encode("utf-8")) for choice in item.choices]
    by_byte = [value / length for value, length in zip(log_likelihoods, lengths, strict=True)]
    chosen = log_likelihoods.index(max(log_likelihoods))
    chosen_by_byte = by_byte.index(max(by_byte))
    return {
        "number": item.number,
        "log_likelihoods": log_likelihoods,
        "chosen": chosen,
        "chosen_by_byte": chosen_by_byte,
        "right": chosen == item.right,
        "right_by_byte": chosen_by_byte == item.right,
        "cut": is_cut,
    }


def _calculate(
    model: Model, answerer: Answerer, questions: Questions, on_done: OnDone
) -> list[AskedRow]:
    benchmark = questions.benchmark
    prompts = [_prompt_ids(model, item, chat_template=benchmark.chat) for item in questions.items]
    # of a model that reads little, question and answer have half each
    num = max(1, min(benchmark.max_new_tokens, model.longest // 2))
    room = max(1, model.longest - num)
    answers = answerer.answers([ids[-room:] for ids in prompts], num, model.stop_ids, on_done)
    texts = [
        _text(model, questions, ids, answer) for ids, answer in zip(prompts, answers, strict=True)
    ]
    return [
        {
            "number": item.number,
            "answer": text,
            "right": grade(text, {"reference": item.reference, "language": questions.language}),
            "cut": len(ids) > room,
        }
        for item, ids, text in zip(questions.items, prompts, texts, strict=True)
    ]


def _prompt_ids(model: Model, item: Item, *, chat_template: bool) -> list[int]:
    if not chat_template:
        return model.tokenizer(item.context).input_ids
    return chat.prompt_ids(
        model.tokenizer,
        item.context,
        system_prompt=model.system_prompt,
        enable_thinking=model.enable_thinking,
    )


def _text(model: Model, questions: Questions, prompt_ids: list[int], answer_ids: list[int]) -> str:
    """Return what counts of an answer: without its reasoning, before the first mark that ends it."""
    text = chat.text_of(model.tokenizer, answer_ids)
    if questions.benchmark.chat:
        opened = chat.opens_thinking(model.tokenizer, prompt_ids)
        marks = chat.answer_marks(model.tokenizer)
        text = chat.split_thinking(text, opened=opened, marks=marks)[1]
    for stop in questions.benchmark.stop:
        text = text.partition(stop)[0]
    return text
