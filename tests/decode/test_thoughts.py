"""Thoughts against plain forward passes of the whole text, and the beams after them."""

from typing import Any

import numpy as np
import pytest
import torch
from decode_tiny import VOCABULARY, catalogues, model, random_prompts, score_all
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.decode import Thoughts, Trie, fuse_thoughts, rank_thoughts, sample_thoughts, think_then_rank
from crsearch.decode.thoughts import choose
from crsearch.errors import ConfigError, DataError

CLOSE = 5
FORBIDDEN = [*range(5), *range(12, VOCABULARY)]
LENGTHS = (6, 1, 14, 9)
families = st.sampled_from(["qwen3", "llama"])
few = settings(max_examples=15)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def sampled(seed: int, family: str = "qwen3", **changes: Any) -> Thoughts:
    options = {"group_size": 3, "max_tokens": 12, "temperature": 1.0, "generator": generator(seed), **changes}
    prompts = options.pop("prompts", random_prompts(seed, LENGTHS))
    # flat weights and few tokens: closing tags come at many different lengths, so that trees shrink on the way
    return sample_thoughts(model(family, seed, 3.0), prompts, close_id=CLOSE, forbidden=FORBIDDEN, **options)


@torch.no_grad()
def next_logits(family: str, seed: int, text: list[int]) -> torch.Tensor:
    return model(family, seed, 3.0)(torch.tensor([text])).logits[0, -1].float()


