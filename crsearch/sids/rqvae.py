"""RQ-VAE: an autoencoder whose middle is residual codes, trained; the other way to semantic IDs.

    x ─► encoder ─► z ─► code 1 ─► rest ─► code 2 ─► rest ─► ... ─► sum of chosen vectors ─► decoder ─► x_hat

Source: TIGER §3.1 as METHODS describes it; restart of dead codes and all schedules: details of this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from crsearch.config import RqVaeConfig, SidConfig
from crsearch.sids.kmeans import Quantised, assign_codes, refuse_broken, residual_kmeans
from crsearch.sids.projection import Projection
from crsearch.sids.rows import rows_by_value


@dataclass(frozen=True, slots=True)
class Coded:
    """A batch after a pass.

    Attributes:
        reconstruction: mean of |x - x_hat|^2.
        quantisation: mean of sum_l |sg[r_l] - e_l|^2 + beta |r_l - sg[e_l]|^2.
        codes_ML: code of each vector in each layer.
        rest_LMD: what each layer was given to code (r_l).
    """

    reconstruction: Float[Tensor, ""]
    quantisation: Float[Tensor, ""]
    codes_ML: Int64[Tensor, "M L"]
    rest_LMD: Float[Tensor, "L M D"]

    @property
    def loss(self) -> Float[Tensor, ""]:
        """What is minimised."""
        return self.reconstruction + self.quantisation


class RqVae(nn.Module):
    """Encoder, codebooks, decoder.

    Args:
        encoder: vectors to the space of the codebooks.
        decoder: back.
        codebooks: vectors of each layer, ``C D``.
        beta: weight of the commitment of the encoder to the codes.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, codebooks: Sequence[Tensor], beta: float = 0.25) -> None:
        super().__init__()
        self.encoder, self.decoder, self.beta = encoder, decoder, beta
        self.codebooks = nn.ParameterList([nn.Parameter(book.clone()) for book in codebooks])

    def forward(self, x_MD: Float[Tensor, "M _"]) -> Coded:
        """Code a batch; codes are nearest vectors, ties to the lower code.

            L = |x - x_hat|^2 + sum_l ( |sg[r_l] - e_l|^2 + beta |r_l - sg[e_l]|^2 ),   r_{l+1} = r_l - e_l

        Squares are summed over a vector and averaged over the batch. The decoder's gradient passes the codes straight
        through to the encoder; a codebook learns from its own term alone.
        """
        z_MD = rest_MD = self.encoder(x_MD)
        quantisation = z_MD.new_zeros(())
        codes, rests = [], []
        for book_CD in self.codebooks:
            code_M = nearest_code(rest_MD.detach(), book_CD.detach())
            chosen_MD = book_CD[code_M]
            quantisation = quantisation + mean_square(rest_MD.detach() - chosen_MD)
            quantisation = quantisation + self.beta * mean_square(rest_MD - chosen_MD.detach())
            codes.append(code_M)
            rests.append(rest_MD.detach())
            rest_MD = rest_MD - chosen_MD.detach()
        decoded = self.decoder(z_MD - rest_MD.detach())  # = z + sg[sum of chosen - z]
        return Coded(mean_square(x_MD - decoded), quantisation, torch.stack(codes, dim=1), torch.stack(rests))


def nearest_code(rest_MD: Float[Tensor, "M D"], book_CD: Float[Tensor, "C D"]) -> Int64[Tensor, " M"]:
    """Index of the nearest vector of a codebook, ties to the lower one."""
    # |r - e|^2 without the |r|^2 term, which is equal for all codes of a row
    return (book_CD.square().sum(-1) - 2 * rest_MD @ book_CD.T).argmin(dim=1)


def mean_square(difference_MD: Float[Tensor, "M _"]) -> Float[Tensor, ""]:
    """Squared length, mean over the batch."""
    return difference_MD.square().sum(-1).mean()


