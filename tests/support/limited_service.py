"""A service that lets few sessions in, and what it says to those that it does not."""

from __future__ import annotations

from raw_wire import FEATURE_RINGS, HELLO, HELLO_T, Frame, RawSession

BUSY = 5
PEER_MOST, TENANT_MOST, ROOMY_MOST, FEW_MOST = 8, 12, 14, 2
LIMITS = [
    "--sessions-most=64",
    f"--sessions-per-peer-most={PEER_MOST}",
    f"--sessions-per-tenant-most={TENANT_MOST}",
    f"--tenant=roomy=id:7,sessions:{ROOMY_MOST}",
    f"--tenant=few=id:8,sessions:{FEW_MOST}",
]
PEER_FULL = f"this address has as many sessions as one may: {PEER_MOST} (sessions_per_peer_most)"
SILENT_FULL = f"this address has as many connections without a session as one may: {PEER_MOST} (sessions_per_peer_most)"


def told_off(session: RawSession, tenant: bytes = b"default") -> str:
    """Says hello, and is refused as busy; why."""
    session.send(Frame(HELLO_T, body=HELLO.pack(1, 1, FEATURE_RINGS, bytes(16), len(tenant), 0, 0, 0) + tenant))
    status, reason = session.ends()
    assert status == BUSY
    return reason
