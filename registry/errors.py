"""Every failure that Lorikeet expects, each with the remedy that a person can act on.

::

    LorikeetError                 exit code 1
    ├── UsageError                exit code 2: the caller asked for something that cannot be
    │   └── BadReference          a name, version or alias that is not well formed
    ├── UnknownAdapter            no such adapter, version or alias
    ├── UnknownKey                no API key of that id
    ├── UnknownFile               no such file, or not this tenant's
    ├── UnknownJob                no such fine-tuning job, or not this tenant's
    ├── JobConflict               the job, or the file it uses, is not in a state that allows this
    ├── LeaseLost                 the job is no longer this worker's
    ├── QuotaReached              a tenant's limit of files or jobs
    ├── UnknownBase               no such base model, or not one that can be used
    ├── BaseNotMade               the embedded base model could not be de-quantised
    ├── AdapterRejected           preflight found errors; `.problems` lists every one
    ├── AliasRefused              the alias cannot be moved, or still holds what should go
    │   └── AliasMoved            somebody else has moved it meanwhile
    ├── VersionDamaged            a published file is missing or differs from its manifest
    ├── BlobDamaged               an object in the shared store is not what its name says
    ├── DiskFull                  not enough space for what was asked
    └── RegistryUnavailable       the data folder or its database cannot be used
        └── StoreUnavailable      the shared store cannot be reached, or refuses
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.problem import Problem


class LorikeetError(Exception):
    """A failure to tell a person about: what went wrong, and what to do about it."""

    exit_code: int = 1

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy


class UsageError(LorikeetError):
    """The request itself is wrong: an option, a name or a file that cannot be meant."""

    exit_code = 2


class BadReference(UsageError):
    """A reference, name or alias that is not well formed."""


class UnknownAdapter(LorikeetError):
    """No adapter, version or alias of that name is published."""


class UnknownKey(LorikeetError):
    """No API key of that id was ever made."""


class UnknownFile(LorikeetError):
    """No file of that id is kept for this tenant."""


class UnknownJob(LorikeetError):
    """No fine-tuning job of that id is kept for this tenant."""


class JobConflict(LorikeetError):
    """What was asked for cannot be done in the state that the job is in, or its file."""


class LeaseLost(LorikeetError):
    """The job was cancelled or paused, or another worker has it now: stop working on it."""


class QuotaReached(LorikeetError):
    """The tenant has as many bytes of files, or as many unfinished jobs, as it may have."""


class UnknownBase(LorikeetError):
    """No base model of that name is to be found, or the folder does not hold one."""


class BaseNotMade(LorikeetError):
    """The embedded base model could not be made from the file that ships it."""


class AdapterRejected(LorikeetError):
    """Preflight found at least one error; `problems` holds all it found, warnings too."""

    def __init__(
        self, message: str, problems: Sequence["Problem"], *, remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.problems = list(problems)


class AliasRefused(LorikeetError):
    """An alias that cannot be moved as asked, or that still points at what should go."""


class AliasMoved(AliasRefused):
    """The alias does not point where whoever wants to move it believes."""


class VersionDamaged(LorikeetError):
    """A file of a published version is missing, added or changed."""


class BlobDamaged(LorikeetError):
    """An object in the shared store is missing, or its content is not the one it is named by."""


class DiskFull(LorikeetError):
    """There is not enough free space. `needed` and `free` are bytes (`free` −1: unknown)."""

    def __init__(
        self, message: str, *, needed: int, free: int = -1, remedy: str | None = None
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.needed = needed
        self.free = free


class RegistryUnavailable(LorikeetError):
    """The data folder or the database cannot be opened, read or written."""


class StoreUnavailable(RegistryUnavailable):
    """The shared store of adapters and files does not answer, or not to us."""
