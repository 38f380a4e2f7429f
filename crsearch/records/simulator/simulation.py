"""Simulate a shop: records in the common format, and the truth that only a simulation knows."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.errors import ConfigError, DataError
from crsearch.records.files import parquet, write_together
from crsearch.records.simulator.analyst import ANALYSTS, Stated, confuse, fields_of, most_probable, read_facts, write
from crsearch.records.simulator.bayes import believe, probabilities, rank, rank_of
from crsearch.records.simulator.people import live
from crsearch.records.simulator.stated import FIELDS, FieldName
from crsearch.records.simulator.world import World, build_world
from crsearch.records.split import choose_targets, part_of
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Example, Item, Part, Search

if TYPE_CHECKING:
    import polars as pl

TRUTH_FILE = "truth.parquet"
SHOP_FILE = "shop.json"
PARTS: tuple[Part, ...] = ("train", "valid", "test")
_CHUNK = 512  # contexts whose probabilities over all items are held at once


@dataclass(frozen=True)
class Simulation:
    """A simulated shop: its records, its truth, and the world that made both."""

    world: World
    split: SplitConfig
    dataset: Dataset
    truth: "pl.DataFrame"
    """One row per example of every part; see ``truth_of``."""

    def save(self, folder: Path) -> None:
        """Write the data set, ``truth.parquet``, and ``shop.json``, from which all of it can be made again.

        Raises:
            StorageError: no room or no permission.
        """
        shop = {
            "config": self.world.config.model_dump(mode="json"),
            "split": self.split.model_dump(mode="json"),
            "seed": self.world.seed,
            "fingerprint": self.dataset.fingerprint(),
        }

        def write_shop(path: Path) -> None:
            path.write_text(json.dumps(shop, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")

        self.dataset.save(folder)
        write_together(folder, {TRUTH_FILE: parquet(self.truth), SHOP_FILE: write_shop})

    @classmethod
    def load(cls, folder: Path) -> "Simulation":
        """Read what ``save`` wrote.

        Raises:
            DataError: not a simulated data set, a broken file, or a truth that belongs to other records.
        """
        import polars as pl

        dataset = Dataset.load(folder)
        try:
            shop = json.loads((folder / SHOP_FILE).read_text(encoding="utf-8"))
            config, split = SimulateConfig(**shop["config"]), SplitConfig(**shop["split"])
            seed, fingerprint = int(shop["seed"]), str(shop["fingerprint"])
        except FileNotFoundError as e:
            raise DataError(
                f"{folder / SHOP_FILE}: no such file: the truth is only known of a simulated data set; "
                f"make one with: crsearch simulate {folder}"
            ) from e
        except (ValueError, KeyError, TypeError) as e:
            raise DataError(f"{folder / SHOP_FILE}: not readable ({e}); simulate again into a new folder") from e
        if fingerprint != dataset.fingerprint():
            raise DataError(
                f"{folder}: the records were changed after the simulation (fingerprint "
                f"{dataset.fingerprint()[:12]}, {fingerprint[:12]} in {SHOP_FILE}), so {TRUTH_FILE} is not theirs; "
                "simulate again into a new folder"
            )
        try:
            truth = pl.read_parquet(folder / TRUTH_FILE)
        except (pl.exceptions.PolarsError, OSError) as e:
            raise DataError(f"{folder / TRUTH_FILE}: not readable ({e}); simulate again into a new folder") from e
        return cls(build_world(config, seed), split, dataset, truth)


def simulate(config: SimulateConfig, split: SplitConfig, seed: int) -> Simulation:
    """Make a shop, let its users search, and work out the truth: same arguments, same bytes.

    A shop with more users starts with the same users. Only what training users bought counts as sales.

    Args:
        config: the knobs of the shop.
        split: shares of the parts.
        seed: decides everything that the settings leave open.

    Raises:
        ConfigError: more brands than the language has names for, or a split by leave-one-out.
    """
    if split.mode != "user":
        raise ConfigError(f'split.mode = "{split.mode}": a simulated shop is split by user; leave it out')
    world = build_world(config, seed)
    users, searches = [], list[Search]()
    for number in range(config.users):
        user, theirs = live(world, number)
        users.append(user)
        searches.extend(theirs)
    catalogue = Catalogue(_with_sales(world, searches, split))
    targets = choose_targets(searches, split, catalogue)
    dataset = Dataset(catalogue, {u.user_id: u for u in users}, tuple(searches), targets)
    return Simulation(world, split, dataset, truth_of(world, dataset))


def _with_sales(world: World, searches: Sequence[Search], split: SplitConfig) -> list[Item]:
    """Items with their gross merchandise volume: price times the times that training users bought them."""
    train = {u for u in {s.user_id for s in searches} if part_of(u, split) == "train"}
    bought = Counter(item for s in searches if s.user_id in train for item in s.bought)
    return [replace(item, sales=round((item.price or 0.0) * bought[item.item_id], 1)) for item in world.catalogue]


def truth_of(world: World, dataset: Dataset) -> "pl.DataFrame":
    """What only a simulation knows about each example, by user id; contexts hold all earlier searches.

    Columns: ``search_id``, ``user_id``, ``part``, ``query_kind`` (full, bare, brand), ``target``, ``target_rank``
    (from 1, in the Bayes-optimal ranking of the catalogue), ``bayes_items`` (its first 10 item ids),
    ``thought_map``, ``thought_noisy``, ``thought_leak`` (see ``analyst``), and for each of ``map``, ``noisy``,
    ``leak``, ``true`` the fields ``<who>_category``, ``<who>_brand``, ``<who>_price``, ``<who>_style`` in words.
    ``true`` are the fields of the target; ``leak`` states the same.
    """
    import polars as pl

    examples = [e for part in PARTS for e in dataset.examples(part, max_events=len(dataset.searches))]
    examples.sort(key=lambda e: e.context.user_id)
    frames = [_truth_rows(world, examples[i : i + _CHUNK], i) for i in range(0, len(examples), _CHUNK)]
    return pl.DataFrame([row for rows in frames for row in rows])


def _truth_rows(world: World, examples: Sequence[Example], first: int) -> list[dict[str, object]]:
    contexts = [e.context for e in examples]
    target_B = np.array([world.catalogue.row(e.target) for e in examples])
    beliefs = believe(world, contexts)
    probability_BN = probabilities(world, beliefs)
    top_BK = rank(probability_BN, 10)
    rank_B = rank_of(probability_BN, target_B)
    rows: list[dict[str, object]] = []
    for b, (example, best) in enumerate(zip(examples, most_probable(beliefs), strict=True)):
        context, true = example.context, fields_of(world, int(target_B[b]))
        facts = read_facts(world, context)
        noise = np.random.default_rng([world.seed, 2, first + b])
        said = {"map": best, "noisy": confuse(world, facts, best, noise), "leak": true}
        rows.append(
            {
                "search_id": context.search_id,
                "user_id": context.user_id,
                "part": example.part,
                "query_kind": beliefs.kinds[b],
                "target": example.target,
                "target_rank": int(rank_B[b]),
                "bayes_items": [world.item_ids[row] for row in top_BK[b]],
                **{f"thought_{who}": write(world, facts, said[who]) for who in ANALYSTS},
                **{
                    f"{who}_{name}": word
                    for who, stated in {**said, "true": true}.items()
                    for name, word in in_words(world, stated).items()
                },
            }
        )
    return rows


def in_words(world: World, stated: Stated) -> dict[FieldName, str]:
    """The fields in the words of a title, as ``stated_fields`` reads them from a thought."""
    words = (
        world.category_name(stated.category),
        world.brands[stated.department][stated.brand],
        world.language.levels[stated.level],
        world.language.styles(stated.department)[stated.style],
    )
    return dict(zip(FIELDS, words, strict=True))


def ceiling(truth: "pl.DataFrame", part: Part = "test") -> dict[str, float]:
    """HR@1, HR@5, HR@10, NDCG@5 and NDCG@10 of the Bayes-optimal ranking: no system is better in expectation.

    With one relevant item per query NDCG@K = 1 / log2(1 + rank) up to rank K, else 0.

    Returns:
        Means over the examples of the part; empty if there are none.
    """
    rank_B = truth.filter(truth["part"] == part)["target_rank"].to_numpy()
    if not len(rank_B):
        return {}
    hits = {f"HR@{k}": float((rank_B <= k).mean()) for k in (1, 5, 10)}
    gain_B = 1 / np.log2(1 + rank_B)
    return {**hits, **{f"NDCG@{k}": float(np.where(rank_B <= k, gain_B, 0).mean()) for k in (5, 10)}}
