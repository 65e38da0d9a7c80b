"""What the admin plane may ask of the service: this and no more, so that tests can put a fake in its place."""

from typing import Protocol


class ServiceView(Protocol):
    """Methods may be called from any thread."""

    @property
    def state(self) -> str:
        """starting, serving, draining or failed."""

    @property
    def read_only(self) -> bool:
        """Whether puts and deletes are refused."""

    def stats(self) -> str:
        """The statistics now, as JSON (docs/metrics.md); raises ServiceError when the service cannot give them."""
