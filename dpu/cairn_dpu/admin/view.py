"""What the admin plane may ask of the service: this and no more, so that tests can put a fake in its place."""

from typing import Protocol

from cairn_dpu.lookout import Look


class ServiceView(Protocol):
    """Methods may be called from any thread."""

    @property
    def state(self) -> str:
        """starting, serving, draining or failed."""

    @property
    def read_only(self) -> bool:
        """Whether puts and deletes are refused."""

    def look(self) -> Look:
        """How it was a moment ago, at once; raises ServiceError when it starts, or has not answered for a while."""

    def absent_drives(self) -> list[tuple[str, str]]:
        """(path, reason) of the drives that the service was told of and does without; raises ServiceError."""

    def attach_drive(self, path: str) -> str:
        """Takes a formatted drive in; its uuid. Raises ServiceError or CairnError."""

    def resume_drive(self, uuid: str) -> None:
        """Tries a drive again that takes no more blocks, that failed, or that is absent (named by its path then). Nothing that
        it holds is touched. Raises ServiceError or CairnError, also when it is as bad as before."""

    def drain_drive(self, uuid: str) -> None:
        """Begins to move what the drive holds to the others. Raises ServiceError or CairnError."""

    def detach_drive(self, uuid: str, *, lose_what_is_left: bool) -> None:
        """Lets a drive go. Raises ServiceError or CairnError."""

    def stats(self) -> str:
        """The statistics now, as JSON (docs/metrics.md); raises ServiceError when the service cannot give them."""
