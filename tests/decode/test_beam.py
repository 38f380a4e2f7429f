"""Constrained beam search against brute force and against Hugging Face's own."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from decode_tiny import VOCABULARY, catalogues, model, random_prompts, score_all
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    Qwen2Config,
)

from crsearch.decode import Trie, beam_search
from crsearch.decode.walk import search
from crsearch.errors import ConfigError, DataError, ModelError

families = st.sampled_from(["qwen3", "llama"])
seeds = st.integers(0, 3)
lengths = st.lists(st.integers(1, 20), min_size=1, max_size=4).map(tuple)
few = settings(max_examples=25)


class Table:
    """A "model" whose next-token probabilities are a table from prefix to probabilities."""

    def __init__(self, table: dict[tuple[int, ...], dict[int, float]], vocabulary: int = 8) -> None:
        self.table, self.vocabulary, self.rows = table, vocabulary, [()]

    def read(self) -> torch.Tensor:
        probability = torch.zeros(1, len(self.rows), self.vocabulary)
        for row, prefix in enumerate(self.rows):
            for token, p in self.table.get(prefix, {}).items():
                probability[0, row, token] = p
        return probability.log()

    start = read

    def step(self, parents: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        self.rows = [(*self.rows[p], t) for p, t in zip(parents[0].tolist(), tokens[0].tolist(), strict=True)]
        return self.read()


A0, A1, B0, B1, INVALID = 0, 1, 2, 3, 7
GOLDEN_TABLE = {
    (): {A0: 0.5, A1: 0.3, INVALID: 0.2},
    (A0,): {B0: 0.45, B1: 0.35, INVALID: 0.2},
    (A1,): {B0: 0.5, INVALID: 0.5},
}
GOLDEN_TRIE = Trie.from_tokens(np.array([[A0, B0], [A0, B1], [A1, B0]]))


@pytest.mark.parametrize(
    ("normalise", "rows", "probabilities"),
    [("full", [0, 1, 2], [0.225, 0.175, 0.150]), ("sid", [2, 0, 1], [0.375, 0.351563, 0.273438])],
)
def test_golden_catalogue_under_both_normalisers(normalise, rows, probabilities):
    rows_1K, scores_1K = search(Table(GOLDEN_TABLE), GOLDEN_TRIE, 3, [None], normalise)
    assert rows_1K.tolist() == [rows]
    torch.testing.assert_close(scores_1K.exp(), torch.tensor([probabilities]), atol=1e-6, rtol=0)


def test_beam_two_finds_what_greedy_misses():
    assert search(Table(GOLDEN_TABLE), GOLDEN_TRIE, 1, [None], "sid")[0].tolist() == [[0]]
    assert search(Table(GOLDEN_TABLE), GOLDEN_TRIE, 1, [None], "full")[0].tolist() == [[0]]
    assert search(Table(GOLDEN_TABLE), GOLDEN_TRIE, 2, [None], "sid")[0].tolist() == [[2, 0]]


@pytest.mark.parametrize("normalise", ["full", "sid"])
def test_a_beam_at_a_dead_end_dies_and_never_leaves_the_catalogue(normalise):
    no_continuation = {(): {A0: 0.9, A1: 0.1}, (A0,): {INVALID: 1.0}, (A1,): {B0: 1.0}}
    rows, scores = search(Table(no_continuation), GOLDEN_TRIE, 2, [None], normalise)
    assert rows.tolist() == [[2, -1]] and scores[0, 1] == -torch.inf
    rows, scores = search(Table({(): {INVALID: 1.0}}), GOLDEN_TRIE, 2, [None], normalise)
    assert rows.tolist() == [[-1, -1]] and (scores == -torch.inf).all()


def test_equal_items_come_in_order_of_their_rows():
    flat = {(): {A0: 0.5, A1: 0.5}, (A0,): {B0: 0.5, B1: 0.5}, (A1,): {B0: 0.5, B1: 0.5}}
    trie = Trie.from_tokens(np.array([[A1, B1], [A0, B1], [A1, B0], [A0, B0]]))
    for width, rows in ((4, [0, 1, 2, 3]), (3, [0, 1, 2]), (2, [0, 1]), (1, [1])):  # width 1 keeps A0 only
        assert search(Table(flat), trie, width, [None], "full")[0].tolist() == [rows]


@given(seed=seeds, family=families)
@few
def test_one_item_catalogue_always_returns_it_with_its_true_probability(seed, family):
    tokens_NL = np.array([[9, 21, 40]])
    prompts = random_prompts(seed, (5, 2))
    full = beam_search(model(family, seed), prompts, Trie.from_tokens(tokens_NL), width=3)
    own = beam_search(model(family, seed), prompts, Trie.from_tokens(tokens_NL), width=3, normalise="sid")
    assert full[0].tolist() == own[0].tolist() == [[0, -1, -1]] * 2
    for prompt, score in zip(prompts, full[1][:, 0], strict=True):
        torch.testing.assert_close(score, score_all(model(family, seed), prompt, tokens_NL)[0], atol=1e-4, rtol=1e-5)
    assert own[1][:, 0].tolist() == [0, 0]


@given(tokens_NL=catalogues(), family=families, seed=seeds, lengths=lengths, extra=st.integers(0, 5))
@few
def test_beam_as_wide_as_the_catalogue_equals_scoring_every_item(tokens_NL, family, seed, lengths, extra):
    prompts, N = random_prompts(seed, lengths), len(tokens_NL)
    rows_BK, scores_BK = beam_search(model(family, seed), prompts, Trie.from_tokens(tokens_NL), width=N + extra)
    assert (rows_BK[:, N:] == -1).all() and (scores_BK[:, N:] == -torch.inf).all()
    for prompt, rows, scores in zip(prompts, rows_BK[:, :N], scores_BK[:, :N], strict=True):
        truth = score_all(model(family, seed), prompt, tokens_NL)
        assert sorted(rows.tolist()) == list(range(N))
        torch.testing.assert_close(scores, truth[rows], atol=2e-4, rtol=1e-5)
        assert (scores.diff() <= 0).all()


def hugging_face(model: Any, prompt: list[int], tokens_NL: np.ndarray, width: int) -> tuple[list[int], torch.Tensor]:
    """transformers' own beam search with a Python dict as trie."""
    after: dict[tuple[int, ...], set[int]] = {}
    for sid in tokens_NL.tolist():
        for i in range(len(sid)):
            after.setdefault(tuple(sid[:i]), set()).add(sid[i])
    row_of = {tuple(sid): row for row, sid in enumerate(tokens_NL.tolist())}
    out = model.generate(
        torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        num_beams=width, num_return_sequences=width, max_new_tokens=tokens_NL.shape[1], do_sample=False,
        length_penalty=0.0, early_stopping=False, pad_token_id=0, eos_token_id=None, output_scores=True,
        return_dict_in_generate=True,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(after[tuple(ids[len(prompt):].tolist())]),
    )  # fmt: skip
    return [row_of[tuple(s)] for s in out.sequences[:, len(prompt) :].tolist()], out.sequences_scores


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize(("width", "seed"), [(2, 0), (3, 1), (8, 2)])
def test_same_lists_and_scores_as_hugging_face_at_the_same_width(family, width, seed):
    rng = np.random.default_rng(seed)
    tokens_NL = rng.permutation(np.unique(rng.integers(0, 6, (200, 3)), axis=0)) + np.array([10, 20, 30])
    for prompt in random_prompts(seed, (6, 17)):
        rows_1K, scores_1K = beam_search(model(family, seed), [prompt], Trie.from_tokens(tokens_NL), width=width)
        rows, scores = hugging_face(model(family, seed), prompt, tokens_NL, width)
        assert rows_1K[0].tolist() == rows
        torch.testing.assert_close(scores_1K[0], scores, atol=1e-4, rtol=0)


