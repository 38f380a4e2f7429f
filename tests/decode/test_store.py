"""Searches that reuse what earlier ones read, against searches that read everything."""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
import torch
from decode_tiny import VOCABULARY, model, random_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    Qwen2Config,
    T5Config,
    T5ForConditionalGeneration,
)

from crsearch.decode import PrefixStore, Trie, beam_search, rank_thoughts, think_then_rank
from crsearch.decode.attention import BLOCK, Segment, causal_attention
from crsearch.errors import ConfigError, DataError, ModelError

families = st.sampled_from(["qwen3", "llama"])
few = settings(max_examples=15)
TRIE = Trie.from_tokens(np.unique(np.random.default_rng(0).integers(8, 14, (120, 3)), axis=0))
PLENTY = 2**30
CLOSE, BARRED = 5, [*range(5), *range(12, VOCABULARY)]


def same(mine: tuple[torch.Tensor, ...], truth: tuple[torch.Tensor, ...]) -> None:
    assert mine[0].tolist() == truth[0].tolist()
    torch.testing.assert_close(mine[1], truth[1], atol=1e-5, rtol=1e-6)


def search(lm: Any, prompts: list[list[int]], **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    return beam_search(lm, prompts, TRIE, width=6, **options)


@contextmanager
def tokens_seen(lm: Any) -> Iterator[list[int]]:
    """Tokens that each forward pass reads."""
    seen: list[int] = []
    hook = lm.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0].shape[0] * args[0].shape[1]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def exact_bytes(store: PrefixStore) -> int:
    return sum(block.kv_X.nbytes for block in store._blocks.values())


# -- the same results -------------------------------------------------------------------------------------------------
@st.composite
def histories(draw: st.DrawFn) -> list[list[list[int]]]:
    """Batches of prompts that begin alike for a while and then go on in their own way."""
    bases = random_prompts(draw(st.integers(0, 3)), (90, 90))

    def prompt() -> list[int]:
        own = random_prompts(draw(st.integers(0, 5)), (draw(st.integers(1, 40)),))[0]
        return bases[draw(st.integers(0, 1))][: draw(st.integers(0, 90))] + own

    return [[prompt() for _ in range(draw(st.integers(1, 4)))] for _ in range(draw(st.integers(2, 5)))]


@given(batches=histories(), family=families, seed=st.integers(0, 2), max_kib=st.sampled_from([0, 9, 40, 10**6]))
@settings(max_examples=12)
def test_a_store_changes_no_result_and_keeps_its_bound(batches, family, seed, max_kib):
    lm, store = model(family, seed, 3.0), PrefixStore(max_kib * 1024)
    for prompts in batches:
        same(search(lm, prompts, store=store, batch=3), search(lm, prompts, batch=3))
        assert store.stats.bytes == exact_bytes(store) <= store.max_bytes
    stats = store.stats
    assert stats.prompts == sum(len(p) > 1 for b in batches for p in b)
    assert stats.tokens_reused + stats.tokens_read == sum(len(p) - 1 for b in batches for p in b)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("length", [1, 2, 16, 17, 18, 32, 33, 34, 150])
def test_a_prompt_read_twice_gives_the_same_list_at_every_length(family, length):
    lm, store, (prompt,) = model(family, 0, 3.0), PrefixStore(PLENTY), random_prompts(length, (length,))
    truth = search(lm, [prompt])
    for _ in range(3):
        same(search(lm, [prompt], store=store), truth)
    blocks = max(length - 2, 0) // BLOCK
    assert store.stats.tokens_reused == 2 * blocks * BLOCK
    assert store.stats.entries == (length - 1) // BLOCK


@given(family=families, seed=st.integers(0, 3), limits=st.lists(st.integers(0, 9), min_size=4, max_size=4))
@settings(max_examples=5)
def test_thoughts_and_lists_after_them_are_the_same_with_a_store(family, seed, limits):
    lm, store = model(family, seed, 3.0), PrefixStore(PLENTY)
    base, tails = random_prompts(seed, (50,))[0], random_prompts(seed + 1, (1, 30, 7, 3))

    def think(prompts: list[list[int]], **options: Any) -> Any:
        return think_then_rank(
            lm, prompts, TRIE, close_id=CLOSE, width=4, group_size=2, max_tokens=limits, forbidden=BARRED,
            temperature=1.0, generator=torch.Generator().manual_seed(seed), **options,
        )  # fmt: skip

    for prompts in ([[*base[:33], *t] for t in tails], [base, [7], [*base, *tails[1]], tails[2]]):
        mine, truth = think(prompts, store=store), think(prompts)
        assert mine.thoughts == truth.thoughts and mine.closed_BG.tolist() == truth.closed_BG.tolist()
        same((mine.rows_BGK, mine.scores_BGK), (truth.rows_BGK, truth.scores_BGK))
        thoughts = [group[0] for group in mine.thoughts]
        options: dict[str, Any] = {"close_id": CLOSE, "width": 4}
        same(
            rank_thoughts(lm, prompts, thoughts, TRIE, store=store, **options),
            rank_thoughts(lm, prompts, thoughts, TRIE, **options),
        )
    assert store.stats.hits >= 6


