"""LatentR3: golden numbers, the two passes against plain ones, what noise may and may not do, resume, and search."""

import copy

import pytest
import torch

from crsearch.config import LatentConfig, LatentPolicyConfig, OptimConfig
from crsearch.models.latent import attention_file, load_attention
from crsearch.runs import RunDirectory
from crsearch.searchers.latent import LatentSearcher
from crsearch.train.latent import (
    LatentReasoner,
    LatentTask,
    frozen,
    latent_prompts,
    latent_updates,
    noise_free_advantage,
    noise_of,
    perplexity_reward,
    train_latent_r3,
)
from crsearch.train.trainer import generator
from crsearch.train.tree import pack, target_logprobs

FAST = OptimConfig(lr_matrix=0.02, lr=1e-2, schedule="constant", warmup=0.0)


def bench_with(shop, run, **changes):
    """A workbench with other settings of LatentR3."""
    bench = copy.copy(shop.bench(run))
    baselines = shop.settings.baselines.model_copy(update={"latent_r3": LatentConfig(**changes)})
    object.__setattr__(bench, "settings", shop.settings.model_copy(update={"baselines": baselines}))
    return bench


def reasoner_of(shop):
    return LatentReasoner.fresh(shop.bundle.model, 1_000.0, generator(0, "latent"))


def batch_of(shop, count):
    """Prompts and answers of the first examples."""
    examples = shop.examples[:count]
    answers = [[*shop.builder.sid(shop.builder.catalogue.row(e.target)), shop.bundle.end_id] for e in examples]
    return latent_prompts(shop.builder, [e.context for e in examples]), torch.tensor(answers)


# -- golden numbers ---------------------------------------------------------------------------------------------------
def test_advantages_are_differences_to_the_noise_free_copy_over_their_length():
    advantage_BG = noise_free_advantage(torch.tensor([[-10.0, -8.0, -12.0, -9.0]]))
    torch.testing.assert_close(advantage_BG, torch.tensor([[0.0, 2 / 3, -2 / 3, 1 / 3]]), atol=1e-5, rtol=0)


def test_the_baseline_and_the_length_are_those_of_the_whole_batch():
    reward_BG = torch.tensor([[-2.0, -3.0], [-4.0, -1.0]])
    expected = torch.tensor([[1.0, 0.0], [-1.0, 2.0]]) / 6**0.5  # b = -3
    torch.testing.assert_close(noise_free_advantage(reward_BG), expected, atol=1e-5, rtol=0)
    expected = torch.tensor([[0.0, -1.0], [0.0, 3.0]]) / 10**0.5
    torch.testing.assert_close(noise_free_advantage(reward_BG, "context"), expected, atol=1e-5, rtol=0)


def test_reward_is_minus_the_perplexity_of_the_target():
    logprob_BGA = -torch.tensor([[[10.0, 10.0, 10.0]]]).log()
    assert perplexity_reward(logprob_BGA).tolist() == [[pytest.approx(-10.0, abs=1e-5)]]
    mixed = torch.tensor([[[0.0, -2.0]]])  # mean 1: e
    assert perplexity_reward(mixed).item() == pytest.approx(-2.718282, abs=1e-5)


# -- two passes -------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_shared_prompts_and_copies_equal_plain_passes_over_embeddings(shop):
    reasoner, model = reasoner_of(shop), shop.bundle.model
    prompts, answer_BA = batch_of(shop, 3)
    read = reasoner.read(prompts)
    thought_BD = reasoner.think(read)
    thought_BGD = thought_BD[:, None] + torch.randn(3, 2, thought_BD.shape[1], generator=generator(0, "n"))
    logprob_BGA = reasoner.answer(read, thought_BGD, answer_BA)
    table = model.get_input_embeddings()
    for b, prompt in enumerate(prompts):
        hidden = model.model(input_ids=torch.tensor([prompt])).last_hidden_state
        alone = reasoner.attention(hidden, torch.tensor([len(prompt)]))[0]
        torch.testing.assert_close(thought_BD[b], alone, atol=1e-5, rtol=1e-5)
        for g in range(2):
            text = torch.cat([table(torch.tensor(prompt)), thought_BGD[b, g][None], table(answer_BA[b, :-1])])
            logprob = model(inputs_embeds=text[None]).logits[0, len(prompt) :].log_softmax(-1)
            plain = logprob.gather(1, answer_BA[b][:, None])[:, 0]
            torch.testing.assert_close(logprob_BGA[b, g], plain, atol=1e-4, rtol=1e-4)