@given(tokens_NL=catalogues(), family=families, seed=seeds, lengths=lengths, width=st.integers(1, 12))
@few
def test_items_are_distinct_and_scores_are_their_probabilities_at_any_width(tokens_NL, family, seed, lengths, width):
    prompts = random_prompts(seed, lengths)
    rows_BK, scores_BK = beam_search(model(family, seed), prompts, Trie.from_tokens(tokens_NL), width=width)
    for prompt, rows, scores in zip(prompts, rows_BK, scores_BK, strict=True):
        found = rows[rows >= 0]
        assert len(set(found.tolist())) == len(found) == min(width, len(tokens_NL)) or width < len(tokens_NL)
        truth = score_all(model(family, seed), prompt, tokens_NL)[found]
        torch.testing.assert_close(scores[: len(found)], truth, atol=2e-4, rtol=1e-5)


@given(tokens_NL=catalogues(), family=families, seed=seeds)
@few
def test_width_one_is_greedy(tokens_NL, family, seed):
    prompt, trie = random_prompts(seed, (9,))[0], Trie.from_tokens(tokens_NL)
    sid: list[int] = []
    while len(sid) < trie.depth:
        with torch.no_grad():
            logits = model(family, seed)(torch.tensor([prompt + sid])).logits[0, -1]
        sid.append(max(trie.allowed(sid).tolist(), key=lambda t: float(logits[t])))
    rows_11, _ = beam_search(model(family, seed), [prompt], trie, width=1)
    assert tokens_NL[rows_11[0, 0]].tolist() == sid


