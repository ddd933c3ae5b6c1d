"""Linear algebra of numpy on one thread."""

from __future__ import annotations

from threadpoolctl import threadpool_info, threadpool_limits

from sepnas.importing.one_thread import linear_algebra_on_one_thread


def threads(kind: str) -> set[int]:
    return {each["num_threads"] for each in threadpool_info() if each["user_api"] == kind}


def test_only_linear_algebra_is_on_one_thread_and_only_within() -> None:
    """Threads of torch, by OpenMP, are as before."""
    with threadpool_limits(2):
        with linear_algebra_on_one_thread():
            assert threads("blas") == {1}
            assert 2 in threads("openmp")
        assert threads("blas") == {2}
