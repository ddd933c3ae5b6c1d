"""Contract tests: what every engine, wire format, objective or split scheme must do, run against your own.

Each module holds the contract of one kind, as a class whose name ends in ``Contract``. Derive from it in your tests,
and override the fixture that gives what is tested; pytest collects the inherited tests::

    # conftest.py, so that failing assertions show their values
    import pytest

    pytest.register_assert_rewrite("sepnas.testing")

    # test_my_kind.py
    from sepnas.testing.KIND import KindContract

    class TestMyKind(KindContract):
        @pytest.fixture
        def subject(self):
            return my_kind

The docstring of each class names its fixtures, and that of each test states one truth. Importing this package needs
pytest and numpy besides sepnas' base install; a contract asks for more (torch, onnxruntime) only when it runs.
"""
