"""Numbers worked out by hand for the equations of rewards and objectives, each to 1e-5."""

import math

import pytest
import torch
from torch import Tensor

from crsearch.config import RewardConfig, RlConfig
from crsearch.train.objectives import group_advantage, k3, policy_loss, variant
from crsearch.train.rewards import (
    choose_beam,
    length_reward,
    list_reward,
    rank_weighted,
    rank_weights,
    score,
    sid_accuracy,
)


def close(actual: Tensor, expected: object) -> None:
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-5, rtol=0, check_dtype=False)


def one_list(*rewards: float) -> Tensor:
    return torch.tensor([[list(rewards)]])


def advantage(rewards: list[float], **settings: object) -> Tensor:
    return group_advantage(torch.tensor([rewards]), RlConfig(**settings))[0][0]


# ---------------------------------------------------------------- rewards, Eq. 3-6


def test_eq4_length_reward():
    closed = torch.ones(1, 4, dtype=torch.bool)
    length_BG = torch.tensor([[0, 50, 100, 250]])
    close(length_reward(length_BG, 100, closed), [[0.0, 0.5, 1.0, 1.0]])
    close(length_reward(length_BG, 100, ~closed), [[0.0, 0.0, 0.0, 0.0]])


TARGET = torch.tensor([[1, 5, 9, 0]])


def accuracy(*codes: tuple[int, ...], weights: tuple[float, ...], **options: object) -> Tensor:
    return sid_accuracy(torch.tensor([[[*codes]]]), TARGET, weights, **options)[0, 0]


def test_eq5_sid_accuracy_as_printed():
    pred = (1, 5, 9, 0), (1, 2, 9, 0), (7, 5, 9, 3), (1, 5, 9, 4)
    close(accuracy(*pred, weights=(0.5, 0.3, 0.2)), [1.0, 0.7, 0.5, 1.0])
    close(accuracy(*pred[:3], weights=(0.5, 0.3, 0.2), prefix_only=True), [1.0, 0.5, 0.0])


def test_eq5_sid_accuracy_gated_with_an_exact_match_bonus():
    pred = (1, 5, 9, 0), (1, 5, 9, 4), (1, 5, 2, 0), (1, 2, 9, 0), (7, 5, 9, 0)
    recommended = {"weights": (0.1, 0.2, 0.2), "exact_weight": 0.5, "prefix_only": True}
    close(accuracy(*pred, **recommended), [1.0, 0.5, 0.3, 0.1, 0.0])


def test_eq5_literal_form_can_be_gamed_where_the_gated_one_cannot():
    """One code per layer guessed right under a wrong prefix is worth half the reward as printed, nothing when gated."""
    wrong_item = (7, 5, 9, 0)
    close(accuracy(wrong_item, weights=(0.5, 0.3, 0.2)), [0.5])
    close(accuracy(wrong_item, weights=(0.1, 0.2, 0.2), exact_weight=0.5, prefix_only=True), [0.0])
    # a stray item of another branch even beats one of the right branch
    stray, near = (7, 5, 9, 0), (1, 2, 3, 0)
    as_printed = accuracy(stray, near, weights=(1 / 3, 1 / 3, 1 / 3))
    gated = accuracy(stray, near, weights=(1 / 3, 1 / 3, 1 / 3), prefix_only=True)
    assert as_printed[0] > as_printed[1]
    assert gated[0] < gated[1]
    # and another item of the collision group earns all of it
    close(accuracy((1, 5, 9, 4), weights=(0.5, 0.3, 0.2)), [1.0])


# ---------------------------------------------------------------- R-GRPO, Eq. 7


def test_eq7_weights():
    close(rank_weights(5), [1.0, 0.590616, 0.476505, 0.419060, 0.383224])
    close(rank_weights(10).sum(), 4.507355)
    close(rank_weights(4, base="2"), [1.0, 0.5, 0.386853, 0.333333])


@pytest.mark.parametrize(
    ("rewards", "base", "expected"),
    [
        ((1, 0, 0, 0), "e", 0.402223),
        ((0, 1, 0, 0), "e", 0.237560),
        ((0, 0, 0, 1), "e", 0.168556),
        ((2, 2, 2, 2), "e", 2.0),
        ((1, 0.5, 0.2, 0), "e", 0.559335),
        ((1, 0, 0, 0), "2", 0.450413),
    ],
)
def test_eq7_rank_weighted(rewards, base, expected):
    close(rank_weighted(one_list(*map(float, rewards)), base), [[expected]])