def test_a_prompt_with_its_thought_is_one_position_longer_than_without(shop):
    prompts, _ = batch_of(shop, 3)
    embedded = reasoner_of(shop).embedded(prompts)
    assert [len(e) for e in embedded] == [len(p) + 1 for p in prompts]
    table = shop.bundle.model.get_input_embeddings()
    assert torch.equal(embedded[0][:-1], table(torch.tensor(prompts[0])))


def test_gradient_reaches_the_layer_and_through_it_the_prompt(shop):
    reasoner = reasoner_of(shop)
    prompts, answer_BA = batch_of(shop, 2)
    read = reasoner.read(prompts)
    (-reasoner.answer(read, reasoner.think(read)[:, None], answer_BA).mean()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in reasoner.parameters())


# -- noise ------------------------------------------------------------------------------------------------------------
def updates(shop, count, **changes):
    reasoner = reasoner_of(shop)
    prompts, answer_BA = batch_of(shop, count)
    config = LatentPolicyConfig(**changes)
    with frozen(reasoner.model):
        for loss, numbers in latent_updates(reasoner, prompts, answer_BA, config, generator(0, "noise")):
            loss.backward()
            yield float(loss.detach()), numbers, reasoner


@pytest.mark.parametrize(("count", "baseline"), [(1, "batch"), (3, "context")])
def test_without_noise_there_is_no_advantage_and_no_gradient(shop, count, baseline):
    ((loss, numbers, reasoner),) = updates(shop, count, noise=0.0, baseline=baseline)
    assert loss == pytest.approx(0.0, abs=1e-6)
    assert numbers["noise_helps"] == 0.0
    assert max(float(p.grad.abs().max()) for p in reasoner.attention.parameters()) < 1e-6


def test_with_the_published_baseline_easy_contexts_have_advantages_even_without_noise(shop):
    ((_, _, reasoner),) = updates(shop, 3, noise=0.0, baseline="batch")
    assert max(float(p.grad.abs().max()) for p in reasoner.attention.parameters()) > 1e-5


def test_with_noise_the_layer_learns_and_the_model_stays(shop):
    before = [p.clone() for p in shop.bundle.model.parameters()]
    (_, numbers, reasoner), *_ = updates(shop, 2, noise=20.0, updates=2)
    assert all(p.grad is None for p in reasoner.model.parameters())
    assert any(float(p.grad.abs().max()) > 1e-5 for p in reasoner.attention.parameters())
    assert numbers["policy_ratio_mean"] == pytest.approx(1.0)
    assert all(torch.equal(a, b) for a, b in zip(before, shop.bundle.model.parameters(), strict=True))
    assert all(p.requires_grad for p in shop.bundle.model.parameters())


def test_a_step_moves_the_target_as_the_advantages_ask(shop):
    reasoner = reasoner_of(shop)
    prompts, answer_BA = batch_of(shop, 3)
    config = LatentPolicyConfig(noise=30.0)
    noise_BGD = None
    with frozen(reasoner.model):
        read = reasoner.read(prompts)
        table_VD = reasoner.model.get_input_embeddings().weight
        noise_BGD = noise_of(reasoner.think(read).detach(), table_VD, config, generator(0, "noise"))

        def logprob_BG():
            with torch.no_grad():
                return reasoner.answer(read, reasoner.think(read)[:, None] + noise_BGD, answer_BA).mean(-1)

        before_BG = logprob_BG()
        advantage_BG = noise_free_advantage(-(-before_BG).exp())
        for loss, _ in latent_updates(reasoner, prompts, answer_BA, config, generator(0, "noise")):
            loss.backward()
        with torch.no_grad():
            for weight in reasoner.attention.parameters():
                weight -= 1e-2 * weight.grad
        assert float((advantage_BG * (logprob_BG() - before_BG)).sum()) > 0


@pytest.mark.parametrize(("unit", "length"), [("embedding", 5.0), ("thought", 2.0)])
def test_noise_is_as_long_as_asked_and_the_first_copy_has_none(unit, length):
    D = 400
    thought_BD, table_VD = torch.full((3, D), 2.0 / D**0.5), torch.full((7, D), 5.0 / D**0.5)
    config = LatentPolicyConfig(noise=1.5, noise_unit=unit, copies=50)
    noise_BGD = noise_of(thought_BD, table_VD, config, generator(0, "noise"))
    assert not noise_BGD[:, 0].any()
    assert float(noise_BGD[:, 1:].norm(dim=-1).mean()) == pytest.approx(1.5 * length, rel=0.02)


