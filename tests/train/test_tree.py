"""One packed forward pass equals every continuation run alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from crsearch.errors import ModelError
from crsearch.train import tree as tree_module
from crsearch.train.attention import last_layer
from crsearch.train.tree import Branch, Tree, fill_rows, pack, target_logprobs

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip


FAMILIES = {
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES)),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES)),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=512)),
    "phi3": lambda: Phi3ForCausalLM(Phi3Config(**SIZES, pad_token_id=0, bos_token_id=None, eos_token_id=None)),
}


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        made = FAMILIES[request.param]()
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    return made.eval()


TREES = [
    Tree(
        [1, 2, 3, 4, 5],
        [Branch([6, 7, 8], [0.0, 1.0, 0.5], 5, "direct"), Branch([9], [1.0], 2, "early")],
        [0.0, 0.0, 1.0, 0.0, 1.0],
        "words",
    ),
    Tree([10, 11], [Branch([12, 13, 14, 15], [1.0] * 4, 2, "think")]),
    Tree([20], [Branch([21, 22], [1.0, 1.0], 1, "item")]),
]
LONG = Tree([i % 50 for i in range(150)], [Branch([7, 8, 9], [1.0] * 3, 90, "a"), Branch([7, 8], [1.0] * 2, 150, "b")])


def alone(model, tree):
    """The slow, obvious way: run trunk + branch as an ordinary sequence."""

    def logprobs(ids):
        return model(torch.tensor([ids])).logits[0].float().log_softmax(-1)

    out = []
    if tree.trunk_loss:
        table = logprobs(list(tree.trunk))
        out += [table[j - 1, tree.trunk[j]] for j, w in enumerate(tree.trunk_loss) if j and w]
    for branch in tree.branches:
        ids = [*tree.trunk[: branch.at], *branch.ids]
        table = logprobs(ids)
        out += [table[branch.at + j - 1, t] for j, (t, w) in enumerate(zip(branch.ids, branch.loss, strict=True)) if w]
    return torch.stack(out)


def test_packed_trees_equal_each_continuation_alone(model):
    with torch.no_grad():
        got = target_logprobs(model, pack(TREES))
        want = torch.cat([alone(model, t) for t in TREES])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_trees_in_rows_of_several_widths_equal_each_continuation_alone(model):
    trees = [TREES[0], LONG, *[Tree([i, 2 * i], [Branch([5, i], [1.0, 1.0], 2, "c")]) for i in range(1, 25)]]
    packed = pack(trees)
    assert [a.shape[1] for a in packed.allowed] == [192, 64]
    with torch.no_grad():
        got = target_logprobs(model, packed)
        want = torch.cat([alone(model, t) for t in trees])
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_gradient_of_packed_trees_equals_gradient_of_parts(model):
    model.zero_grad()
    target_logprobs(model, pack(TREES)).sum().backward()
    packed = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    sum(alone(model, t).sum() for t in TREES).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(packed[name], parameter.grad, atol=1e-4, rtol=1e-4)
    model.zero_grad()


def prompts_and_answers(prompts, tokens, answers):
    """Trees without a loss on the prompt."""
    ids = torch.randint(1, 50, (prompts, tokens), generator=torch.Generator().manual_seed(1)).tolist()
    return [Tree(row, [Branch([i, i + 1, 3], [1.0] * 3, tokens, "a") for i in range(answers)]) for row in ids]


NARROW = {
    "one token read": ([Tree([i % 50 for i in range(300)], [Branch([7], [1.0], 300, "a")])], (256, 512)),
    "ends of prompts": (prompts_and_answers(6, 100, 8), (256, 768)),
    "rows of two widths": ([LONG, *prompts_and_answers(9, 33, 4)], (512, 768)),
    "every token read": ([Tree([i % 50 for i in range(256)], trunk_loss=[1.0] * 256)], (256, 256)),
}


@pytest.mark.parametrize("case", NARROW)
@pytest.mark.parametrize("bf16", [False, True])
def test_a_last_layer_of_the_tokens_that_are_read_gives_what_the_whole_layer_gives(model, monkeypatch, case, bf16):
    trees, sizes = NARROW[case]
    packed = pack(trees)
    assert (len(packed.ids_N) if packed.reads is None else len(packed.reads.place_R), len(packed.ids_N)) == sizes

    def update():
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logprob_M = target_logprobs(model, packed)
        logprob_M.mean().backward()
        return logprob_M.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    narrow, whole = update(), []
    with monkeypatch.context() as patch:
        patch.setattr(tree_module, "last_layer", lambda model: None)
        whole = update()
    model.zero_grad()
    torch.testing.assert_close(narrow[0], whole[0], atol=0.2 if bf16 else 2e-5, rtol=0)
    assert (narrow[1] - whole[1]).norm() < (0.05 if bf16 else 1e-5) * whole[1].norm()


def test_layers_recomputed_in_the_backward_pass_give_the_same_gradient(model):
    packed = pack([LONG, *prompts_and_answers(9, 33, 4)])

    def gradient():
        model.zero_grad()
        target_logprobs(model, packed).mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters()])

    def checkpointing(verb):  # transformers renames it
        new, old = f"activation_checkpointing_{verb}", f"gradient_checkpointing_{verb}"
        getattr(model, new if hasattr(model, new) else old)()

    kept = gradient()
    model.train()
    checkpointing("enable")
    try:
        calls = []
        handle = model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
        recomputed = gradient()
        handle.remove()
        assert len(calls) == 2
        assert model.model.layers[-1].gradient_checkpointing
    finally:
        checkpointing("disable")
        model.eval().zero_grad()
    torch.testing.assert_close(recomputed, kept, atol=0, rtol=0)


def test_the_last_layer_works_out_tokens_that_are_read_and_the_others_all(model):
    packed, seen = pack(prompts_and_answers(6, 100, 8)), {}
    handles = [
        layer.mlp.register_forward_hook(lambda m, args, out, i=i: seen.update({i: out.shape[1]}))
        for i, layer in enumerate(model.model.layers)
    ]
    target_logprobs(model, packed)
    for handle in handles:
        handle.remove()
    known = last_layer(model) is not None
    assert known == (not isinstance(model, Phi3ForCausalLM))  # queries, keys and values of one product: not known
    assert seen == {0: 768, 1: 256 if known else 768}


def test_a_model_is_whole_again_after_an_error(model, monkeypatch):
    packed = pack(prompts_and_answers(6, 100, 8))
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="broken"):
        patch.setattr(type(model.model.layers[-1].mlp), "forward", broken)
        target_logprobs(model, packed)
    text = torch.tensor([[1, 2, 3]])
    assert model(text, use_cache=False).logits.shape == (1, 3, 50)


def broken(*_):
    raise RuntimeError("broken")


def test_a_last_layer_with_attention_of_its_own_is_refused(model, monkeypatch):
    layer = last_layer(model)
    if layer is None:
        return
    monkeypatch.setattr(layer.self_attn, "forward", lambda hidden_states, **_: (hidden_states, None))
    with pytest.raises(ModelError, match="attention interface"):
        target_logprobs(model, pack(prompts_and_answers(6, 100, 8)))


def test_another_tree_in_the_row_changes_nothing(model):
    changed = [TREES[0], Tree([30, 31], [Branch([32, 33, 34, 35], [1.0] * 4, 2, "think")]), TREES[2]]
    with torch.no_grad():
        a, b = target_logprobs(model, pack(TREES)), target_logprobs(model, pack(changed))
    torch.testing.assert_close(a[:5], b[:5], atol=1e-6, rtol=0)
    torch.testing.assert_close(a[-2:], b[-2:], atol=1e-6, rtol=0)


def test_chunks_of_logits_give_the_same_loss_and_gradient(model, monkeypatch):
    whole = target_logprobs(model, pack(TREES))
    whole.sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    monkeypatch.setattr(tree_module, "LOGITS_AT_ONCE", 100)
    parts = target_logprobs(model, pack(TREES))
    torch.testing.assert_close(parts, whole)
    parts.sum().backward()
    for g, p in zip(grads, model.parameters(), strict=True):
        torch.testing.assert_close(g, p.grad, atol=1e-5, rtol=1e-4)
    model.zero_grad()


def test_temperature_divides_the_logits(model):
    with torch.no_grad():
        warm = target_logprobs(model, pack(TREES[2:]), torch.tensor([2.0, 2.0]))
        logits = model(torch.tensor([[20, 21, 22]])).logits[0].float() / 2
    want = torch.stack([logits[0].log_softmax(-1)[21], logits[1].log_softmax(-1)[22]])
    torch.testing.assert_close(warm, want, atol=1e-5, rtol=0)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 16))
def test_rows_hold_every_tree_once_and_are_as_wide_as_their_longest_asks(lengths, step):
    rows = fill_rows(lengths, step)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    for row in rows:
        assert sum(lengths[i] for i in row) <= tree_module.rounded_up(max(lengths[i] for i in row), step)


def test_few_shapes_whatever_the_trees():
    generator = torch.Generator().manual_seed(0)
    shapes = set()
    for _ in range(50):
        lengths = torch.randint(1, 200, (12,), generator=generator).tolist()
        packed = pack([Tree([1] * n) for n in lengths])
        shapes |= {len(packed.ids_N)} | {a.shape[1] for a in packed.allowed}
    assert all(n % tree_module.ROW_STEP == 0 for n in shapes) and len(shapes) < 12


def test_a_branch_outside_its_trunk_is_refused():
    with pytest.raises(ValueError, match="tree 0"):
        pack([Tree([1, 2], [Branch([3], [1.0], 3, "x")])])
    with pytest.raises(ValueError, match="at least one tree"):
        pack([])
