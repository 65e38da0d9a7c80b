"""What became of each item of a batch. Small objects without a dictionary; equal when their fields are."""

from typing import Self

from cairnkv.errors import error_for
from cairnkv.status import Status


class ItemResult:
    """The outcome of one item of exists, touch, delete, lease, release or prefetch. True in a condition when it is `ok`."""

    __slots__ = ("status",)

    def __init__(self, status: Status) -> None:
        self.status = status

    @property
    def ok(self) -> bool:
        """Whether the item did what was asked (exists: whether the block is there)."""
        return self.status is Status.ok

    def raise_for_status(self) -> Self:
        """The result itself, or the error of its status (see cairnkv.errors) when it is not `ok`."""
        if not self.ok:
            raise error_for(self.status)
        return self

    def __bool__(self) -> bool:
        return self.ok

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status.name})"

    def _fields(self) -> tuple[int, ...]:
        return (self.status,)


class _Transfer(ItemResult):
    __slots__ = ("nbytes", "sequence")

    def __init__(self, status: Status, nbytes: int = 0, sequence: int = 0) -> None:
        self.status = status
        self.nbytes = nbytes
        self.sequence = sequence

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status.name}, nbytes={self.nbytes}, sequence={self.sequence})"

    def _fields(self) -> tuple[int, ...]:
        return (self.status, self.nbytes, self.sequence)


class PutResult(_Transfer):
    """The outcome of one put.

    nbytes: length of the block when it was stored now, else 0. sequence: the store's number of the block (later puts have
    larger ones), 0 when not known.
    """

    __slots__ = ()

    @property
    def ok(self) -> bool:
        """Whether a block is kept under the key: it was stored now, or was there already (the first writer wins)."""
        return self.status is Status.ok or self.status is Status.exists

    @property
    def existed(self) -> bool:
        """Whether the key held a block already; no bytes were moved and the first writer's are kept."""
        return self.status is Status.exists


class GetResult(_Transfer):
    """The outcome of one get. nbytes: how many bytes were delivered. sequence: as for a put."""

    __slots__ = ()

    @property
    def hit(self) -> bool:
        """Whether the bytes are in the destination. Anything else is a miss; `status` says why."""
        return self.status is Status.ok


ITEM_RESULTS = tuple(ItemResult(status) for status in Status)
"""By status code: results that carry nothing else are shared."""
