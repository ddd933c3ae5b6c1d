"""A renewal: the files that replace the exported ones in a folder of certificates.

It is written last and atomically, so a folder has either its old pair or its new one, never a mixture.
"""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from sepnas.deployment.manifest import FileEntry, RelativePath, SealedDocument
from sepnas.spec.figures import Sha256

RENEWAL_NAME = "renewed.json"


class Renewal(SealedDocument):
    """``files`` are in the sub-folder ``folder``. ``replaces`` is the hash of the exported certificate; if it differs,
    the renewal belongs to another export and is ignored."""

    format_name: ClassVar[str] = "sepnas.renewal"

    replaces: Sha256
    folder: Annotated[str, Field(pattern=r"^renewed-[0-9a-f]{16}$")]
    files: dict[RelativePath, FileEntry]
