"""Generative search that reads the whole context, thinks, and ranks (CRS, arXiv 2510.16925)."""

__version__ = "0.1.0"
