"""DSI: one model that memorises the catalogue (item -> identifier) and answers queries (query -> identifier).

    L = mean over a mixture of indexing and retrieval examples of -log p(identifier), no label smoothing

Source: Tay et al. 2022 (DSI); pseudo-queries: Zhuang et al. 2022 (DSI-QG), whose query generator is replaced by a
template. CRS §4.1.2 takes the identifiers of CRS; that smoothing and the indexing task tell DSI and GENRE apart:
details: this project.
"""

from collections import Counter
from collections.abc import Sequence

from crsearch.config import DsiConfig
from crsearch.records.types import Example, Item
from crsearch.train.examples import draw, kind_loss
from crsearch.train.generative import (
    Tokens,
    answer_logprobs,
    answer_tree,
    identifiers,
    query_prompts,
    steps_within,
)
from crsearch.train.genre import RetrievalTask
from crsearch.train.supervised import Workbench
from crsearch.train.trainer import Losses
from crsearch.train.tree import Tree

INDEXING, PSEUDO = "indexing", "pseudo_query"
"""Kinds of the losses of item -> identifier, from the record and from a made-up query."""

BEYOND_TEXT = ("price", "sales", "attributes")
"""Fields of a record that are more than title, brand and category."""


def pseudo_queries(item: Item, count: int) -> list[str]:
    """At most ``count`` queries that an item's own words suggest, broad ones first; no log is looked at.

    Leaf category, brand and leaf category, last word of the leaf category, brand, title, first and last half of the
    title's words. What the item lacks and what repeats is left out.

    Source: details: this project.

    >>> pseudo_queries(Item(item_id="i", title="slim red case", brand="Acme", category=("Phones", "phone case")), 9)
    ['phone case', 'Acme phone case', 'case', 'Acme', 'slim red case', 'slim red']
    """
    leaf, brand = (item.category[-1] if item.category else ""), item.brand or ""
    words = item.title.split()
    half = -(-len(words) // 2)
    found = [
        leaf, f"{brand} {leaf}" if brand and leaf else "", " ".join(leaf.split()[-1:]), brand,
        " ".join(words), " ".join(words[:half]), " ".join(words[half:]),
    ]  # fmt: skip
    return list(dict.fromkeys(text for text in found if text))[:count]


class IndexingTask:
    """Items as trees, a step at a time: what ``dsi.record`` says of each, and each pseudo-query where there are any.

    Args:
        bench: what is trained.
        identifiers_NL: vocabulary ids to write for each item.
    """

    def __init__(self, bench: Workbench, identifiers_NL: Tokens) -> None:
        builder, config = bench.builder, bench.settings.baselines.dsi
        items = list(enumerate(builder.catalogue))
        made = [(query, row) for row, item in items for query in pseudo_queries(item, config.pseudo_queries)]
        prompts = query_prompts(builder, (query for query, _ in made))
        answers = identifiers_NL.tolist()
        without = BEYOND_TEXT if config.record == "short" else ()
        records = [(builder.prompts.item_to_sid(item, without)[0], row) for row, item in items]
        self.seed = bench.seed
        self.examples: list[Tree] = [
            *(answer_tree(prompt, [answers[row]], INDEXING) for prompt, row in records),
            *(answer_tree(prompts[query], [answers[row]], PSEUDO) for query, row in made),
        ]
        self.tokens = sum(map(len, self.examples)) / len(self.examples)
        """Tokens of an average example."""

    def trees(self, stage: str, size: int, step: int) -> list[Tree]:
        """``size`` examples for a step, each once per pass through them."""
        return [self.examples[i] for i in draw(self.seed, f"{stage}.index", len(self.examples), size, step)]


def train_dsi(bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float) -> dict[str, float]:
    """Train indexing and retrieval together: base -> dsi. Both losses are logged apart.

    Args:
        bench: with the untrained model.
        stage: name of the stage.
        key: digest of what it depends on.
        examples: training examples; without any the items are indexed and no query is learned.
        tokens: how many to train on, prompts counted; the number of steps follows.

    Returns:
        Sums over the stage (``tokens_sum``).
    """
    config = bench.settings.baselines.dsi
    identifiers_NL = identifiers(bench.builder, bench.settings, "dsi")
    retrieval, indexing = RetrievalTask(bench, examples, identifiers_NL), IndexingTask(bench, identifiers_NL)
    per_step = config.batch * retrieval.tokens + indexed_items(config) * indexing.tokens
    if not per_step:
        return {}
    model = bench.builder.bundle.model

    def losses(step: int) -> Losses:
        model.train()
        trees = mixture(config, retrieval, indexing, stage, step)
        logprob_M, packed = answer_logprobs(model, trees)
        loss, numbers = kind_loss(logprob_M, packed, shares(trees))
        yield loss, {**numbers, "tokens_sum": float(packed.tokens)}

    steps = steps_within(tokens, per_step, config.max_steps)
    return bench.trainer(stage, key, config.optim).train(steps, losses)


def indexed_items(config: DsiConfig) -> int:
    """Indexing examples of a step.

    >>> indexed_items(DsiConfig(batch=8, ratio=2.5))
    20
    """
    return round(config.ratio * config.batch)


def mixture(config: DsiConfig, retrieval: RetrievalTask, indexing: IndexingTask, stage: str, step: int) -> list[Tree]:
    """The trees of a step: training pairs and ``ratio`` times as many items."""
    items = indexing.trees(stage, indexed_items(config), step)
    return [*retrieval.trees(stage, config.batch, step), *items]


def shares(trees: Sequence[Tree]) -> dict[str, float]:
    """Share of each kind in a mixture: the weights with which the means of the kinds are the mean over all.

    >>> trees = [answer_tree([1], [[2, 3]], kind) for kind in ("retrieval", "indexing", "retrieval", "retrieval")]
    >>> shares(trees)
    {'retrieval': 0.75, 'indexing': 0.25}
    """
    counts = Counter(branch.kind for tree in trees for branch in tree.branches)
    return {kind: count / counts.total() for kind, count in counts.items()}
