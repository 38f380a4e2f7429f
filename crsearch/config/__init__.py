"""Settings: defaults, then a preset, then one TOML file, then ``--set``; checked before anything runs.

sections   every setting, with its unit or range          presets   starting points by name
load       presets, files and --set -> Settings           toml      Settings -> TOML
"""

from crsearch.config.load import load_section, load_settings, parse_assignment
from crsearch.config.nested import Nested, merge
from crsearch.config.presets import PRESETS
from crsearch.config.sections import (
    AlignConfig,
    BaselineConfig,
    ContextConfig,
    DecodeConfig,
    DenseConfig,
    DistillConfig,
    DsiConfig,
    EncoderConfig,
    EvaluateConfig,
    GenreConfig,
    LatentConfig,
    LatentPolicyConfig,
    LexicalConfig,
    LoopConfig,
    LtrgrConfig,
    MixtureConfig,
    ModelConfig,
    OptimConfig,
    RewardConfig,
    RlConfig,
    RqVaeConfig,
    Section,
    Settings,
    SftConfig,
    SidConfig,
    SimulateConfig,
    SplitConfig,
    TigerConfig,
)
from crsearch.config.toml import to_toml

__all__ = [
    "PRESETS",
    "AlignConfig",
    "BaselineConfig",
    "ContextConfig",
    "DecodeConfig",
    "DenseConfig",
    "DistillConfig",
    "DsiConfig",
    "EncoderConfig",
    "EvaluateConfig",
    "GenreConfig",
    "LatentConfig",
    "LatentPolicyConfig",
    "LexicalConfig",
    "LoopConfig",
    "LtrgrConfig",
    "MixtureConfig",
    "ModelConfig",
    "Nested",
    "OptimConfig",
    "RewardConfig",
    "RlConfig",
    "RqVaeConfig",
    "Section",
    "Settings",
    "SftConfig",
    "SidConfig",
    "SimulateConfig",
    "SplitConfig",
    "TigerConfig",
    "load_section",
    "load_settings",
    "merge",
    "parse_assignment",
    "to_toml",
]