# -- the stage --------------------------------------------------------------------------------------------------------
def test_both_parts_learn_and_a_search_finds_what_was_learned(shop, run):
    policy = LatentPolicyConfig(batch=8)
    bench = bench_with(shop, run, batch=8, max_steps=40, optim=FAST, policy=policy, items=0.0, item_words=0.0)
    examples = shop.examples[:8]
    sums = train_latent_r3(bench, "latent-r3", "key", examples, 1e9)
    lines = {part: [r for r in run.numbers() if r["stage"] == f"latent-r3/{part}"] for part in ("sft", "rl")}
    assert lines["sft"][-1]["loss_answer"] < 0.3 * lines["sft"][0]["loss_answer"]
    assert [r["step"] for r in lines["rl"]] == [10, 20, 30, 40]
    assert lines["rl"][-1]["policy_sequences"] == 8 * 8
    answers = 8 * (shop.bundle.sid_ids_NL.shape[1] + 1)
    prompts = sum(map(len, latent_prompts(shop.builder, [e.context for e in examples])))
    assert sums == {"tokens_sum": 40 * (prompts + answers) + 40 * (prompts + 8 * answers)}
    file = attention_file(run.path / "models/latent-r3")
    attention = load_attention(file, shop.bundle.model)
    searcher = LatentSearcher(shop.builder, attention, shop.trie, shop.settings.decode)
    lists = searcher.search([e.context for e in examples], k=3)
    assert [r.search_id for r in lists] == [e.context.search_id for e in examples]
    assert sum(r.item_ids[0] == e.target for r, e in zip(lists, examples, strict=True)) >= 7
    assert all(len(set(r.item_ids)) == 3 and list(r.scores) == sorted(r.scores, reverse=True) for r in lists)
    alone = searcher.search([examples[2].context], k=3)[0]
    assert alone.item_ids == lists[2].item_ids
    assert alone.scores == pytest.approx(lists[2].scores, abs=1e-4)


def test_anchors_teach_items_beside_the_answer_and_count_as_tokens(shop, run):
    policy = LatentPolicyConfig(batch=8)
    bench = bench_with(shop, run, batch=8, max_steps=30, optim=FAST, policy=policy)
    train_latent_r3(bench, "latent-r3", "key", shop.examples[:8], 1e9)
    first, *_, last = [r for r in run.numbers() if r["stage"] == "latent-r3/sft"]
    for loss in ("loss_answer", "loss_item_words", "loss_item_to_sid"):
        assert last[loss] < 0.8 * first[loss]
    prompts = latent_prompts(shop.builder, [e.context for e in shop.examples[:8]])
    alone = sum(map(len, prompts)) + 8 * (shop.bundle.sid_ids_NL.shape[1] + 1)
    assert first["tokens_sum"] > alone + 8 * 10


def test_the_loss_on_clicked_words_is_that_of_the_tree_of_the_same_user(shop, run):
    task = LatentTask(bench_with(shop, run), "latent-r3", "key", shop.examples, reasoner_of(shop))
    example = next(e for e in shop.examples if any(s.clicked for s in e.context.history))
    prompts = latent_prompts(shop.builder, [example.context])
    with torch.no_grad():
        found, _ = task.anchors([example], prompts, task.reasoner.read(prompts), 0)
        packed = pack([shop.builder.user(example, direct=False)])
        expected = -target_logprobs(shop.bundle.model, packed).mean()
    torch.testing.assert_close(found["item_words"][1], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("part", ["sft", "rl"])
def test_a_stage_that_was_killed_in_either_part_ends_with_the_same_bits(shop, tmp_path, part):
    start = copy.deepcopy(shop.bundle.model.state_dict())

    def train(path, stop=None):
        shop.bundle.model.load_state_dict(start)
        with RunDirectory(path) as run:
            bench = bench_with(shop, run, batch=4, max_steps=4, policy=LatentPolicyConfig(batch=4, copies=3))
            object.__setattr__(bench, "settings", bench.settings.model_copy(update={"checkpoint_seconds": 0.0}))
            if stop is not None:
                object.__setattr__(bench, "progress", stop)
            try:
                sums = train_latent_r3(bench, "latent-r3", "key", shop.examples, 1e9)
            except KeyboardInterrupt:
                return None
            return sums, attention_file(path / "models/latent-r3").read_bytes()

    def interrupt(stage, done, total, numbers):
        if (stage, done) == (f"latent-r3/{part}", 3):
            raise KeyboardInterrupt

    whole = train(tmp_path / "whole")
    assert train(tmp_path / "cut", interrupt) is None
    assert train(tmp_path / "cut") == whole
