"""NumPy's matrix products on one thread, so that their last bit does not depend on the machine's cores."""

from contextlib import AbstractContextManager
from functools import cache

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]  # comes with scikit-learn


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="blas")


def blas_threads() -> int:
    """Threads that a matrix product may use now."""
    return max((library["num_threads"] for library in _controller().info()), default=1)


def limit_blas(threads: int) -> AbstractContextManager[object]:
    """A block in which matrix products use at most this many threads, in the whole process."""
    limited: AbstractContextManager[object] = _controller().limit(limits=threads)
    return limited
