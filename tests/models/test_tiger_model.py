"""TIGER's model: what it reads, and its files."""

import pytest
import torch
from shop import book

from crsearch.config import TigerConfig
from crsearch.errors import ModelError
from crsearch.models.tiger import END, FIRST_SID, fresh_tiger, load_tiger, save_tiger

TINY = TigerConfig(width=16, layers=1, heads=2, head_dim=8, feed_forward=32, users=10, max_items=2)


def test_a_prompt_is_the_user_the_newest_items_and_the_end(sids):
    tiger = fresh_tiger(sids, TINY, seed=0)
    L = tiger.sid_ids_NL.shape[1]
    prompt = tiger.prompt("u1", [4, 5, 6])
    assert prompt[1:-1] == [*tiger.sid_ids_NL[5].tolist(), *tiger.sid_ids_NL[6].tolist()]
    assert prompt[-1] == END
    assert tiger.first_user <= prompt[0] < tiger.first_user + 10
    assert len(prompt) == 1 + 2 * L + 1
    assert tiger.prompt("u1", []) == [prompt[0], END]
    assert len({tiger.prompt(f"u{n}", [])[0] for n in range(200)}) == 10


def test_without_user_tokens_everybody_is_read_alike(sids):
    tiger = fresh_tiger(sids, TINY.model_copy(update={"users": 0}), seed=0)
    assert tiger.prompt("u1", [3]) == tiger.prompt("u2", [3]) == [*tiger.sid_ids_NL[3].tolist(), END]
    assert tiger.prompt("u1", []) == [END]


def test_tokens_of_layers_users_and_control_do_not_overlap(sids):
    tiger = fresh_tiger(sids, TINY, seed=0)
    assert tiger.sid_ids_NL.min() >= FIRST_SID > END
    assert tiger.sid_ids_NL.max() < tiger.first_user
    layers = [set(column.tolist()) for column in tiger.sid_ids_NL.T]
    assert sum(map(len, layers)) == len(set.union(*layers))
    assert tiger.model.config.vocab_size == tiger.first_user + tiger.users


def test_the_same_seed_gives_the_same_weights_and_touches_no_global_state(sids):
    state = torch.get_rng_state()
    one, two, other = (fresh_tiger(sids, TINY, seed).model.state_dict() for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["shared.weight"], other["shared.weight"])


def test_a_saved_model_comes_back_for_its_own_sids_only(sids, catalogue, tmp_path):
    tiger = fresh_tiger(sids, TINY, seed=0)
    save_tiger(tiger, tmp_path / "tiger")
    loaded = load_tiger(tmp_path / "tiger", sids)
    assert (loaded.users, loaded.max_items, loaded.first_user) == (10, 2, tiger.first_user)
    assert loaded.prompt("u1", [1]) == tiger.prompt("u1", [1])
    again = loaded.model.state_dict()
    assert all(torch.equal(value, again[name]) for name, value in tiger.model.state_dict().items())
    with pytest.raises(ModelError, match="other semantic IDs"):
        load_tiger(tmp_path / "tiger", book(catalogue, codes=7))


@pytest.mark.parametrize("broken", ["tiger.json", "model.safetensors"])
def test_a_broken_folder_is_refused(sids, tmp_path, broken):
    save_tiger(fresh_tiger(sids, TINY, seed=0), tmp_path / "tiger")
    (tmp_path / "tiger" / broken).write_bytes(b"{")
    with pytest.raises(ModelError, match="cannot load this TIGER model"):
        load_tiger(tmp_path / "tiger", sids)
