"""Every setting, section by section, with its unit or range; frozen and strict about names and types."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Section(BaseModel):
    """A group of settings: frozen, strict about names and types."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _lists_are_tuples(cls, values: Any) -> Any:
        """TOML and JSON know lists only; settings hold tuples, which cannot change."""
        if not isinstance(values, Mapping):
            return values
        return {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}


class SimulateConfig(Section):
    """The simulated shop (its truth is known; the embedded default data)."""

    users: int = Field(default=4_000, ge=10)
    """Users in all; the split by user decides who trains, validates and tests."""
    items: int = Field(default=3_400, ge=8)
    """Items of the catalogue; keep it above the number of training targets (docs/decisions/0008)."""
    departments: int = Field(default=6, ge=1, le=12)
    """Departments of the shop; each has three main and three accessory categories."""
    brands: int = Field(default=6, ge=2, le=12)
    """Brands per department."""
    history_weight: float = Field(default=1.0, ge=0.0, le=1.0)
    """Chance that the context decides the target; else all but the query is ignored (0 = a control)."""
    ambiguity: float = Field(default=0.4, ge=0.0, le=1.0)
    """Share of accessory queries that are a bare word ("case"; two thirds) or a brand only (one third)."""
    vocabulary_gap: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of queries with category words that use synonyms no title contains."""
    look_alikes: float = Field(default=0.0, ge=0.0, le=1.0)
    """0 = items spread over all (category, brand) pairs; 1 = packed into the fewest pairs, so that nearly all
    of a pair's 16 price levels and styles are on sale and items differ in price or style only. It needs room:
    raise ``brands`` above what the items need, e.g. to 12."""
    min_history: int = Field(default=4, ge=0)
    """Fewest earlier searches of a user who is not cold."""
    max_history: int = Field(default=8, ge=0)
    """Most earlier searches of a user."""
    cold_users: float = Field(default=0.05, ge=0.0, le=1.0)
    """Share of users without any earlier search."""
    no_click: float = Field(default=0.15, ge=0.0, le=1.0)
    """Share of earlier searches without a click (the paper's users click 1.8 times in 6.5 queries)."""
    sharpness: tuple[float, float, float] = (4.0, 4.0, 3.0)
    """Weights of brand, price and style in the choice; larger = less noise."""
    language: Literal["en", "zh"] = "en"
    """Language of catalogue, queries and thoughts."""
    analyst_noise: float = Field(default=0.25, ge=0.0, le=1.0)
    """Chance that the ``noisy`` analyst states a wrong value of a field."""

    @model_validator(mode="after")
    def _fits_together(self) -> "SimulateConfig":
        if self.min_history > self.max_history:
            raise ValueError(
                f"simulate.min_history = {self.min_history} is above simulate.max_history = {self.max_history}"
            )
        categories = 6 * self.departments
        most = categories * self.brands * 16  # 4 price levels x 4 styles
        if not categories <= self.items <= most:
            raise ValueError(
                f"simulate.items = {self.items}: {self.departments} departments of {self.brands} brands hold "
                f"{categories} to {most} different items; change simulate.items, departments or brands"
            )
        if min(self.sharpness) < 0:
            raise ValueError(f"simulate.sharpness = {self.sharpness}: weights are at least 0")
        return self


class SplitConfig(Section):
    """Who trains and who tests: by user, by a hash of the user id, so that new data never moves a user."""

    mode: Literal["user", "leave-one-out"] = "user"
    """``user`` (CRS §4.1), or ``leave-one-out``: each user's last choice is test, the one before valid, the rest train.

    Leave-one-out is how sequential recommenders are compared; import only (``hem``, ``completejourney``, ``tables``).
    """
    test: float = Field(default=0.1, gt=0, lt=1)
    """Share of users that are test users; split by user only."""
    valid: float = Field(default=0.05, gt=0, lt=1)
    """Share of users that are validation users; split by user only."""

    @model_validator(mode="after")
    def _leaves_training_users(self) -> "SplitConfig":
        if self.test + self.valid >= 1:
            raise ValueError(
                f"split.test + split.valid = {self.test + self.valid:g}: leave a share of the users for training"
            )
        return self


class ContextConfig(Section):
    """How a context becomes the text that a model reads."""

    max_events: int = Field(default=10, ge=0)
    """Newest earlier searches kept (CRS §4.1: "10 most recent")."""
    token_budget: int = Field(default=300, ge=16)
    """Most tokens of a serialised context; parts are dropped in a fixed order until it fits."""
    time: Literal["minute", "day", "month", "none"] = "minute"
    """Precision of the times in the text: ``2025-06-01 20:11 Sun``, ``2025-06-01 Sun``, ``2025-06``."""
    price: Literal["number", "bucket"] = "number"
    """Price of an item in its JSON: the number, or one of ``low mid high top``."""


class EncoderConfig(Section):
    """Texts to vectors, for semantic IDs and the dense searcher."""

    name: Literal["lsa", "huggingface"] = "lsa"
    """``lsa`` (TF-IDF + SVD, no download) or a Hugging Face folder."""
    path: str | None = None
    """Folder of the Hugging Face encoder."""
    dim: int = Field(default=64, ge=2)
    """Vector width of ``lsa``."""
    pooling: Literal["auto", "cls", "mean", "last"] = "auto"
    """How token states become one vector; ``auto`` reads the folder's own pooling file."""
    query_instruction: str | None = None
    """Prefix of queries only; none = the folder's own, ``""`` = no prefix."""
    truncate_dim: int | None = Field(default=None, ge=2)
    """Keep the first numbers of a Hugging Face vector, normalised again (Matryoshka); none = all."""
    batch_size: int = Field(default=64, ge=1)
    """Texts per forward pass."""


class RqVaeConfig(Section):
    """RQ-VAE: residual codes in the middle of an autoencoder (TIGER); read with ``sids.quantizer = "rqvae"``."""

    hidden: tuple[int, ...] = (512, 256, 128)
    """Widths of the encoder's inner layers; the decoder has them in reverse."""
    latent: int = Field(default=32, ge=1)
    """Width of the vectors that are coded."""
    beta: float = Field(default=0.25, ge=0)
    """Weight of the encoder's commitment to its codes."""
    epochs: int = Field(default=100, ge=1)
    """Passes over the items."""
    batch: int = Field(default=1_024, ge=1)
    """Items per step; the first batch starts the codebooks, so keep it well above ``sids.codes``."""
    lr: float = Field(default=1e-3, gt=0)
    """Learning rate of AdamW."""


class SidConfig(Section):
    """How items become semantic IDs (CRS §3.1.1)."""

    quantizer: Literal["residual-kmeans", "balanced-kmeans", "rqvae", "random"] = "residual-kmeans"
    """What makes codes of vectors (TIGER uses RQ-VAE, CRS k-means; ``balanced-kmeans`` keeps to ``capacity``);
    ``random`` codes mean nothing (a control)."""
    layers: int = Field(default=3, ge=1, le=8)
    """Codebooks of the residual quantiser, the deduplication layer not counted."""
    codes: int = Field(default=96, ge=2)
    """Centroids per codebook."""
    max_duplicates: int = Field(default=256, ge=1)
    """Most items that may share all layer codes."""
    spare_duplicates: int = Field(default=8, ge=0)
    """Deduplication codes kept free above the largest group, for items added later (at most ``max_duplicates``)."""
    iterations: int = Field(default=30, ge=1)
    """Rounds of k-means per layer."""
    capacity: float = Field(default=1.3, ge=1)
    """Most items of one code of a layer, times the mean; read with ``sids.quantizer = "balanced-kmeans"``."""
    rqvae: RqVaeConfig = RqVaeConfig()


class ModelConfig(Section):
    """The language model: tiny Qwen3 from scratch, or any Hugging Face folder."""

    path: str | None = None
    """Folder of a causal language model with its tokenizer; none = tiny Qwen3 from scratch."""
    width: int = Field(default=128, ge=8)
    """Hidden size. This and the next five describe the tiny model and are not read with ``path``."""
    layers: int = Field(default=3, ge=1)
    """Transformer layers."""
    heads: int = Field(default=4, ge=1)
    """Query heads per layer."""
    kv_heads: int = Field(default=2, ge=1)
    """Key and value heads per layer; divides ``heads``."""
    head_dim: int = Field(default=32, ge=2)
    """Numbers per head."""
    feed_forward: int = Field(default=384, ge=8)
    """Inner width of the feed-forward blocks."""
    vocabulary: int = Field(default=3_000, ge=300)
    """Most tokens of the domain tokenizer, semantic IDs not counted."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Autocast in training; ``auto`` = bf16 where the processor has it."""

    @model_validator(mode="after")
    def _fits_together(self) -> "ModelConfig":
        if self.heads % self.kv_heads:
            raise ValueError(
                f"model.heads = {self.heads} is no multiple of model.kv_heads = {self.kv_heads}: each key head serves "
                "equally many query heads"
            )
        if self.head_dim % 2:
            raise ValueError(f"model.head_dim = {self.head_dim}: rotary positions need an even number")
        return self


class OptimConfig(Section):
    """One optimiser; two learning rates: matrices of the body, everything else."""

    name: Literal["auto", "muon", "adamw"] = "auto"
    """``auto``: Muon for matrices + AdamW for the rest from scratch, AdamW for a pretrained model."""
    lr_matrix: float = Field(default=0.02, gt=0)
    """Learning rate of Muon (two-dimensional weights of the body)."""
    lr: float = Field(default=3e-3, gt=0)
    """Learning rate of AdamW."""
    weight_decay: float = Field(default=0.05, ge=0)
    """Decoupled weight decay of all two-dimensional weights; norms have none."""
    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of steps of linear warm-up."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning rate after the warm-up: down to 0 along a cosine, or unchanged."""
    clip: float = Field(default=1.0, gt=0)
    """Largest gradient norm."""


class AlignConfig(Section):
    """Alignment pre-training: base -> align (CRS §3.1.2)."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the users; each shows every item of the catalogue once too."""
    batch: int = Field(default=8, ge=1)
    """User trees per step; item examples are mixed in proportionally."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    item_words: float = Field(default=1.0, ge=0)
    """Weight of the language-model loss on the text of clicked items in the history."""
    name_item: float = Field(default=1.0, ge=0)
    """Weight of context -> text of the chosen item (teaches to say an item before naming it)."""
    history_targets: bool = False
    """Every click of the history is a training target too (branches in one tree). Split by leave-one-out, a training
    choice is then learned once: not again as an example where it is a branch of a later one."""
    share: float = Field(default=0.5, gt=0, le=1)
    """Share of the training users whose targets alignment sees; the others are fresh for RL."""
    optim: OptimConfig = OptimConfig()


class DistillConfig(Section):
    """First reasoning: align -> sft0, from few traces of a teacher (CRS §3.2)."""

    teacher: Literal["analyst", "template", "openai"] = "analyst"
    """``analyst`` of the simulated shop, a ``template`` from context and records, or an endpoint."""
    analyst: Literal["map", "noisy", "leak"] = "map"
    """What the analyst knows: what the context supports, the same with errors, or the target (bias)."""
    users: int = Field(default=300, ge=1)
    """Training users with a trace."""
    repeats: int = Field(default=2, ge=1)
    """Times each trace is seen per epoch."""
    epochs: int = Field(default=6, ge=1)
    """Passes over the traces, each of which counts ``repeats`` times."""
    batch: int = Field(default=8, ge=1)
    """User trees per step; as many item examples are mixed in."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    url: str | None = None
    """Base URL of an OpenAI-compatible endpoint, e.g. ``http://127.0.0.1:8000/v1``."""
    model: str = ""
    """Model name to ask the endpoint for."""
    concurrency: int = Field(default=8, ge=1)
    """Requests to the endpoint under way at once."""
    retries: int = Field(default=4, ge=0)
    """Attempts per request after the first."""
    timeout: float = Field(default=60.0, gt=0)
    """Seconds per request."""
    allow_private: bool = False
    """The endpoint may lie in a private network; 127.0.0.1, ::1 and localhost always may."""
    max_words: int = Field(default=60, ge=1)
    """Longest thought that is kept, in words (a Chinese character is one)."""
    language: Literal["en", "zh"] = "en"
    """Language in which the template writes and the endpoint is asked."""
    start_tags: bool = False
    """``<think>`` and ``</think>`` start from the row of the token before a direct answer, which alignment has trained;
    else from what alignment left, which never read them. Not read with ``model.path``."""
    optim: OptimConfig = OptimConfig(lr_matrix=0.01, lr=1.5e-3)


class MixtureConfig(Section):
    """Weights of what stays in the mixture when thoughts are trained (a thought has weight 1)."""

    item_words: float = Field(default=0.5, ge=0)
    """Language-model loss on the clicked items of the history."""
    direct: float = Field(default=0.5, ge=0)
    """Answering at once, without which the no-thought mode is forgotten."""
    name: float = Field(default=0.5, ge=0)
    """Saying the chosen item in words."""
    items: float = Field(default=0.5, ge=0)
    """Item -> SID."""
    answer: float = Field(default=0.0, ge=0)
    """Semantic ID after a thought, once more; with 0 its few tokens count as those of the thought do."""


class RewardConfig(Section):
    """Rewards of a rollout (CRS §3.3.1, Eq. 3-6)."""

    layer_weights: tuple[float, ...] = (0.1, 0.2, 0.2)
    """Weight of each layer of the semantic ID."""
    exact_weight: float = Field(default=0.5, ge=0)
    """Added when all codes and the deduplication code match."""
    prefix_only: bool = True
    """A layer counts only when all layers before it match."""
    structure: float = Field(default=1.0, ge=0)
    """Weight of the structure reward (0 or -1)."""
    length: float = Field(default=0.0, ge=0)
    """Weight of the length reward min(1, len / think_tokens)."""
    length_repetition: bool = False
    """Multiply the length reward by the share of distinct 4-grams."""
    overlong_tokens: int = Field(default=0, ge=0)
    """Last tokens of the thought budget in which a penalty grows from 0 to -1 (DAPO's option); 0 = none."""
    validity: float = Field(default=1.0, ge=0)
    """Weight of the validity reward."""


class RlConfig(Section):
    """R-GRPO and its relatives (CRS §3.3)."""

    steps: int = Field(default=40, ge=0)
    """Rollout batches per iteration."""
    prompts: int = Field(default=16, ge=1)
    """Contexts per rollout batch."""
    group_size: int = Field(default=8, ge=2)
    """Thoughts per context (G)."""
    beam: int = Field(default=10, ge=1)
    """Candidates per thought (K)."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the thoughts, and of the log-probabilities in the loss."""
    aggregate: Literal["rank_aware", "first"] = "rank_aware"
    """``rank_aware`` = R-GRPO (Eq. 7); ``first`` = GRPO on the top item."""
    rank_reward: Literal["paper", "ndcg", "prob"] = "paper"
    """Reward of a list: Eq. 7, 1/log2(1 + rank of the target), or p(target | thought)."""
    rank_log: Literal["e", "2"] = "e"
    """Base of the logarithm in Eq. 7, which the paper leaves open."""
    sid_token_loss: Literal["positive", "all", "none"] = "positive"
    """SID tokens of o* carry loss: only where the advantage is positive, always (as printed), never."""
    normalise_std: bool = True
    """Divide advantages by the standard deviation of their group (Eq. 8); off = Dr. GRPO."""
    std: Literal["sample", "population"] = "sample"
    """Divisor of the variance: G - 1 or G."""
    eps: float = Field(default=1e-6, ge=0)
    """Added to the standard deviation."""
    length_norm: Literal["sequence", "token", "constant"] = "sequence"
    """Loss per sequence divided by its tokens, by all tokens of the batch, or by ``length_constant``."""
    length_constant: int = Field(default=64, ge=1)
    """Tokens that stand for every length under ``length_norm = "constant"`` (Dr. GRPO's L_max)."""
    ratio: Literal["token", "sequence"] = "token"
    """Importance ratio per token (GRPO) or per sequence (GSPO)."""
    clip_low: float = Field(default=0.2, ge=0)
    """The ratio is clipped below 1 - ``clip_low``."""
    clip_high: float = Field(default=0.2, ge=0)
    """The ratio is clipped above 1 + ``clip_high``."""
    constant_groups: Literal["drop", "keep"] = "drop"
    """Groups of equal rewards: left out of the mean, or kept with advantage 0."""
    advantage_clamp: float | None = Field(default=None, gt=0)
    """Largest size of an advantage; none = no limit."""
    kl: float = Field(default=0.0, ge=0)
    """Weight of the k3 KL term against the frozen start of the stage."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps per rollout batch (mu)."""
    hard_only: bool = True
    """Roll out on Incorrect(D) only: users whose target is not first with greedy thinking."""
    users: Literal["fresh", "all"] = "fresh"
    """``fresh``: users that first reasoning has not seen."""
    shuffle_rewards: bool = False
    """Rewards change places within a rollout batch, so that nothing can be learned from them (a control)."""
    anchor_item_words: float = Field(default=0.0, ge=0)
    """Weight of the language-model loss on clicked items in every RL step."""
    anchor_direct: float = Field(default=0.1, ge=0)
    """Weight of the direct (no thought) loss in every RL step."""
    anchor_name: float = Field(default=0.0, ge=0)
    """Weight of the loss on the words of the chosen item in every RL step."""
    anchor_think: float = Field(default=0.3, ge=0)
    """Weight of the loss on the teacher's traces in every RL step: keeps the language of the thoughts."""
    anchor_items: float = Field(default=0.1, ge=0)
    """Weight of item -> SID in every RL step."""
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig(name="adamw", lr=4e-4, schedule="constant", warmup=0.0, weight_decay=0.0)


class SftConfig(Section):
    """Consolidation: SFT on what the model got right (CRS §3.3.3)."""

    names: bool = True
    """The words of the chosen item are trained beside the thoughts."""
    samples: int = Field(default=6, ge=1)
    """Thoughts sampled per user; the best correct one is kept. 1 = greedy."""
    temperature: float = Field(default=1.0, gt=0)
    """Of the sampled thoughts; not read with one sample."""
    users: Literal["all", "rl"] = "all"
    """Whom to ask: all training users, or the fresh ones that alignment has not seen."""
    epochs: int = Field(default=1, ge=1)
    """Passes over the correct thoughts."""
    batch: int = Field(default=16, ge=1)
    """User trees per step; as many item examples are mixed in."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig(lr_matrix=0.004, lr=8e-4)


class LoopConfig(Section):
    """The self-evolving loop (CRS §3.3, Eq. 2)."""

    iterations: int = Field(default=2, ge=0)
    """Rounds of RL on what is wrong and SFT on what is right."""
    rl: bool = True
    """False = SFT-only rounds (the control of figure 2)."""
    select: Literal["valid", "last"] = "valid"
    """Which stage becomes ``crs``: the best on validation users (NDCG@10), or the last."""
    valid_users: int = Field(default=500, ge=1)
    """Validation users used for that choice."""
    seed: int = Field(default=0, ge=0)
    """Another value draws other thoughts and orders in the loop, from the same start."""


class GenreConfig(Section):
    """GENRE: query -> identifier, by label-smoothed cross-entropy (CRS §4.1.2)."""

    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Share of a target's weight that is spread evenly over the whole vocabulary."""
    batch: int = Field(default=64, ge=1)
    """Training pairs per step."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig()


class DsiConfig(Section):
    """DSI: item -> identifier (indexing) and query -> identifier (retrieval), mixed (CRS §4.1.2)."""

    ratio: float = Field(default=1.0, ge=0)
    """Indexing examples per retrieval example."""
    record: Literal["short", "full"] = "short"
    """What is indexed of an item: title, brand and category, or price, sales and attributes too."""
    pseudo_queries: int = Field(default=0, ge=0)
    """Queries made of an item's own words (DSI-QG) that are indexed beside its record, per item at most; 0 = none."""
    identifiers: Literal["residual", "recursive"] = "residual"
    """The semantic IDs of ``crs``, or paths of DSI's recursive k-means."""
    branching: int = Field(default=10, ge=2)
    """Clusters per level of recursive k-means."""
    leaf_size: int = Field(default=10, ge=1)
    """Most items that recursive k-means numbers instead of splitting them further."""
    batch: int = Field(default=32, ge=1)
    """Training pairs per step; ``ratio`` times as many indexing examples come on top."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig()


class LtrgrConfig(Section):
    """LTRGR: as GENRE, then learning to rank its own candidates (CRS §4.1.2)."""

    share: float = Field(default=0.3, ge=0, le=1)
    """Share of the tokens for learning to rank."""
    candidates: int = Field(default=20, ge=1)
    """Beam width of the lists in which wrong items are found."""
    margin: float = Field(default=1.0, ge=0)
    """Log-probability by which the best right item must lead the best wrong one."""
    margin_random: float = Field(default=2.0, ge=0)
    """The same between a random right and a random wrong item of the list."""
    generation: float = Field(default=1.0, ge=0)
    """Weight of the generation loss beside the two margin losses (lambda)."""
    mine_every: int = Field(default=1, ge=0)
    """Passes over the pairs between two searches for candidates; 0 = one search only."""
    smoothing: float = Field(default=0.1, ge=0, lt=1)
    """Label smoothing before learning to rank; there is none after."""
    batch: int = Field(default=64, ge=1)
    """Training pairs per step."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig()


class LatentPolicyConfig(Section):
    """Reinforcement of the latent thought (LatentR3): Gaussian noise on it, the reward is -perplexity of the target."""

    copies: int = Field(default=8, ge=2)
    """Copies of each context's latent thought (G); the first has no noise."""
    noise: float = Field(default=1.5, ge=0)
    """Length of the noise, in mean lengths of ``noise_unit``."""
    noise_unit: Literal["embedding", "thought"] = "embedding"
    """What the noise is measured by: the model's token embeddings, or the latent thoughts of the batch."""
    baseline: Literal["batch", "context"] = "batch"
    """Reward that is subtracted: the mean of the noise-free copies of the batch, or that of the own context."""
    clip_low: float = Field(default=0.2, ge=0)
    """The ratio is clipped below 1 - ``clip_low``."""
    clip_high: float = Field(default=0.28, ge=0)
    """The ratio is clipped above 1 + ``clip_high``."""
    updates: int = Field(default=1, ge=1)
    """Optimiser steps per batch of noise."""
    batch: int = Field(default=16, ge=1)
    """Contexts per batch of noise."""
    optim: OptimConfig = OptimConfig(name="adamw", lr=1e-5, weight_decay=0.0)


class LatentConfig(Section):
    """LatentR3: one latent thought between context and answer, by SFT and then RL (CRS §4.1.2)."""

    share: float = Field(default=0.25, ge=0, lt=1)
    """Share of the tokens for reinforcement; the rest is SFT of all parameters."""
    base: float = Field(default=1_000.0, gt=0)
    """Base of the rotary positions of the attention layer that makes the thought."""
    batch: int = Field(default=16, ge=1)
    """Users per step of SFT."""
    item_words: float = Field(default=0.5, ge=0)
    """Weight, in SFT, of the language-model loss on the clicked items of the history; LatentR3 has none."""
    items: float = Field(default=0.5, ge=0)
    """Weight, in SFT, of item -> SID, as many items as users per step; LatentR3 has none (its model knows items)."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop each of the two parts after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig(lr_matrix=0.01, lr=1.5e-3)
    policy: LatentPolicyConfig = LatentPolicyConfig()


class TigerConfig(Section):
    """TIGER: semantic IDs of the history -> next one, by an encoder-decoder of T5 type from scratch."""

    width: int = Field(default=64, ge=8)
    """Hidden size."""
    layers: int = Field(default=2, ge=1)
    """Layers of the encoder, and as many of the decoder."""
    heads: int = Field(default=4, ge=1)
    """Attention heads per layer."""
    head_dim: int = Field(default=16, ge=1)
    """Numbers per head."""
    feed_forward: int = Field(default=256, ge=8)
    """Inner width of the feed-forward blocks."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Share of activations dropped in training."""
    users: int = Field(default=2_000, ge=0)
    """Tokens into which user ids are hashed; 0 = the model is not told the user."""
    max_items: int = Field(default=20, ge=1)
    """Newest items of the history that are read."""
    history_targets: bool = True
    """Every item of a training user's history is a target too, after those before it."""
    epochs: int = Field(default=20, ge=1)
    """Most passes over the training pairs, however many tokens CRS was trained on."""
    batch: int = Field(default=64, ge=1)
    """Training pairs per step."""
    max_steps: int | None = Field(default=None, ge=1)
    """Stop after so many steps (tests, dry runs)."""
    optim: OptimConfig = OptimConfig()


class BaselineConfig(Section):
    """Generative baselines, with the identifiers, decoder and training tokens of CRS."""

    history_pairs: bool = True
    """Queries of a training user's history, with the items then chosen, are training pairs too."""
    genre: GenreConfig = GenreConfig()
    dsi: DsiConfig = DsiConfig()
    ltrgr: LtrgrConfig = LtrgrConfig()
    latent_r3: LatentConfig = LatentConfig()
    tiger: TigerConfig = TigerConfig()


class DecodeConfig(Section):
    """Two-step inference (CRS §3.4)."""

    width: int = Field(default=10, ge=1)
    """Beam width of the ranked list."""
    think_tokens: int = Field(default=48, ge=1)
    """Most tokens between the tags; the thought is closed by force there."""
    batch: int = Field(default=64, ge=1)
    """Contexts decoded together."""


class LexicalConfig(Section):
    """TF-IDF and BM25."""

    split: Literal["words", "bigrams"] = "words"
    """How Chinese is cut: by a dictionary, or in pairs of neighbouring characters."""
    k1: float = Field(default=1.2, ge=0)
    """Saturation of BM25's term frequency; 0 = only whether a word is there."""
    b: float = Field(default=0.75, ge=0, le=1)
    """Share of BM25's length normalisation."""


class DenseConfig(Section):
    """Published encoders as systems of their own; the system ``dense`` takes the one of ``[encoder]``."""

    bge: str | None = None
    """Folder of bge-small-zh-v1.5; none = the system ``dense-bge`` cannot run."""
    bge_instruction: str = "为这个句子生成表示以用于检索相关文章："
    """Before the queries of BGE, never before items; ``""`` = nothing. That of the model card."""
    qwen3: str | None = None
    """Folder of Qwen3-Embedding-0.6B; none = the system ``dense-qwen3`` cannot run."""
    qwen3_task: str = "Given a web search query, retrieve relevant passages that answer the query"
    """The task in the instruction before queries of Qwen3-Embedding; that of the model card."""
    qwen3_dim: int | None = Field(default=None, ge=2)
    """Keep the first numbers of its vectors, normalised again (Matryoshka); none = all."""
    minilm: str | None = None
    """Folder of all-MiniLM-L6-v2 (English); none = the one that comes with ``crsearch[minilm]``."""
    history: int = Field(default=2, ge=1)
    """Earlier searches that the ``-history`` systems read after the query, newest first."""


class EvaluateConfig(Section):
    """What is measured and how sure it is."""

    searchers: tuple[str, ...] = (
        "crs", "crs-direct", "crs-cut-thought", "crs-no-thought", "crs-fused", "hybrid", "bm25", "tfidf", "popularity",
        "popularity-in-query", "popularity-in-query-brand",
    )  # fmt: skip
    """Systems to measure; ``crsearch evaluate --searcher`` adds more later."""
    bootstrap: int = Field(default=2_000, ge=100)
    """Resamples of the 95 % intervals."""
    exclude_history: bool = False
    """Items chosen before are not ranked, by any system."""
    max_users: int | None = Field(default=None, ge=1)
    """Test queries at most, the first by user id; none = all."""
    cut_tokens: int = Field(default=8, ge=1)
    """Tokens after which the thought of ``crs-cut-thought`` is closed by force, if it is not closed before."""


class Settings(Section):
    """Everything a run depends on."""

    data: str | None = None
    """Folder of records; none = the simulated shop."""
    preset: str = "recommended"
    """Starting point; the other settings override it."""
    seed: int = Field(default=0, ge=0)
    """Of the simulated shop, the first weights, the order of examples and all sampling."""
    threads: int = Field(default=0, ge=0, le=256)
    """Threads of torch in each process; 0 = the cores over the processes. Bits depend on it: see the manifest."""
    processes: int = Field(default=0, ge=0, le=256)
    """Processes; 0 = two where there are two cores and no accelerator. The result does not depend on it."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda``, ``cuda:1``."""
    checkpoint_seconds: float = Field(default=60.0, ge=0)
    """Training time that a crash may cost: seconds between checkpoints inside a stage; 0 = after every step."""
    simulate: SimulateConfig = SimulateConfig()
    split: SplitConfig = SplitConfig()
    context: ContextConfig = ContextConfig()
    encoder: EncoderConfig = EncoderConfig()
    sids: SidConfig = SidConfig()
    model: ModelConfig = ModelConfig()
    align: AlignConfig = AlignConfig()
    distill: DistillConfig = DistillConfig()
    mixture: MixtureConfig = MixtureConfig()
    rl: RlConfig = RlConfig()
    sft: SftConfig = SftConfig()
    loop: LoopConfig = LoopConfig()
    baselines: BaselineConfig = BaselineConfig()
    decode: DecodeConfig = DecodeConfig()
    lexical: LexicalConfig = LexicalConfig()
    dense: DenseConfig = DenseConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> "Settings":
        if len(self.rl.reward.layer_weights) != self.sids.layers:
            raise ValueError(
                f"rl.reward.layer_weights has {len(self.rl.reward.layer_weights)} weights, "
                f"but sids.layers = {self.sids.layers}: give one weight per layer"
            )
        if self.distill.teacher == "openai" and not self.distill.url:
            raise ValueError('distill.teacher = "openai" needs distill.url, e.g. "http://127.0.0.1:8000/v1"')
        if self.encoder.name == "huggingface" and not self.encoder.path:
            raise ValueError('encoder.name = "huggingface" needs encoder.path, the folder of the encoder')
        return self
