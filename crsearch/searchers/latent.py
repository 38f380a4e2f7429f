"""LatentR3 as a searcher: a latent thought without noise, then a beam."""

from collections.abc import Sequence

import torch

from crsearch.config import DecodeConfig
from crsearch.decode.beam import beam_search
from crsearch.decode.trie import Trie
from crsearch.models.latent import LatentAttention
from crsearch.records.types import Context, RankedList
from crsearch.searchers.ranking import beam_lists
from crsearch.train.answer import batches
from crsearch.train.examples import TreeBuilder, device_of
from crsearch.train.latent import LatentReasoner, latent_prompts


class LatentSearcher:
    """Ranks after one latent thought, which takes the place of an embedding behind the prompt.

    Args:
        builder: model, tokenizer and prompts.
        attention: the layer trained with this model (``load_attention``).
        trie: items that may be answered; row numbers of the catalogue.
        config: beam width and batch.
        name: in tables.
    """

    def __init__(
        self,
        builder: TreeBuilder,
        attention: LatentAttention,
        trie: Trie,
        config: DecodeConfig,
        name: str = "latent-r3",
    ) -> None:
        self.name = name
        self.builder, self.trie, self.config = builder, trie, config
        self.reasoner = LatentReasoner(builder.bundle.model, attention).eval()

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable items for each context, best first; a beam of at least k."""
        model, ids = self.reasoner.model, self.builder.catalogue.ids
        out: list[RankedList] = []
        for _, batch in batches(contexts, self.config.batch):
            with torch.autocast(device_of(model).type, enabled=False):
                prompts = self.reasoner.embedded(latent_prompts(self.builder, batch))
                rows_BK, scores_BK = beam_search(model, prompts, self.trie, width=max(k, self.config.width))
            out += beam_lists(batch, ids, rows_BK.tolist(), scores_BK.tolist(), k, prompts)
        return out
