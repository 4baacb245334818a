"""A model with the rows of some tokens: what it says of them is what it said before."""

import pytest
import torch
from conftest import tiny_qwen3
from format_helpers import build_model
from shaping_helpers import trimmed

from distill.errors import MismatchError
from distill.models import load
from distill.shaping.pruning import Limits
from distill.shaping.rows import keep_rows

CPU = load.Placement("cpu", "float32")
KEPT = [0, 2, 5, 7, 11, 100, 101, 102, 298]


def logits(model, ids):
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("folder", ["smollm2", "quickstart"])
def test_logits_of_kept_tokens_are_the_same_bits_where_none_that_was_removed_is_needed(
    folder, request
):
    from format_helpers import SENTENCES, TEACHER

    path = str(TEACHER if folder == "quickstart" else request.getfixturevalue("smollm2"))
    tokenizer = load.load_tokenizer(path)
    vocabulary, _, _ = trimmed(tokenizer, Limits(None, 0.0))
    before, after = load.load_model(path, CPU), load.load_model(path, CPU)
    keep_rows(after, vocabulary.parent_ids)
    for text in (SENTENCES[0], SENTENCES[2]):
        ids = vocabulary.tokenizer(text, add_special_tokens=False).input_ids
        old = logits(before, vocabulary.parents_of(ids))[:, list(vocabulary.parent_ids)]
        assert torch.equal(logits(after, ids), old)
    assert before.get_input_embeddings().weight.shape[0] > len(vocabulary)


def test_a_tied_head_stays_tied_and_one_of_its_own_its_own(tmp_path):
    for kind, tied in (("qwen3", True), ("llama", False)):
        model = build_model(kind, tie_word_embeddings=tied)
        embedding, head = (
            table.weight.detach().clone()
            for table in (model.get_input_embeddings(), model.get_output_embeddings())
        )
        keep_rows(model, KEPT)
        new = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert torch.equal(new[0], embedding[KEPT]) and torch.equal(new[1], head[KEPT])
        assert (new[0] is new[1]) == tied
        model.save_pretrained(tmp_path / kind)
        again = load.load_model(str(tmp_path / kind), CPU)
        assert torch.equal(again.get_output_embeddings().weight, head[KEPT])
        assert again.config.vocab_size == len(KEPT)


def test_a_heads_bias_has_the_rows_of_its_tokens():
    model = tiny_qwen3()
    model.lm_head = torch.nn.Linear(64, 300)
    model.config.tie_word_embeddings = False
    weight, bias = model.lm_head.weight.detach().clone(), model.lm_head.bias.detach().clone()
    keep_rows(model, KEPT)
    assert torch.equal(model.lm_head.bias, bias[KEPT])
    assert torch.equal(model.lm_head.weight, weight[KEPT])


def test_the_ids_in_its_configs_are_the_new_ones():
    model = tiny_qwen3()
    generation = model.generation_config
    generation.eos_token_id, generation.bos_token_id = [2, 7, 50], 101
    generation.suppress_tokens, generation.begin_suppress_tokens = [3, 5], [4]
    keep_rows(model, KEPT)
    assert (model.config.eos_token_id, model.config.pad_token_id) == (1, 0)
    assert model.get_input_embeddings().padding_idx == 0
    assert generation.eos_token_id == [1, 3] and generation.bos_token_id == 6
    assert generation.suppress_tokens == [2] and generation.begin_suppress_tokens is None


def test_a_padding_row_that_goes_is_none_any_more():
    model = tiny_qwen3()
    keep_rows(model, KEPT[1:])
    assert model.config.pad_token_id is None
    assert model.get_input_embeddings().padding_idx is None


def test_what_has_more_tables_by_token_is_refused():
    model = tiny_qwen3()
    model.model.second = torch.nn.Embedding(300, 8)
    with pytest.raises(MismatchError, match=r"second\.weight has a row for each token"):
        keep_rows(model, KEPT)
    model = tiny_qwen3()
    model.generation_config.sequence_bias = {(5,): -1.0}
    with pytest.raises(MismatchError, match="remove sequence_bias"):
        keep_rows(model, KEPT)


def test_a_table_that_is_kept_whole_is_the_same():
    model = tiny_qwen3()
    embedding = model.get_input_embeddings().weight.detach().clone()
    keep_rows(model, range(300))
    assert torch.equal(model.get_input_embeddings().weight, embedding)