@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_batch_of_eight_equals_eight_single_calls(family):
    rng = np.random.default_rng(0)
    trie = Trie.from_tokens(np.unique(rng.integers(10, 16, (150, 3)), axis=0))
    prompts = random_prompts(1, (3, 18, 1, 7, 7, 12, 1, 30))
    rows_BK, scores_BK = beam_search(model(family), prompts, trie, width=6)
    for batch in (1, 3):
        rows, scores = beam_search(model(family), prompts, trie, width=6, batch=batch)
        assert rows.tolist() == rows_BK.tolist()
        torch.testing.assert_close(scores, scores_BK, atol=1e-4, rtol=0)


@given(tokens_NL=catalogues(), family=families, seed=seeds, lengths=lengths, width=st.integers(1, 9))
@few
def test_cache_equals_no_cache(tokens_NL, family, seed, lengths, width):
    trie, prompts = Trie.from_tokens(tokens_NL), random_prompts(seed, lengths)
    with_cache = beam_search(model(family, seed), prompts, trie, width=width)
    without = beam_search(model(family, seed), prompts, trie, width=width, cache=False)
    assert with_cache[0].tolist() == without[0].tolist()
    torch.testing.assert_close(with_cache[1], without[1], atol=2e-4, rtol=1e-5)


@given(tokens_NL=catalogues(min_items=2), seed=seeds, data=st.data(), normalise=st.sampled_from(["full", "sid"]))
@few
def test_a_filter_equals_searching_the_sub_catalogue(tokens_NL, seed, data, normalise):
    N = len(tokens_NL)
    allowed_BN = np.array(data.draw(st.lists(st.lists(st.booleans(), min_size=N, max_size=N), min_size=2, max_size=2)))
    prompts, trie = random_prompts(seed, (4, 9, 6)), Trie.from_tokens(tokens_NL)
    masks = [trie.mask(allowed_BN[0]), None, trie.mask(allowed_BN[1])]
    width = data.draw(st.integers(1, 10))
    rows_BK, scores_BK = beam_search(model(seed=seed), prompts, trie, width, mask=masks, normalise=normalise)
    for b, allowed in ((0, allowed_BN[0]), (2, allowed_BN[1])):
        index = np.flatnonzero(allowed)
        if not len(index):
            assert (rows_BK[b] == -1).all()
            continue
        sub = Trie.from_tokens(tokens_NL[index])
        rows, scores = beam_search(model(seed=seed), [prompts[b]], sub, width, normalise=normalise)
        found = rows[0] >= 0
        assert rows_BK[b][found].tolist() == index[rows[0][found].numpy()].tolist()
        assert (rows_BK[b][~found] == -1).all()
        torch.testing.assert_close(scores_BK[b], scores[0], atol=1e-4, rtol=0)
    one = beam_search(model(seed=seed), prompts, trie, width, mask=masks[0], normalise=normalise)
    assert one[0][0].tolist() == rows_BK[0].tolist()


