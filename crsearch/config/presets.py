"""Starting points by name; one that follows the paper quotes it."""

from crsearch.config.nested import Nested, merge

RECOMMENDED: Nested = {}

PAPER: Nested = {
    "rl": {
        "sid_token_loss": "all",  # o*_i is the whole rollout, Eq. 8
        "kl": 0.04,  # Eq. 8 has a KL term; its weight is not given (details: this project)
        "anchor_item_words": 0.0,
        "anchor_direct": 0.0,
        "anchor_name": 0.0,
        "anchor_think": 0.0,
        "anchor_items": 0.0,
        "reward": {
            "layer_weights": [0.5, 0.3, 0.2],  # the paper prints w_l without values (details: this project)
            "exact_weight": 0.0,  # Eq. 5 sums the K codebook layers only
            "prefix_only": False,  # Eq. 5 is independent per layer
            "length": 1.0,  # Eq. 4
        },
    },
    "sft": {"samples": 1},
    "loop": {"iterations": 3},  # table 3 shows RL 0, 1, 2
}

_DEMO: Nested = {
    "split": {"test": 0.42, "valid": 0.1},
    "context": {"time": "month", "price": "bucket"},
    "sft": {"optim": {"lr_matrix": 0.02, "lr": 3e-3}},  # as alignment; lower rates learn far less in so few steps
}

SMOKE: Nested = merge(
    _DEMO,
    {
        "simulate": {"users": 400, "items": 200, "departments": 2, "brands": 4},
        "sids": {"codes": 16},
        "model": {"width": 64, "layers": 2, "heads": 2, "kv_heads": 1, "feed_forward": 128, "vocabulary": 800},
        "align": {"epochs": 1},
        "distill": {"users": 60, "epochs": 1},
        "rl": {"steps": 4, "prompts": 8, "group_size": 4},
        "sft": {"samples": 2},
        "loop": {"iterations": 1},
    },
)

SMALL: Nested = merge(
    _DEMO,
    {
        "simulate": {"users": 10_000, "items": 5_000, "departments": 9, "brands": 8},
        "model": {"width": 192, "layers": 4, "heads": 6, "kv_heads": 3, "feed_forward": 576},
        "sids": {"codes": 128},
        "distill": {"users": 1_000},
        "rl": {"steps": 200},
        "loop": {"iterations": 3},
    },
)

BEAUTY: Nested = {
    "split": {"test": 0.1, "valid": 0.05},
    "context": {"time": "day", "token_budget": 256},
    "sids": {"codes": 256},
    "model": {"vocabulary": 8_000},
    "align": {
        "epochs": 3,
        "batch": 16,
        "share": 0.9,
        "item_words": 0.5,
        "history_targets": True,  # every purchase is a target
    },
    "distill": {
        "teacher": "template",
        "users": 20_000,  # all that are aligned: a template costs nothing
        "epochs": 1,
        "repeats": 1,
        "batch": 16,
        "start_tags": True,
        "optim": {"lr_matrix": 0.004, "lr": 7e-4},  # higher rates undo alignment (docs/log.md)
    },
    "mixture": {"answer": 1.0},
    "rl": {"steps": 80},
    "sft": {"samples": 4},
    "loop": {"iterations": 1},
    "evaluate": {
        "exclude_history": True,  # nobody reviews an item twice
    },
}  # fmt: skip
"""Amazon 2014 Beauty with category queries: no price, place, profile or skipped items; the teacher is a template."""

BEAUTY_SEQUENTIAL: Nested = merge(
    BEAUTY,
    {
        "align": {"epochs": 2},
        "distill": {
            "users": 2_000,
            "epochs": 2,
            "start_tags": False,
            "optim": {"lr_matrix": 0.003, "lr": 5e-4},
        },
        "mixture": {"answer": 0.0},
        "rl": {"steps": 20},
        "sft": {"users": "rl"},
        "evaluate": {
            "searchers": [
                "crs", "crs-direct", "crs-no-thought", "latent-r3", "tiger", "dense-history", "popularity",
                "popularity-in-query-brand", "item-knn",
            ],
        },
    },
)  # fmt: skip
"""Amazon 2014 Beauty without queries, split by leave-one-out: what can be read from histories alone."""

PRESETS: dict[str, Nested] = {
    "recommended": RECOMMENDED,
    "paper": PAPER,
    "smoke": SMOKE,
    "demo": _DEMO,
    "small": SMALL,
    "beauty": BEAUTY,
    "beauty-sequential": BEAUTY_SEQUENTIAL,
}
"""Names on the command line -> values over the defaults."""
