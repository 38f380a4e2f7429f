"""The control ``rl.shuffle_rewards``: the same rewards, in places where they say nothing."""

import torch

from crsearch.train.objectives import group_advantage
from crsearch.train.rewards import choose_beam
from crsearch.train.rl import roll_out, shuffled
from crsearch.train.trainer import generator


def test_rewards_change_places_and_nothing_else_of_a_rollout_changes(shop, run):
    def rolled(**change):
        bench = shop.bench(run, **change)
        return roll_out(shop.builder, shop.examples[:4], shop.trie, bench, generator(0, "r"))

    honest, control = rolled(), rolled(shuffle_rewards=True)
    assert control.thoughts == honest.thoughts
    assert torch.equal(control.rows_BGK, honest.rows_BGK)
    assert honest.reward_BG.unique().numel() > 1
    assert not torch.equal(control.reward_BG, honest.reward_BG)
    assert torch.equal(control.reward_BG.flatten().sort().values, honest.reward_BG.flatten().sort().values)
    own, _ = group_advantage(control.reward_BG, shop.settings.rl)
    assert torch.equal(control.advantage_BG, own)
    assert torch.equal(honest.chosen_BG, choose_beam(honest.parts["total"]))
    assert not torch.equal(control.chosen_BG, honest.chosen_BG), "o* would tell which identifier is right"


def test_shuffled_values_follow_the_generator_and_no_place_is_preferred():
    values = torch.arange(6.0).view(2, 3)
    assert torch.equal(shuffled(values, generator(1, "a")), shuffled(values, generator(1, "a")))
    first = [float(shuffled(values, generator(seed, "a"))[0, 0]) for seed in range(300)]
    counts = torch.bincount(torch.tensor(first).long(), minlength=6)
    assert counts.min() > 25, counts  # 50 expected of each, standard deviation 6.5