@given(queries=st.integers(1, 200), before=st.integers(0, 150), seed=st.integers(0, 9))
@settings(max_examples=50)
def test_attention_behind_a_prefix_is_the_end_of_attention_over_all(queries, before, seed):
    made, total = torch.Generator().manual_seed(seed), queries + before
    query = torch.randn(2, 4, total, 8, generator=made)
    key, value = torch.randn(2, 2, 2, total, 8, generator=made)
    score = query @ key.repeat_interleave(2, 1).transpose(-1, -2) * 0.3
    score = score.masked_fill(torch.ones(total, total).triu(1).bool(), -torch.inf)
    truth = (score.softmax(-1) @ value.repeat_interleave(2, 1))[:, :, before:]
    torch.testing.assert_close(causal_attention(query[:, :, before:], key, value, 0.3), truth, atol=1e-5, rtol=1e-5)


# -- what is read -----------------------------------------------------------------------------------------------------
def test_only_what_is_new_is_read_also_in_a_batch_of_unlike_prompts():
    lm, store = model("qwen3", 0, 3.0), PrefixStore(PLENTY)
    base, other, tail = random_prompts(0, (70, 40, 9))
    search(lm, [base], store=store)
    with tokens_seen(lm) as seen:
        search(lm, [[*base, *tail], other, [*base[:20], *tail], [3]], store=store)
    # 4 whole blocks of the 69 tokens before the last one, none, 1 block; a prompt of one token needs no reading
    assert seen[0] == (78 - 64) + 39 + (28 - 16)
    with tokens_seen(lm) as seen:
        search(lm, [[*base, *tail], other, [*base[:20], *tail]], store=store)
    assert seen[0] == (78 - 64) + (39 - 32) + (28 - 16)
    assert store.stats.hits == 5 and store.stats.prompts == 7


def test_a_changed_early_token_is_read_with_all_that_follows():
    lm, store, (prompt,) = model("llama", 0, 3.0), PrefixStore(PLENTY), random_prompts(0, (100,))
    search(lm, [prompt], store=store)
    for place, reused in ((0, 0), (15, 0), (16, 16), (50, 48), (99, 96)):
        changed = [*prompt]
        changed[place] = (changed[place] + 1) % VOCABULARY
        before = store.stats.tokens_reused
        same(search(lm, [changed], store=store), search(lm, [changed]))
        assert store.stats.tokens_reused - before == reused


def test_other_weights_or_another_number_format_share_nothing():
    store, (prompt,) = PrefixStore(PLENTY), random_prompts(0, (60,))
    lm, other = deepcopy(model("qwen3", 0, 3.0)), model("qwen3", 1, 3.0)

    def change() -> None:
        with torch.no_grad():
            lm.model.layers[0].self_attn.k_proj.weight.mul_(1.5)

    changes = [lambda: None, change, lambda: lm.load_state_dict(other.state_dict()), lm.double, lm.float]
    for made in changes:
        made()
        for warm in (False, True):
            hits = store.stats.hits
            same(search(lm, [prompt], store=store), search(lm, [prompt]))
            assert store.stats.hits - hits == warm
    hits = store.stats.hits
    same(search(other, [prompt], store=store), search(other, [prompt]))
    with torch.autocast("cpu", torch.bfloat16):
        same(search(lm, [prompt], store=store), search(lm, [prompt]))
        assert store.stats.hits == hits
        search(lm, [prompt], store=store)
    assert store.stats.hits == hits + 1


