"""The RDMA device fails under the service and its clients: the cable is pulled, or the system takes the device away."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hurt_service import HurtService
from rdma_device import cable_pulled, may_be_hurt, renew, taken_away
from traffic import Traffic, connects_again, serves, serves_again

import cairnkv

Connect = Callable[[str], cairnkv.Client]
pytestmark = pytest.mark.skipif(not may_be_hurt(), reason="it needs a kernel that tools/testbed/build-kernel made")


# What a user would have lost: a cable that is put back at once must cost nothing but time.
def test_a_cable_that_is_back_soon_is_not_noticed(connect: Connect) -> None:
    client = connect("rdma")
    with cable_pulled():
        pass
    assert serves(client)
    assert client.info()["reconnects"] == 0


# What a user would have lost: an engine that waits for the fabric for ever, or is handed half a block; and everybody else's
# cache, if one port stopped the service.
@pytest.mark.parametrize("kind", ["get", "put"])
def test_a_cable_that_is_pulled_costs_what_was_under_way(kind: str, connect: Connect) -> None:
    client, others = connect("rdma"), [connect("tcp"), connect("shm")]
    traffic = Traffic(client, kind)
    traffic.begin()
    with cable_pulled():
        traffic.await_failure()
        assert not serves(client)
        assert all(serves(other) for other in others)
    renew()
    serves_again(client)
    traffic.check(others[0])


# What a user would have lost: the engine. Its process crashed when an address could not be reached over any device.
def test_an_address_that_no_device_reaches_is_an_error() -> None:
    for _ in range(3):
        with pytest.raises(cairnkv.ConnectError, match="cannot connect to rdma://192.0.2.1:9600"):
            cairnkv.connect("rdma://192.0.2.1:9600")


# What a user would have lost: the whole service, or the engine. Both took what a device says that is gone for a fault of
# their own and stopped; the service would have listened at nothing from then on.
@pytest.mark.parametrize("kind", ["get", "put"])
def test_a_device_that_is_taken_away_and_comes_back(kind: str, connect: Connect, service: HurtService) -> None:
    client, idle, other = connect("rdma"), connect("rdma"), connect("tcp")
    assert serves(idle)
    traffic = Traffic(client, kind)
    traffic.begin()
    with taken_away():
        traffic.await_failure()
        assert serves(other)
        assert not serves(client) and not serves(idle), "there is no device"
    serves_again(client)
    serves_again(idle)
    traffic.check(other)
    with cairnkv.connect(service.urls["rdma"]) as late:
        assert serves(late)


# What a user would have lost: nobody is connected over RDMA when the device goes, and nobody can ever be again.
def test_a_device_that_goes_while_nobody_uses_it(connect: Connect, service: HurtService) -> None:
    for _ in range(3):
        renew()
        with connects_again(service.urls["rdma"]) as late:
            assert serves(late)
    assert serves(connect("tcp"))


# What a user would have lost: a service that takes a processor for itself from then on, or all descriptors that it has.
def test_what_is_left_of_a_device_costs_nothing(service: HurtService) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{service.process.pid}/fd"))

    before = descriptors()
    for _ in range(3):
        with connects_again(service.urls["rdma"]) as client:
            assert serves(client)
        renew()
    with connects_again(service.urls["rdma"]) as client:
        assert serves(client)
        assert descriptors() <= before + 4, "each device that went leaves something behind"
