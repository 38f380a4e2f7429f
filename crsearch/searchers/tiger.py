"""TIGER as a searcher: the history decides, the query is not read."""

from collections.abc import Sequence

from crsearch.config import DecodeConfig
from crsearch.decode.beam import beam_search
from crsearch.decode.trie import Trie
from crsearch.models.tiger import Tiger
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, RankedList
from crsearch.searchers.ranking import beam_lists
from crsearch.train.answer import batches
from crsearch.train.tiger import chosen_rows


class TigerSearcher:
    """Ranks what the user may choose next, whatever was asked; without a history, by the user's token alone.

    Every answer is an item: TIGER's own beam may name none, this one follows the trie.

    Args:
        tiger: a trained model (``load_tiger``).
        catalogue: items in the order of its semantic IDs.
        config: beam width and batch.
        name: in tables.
    """

    def __init__(self, tiger: Tiger, catalogue: Catalogue, config: DecodeConfig, name: str = "tiger") -> None:
        self.name = name
        self.tiger, self.catalogue, self.config = tiger, catalogue, config
        self.trie = Trie.from_tokens(tiger.sid_ids_NL)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable next items for each context, best first; a beam of at least k."""
        ids = self.catalogue.ids
        out: list[RankedList] = []
        for _, batch in batches(contexts, self.config.batch):
            prompts = [self.tiger.prompt(c.user_id, chosen_rows(c, self.catalogue)) for c in batch]
            rows_BK, scores_BK = beam_search(self.tiger.model, prompts, self.trie, width=max(k, self.config.width))
            out += beam_lists(batch, ids, rows_BK.tolist(), scores_BK.tolist(), k, prompts)
        return out