SIZE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(**SIZE, num_key_value_heads=1),
        MistralConfig(**SIZE, num_key_value_heads=2, sliding_window=100),
        GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0),
    ],
    ids=lambda c: c.model_type,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_families_reuse_their_prefix_too(config, dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lm = AutoModelForCausalLM.from_config(config).to(dtype)
    store, (base, tail) = PrefixStore(PLENTY), random_prompts(0, (50, 20))
    for prompts in ([base], [[*base, *tail], tail, [*base[:40], *tail]]):
        same(search(lm, prompts, store=store), search(lm, prompts))
    assert store.stats.tokens_reused == 48 + 32


def test_prompts_as_embeddings_are_read_and_not_kept():
    lm, store, (prompt,) = model("qwen3", 0, 3.0), PrefixStore(PLENTY), random_prompts(0, (40,))
    with torch.no_grad():
        embedded = lm.get_input_embeddings()(torch.tensor(prompt))
    same(beam_search(lm, [embedded], TRIE, width=6, store=store), search(lm, [prompt]))
    assert store.stats.entries == store.stats.prompts == 0


# -- the store by itself ----------------------------------------------------------------------------------------------
def kept(store: PrefixStore, lm: Any, ids: list[int], owner: str | None = None) -> None:
    """Keep a text whose keys and values are its token ids."""
    key = torch.tensor(ids, dtype=torch.float32)[None, None, :, None].expand(1, 2, -1, 3)
    store.keep(store.find(lm, ids, owner), [Segment(key, -key[..., :2])], row=0)


BLOCK_BYTES = 4 * 2 * BLOCK * (3 + 2)
texts = st.lists(st.tuples(st.lists(st.integers(0, 1), max_size=4), st.integers(0, 20)), min_size=1, max_size=8)


@given(stored=texts, asked=texts, owners=st.lists(st.sampled_from([None, "u", "w"]), min_size=16, max_size=16))
@settings(max_examples=50)
def test_what_is_found_is_the_longest_common_beginning_with_a_stored_text(stored, asked, owners):
    def text(blocks: list[int], rest: int) -> list[int]:
        return [b for b in blocks for _ in range(BLOCK)] + [2] * rest

    def common(a: list[int], b: list[int]) -> int:
        return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))

    store, lm = PrefixStore(PLENTY), model()
    for (blocks, rest), owner in zip(stored, owners, strict=False):
        kept(store, lm, text(blocks, rest), owner)
    for (blocks, rest), owner in zip(asked, owners[::-1], strict=False):
        ids = text(blocks, rest)
        rivals = [text(*t) for t, o in zip(stored, owners, strict=False) if o == owner]
        longest = max((common(ids[:-1], r) // BLOCK for r in rivals), default=0)
        found = store.find(lm, ids, owner).blocks
        assert len(found) == longest
        for i, kv_X in enumerate(found):
            key, value = kv_X.view(torch.float32).split([2 * BLOCK * 3, 2 * BLOCK * 2])
            truth = torch.tensor(ids[i * BLOCK : (i + 1) * BLOCK], dtype=torch.float32)
            assert (key.view(2, BLOCK, 3) == truth[:, None]).all() and (
                value.view(2, BLOCK, 2) == -truth[:, None]
            ).all()
    distinct = {(o, *text(b, r)[:n]) for (b, r), o in zip(stored, owners, strict=False)
                for n in range(BLOCK, len(text(b, r)) + 1, BLOCK)}  # fmt: skip
    assert store.stats.entries == len(distinct)
    assert store.stats.bytes == exact_bytes(store) == len(distinct) * BLOCK_BYTES


def test_the_least_recently_used_go_first_and_the_end_of_a_prompt_before_its_beginning():
    store, lm = PrefixStore(5 * BLOCK_BYTES), model()

    def blocks(first: int, count: int) -> list[int]:
        return [first] * (count * BLOCK)

    def held(first: int) -> int:  # the last of the tokens asked for is always left to read
        return sum(int(block.kv_X.view(torch.float32)[0]) == first for block in store._blocks.values())

    kept(store, lm, blocks(1, 3))
    kept(store, lm, blocks(2, 2))
    assert (held(1), held(2)) == (3, 2)
    kept(store, lm, blocks(3, 1))
    assert (held(1), held(2), held(3)) == (2, 2, 1)
    store.find(lm, blocks(1, 4))
    kept(store, lm, blocks(4, 2))
    assert (held(1), held(2), held(3), held(4)) == (2, 0, 1, 2)
    kept(store, lm, blocks(5, 9))
    assert (held(5), store.stats.entries, store.stats.bytes) == (5, 5, 5 * BLOCK_BYTES)
    assert len(store.find(lm, blocks(5, 9)).blocks) == 5


def test_an_owner_is_forgotten_with_all_that_only_he_is_said_to_have_and_others_stay():
    lm, store, prompts = model("qwen3", 0, 3.0), PrefixStore(PLENTY), random_prompts(0, (50, 50, 50, 50))
    search(lm, prompts, store=store, owners=["u1", "u2", "w", None], batch=2)
    assert store.stats.entries == 12
    search(lm, prompts[:1], store=store, owners="u2")  # the same text of another owner is read anew
    assert store.stats.hits == 0 and store.stats.entries == 15
    assert store.forget("u1") == 3 and store.forget("u1") == 0
    assert store.forget(lambda owner: owner is not None and owner.startswith("u")) == 6
    assert store.forget(None) == 3 and store.stats.entries == 3
    assert store.stats.bytes == exact_bytes(store) > 0
    same(search(lm, prompts, store=store, owners=["u1", "u2", "w", None]), search(lm, prompts))
    assert store.stats.hits == 1
    store.clear()
    assert store.stats.bytes == store.stats.entries == 0 and store.stats.hits == 1


def test_who_is_forgotten_during_a_search_is_not_kept_by_it():
    lm, store, (prompt,) = deepcopy(model("qwen3", 0, 3.0)), PrefixStore(PLENTY), random_prompts(0, (50,))

    def forget(*_: Any) -> None:
        store.forget("u")
        hook.remove()  # once, while the prompt is read

    hook = lm.model.layers[0].register_forward_pre_hook(forget)
    same(search(lm, [prompt], store=store, owners="u"), search(lm, [prompt]))
    assert store.stats.entries == 0
    search(lm, [prompt], store=store, owners="u")
    assert store.stats.entries == 3


def test_counts_are_whole_while_another_thread_searches():
    lm, store, done = model("qwen3", 0, 3.0), PrefixStore(30 * 1024), Event()
    wrong: list[Any] = []

    def look() -> None:
        while not done.wait(0.001):
            stats = store.stats
            if not 0 <= stats.bytes <= store.max_bytes or bool(stats.bytes) != bool(stats.entries):
                wrong.append(stats)
            store.forget("w")

    reader = Thread(target=look)
    reader.start()
    try:
        for seed in range(12):
            prompts = random_prompts(seed % 4, (60, 30))
            same(search(lm, prompts, store=store, owners=["u", "w"]), search(lm, prompts))
    finally:
        done.set()
        reader.join()
    assert not wrong and store.stats.bytes == exact_bytes(store)


# -- mistakes ---------------------------------------------------------------------------------------------------------
def test_mistakes_are_refused():
    store = PrefixStore(PLENTY)
    with pytest.raises(ConfigError, match="max_bytes = -1"):
        PrefixStore(-1)
    with pytest.raises(ConfigError, match="cache=False"):
        search(model(), [[1, 2]], store=store, cache=False)
    with pytest.raises(DataError, match="2 owners for 1 prompts"):
        search(model(), [[1, 2]], store=store, owners=["u", "w"])
    with pytest.raises(DataError, match="1 owners for 2 prompts"):
        think_then_rank(model(), [[1], [2]], TRIE, close_id=CLOSE, store=store, owners=["u"])
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
        )
    )
    with pytest.raises(ModelError, match="encoder-decoder has no prefix to keep"):
        search(t5, [[1, 2]], store=store)


