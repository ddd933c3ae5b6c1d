"""A renewal: which files count in a folder of certificates instead of those that were exported.

It is written last and in one piece, so that a folder has its old pair or its new one, never a mixture.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sepnas.deployment.manifest import FileEntry, RelativePath, SealedDocument
from sepnas.spec.figures import Sha256

RENEWAL_NAME = "renewed.json"


class Renewal(SealedDocument):
    """``files`` lie in the sub-folder ``folder``; a certificate that was exported with another hash than ``replaces``
    belongs to another export, and the renewal does not count."""

    format_name: ClassVar[str] = "sepnas.renewal"

    replaces: Sha256
    folder: Annotated[str, Field(pattern=r"^renewed-[0-9a-f]{16}$")]
    files: dict[RelativePath, FileEntry]
