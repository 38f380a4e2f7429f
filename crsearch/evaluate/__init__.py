"""Ranked lists and the chosen items -> HR@K, NDCG@K, intervals, significance, user groups. Knows nothing of models."""