def fit_rqvae(embeddings_ND: Float[np.ndarray, "N D"], config: SidConfig, seed: int) -> Quantised:
    """Train an RQ-VAE on vectors and code them with it.

    Codebooks start as residual k-means of the first batch. After each epoch but the last, a code that nobody had in
    it restarts at what a random vector of the last batch had left over there. At the end unused codes are dropped (no
    other vector's nearest code changes by that) and the rest are numbered by the lexicographic order of their
    vectors. Equal vectors get equal codes; permuting the rows permutes the result and changes nothing else.

    Args:
        embeddings_ND: one finite vector per item, at least one.
        config: ``layers``, ``codes``, ``iterations`` (of the start) and ``rqvae`` are read.
        seed: of weights, batches and restarts; the global random state is neither used nor changed.

    Returns:
        Codes, codebooks and the encoder as projection; ``warnings`` name the codes used where a layer does not use all.

    Raises:
        SidError: there is no vector, or one holds NaN or infinity.
    """
    refuse_broken(embeddings_ND)
    rows_ND = np.ascontiguousarray(embeddings_ND, dtype=np.float32) + np.float32(0)
    net = train_rqvae(torch.from_numpy(rows_ND[rows_by_value(rows_ND)]), config, seed)
    return _quantised(net, rows_ND, config.codes)


def train_rqvae(x_MD: Float[Tensor, "M D"], config: SidConfig, seed: int) -> RqVae:
    """A network trained on vectors; their order counts. Arguments as of ``fit_rqvae``."""
    gen = torch.Generator().manual_seed(seed)
    net = _start(x_MD[torch.randperm(len(x_MD), generator=gen)[: config.rqvae.batch]], config, seed)
    _train(net, x_MD, config.rqvae, gen)
    return net


def _start(batch_MD: Float[Tensor, "M D"], config: SidConfig, seed: int) -> RqVae:
    """Random networks, and codebooks by k-means of what the encoder makes of the first batch."""
    widths = [batch_MD.shape[1], *config.rqvae.hidden, config.rqvae.latent]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder, decoder = perceptron(widths), perceptron(widths[::-1])
    with torch.no_grad():
        z_MD = encoder(batch_MD).numpy()
    books = residual_kmeans(z_MD, config.layers, config.codes, config.iterations, seed).codebooks
    return RqVae(encoder, decoder, [torch.from_numpy(book) for book in books], config.rqvae.beta)


def perceptron(widths: Sequence[int]) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _train(net: RqVae, x_MD: Float[Tensor, "M D"], config: RqVaeConfig, gen: torch.Generator) -> None:
    optimiser = torch.optim.AdamW(net.parameters(), lr=config.lr, weight_decay=0.0)
    for epoch in range(config.epochs):
        used = [torch.zeros(len(book), dtype=torch.bool) for book in net.codebooks]
        for batch in torch.randperm(len(x_MD), generator=gen).split(config.batch):
            coded = net(x_MD[batch])
            optimiser.zero_grad()
            coded.loss.backward()
            optimiser.step()
            for layer, seen in enumerate(used):
                seen[coded.codes_ML[:, layer]] = True
        if epoch + 1 < config.epochs:
            restart_dead(net, used, coded.rest_LMD, gen)


@torch.no_grad()
def restart_dead(net: RqVae, used: Sequence[Tensor], rest_LMD: Float[Tensor, "L M D"], gen: torch.Generator) -> None:
    """Move every code that is not in use to a random vector that its layer was given."""
    for book_CD, is_used_C, rest_MD in zip(net.codebooks, used, rest_LMD, strict=True):
        dead = (~is_used_C).nonzero()[:, 0]
        book_CD[dead] = rest_MD[torch.randint(len(rest_MD), (len(dead),), generator=gen)]


def _quantised(net: RqVae, rows_ND: Float[np.ndarray, "N D"], asked: int) -> Quantised:
    """Codes by the path that new items take, unused codes dropped, the rest in canonical order."""
    linear = [layer for layer in net.encoder.modules() if isinstance(layer, nn.Linear)]
    projection = Projection(
        tuple(layer.weight.detach().numpy().copy() for layer in linear),
        tuple(layer.bias.detach().numpy().copy() for layer in linear),
    )
    z_ND = projection(rows_ND)
    books = [book.detach().numpy() for book in net.codebooks]
    books = [book[np.lexsort(book.T[::-1])] for book in books]
    codes_NL = assign_codes(z_ND, tuple(books))
    kept = [book[np.unique(codes_NL[:, layer])] for layer, book in enumerate(books)]
    warnings = tuple(
        f"layer {layer + 1} uses {len(book)} of {asked} codes" for layer, book in enumerate(kept) if len(book) < asked
    )
    codebooks = tuple(np.ascontiguousarray(book) for book in kept)
    found = Quantised(codebooks, assign_codes(z_ND, codebooks), warnings)
    return replace(found, projection=projection)
