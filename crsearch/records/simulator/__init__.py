"""A small shop whose users have intents: records with a known truth, and the best possible ranking of every query."""

from crsearch.records.simulator.analyst import think
from crsearch.records.simulator.bayes import BayesSearcher
from crsearch.records.simulator.simulation import Simulation, ceiling, simulate
from crsearch.records.simulator.stated import FIELDS, Lexicon, stated_fields
from crsearch.records.simulator.world import World, build_world

__all__ = [
    "FIELDS",
    "BayesSearcher",
    "Lexicon",
    "Simulation",
    "World",
    "build_world",
    "ceiling",
    "simulate",
    "stated_fields",
    "think",
]
