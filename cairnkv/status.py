"""The outcomes of an item. Written out here so that type checkers know them; a test compares them, number by number,
with the one list there is (native/wire/status.h)."""

from enum import IntEnum

from cairnkv import _native


class Status(IntEnum):
    """What became of one item of a batch. The numbers are those on the wire and never change their meaning.

    `ok` is 0 and so false in a condition: write `status == Status.ok`, or ask the result (`if result:`).
    """

    ok = 0
    exists = 1
    not_found = 2
    timeout = 3
    cancelled = 4
    busy = 5
    no_space = 6
    too_large = 7
    invalid = 8
    bad_region = 9
    short_buffer = 10
    bad_range = 11
    corrupt = 12
    io_error = 13
    read_only = 14
    bad_checksum = 15
    denied = 16
    bad_version = 17
    unsupported = 18
    draining = 19
    disconnected = 20
    unreachable = 21
    quota_exceeded = 22
    leased = 23
    lease_too_long = 24
    group_too_large = 25
    not_admitted = 26
    expired = 27
    drive_unknown = 28
    drive_in_use = 29
    drive_foreign = 30
    drive_newer = 31
    drive_damaged = 32
    drive_smaller = 33
    drive_draining = 34

    @property
    def sentence(self) -> str:
        """What it means, for a person."""
        return _SENTENCES[self.value]


_SENTENCES = {code: sentence for code, _name, _http, sentence in _native.status_table()}