@given(seed=st.integers(0, 5), family=families)
@few
def test_tokens_follow_from_the_random_numbers_and_plain_forward_passes(seed, family):
    thoughts = sampled(seed, family)
    source, barred = generator(seed), torch.zeros(VOCABULARY, dtype=torch.bool)
    barred[FORBIDDEN] = True
    for b, prompt in enumerate(random_prompts(seed, LENGTHS)):
        random_GT = torch.rand(3, 12, generator=source, dtype=torch.float64)
        for g in range(3):
            text: list[int] = []
            while len(text) < 12:
                logits = next_logits(family, seed, prompt + text)
                token = int(choose(logits[None], random_GT[g, len(text)][None], 1.0, barred))
                if token == CLOSE:
                    break
                text.append(token)
            assert thoughts.thoughts[b][g] == text
            assert bool(thoughts.closed_BG[b, g]) == (len(text) < 12)


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("temperature", [1.0, 0.6, 0.0])
def test_log_probabilities_are_those_of_a_plain_forward_pass(family, temperature):
    thoughts = sampled(1, family, temperature=temperature)
    for b, prompt in enumerate(random_prompts(1, LENGTHS)):
        for g, thought in enumerate(thoughts.thoughts[b]):
            written = [*thought, CLOSE]
            with torch.no_grad():
                logits = model(family, 1, 3.0)(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
            policy = (logits.float() / (temperature or 1.0)).log_softmax(-1)
            truth = policy[range(len(written)), written]
            mine = thoughts.logprob_BGT[b, g]
            torch.testing.assert_close(mine[: len(written)], truth, atol=1e-4, rtol=1e-4)
            assert (mine[len(written) :] == 0).all()


def test_thoughts_end_at_many_lengths_so_that_these_tests_mean_something():
    lengths = [len(t) for seed in range(6) for group in sampled(seed).thoughts for t in group]
    assert len(set(lengths)) >= 8 and 12 in lengths and min(lengths) <= 2


@given(seed=st.integers(0, 9), temperature=st.sampled_from([0.0, 0.7, 1.5]))
@few
def test_forbidden_ids_and_the_closing_tag_never_stand_in_a_thought(seed, temperature):
    thoughts = sampled(seed, temperature=temperature)
    written = {t for group in thoughts.thoughts for thought in group for t in thought}
    assert not written & {*FORBIDDEN, CLOSE}
    assert (thoughts.forced_BG == torch.tensor([[len(t) == 12 for t in g] for g in thoughts.thoughts])).all()


def test_greedy_thoughts_take_the_most_probable_token_and_need_no_generator():
    thoughts = sampled(2, temperature=0.0, generator=None)
    for prompt, group in zip(random_prompts(2, LENGTHS), thoughts.thoughts, strict=True):
        assert group[0] == group[1] == group[2]
        for i, token in enumerate(group[0]):
            logits = next_logits("qwen3", 2, prompt + group[0][:i])
            logits[FORBIDDEN] = -torch.inf
            assert token == int(logits.argmax())


def test_a_batch_gives_what_its_prompts_give_one_after_the_other():
    together, source = sampled(3), generator(3)
    for b, prompt in enumerate(random_prompts(3, LENGTHS)):
        alone = sampled(3, prompts=[prompt], generator=source)
        assert alone.thoughts[0] == together.thoughts[b]
        assert alone.closed_BG[0].tolist() == together.closed_BG[b].tolist()


def test_the_same_seed_gives_the_same_thoughts_and_another_does_not():
    assert sampled(4).thoughts == sampled(4).thoughts
    assert sampled(4).thoughts != sampled(4, generator=generator(5)).thoughts


@pytest.mark.parametrize("max_tokens", [0, 1, 3])
def test_a_thought_is_closed_by_force_at_its_limit(max_tokens):
    bar_close = model("qwen3", seed=11)
    with torch.no_grad():
        bar_close.lm_head.weight[CLOSE] = 0
        bar_close.model.norm.weight.copy_(torch.ones(32))
    thoughts = sample_thoughts(
        bar_close, [[7, 8], [9]], close_id=CLOSE, max_tokens=max_tokens, forbidden=FORBIDDEN, group_size=2
    )
    assert all(len(t) <= max_tokens for g in thoughts.thoughts for t in g)
    assert thoughts.forced_BG.tolist() == [[len(t) == max_tokens for t in g] for g in thoughts.thoughts]
    assert thoughts.forced_BG.any()


@given(tokens_NL=catalogues(), seed=st.integers(0, 4), family=families, width=st.integers(1, 60))
@few
def test_beams_after_thoughts_equal_beams_after_the_written_text(tokens_NL, seed, family, width):
    trie, prompts = Trie.from_tokens(tokens_NL), random_prompts(seed, LENGTHS)
    mine = model(family, seed, 3.0)
    ranked = think_then_rank(
        mine, prompts, trie, close_id=CLOSE, width=width, group_size=3, max_tokens=12, forbidden=FORBIDDEN,
        temperature=1.0, generator=generator(seed),
    )  # fmt: skip
    assert ranked.thoughts == sampled(seed, family).thoughts
    for g in range(3):
        texts = [group[g] for group in ranked.thoughts]
        rows_BK, scores_BK = rank_thoughts(mine, prompts, texts, trie, close_id=CLOSE, width=width)
        assert ranked.rows_BGK[:, g].tolist() == rows_BK.tolist()
        torch.testing.assert_close(ranked.scores_BGK[:, g], scores_BK, atol=2e-4, rtol=1e-5)
    prompt, thought = prompts[0], ranked.thoughts[0][0]
    truth = score_all(mine, [*prompt, *thought, CLOSE], tokens_NL)
    found = ranked.rows_BGK[0, 0][ranked.rows_BGK[0, 0] >= 0]
    torch.testing.assert_close(ranked.scores_BGK[0, 0, : len(found)], truth[found], atol=2e-4, rtol=1e-5)


def test_filters_hold_after_thoughts_prompt_by_prompt():
    tokens_NL = np.unique(np.random.default_rng(0).integers(8, 12, (40, 3)), axis=0)
    trie, N = Trie.from_tokens(tokens_NL), len(tokens_NL)
    even, none = np.arange(N) % 2 == 0, np.zeros(N, dtype=bool)
    ranked = think_then_rank(
        model(), random_prompts(0, (4, 7, 5)), trie, close_id=CLOSE, width=N, group_size=2, max_tokens=3,
        mask=[trie.mask(even), None, trie.mask(none)],
    )  # fmt: skip
    assert set(ranked.rows_BGK[0, 1].tolist()) == {-1, *np.flatnonzero(even).tolist()}
    assert set(ranked.rows_BGK[1, 0].tolist()) == set(range(N))
    assert (ranked.rows_BGK[2] == -1).all() and (ranked.scores_BGK[2] == -torch.inf).all()


def test_finished_trajectories_do_not_cost_full_steps():
    seen: list[int] = []
    tiny = model("qwen3", 1, 3.0)
    hook = tiny.model.layers[0].register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0].shape[0] * args[0].shape[1]), with_kwargs=True
    )
    try:
        thoughts = sampled(1)
    finally:
        hook.remove()
    rows = seen[1:-1]  # the prompts before, the closing tags after
    assert rows == sorted(rows, reverse=True) and rows[-1] < rows[0] == 12
    alive = [sum(len(t) >= step for g in thoughts.thoughts for t in g) for step in range(len(rows))]
    assert all(n <= r for n, r in zip(alive, rows, strict=True))