def test_positions_that_change_with_the_length_of_the_text_are_refused():
    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=32, rope_parameters=rope,
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"type dynamic.*store=None"):
        search(LlamaForCausalLM(config), [[1, 2]], store=PrefixStore(PLENTY))


# -- memory -----------------------------------------------------------------------------------------------------------
def test_blocks_lie_in_slabs_that_are_used_again_and_what_is_forgotten_is_overwritten(monkeypatch):
    slab, most = 1 << 15, 1 << 17
    monkeypatch.setattr("crsearch.decode.store.SLAB_BYTES", slab)
    lm, store, slabs = model("qwen3"), PrefixStore(most), {}
    for seed in range(30):
        prompts = random_prompts(seed, (80, 60))
        same(search(lm, prompts, store=store, owners="u"), search(lm, prompts))
        slabs |= {(held := block.kv_X.untyped_storage()).data_ptr(): held.nbytes() for block in store._blocks.values()}
    assert most // 2 < store.stats.bytes <= most
    assert len(slabs) > 1 and max(slabs.values()) <= slab and sum(slabs.values()) <= most + slab
    places = [block.kv_X for block in store._blocks.values()]
    assert any(kv_X.any() for kv_X in places)
    store.forget("u")
    assert not any(kv_X.any() for kv_X in places)


def test_what_was_found_before_its_owner_was_forgotten_can_be_read_to_the_end():
    lm, store, prompt = model("qwen3"), PrefixStore(PLENTY), random_prompts(1, (80,))[0]
    search(lm, [prompt], store=store, owners="u")
    found = store.find(lm, prompt, "u").blocks
    before = [block.clone() for block in found]
    store.forget("u")
    assert before and all(map(torch.equal, found, before))


def test_slabs_of_a_model_that_is_gone_are_given_back():
    store = PrefixStore(1 << 20)
    for lm in (model("qwen3"), model("qwen3").double()):
        for seed in range(40):
            search(lm, random_prompts(seed, (90, 90)), store=store)
        assert store.stats.bytes <= 1 << 20
    store.clear()
    search(model("llama"), random_prompts(0, (90,)), store=store)
    assert len(store._rooms) <= 2
