"""TIGER: its pairs, its loss against transformers' own, learning, resume, and search."""

import copy
from dataclasses import replace

import pytest
import torch

from crsearch.config import OptimConfig, TigerConfig
from crsearch.models.tiger import END, PAD, fresh_tiger, load_tiger
from crsearch.runs import RunDirectory
from crsearch.searchers.tiger import TigerSearcher
from crsearch.train.tiger import chosen_rows, next_item_loss, train_tiger, training_pairs

TINY = TigerConfig(
    width=32, layers=1, heads=2, head_dim=16, feed_forward=64, users=0, dropout=0.0, batch=8, epochs=1_000,
    optim=OptimConfig(lr_matrix=0.02, lr=1e-2, schedule="constant"),
)  # fmt: skip


def bench_with(shop, run, checkpoint_seconds=60.0, **changes):
    """A workbench with other settings of TIGER."""
    bench = copy.copy(shop.bench(run))
    baselines = shop.settings.baselines.model_copy(update={"tiger": TINY.model_copy(update=changes)})
    settings = shop.settings.model_copy(update={"baselines": baselines, "checkpoint_seconds": checkpoint_seconds})
    object.__setattr__(bench, "settings", settings)
    return bench


# -- pairs ------------------------------------------------------------------------------------------------------------
def test_history_is_what_was_chosen_in_order_of_time(shop):
    context = next(e.context for e in shop.examples if len(chosen_rows(e.context, shop.builder.catalogue)) > 1)
    ids = shop.builder.catalogue.ids
    chosen = [item for search in context.history for item in search.chosen]
    assert [ids[row] for row in chosen_rows(context, shop.builder.catalogue)] == chosen
    gone = replace(context.history[0], clicked=("no such item",), bought=())
    assert chosen_rows(replace(context, history=(gone,)), shop.builder.catalogue) == ()


def test_every_item_after_another_is_a_target_and_the_search_itself_once(shop):
    catalogue = shop.builder.catalogue
    example = max(shop.examples, key=lambda e: len(chosen_rows(e.context, catalogue)))
    rows, target = chosen_rows(example.context, catalogue), catalogue.row(example.target)
    pairs = training_pairs([example], catalogue, history=True)
    assert [(p.before, p.after) for p in pairs] == [
        *((rows[:n], rows[n]) for n in range(1, len(rows))), (rows, target),
    ]  # fmt: skip
    assert training_pairs([example], catalogue, history=False) == pairs[-1:]


# -- loss -------------------------------------------------------------------------------------------------------------
@torch.no_grad()
def test_the_loss_is_that_of_transformers_and_filling_does_not_count(shop):
    tiger = fresh_tiger(shop.sids, TINY, seed=0)
    model = tiger.model.eval()
    prompts, rows = [tiger.prompt("u", [1, 2, 3]), [END], tiger.prompt("u", [4])], [5, 6, 7]
    answer_BL = torch.from_numpy(tiger.sid_ids_NL[rows])
    alone = [model(input_ids=torch.tensor([p]), labels=answer_BL[i : i + 1]).loss for i, p in enumerate(prompts)]
    together = next_item_loss(model, prompts, answer_BL)
    torch.testing.assert_close(together, torch.stack(alone).mean(), atol=1e-5, rtol=1e-5)
    assert model.config.decoder_start_token_id == PAD


# -- the stage --------------------------------------------------------------------------------------------------------
def test_it_learns_the_next_item_from_the_history_whatever_is_asked(shop, run):
    catalogue = shop.builder.catalogue
    histories: dict[tuple[int, ...], str] = {}
    for example in shop.examples:
        histories.setdefault(chosen_rows(example.context, catalogue), example.context.search_id)
    examples = [e for e in shop.examples if e.context.search_id in histories.values()][:10]
    before = [p.clone() for p in shop.bundle.model.parameters()]
    sums = train_tiger(bench_with(shop, run, max_steps=120, history_targets=False), "tiger", "key", examples, 1e9)
    assert sums["tokens_sum"] > 0
    assert all(torch.equal(a, b) for a, b in zip(before, shop.bundle.model.parameters(), strict=True))
    tiger = load_tiger(run.path / "models/tiger", shop.sids)
    searcher = TigerSearcher(tiger, catalogue, shop.settings.decode)
    contexts = [e.context for e in examples]
    lists = searcher.search(contexts, k=5)
    assert sum(found.item_ids[0] == e.target for found, e in zip(lists, examples, strict=True)) >= 8
    assert all(len(set(found.item_ids)) == 5 for found in lists)
    assert [found.search_id for found in lists] == [c.search_id for c in contexts]
    other = searcher.search([replace(c, query="another") for c in contexts], k=5)
    assert [found.item_ids for found in other] == [found.item_ids for found in lists]


def test_somebody_without_a_history_gets_a_list(shop):
    tiger = fresh_tiger(shop.sids, TINY, seed=0)
    searcher = TigerSearcher(tiger, shop.builder.catalogue, shop.settings.decode)
    (found,) = searcher.search([replace(shop.examples[0].context, history=())], k=50)
    assert sorted(found.item_ids) == sorted(shop.builder.catalogue.ids)  # a beam wider than the catalogue
    assert list(found.scores) == sorted(found.scores, reverse=True)


@pytest.mark.parametrize(("tokens", "epochs", "steps"), [(1e9, 2, 12), (1.0, 2, 1)])
def test_tokens_and_epochs_both_end_the_training(shop, run, tokens, epochs, steps):
    examples = shop.examples[:23]
    bench = bench_with(shop, run, epochs=epochs, batch=4, history_targets=False)
    train_tiger(bench, "tiger", "key", examples, tokens)
    assert run.numbers()[-1]["step"] == steps


def test_a_stage_that_was_killed_ends_with_the_same_bits_dropout_and_all(shop, tmp_path):
    def train(path, stop=None):
        with RunDirectory(path) as run:
            bench = bench_with(shop, run, checkpoint_seconds=0.0, max_steps=6, dropout=0.3, users=5)
            if stop is not None:
                object.__setattr__(bench, "progress", stop)
            try:
                sums = train_tiger(bench, "tiger", "key", shop.examples, 1e9)
            except KeyboardInterrupt:
                return None
            return sums, (path / "models/tiger/model.safetensors").read_bytes()

    def interrupt(stage, done, total, numbers):
        if done == 4:
            raise KeyboardInterrupt

    whole = train(tmp_path / "whole")
    assert train(tmp_path / "cut", interrupt) is None
    assert train(tmp_path / "cut") == whole