@pytest.mark.parametrize(
    ("structure", "totals", "r_star"), [(0.0, [2.3, 2.5, 0.5], 1.942214), (-1.0, [1.3, 1.5, -0.5], 0.942214)]
)
def test_eq3_to_eq7_with_all_parts(structure, totals, r_star):
    reward = RewardConfig(layer_weights=(0.5, 0.3, 0.2), exact_weight=0.0, prefix_only=False, length=1.0)
    rows_BGK = torch.tensor([[[11, 7, -1]]])
    parts = score(
        reward,
        structure_BG=torch.tensor([[structure]]),
        length_BG=torch.tensor([[64]]),
        is_closed_BG=torch.tensor([[True]]),
        distinct_BG=torch.tensor([[1.0]]),
        think_tokens=128,
        rows_BGK=rows_BGK,
        codes_BGKL1=torch.tensor([[[[1, 5, 8, 0], [1, 5, 9, 0], [1, 5, 9, 0]]]]),  # the third is not read: row -1
        target_BL1=TARGET,
    )
    close(parts["total"], [[totals]])
    close(list_reward(RlConfig(reward=reward), parts, rows_BGK=rows_BGK, target_B=torch.tensor([7])), [[r_star]])
    assert choose_beam(parts["total"]).tolist() == [[1]]


LISTS = torch.tensor([[[2.0, 0.5, 0.0], [0.0, 2.0, 0.5], [0.0, 0.0, 0.0]]])


def test_r_grpo_tells_trajectory_2_from_trajectory_3_and_grpo_cannot():
    """The paper's whole argument: the target second in the list is better than nowhere; the top item cannot say so."""
    config = RlConfig(std="population", eps=0.0)
    r_star_BG = rank_weighted(LISTS)
    close(r_star_BG, [[1.110389, 0.686696, 0.0]])
    r_grpo, _ = group_advantage(r_star_BG, config)
    close(r_grpo, [[1.117646, 0.191610, -1.309256]])
    grpo, _ = group_advantage(LISTS[..., 0], config)
    close(grpo, [[1.414214, -0.707107, -0.707107]])
    assert r_grpo[0, 1] > r_grpo[0, 2]
    assert grpo[0, 1] == grpo[0, 2]


# ---------------------------------------------------------------- GRPO and relatives, Eq. 8


def test_group_advantage():
    close(advantage([1.0, 0, 0, 0], std="population", eps=0.0), [1.732051] + [-0.577350] * 3)
    close(advantage([1.0, 0, 0, 0], std="sample", eps=0.0), [1.5, -0.5, -0.5, -0.5])
    close(advantage([1.0, 0, 0, 0], std="sample", eps=1e-4), [1.4997, -0.4999, -0.4999, -0.4999])
    close(advantage([0.25, 0.5, 0.75, 1.0], std="population", eps=0.0), [-1.341641, -0.447214, 0.447214, 1.341641])
    close(advantage([1.0, 0, 0, 0], normalise_std=False), [0.75, -0.25, -0.25, -0.25])
    assert advantage([0.3, 0.3, 0.3]).tolist() == [0.0, 0.0, 0.0]


def loss_of(log_ratio: list[list[float]], advantage: list[float], mask: list[list[bool]], config: RlConfig) -> Tensor:
    old_ST = torch.full((len(mask), len(mask[0])), -1.0)
    return policy_loss(
        old_ST + torch.tensor(log_ratio), old_ST, torch.tensor(advantage), torch.tensor(mask), config=config
    )[0]


@pytest.mark.parametrize(
    ("rho", "a", "expected"), [(1.5, 1.0, 1.2), (1.5, -1.0, -1.5), (0.5, 1.0, 0.5), (0.5, -1.0, -0.8)]
)
def test_eq8_clipping(rho, a, expected):
    close(-loss_of([[math.log(rho)]], [a], [[True]], RlConfig()), expected)


def test_eq8_clip_higher_of_dapo():
    close(-loss_of([[math.log(1.5)]], [1.0], [[True]], variant(RlConfig(), "dapo")), 1.28)


def test_eq8_k3():
    close(k3(torch.tensor([-1.0, -1.0, -2.0]), torch.tensor([-1.2, -1.0, -1.0])), [0.018731, 0.0, 0.718282])


@pytest.mark.parametrize(("norm", "expected"), [("sequence", 0.0), ("token", -0.333333), ("constant", -0.125)])
def test_eq8_length_normalisation(norm, expected):
    mask = [[True, True, False, False], [True] * 4]
    config = RlConfig(length_norm=norm, length_constant=8)
    close(-loss_of([[0.0] * 4] * 2, [1.0, -1.0], mask, config), expected)


@pytest.mark.parametrize(("a", "expected"), [(1.0, 1.0004), (-1.0, -1.221403)])
def test_gspo_takes_the_ratio_of_the_sequence(a, expected):
    close(-loss_of([[0.1, 0.3]], [a], [[True, True]], variant(RlConfig(), "gspo")), expected)
