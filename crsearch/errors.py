"""What can go wrong, and whose fault it is.

    CrsearchError                  everything raised on purpose
    └── UserError                  what the user can mend; the command line exits 2
        ├── ConfigError            a setting (ValueError)
        ├── DataError              a record, a file of records (ValueError)
        ├── SidError               semantic IDs: collisions, codebooks, a full bucket (ValueError)
        ├── ModelError             a checkpoint, a tokenizer, a fingerprint that does not fit (ValueError)
        ├── RunError               a run directory: locked, damaged, of another data set (RuntimeError)
        ├── StorageError           no room, no permission (OSError)
        ├── TeacherError           the teacher endpoint (RuntimeError)
        ├── TrainingDiverged       a loss is not a number (ArithmeticError)
        └── MissingExtra           an optional dependency (ImportError)

Anything else that escapes is our fault: the command line exits 1.
A message says what with the value, where it came from, and what to do.
"""


class CrsearchError(Exception):
    """Base of every error that crsearch raises on purpose."""


class UserError(CrsearchError):
    """An error that the user can mend."""


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or out of range."""


class DataError(UserError, ValueError):
    """A record or a file of records breaks the schema."""


class SidError(UserError, ValueError):
    """Semantic IDs cannot be built or do not fit."""


class ModelError(UserError, ValueError):
    """A model, tokenizer or checkpoint is broken or belongs to something else."""


class RunError(UserError, RuntimeError):
    """A run directory is locked, incomplete or of another data set."""


class StorageError(UserError, OSError):
    """A file could not be written or read: no room, no permission."""


class TeacherError(UserError, RuntimeError):
    """The teacher endpoint does not answer as it should."""


class TrainingDiverged(UserError, ArithmeticError):
    """A loss is NaN or infinite."""


class MissingExtra(UserError, ImportError):
    """An optional dependency is not installed."""