@given(tokens_NL=catalogues(min_items=3), seed=seeds, data=st.data())
@few
def test_appended_items_are_found_and_removed_ones_never(tokens_NL, seed, data):
    gone = data.draw(st.sets(st.integers(0, len(tokens_NL) - 1)))
    prompt, N = random_prompts(seed, (5,)), len(tokens_NL)
    trie = Trie.from_tokens(tokens_NL[: N // 2])
    trie.append(tokens_NL[N // 2 :])
    whole = beam_search(model(seed=seed), prompt, Trie.from_tokens(tokens_NL), width=N)
    assert beam_search(model(seed=seed), prompt, trie, width=N)[0].tolist() == whole[0].tolist()
    trie.remove(sorted(gone))
    rows = beam_search(model(seed=seed), prompt, trie, width=N)[0][0]
    left = [r for r in whole[0][0].tolist() if r not in gone]
    assert rows.tolist() == left + [-1] * len(gone)


def test_the_model_comes_back_as_it_was_also_after_an_error():
    tiny, trie = model("llama", 9), Trie.from_tokens(np.array([[9, 10]]))
    tiny.train()
    try:
        before = tiny.config._attn_implementation
        beam_search(tiny, [[1, 2, 3]], trie)
        with pytest.raises(IndexError):
            beam_search(tiny, [[1, 2, VOCABULARY + 1]], trie)
        with pytest.raises(IndexError):
            beam_search(tiny, [[1, VOCABULARY + 1, 2]], trie)
        assert tiny.training and tiny.config._attn_implementation == before
    finally:
        tiny.eval()


def test_mistakes_are_refused_before_the_model_runs():
    trie, other = Trie.from_tokens(np.array([[9, 10]])), Trie.from_tokens(np.array([[9, 10]]))
    with pytest.raises(ConfigError, match="width = 0"):
        beam_search(model(), [[1]], trie, width=0)
    with pytest.raises(DataError, match="prompt 1 has no tokens"):
        beam_search(model(), [[1], []], trie)
    with pytest.raises(DataError, match="another trie"):
        beam_search(model(), [[1]], trie, mask=other.mask(np.ones(1, dtype=bool)))
    with pytest.raises(DataError, match="2 masks for 1 prompts"):
        beam_search(model(), [[1]], trie, mask=[None, None])
    old = trie.mask(np.ones(1, dtype=bool))
    trie.append(np.array([[9, 11]]))
    with pytest.raises(DataError, match="before append"):
        beam_search(model(), [[1]], trie, mask=old)


def test_no_prompts_give_no_rows():
    rows, scores = beam_search(model(), [], Trie.from_tokens(np.array([[9, 10]])), width=4)
    assert rows.shape == scores.shape == (0, 4)


def test_broken_weights_are_an_error_not_a_ranking():
    broken = model("qwen3", seed=77)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    with pytest.raises(ModelError, match="NaN"):
        beam_search(broken, [[1, 2]], Trie.from_tokens(np.array([[9, 10]])))


def test_a_model_without_the_attention_interface_is_told_the_way_out():
    mamba = MambaForCausalLM(
        MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4, use_mambapy=False)
    )
    trie = Trie.from_tokens(np.array([[9, 10], [9, 11], [8, 11]]))
    with pytest.raises(ModelError, match="cache=False"):
        beam_search(mamba, [[1, 2]], trie)
    rows_1K, scores_1K = beam_search(mamba, [[1, 2]], trie, width=3, cache=False)
    truth = score_all(mamba.eval(), [1, 2], trie.tokens())
    assert rows_1K[0].tolist() == truth.argsort(descending=True).tolist()
    torch.testing.assert_close(scores_1K[0], truth[rows_1K[0]], atol=1e-4, rtol=0)


SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZE, num_key_value_heads=1),
        MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=20),
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
    ],
    ids=lambda c: c.model_type,
)
def test_other_families_share_their_prefix_too(config):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        other = AutoModelForCausalLM.from_config(config)
    trie, prompts = Trie.from_tokens(np.array([[9, 20], [9, 21], [8, 20], [7, 22]])), random_prompts(0, (16, 5))
    rows_BK, scores_BK = beam_search(other, prompts, trie, width=4)
    rows, scores = beam_search(other, prompts, trie, width=4, cache=False)
    assert rows_BK.tolist() == rows.tolist()
    torch.testing.assert_close(scores_BK, scores, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=8), "a window of 8 tokens"),
        (Gemma2Config(**SIZE, num_key_value_heads=2, head_dim=8), "softcap"),
    ],
    ids=["window", "softcap"],
)
def test_attention_that_cannot_be_shared_is_an_error_and_leaves_the_model_usable(config, message):
    other = AutoModelForCausalLM.from_config(config)
    trie, before = Trie.from_tokens(np.array([[9, 20], [8, 21]])), other.config._attn_implementation
    with pytest.raises(ModelError, match=f"{message}.*cache=False"):
        beam_search(other, random_prompts(0, (16,)), trie)
    assert other.config._attn_implementation == before
    assert sorted(beam_search(other, random_prompts(0, (16,)), trie, width=2, cache=False)[0][0].tolist()) == [0, 1]