# -- the watch --------------------------------------------------------------------------------------------------------
class Scripted:
    """Closes trajectory (b, g) once it has written ``stop[b, g]`` tokens, and keeps all it was told."""

    def __init__(self, stop: dict[tuple[int, int], int]) -> None:
        self.stop, self.told = stop, []

    def __call__(self, token_BG: torch.Tensor) -> torch.Tensor | None:
        self.told.append(token_BG.clone())
        now_BG = torch.zeros(token_BG.shape, dtype=torch.bool)
        for place, n in self.stop.items():
            now_BG[place] = n == len(self.told)
        return now_BG if now_BG.any() else None


stops = st.dictionaries(st.tuples(st.integers(0, 3), st.integers(0, 2)), st.integers(1, 12), max_size=12)


@given(tokens_NL=catalogues(), seed=st.integers(0, 4), family=families, stop=stops, width=st.integers(1, 20))
@few
def test_a_thought_that_the_watch_closes_is_as_one_of_that_length_and_the_others_do_not_change(
    tokens_NL, seed, family, stop, width
):
    trie, prompts, free = Trie.from_tokens(tokens_NL), random_prompts(seed, LENGTHS), sampled(seed, family)
    mine = model(family, seed, 3.0)
    ranked = think_then_rank(
        mine, prompts, trie, close_id=CLOSE, width=width, group_size=3, max_tokens=12, forbidden=FORBIDDEN,
        temperature=1.0, generator=generator(seed), watch=Scripted(stop),
    )  # fmt: skip
    for b, group in enumerate(free.thoughts):
        for g, thought in enumerate(group):
            n = stop.get((b, g), 12)
            assert ranked.thoughts[b][g] == thought[:n]
            assert bool(ranked.forced_BG[b, g]) == (len(thought) >= n)
    for g in range(3):
        texts = [group[g] for group in ranked.thoughts]
        rows_BK, scores_BK = rank_thoughts(mine, prompts, texts, trie, close_id=CLOSE, width=width)
        assert ranked.rows_BGK[:, g].tolist() == rows_BK.tolist()
        torch.testing.assert_close(ranked.scores_BGK[:, g], scores_BK, atol=2e-4, rtol=1e-5)
    for b, prompt in enumerate(prompts):
        written = [*ranked.thoughts[b][0], CLOSE]
        with torch.no_grad():
            logits = mine(torch.tensor([prompt + written])).logits[0, len(prompt) - 1 : -1]
        truth = logits.float().log_softmax(-1)[range(len(written)), written]
        torch.testing.assert_close(ranked.logprob_BGT[b, 0, : len(written)], truth, atol=1e-4, rtol=1e-4)
        assert (ranked.logprob_BGT[b, 0, len(written) :] == 0).all()


@given(seed=st.integers(0, 5), limits=st.lists(st.integers(0, 12), min_size=4, max_size=4))
@few
def test_limits_per_prompt_are_those_of_the_prompts_one_after_the_other(seed, limits):
    together, source = sampled(seed, max_tokens=limits), generator(seed)
    for b, (prompt, n) in enumerate(zip(random_prompts(seed, LENGTHS), limits, strict=True)):
        alone = sampled(seed, prompts=[prompt], generator=source, max_tokens=n)
        assert alone.thoughts[0] == together.thoughts[b] and max(map(len, together.thoughts[b])) <= n
        assert alone.closed_BG[0].tolist() == together.closed_BG[b].tolist()
        T = alone.logprob_BGT.shape[-1]
        torch.testing.assert_close(together.logprob_BGT[b, :, :T], alone.logprob_BGT[0], atol=1e-4, rtol=1e-4)


def test_the_watch_is_told_every_token_and_the_closing_tag_once():
    for seed in range(4):
        watch = Scripted({(0, 1): 2, (2, 2): 1})
        thoughts = sampled(seed, watch=watch, max_tokens=[12, 0, 5, 7])
        told_BGT = torch.stack(watch.told, dim=-1)
        assert told_BGT.shape[-1] == 1 + max(len(t) for group in thoughts.thoughts for t in group)
        written = [thought for group in thoughts.thoughts for thought in group]
        for told, thought in zip(told_BGT.flatten(0, 1).tolist(), written, strict=True):
            assert told == [*thought, CLOSE] + [-1] * (len(told) - len(thought) - 1)


