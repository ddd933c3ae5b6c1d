"""Contract tests that every engine, wire format, objective or split scheme must pass, yours included.

Each module has the contract of one kind, as a class whose name ends in ``Contract``. Derive from it in your tests, and
override the fixture that provides the object under test; pytest collects the inherited tests::

    # conftest.py, so that failing assertions show their values
    import pytest

    pytest.register_assert_rewrite("sepnas.testing")

    # test_my_kind.py
    from sepnas.testing.KIND import KindContract

    class TestMyKind(KindContract):
        @pytest.fixture
        def subject(self):
            return my_kind

The docstring of each class names its fixtures; the docstring of each test states one truth. Importing this package
needs pytest and numpy besides sepnas' base install; a contract needs more (torch, onnxruntime) only when it runs.
"""
