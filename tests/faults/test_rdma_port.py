"""The port of the RDMA device fails otherwise than by its cable: it loses its address, or its packets become smaller."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

import pytest
from hurt_service import HurtService
from raw_rdma import RdmaSession
from rdma_device import address_taken, may_be_hurt, packets_of
from rdma_link import e
from traffic import Traffic, connects_again, serves, serves_again

import cairnkv

Connect = Callable[[str], cairnkv.Client]
pytestmark = pytest.mark.skipif(not may_be_hurt(), reason="it needs a kernel that tools/testbed/build-kernel made")


def packet_bytes(url: str) -> int:
    """Most payload of a packet of a connection that is made now."""
    parts = urlsplit(url)
    session = RdmaSession.dial((str(parts.hostname), int(parts.port or 0)))
    attributes, _ = session.link.qp.query(e.IBV_QP_PATH_MTU)
    session.close()
    return 128 << int(attributes.path_mtu)


# What a user would have lost: an engine that waits for ever for a network that was configured anew, or is handed half a block;
# and every session that comes later, if the service stopped listening.
@pytest.mark.parametrize("kind", ["get", "put"])
def test_an_address_that_is_taken_away_and_given_back(kind: str, connect: Connect, service: HurtService) -> None:
    client, others = connect("rdma"), [connect("tcp"), connect("shm")]
    traffic = Traffic(client, kind)
    traffic.begin()
    with address_taken():
        traffic.await_failure()
        assert client.info()["last_error"], "the session ended without a reason"
        assert not serves(client)
        assert all(serves(other) for other in others)
    serves_again(client)
    traffic.check(others[0])
    with connects_again(service.urls["rdma"]) as late:
        assert serves(late)


# What a user would have lost: all sessions over the device, whenever somebody sets the network's packets to another size.
@pytest.mark.parametrize("kind", ["get", "put"])
@pytest.mark.parametrize("mtu_bytes", [600, 1500])
def test_packets_that_become_smaller_and_larger(
    mtu_bytes: int, kind: str, connect: Connect, service: HurtService
) -> None:
    client, other = connect("rdma"), connect("tcp")
    before = packet_bytes(service.urls["rdma"])
    traffic = Traffic(client, kind)
    traffic.begin()
    with packets_of(mtu_bytes):
        assert packet_bytes(service.urls["rdma"]) < min(before, mtu_bytes)
        with cairnkv.connect(service.urls["rdma"]) as late:
            assert serves(late) and serves(client) and serves(other)
    assert packet_bytes(service.urls["rdma"]) == before
    assert serves(client)
    traffic.end()
    assert client.info()["reconnects"] == 0