def test_a_watch_that_only_looks_changes_nothing_and_one_that_closes_all_ends_the_sampling():
    free, looked = sampled(5), sampled(5, watch=lambda token_BG: None)
    assert looked.thoughts == free.thoughts and looked.closed_BG.tolist() == free.closed_BG.tolist()
    assert (looked.logprob_BGT == free.logprob_BGT).all()
    calls: list[int] = []

    def all_closed(token_BG: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return torch.ones(token_BG.shape, dtype=torch.bool)

    ended = sampled(5, watch=all_closed)
    assert len(calls) == 2 and ended.thoughts == [[t[:1] for t in group] for group in free.thoughts]


def test_an_error_of_the_watch_ends_the_search_and_leaves_the_model_usable():
    class Gone(Exception): ...

    def leave(token_BG: torch.Tensor) -> None:
        raise Gone

    before = model("qwen3", 0, 3.0).config._attn_implementation
    with pytest.raises(Gone):
        sampled(0, watch=leave)
    assert model("qwen3", 0, 3.0).config._attn_implementation == before
    assert sampled(0).thoughts == sampled(0, watch=lambda token_BG: None).thoughts


@pytest.mark.parametrize("answer", [torch.zeros(4, dtype=torch.bool), torch.zeros(4, 3)])
def test_a_watch_that_answers_no_mask_of_the_trajectories_is_refused(answer):
    with pytest.raises(DataError, match=r"the watch returned .*boolean mask of shape \(4, 3\)"):
        sampled(0, watch=lambda token_BG: answer)


def test_one_limit_per_prompt_is_asked_for():
    with pytest.raises(DataError, match="2 max_tokens for 1 prompts"):
        sample_thoughts(model(), [[1]], close_id=CLOSE, max_tokens=[3, 4])
    with pytest.raises(ConfigError, match=r"max_tokens = \[-1\]"):
        sample_thoughts(model(), [[1]], close_id=CLOSE, max_tokens=[-1])
    assert sample_thoughts(model(), [], close_id=CLOSE, max_tokens=[]).thoughts == []


# -- edges ------------------------------------------------------------------------------------------------------------
def test_no_prompts_give_no_thoughts():
    ranked = think_then_rank(model(), [], Trie.from_tokens(np.array([[9]])), close_id=CLOSE, width=4, group_size=2)
    assert ranked.thoughts == [] and ranked.rows_BGK.shape == (0, 2, 4)


def test_fused_thoughts_are_the_mean_of_item_probabilities():
    rows = torch.tensor([[[0, 1], [1, 0]], [[4, -1], [2, 4]]])
    scores = torch.tensor([[[0.6, 0.4], [0.8, 0.2]], [[0.5, 0.0], [0.25, 0.0]]]).log()
    fused, mean = fuse_thoughts(rows, scores, width=3)
    assert fused.tolist() == [[1, 0, -1], [4, 2, -1]]
    torch.testing.assert_close(mean.exp(), torch.tensor([[0.6, 0.4, 0.0], [0.25, 0.125, 0.0]]))


def test_fusing_one_thought_changes_nothing_and_ties_go_to_the_smaller_row():
    rows, scores = torch.tensor([[[3, 1, -1]]]), torch.tensor([[[-1.0, -2.0, -torch.inf]]])
    fused, mean = fuse_thoughts(rows, scores, width=5)
    assert fused.tolist() == [[3, 1, -1, -1, -1]] and mean[0, :2].tolist() == [-1, -2]
    tied, _ = fuse_thoughts(torch.tensor([[[7, 2], [2, 7]]]), torch.tensor([[[-1.0, -2.0], [-1.0, -2.0]]]), width=1)
    assert tied.tolist() == [[2]]


@given(
    weights=st.lists(st.integers(0, 5), min_size=3, max_size=8).filter(any), random=st.floats(0, 1, exclude_max=True)
)
def test_a_token_without_probability_is_never_chosen(weights, random):
    logits = torch.tensor([weights], dtype=torch.float32).log()
    token = int(choose(logits, torch.tensor([random], dtype=torch.float64), 1.0, torch.zeros(len(weights)).bool()))
    below = sum(weights[:token]) / sum(weights)
    assert weights[token] > 0
    assert below - 1e-6 <= random <= below + weights[token] / sum(weights) + 1e-6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 1.0, "generator": None}, "torch.Generator"),
        ({"forbidden": [CLOSE]}, "no thought could end"),
        ({"group_size": 0}, "group_size = 0"),
        ({"max_tokens": -1}, "max_tokens = -1"),
    ],
)
def test_mistakes_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        sample_thoughts(model(), [[1]], close_id=CLOSE, **change)


def test_one_thought_per_prompt_is_asked_for():
    with pytest.raises(DataError, match="2 thoughts for 1 prompts"):
        rank_thoughts(model(), [[1]], [[1], [2]], Trie.from_tokens(np.array([[9]])), close_id=CLOSE)