def test_a_hundred_thousand_items_are_decoded_and_all_are_of_the_catalogue():
    rng = np.random.default_rng(0)
    tokens_NL = np.unique(rng.integers(0, 14, (9_000, 4)), axis=0) + np.array([8, 22, 36, 50])
    trie = Trie.from_tokens(tokens_NL)
    allowed_N = rng.random(len(tokens_NL)) < 0.5
    source = SimpleNamespace(start=lambda: noise(1), step=lambda parents, tokens: noise(parents.shape[1]))
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int) -> torch.Tensor:
        return torch.randn(500, rows, VOCABULARY, generator=generator) * 5

    for mask, valid in ((None, np.ones(len(tokens_NL), dtype=bool)), (trie.mask(allowed_N), allowed_N)):
        rows_nK, _ = search(source, trie, 100, [mask] * 500, "full")
        found = rows_nK.numpy()
        assert found.min() >= 0 and valid[found].all()
        assert all(len(set(r)) == 100 for r in found.tolist())


# -- prompts as embeddings --------------------------------------------------------------------------------------------
@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("cache", [True, False])
def test_the_embeddings_of_a_prompt_are_read_as_its_tokens(family, cache):
    lm, prompts = model(family), random_prompts(5, (1, 9, 4))
    tokens_NL = np.unique(np.random.default_rng(0).integers(8, 13, (40, 3)), axis=0)
    trie = Trie.from_tokens(tokens_NL)
    with torch.no_grad():
        embedded = [lm.get_input_embeddings()(torch.tensor(p)) for p in prompts]
    rows_BK, scores_BK = beam_search(lm, prompts, trie, width=6)
    same_BK, same_scores_BK = beam_search(lm, embedded, trie, width=6, cache=cache)
    assert same_BK.tolist() == rows_BK.tolist()
    torch.testing.assert_close(same_scores_BK, scores_BK, atol=1e-4, rtol=0)


def test_a_vector_of_no_token_counts_and_ids_beside_embeddings_are_refused():
    lm, (prompt,) = model(), random_prompts(5, (9,))
    trie = Trie.from_tokens(np.unique(np.random.default_rng(0).integers(8, 13, (40, 3)), axis=0))
    with torch.no_grad():
        embedded = lm.get_input_embeddings()(torch.tensor(prompt))
        moved = torch.cat([embedded[:-1], -embedded[-1:]])
    _, scores_BK = beam_search(lm, [embedded, moved], trie, width=6)
    assert not torch.allclose(scores_BK[0], scores_BK[1])
    with pytest.raises(DataError, match="some prompts are token ids and some are embeddings"):
        beam_search(lm, [prompt, embedded], trie)
