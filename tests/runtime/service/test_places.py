"""The bound of the requests in a service."""

import pytest

from sepnas.errors import BusyError
from sepnas.runtime.service.places import Places


def fail_in(places):
    with places.take():
        assert places.is_full
        with pytest.raises(BusyError, match="1 requests are at the devices and 1 wait"), places.take():
            pass
        raise RuntimeError


def test_a_full_service_refuses_until_a_place_is_free():
    """Places are given out up to the bound, and given back when the block ends, also by an error."""
    places = Places(in_flight=1, queue=1, min_limit=1)
    with places.take():
        with pytest.raises(RuntimeError):
            fail_in(places)
        assert not places.is_full
    assert places.taken == 0


def test_the_bound_shrinks_while_clients_give_up_and_grows_with_answers():
    """It never leaves the range from its minimum to all places."""
    places = Places(in_flight=4, queue=16, min_limit=10)
    for _ in range(100):
        places.note_gave_up()
    assert places.limit == 10
    for _ in range(1000):
        places.note_answer()
    assert places.limit == 20
    assert Places(in_flight=1, queue=2, min_limit=10).limit == 3
