"""RQ-VAE: the worked examples, where gradients may go, dead codes, and the book it makes."""

import numpy as np
import pytest
import torch
from torch import nn

from crsearch.config import RqVaeConfig, SidConfig
from crsearch.errors import SidError
from crsearch.sids import SidBook, residual_kmeans, sids_from_embeddings
from crsearch.sids.projection import Projection
from crsearch.sids.rqvae import Coded, RqVae, fit_rqvae, perceptron, restart_dead, train_rqvae

TOY = torch.tensor([[0.0], [2.0], [9.0], [13.0]])
SMALL = SidConfig(
    quantizer="rqvae",
    layers=2,
    codes=6,
    spare_duplicates=100,
    rqvae=RqVaeConfig(hidden=(16,), latent=4, epochs=30, batch=64),
)


def identity(codebooks: list[list[float]], beta: float = 0.25) -> RqVae:
    """No networks: what is quantised is the vector itself."""
    return RqVae(nn.Identity(), nn.Identity(), [torch.tensor(book)[:, None] for book in codebooks], beta)


def clustered(num: int, width: int = 8, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors_ND = rng.normal(size=(12, width))[rng.integers(12, size=num)] + 0.3 * rng.normal(size=(num, width))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


# -- golden numbers ---------------------------------------------------------------------------------------------------
def test_without_networks_the_codes_are_those_of_residual_k_means():
    coded = identity([[1.0, 11.0], [-1.5, 1.5], [-0.5, 0.5]])(TOY)
    assert coded.codes_ML.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    by_kmeans = residual_kmeans(TOY.numpy(), layers=3, codes=2, iterations=20, seed=0)
    assert coded.codes_ML.tolist() == by_kmeans.codes_NL.tolist()
    assert float(coded.reconstruction.detach()) == 0.0
    # left over after each layer: 10, 1, 0 in squares over four vectors; once for the codes, beta for the encoder
    assert float(coded.quantisation.detach()) == pytest.approx(1.25 * (10 + 1 + 0) / 4)


def test_with_every_vector_a_code_the_loss_is_zero():
    coded = identity([[0.0, 2.0, 9.0, 13.0], [0.0], [0.0]])(TOY)
    assert coded.codes_ML[:, 0].tolist() == [0, 1, 2, 3]
    assert float(coded.loss.detach()) == 0.0


def test_the_loss_of_one_vector_and_two_layers_by_hand():
    coded = identity([[2.0], [0.5]], beta=0.1)(torch.tensor([[3.0]]))
    # r = 3, then 1; decoded 2.5
    assert float(coded.reconstruction.detach()) == pytest.approx(0.25)
    assert float(coded.quantisation.detach()) == pytest.approx(1.1 * (1.0 + 0.25))


# -- gradients --------------------------------------------------------------------------------------------------------
def test_codes_learn_from_their_own_term_and_the_encoder_from_commitment_and_the_decoder():
    net = identity([[2.0], [0.5]], beta=0.1)
    x = torch.tensor([[3.0]], requires_grad=True)
    coded = net(x)
    coded.loss.backward()
    assert [float(book.grad) for book in net.codebooks] == pytest.approx([2 * (2.0 - 3.0), 2 * (0.5 - 1.0)])
    # straight through: x_hat moves with z, so |x - x_hat|^2 has no slope; commitment 2 beta (1 + 0.5) stays
    assert float(x.grad) == pytest.approx(2 * 0.1 * (1.0 + 0.5))


def test_the_decoder_reads_the_sum_of_the_chosen_vectors():
    decoder = nn.Linear(1, 1)
    net = RqVae(nn.Identity(), decoder, [torch.tensor([[1.0], [11.0]]), torch.tensor([[-1.5], [1.5]])])
    coded = net(TOY)
    chosen = torch.tensor([[-0.5], [2.5], [9.5], [12.5]])
    assert float(coded.reconstruction.detach()) == pytest.approx(
        float((TOY - decoder(chosen)).square().mean().detach())
    )


# -- training ---------------------------------------------------------------------------------------------------------
def test_a_dead_code_restarts_at_what_its_layer_was_given():
    net = identity([[1.0, 11.0, 99.0], [-1.5, 1.5]])
    coded = net(TOY)
    used = [torch.tensor([True, True, False]), torch.tensor([True, False])]
    restart_dead(net, used, coded.rest_LMD, torch.Generator().manual_seed(0))
    first, second = (book.detach()[:, 0].tolist() for book in net.codebooks)
    assert first[:2] == [1.0, 11.0]
    assert first[2] in {0.0, 2.0, 9.0, 13.0}
    assert second[0] == -1.5
    assert second[1] in {-1.0, 1.0, -2.0, 2.0}


@torch.no_grad()
def test_training_lowers_the_loss_and_no_layer_collapses():
    x_MD = torch.from_numpy(clustered(300))

    def after(epochs: int) -> Coded:
        config = SMALL.model_copy(update={"rqvae": SMALL.rqvae.model_copy(update={"epochs": epochs})})
        with torch.enable_grad():
            net = train_rqvae(x_MD, config, seed=0)
        return net(x_MD)

    early, late = after(1), after(60)
    assert float(late.reconstruction) < 0.6 * float(early.reconstruction)
    assert float(late.loss) < 0.6 * float(early.loss)
    assert all(len(late.codes_ML[:, layer].unique()) == 6 for layer in range(2))


def test_equal_arguments_give_equal_bits_and_another_seed_others():
    embeddings_ND = clustered(100)
    state = torch.get_rng_state()
    one, two, other = (fit_rqvae(embeddings_ND, SMALL, seed) for seed in (0, 0, 1))
    assert torch.equal(state, torch.get_rng_state())
    assert (one.codes_NL == two.codes_NL).all()
    assert all((a == b).all() for a, b in zip(one.codebooks, two.codebooks, strict=True))
    assert not np.array_equal(one.codebooks[0], other.codebooks[0])


def test_permuting_the_items_permutes_the_codes_only():
    embeddings_ND = clustered(100)
    order = np.random.default_rng(0).permutation(100)
    found, permuted = fit_rqvae(embeddings_ND, SMALL, 0), fit_rqvae(embeddings_ND[order], SMALL, 0)
    assert (permuted.codes_NL == found.codes_NL[order]).all()
    assert all((a == b).all() for a, b in zip(found.codebooks, permuted.codebooks, strict=True))


def test_codes_follow_the_order_of_their_vectors_and_unused_ones_are_gone_with_a_warning():
    found = fit_rqvae(np.repeat(clustered(3), 4, axis=0), SMALL, 0)
    for layer, book in enumerate(found.codebooks):
        assert set(found.codes_NL[:, layer].tolist()) == set(range(len(book)))
        assert book.tolist() == sorted(book.tolist())
    sizes = [len(book) for book in found.codebooks]
    assert found.warnings == tuple(f"layer {n + 1} uses {size} of 6 codes" for n, size in enumerate(sizes) if size < 6)
    assert sizes[0] <= 3
    assert (found.codes_NL[0] == found.codes_NL[3]).all()


@pytest.mark.parametrize("embeddings_ND", [np.empty((0, 4)), np.array([[1.0], [np.nan]])])
def test_no_vectors_or_broken_ones_are_refused(embeddings_ND):
    with pytest.raises(SidError):
        fit_rqvae(embeddings_ND, SMALL, 0)


# -- the book ---------------------------------------------------------------------------------------------------------
def test_a_projection_is_the_encoder():
    net = perceptron([8, 16, 4])
    linear = [net[0], net[2]]
    projection = Projection(
        tuple(layer.weight.detach().numpy() for layer in linear), tuple(layer.bias.detach().numpy() for layer in linear)
    )
    embeddings_ND = clustered(20)
    with torch.no_grad():
        expected = net(torch.from_numpy(embeddings_ND)).numpy()
    np.testing.assert_allclose(projection(embeddings_ND), expected, atol=1e-6)
    assert (projection.width, Projection().width) == (8, None)
    assert (Projection()(embeddings_ND) == embeddings_ND).all()


def test_a_book_of_an_rqvae_survives_its_files_and_takes_new_items(tmp_path):
    embeddings_ND = clustered(100)
    book = sids_from_embeddings([f"i{n}" for n in range(100)], embeddings_ND, SMALL, seed=0)
    book.save(tmp_path)
    loaded = SidBook.load(tmp_path)
    assert loaded.fingerprint() == book.fingerprint()
    assert (loaded.assign(embeddings_ND)[:, :-1] == book.codes_NL[:, :-1]).all()
    alone_NL = np.concatenate([loaded.assign(embeddings_ND[n : n + 1])[:, :-1] for n in range(100)])
    assert (alone_NL == book.codes_NL[:, :-1]).all()
    grown = loaded.append(["new"], embeddings_ND[:1])
    assert grown.pieces(100)[:-1] == grown.pieces(0)[:-1]
    with pytest.raises(SidError, match="embeddings of 4 numbers for codebooks of 8"):
        loaded.assign(np.zeros((1, 4)))


def test_the_projection_is_part_of_what_a_model_has_learned():
    embeddings_ND = clustered(50)
    book = sids_from_embeddings([f"i{n}" for n in range(50)], embeddings_ND, SMALL, seed=0)
    weights = (book.projection.weights[0] + 1, *book.projection.weights[1:])
    moved = SidBook(
        item_ids=book.item_ids, codes_NL=book.codes_NL, codebooks=book.codebooks, dedup_codes=book.dedup_codes,
        built_rows=book.built_rows, projection=Projection(weights, book.projection.biases),
    )  # fmt: skip
    assert moved.fingerprint() != book.fingerprint()
