"""Checks the hash of every file of a deployment, or of one device's folder, against its manifest; needs no torch.

Other files, such as logs, may be there: a file that no manifest lists is never read. Certificates and keys made by
`sepnas certs renew` replace those that the manifest lists.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import BinaryIO, TypeVar

from sepnas.deployment.manifest import (
    MANIFEST_NAME,
    SHARD_NAME,
    FileEntry,
    Manifest,
    SealedDocument,
    ShardManifest,
    device_folder,
)
from sepnas.deployment.private import check_private
from sepnas.deployment.renewal import RENEWAL_NAME, Renewal
from sepnas.errors import DeploymentError, SpecError, UnreadableError, VersionError
from sepnas.spec.files import exists, open_regular, why

KEY_NAME = "key.pem"
PEM_NAMES = ("ca.pem", "cert.pem", KEY_NAME)
TLS_NAMES = tuple(f"tls/{name}" for name in PEM_NAMES)
_OF_A_DEVICE = re.compile(r"device\d+", re.ASCII)
_CHUNK_BYTES = 1 << 20
_Sealed = TypeVar("_Sealed", bound=SealedDocument)


def verify_deployment(folder: str | os.PathLike[str]) -> Manifest:
    """Check every listed file of a whole deployment; raises :class:`DeploymentError` that names the first wrong one."""
    folder = Path(folder)
    manifest = load_manifest(folder)
    _check_files(folder, manifest.files, manifest.files)
    for rank in range(manifest.num_devices):
        verify_device(folder / device_folder(rank))
    return manifest


def verify_client(folder: str | os.PathLike[str], uses_hosts: bool = True) -> Manifest:
    """Check the files that a client uses: the manifest, its certificate and, if ``uses_hosts``, ``hosts.yaml``."""
    folder = Path(folder)
    manifest = load_manifest(folder)
    mine = [f"client/{name}" for name in TLS_NAMES]
    _check_files(folder, manifest.files, [*mine, "hosts.yaml"] if uses_hosts else mine)
    return manifest


def verify_device(folder: str | os.PathLike[str]) -> ShardManifest:
    """Check every listed file of a device's folder, and that the folder belongs to the deployment around it, if any."""
    folder = Path(folder)
    shard = _load(ShardManifest, folder, SHARD_NAME, "a device's folder, such as DEPLOYMENT/device0")
    loaded = {
        *shard.weight_files,
        *TLS_NAMES,
        *(file for segment in shard.segments.values() for file in segment.files.values()),
    }
    _check_files(folder, shard.files, sorted(loaded | set(shard.files)))
    if _is_there(folder.parent / MANIFEST_NAME):
        _check_belongs(folder, shard, load_manifest(folder.parent))
    return shard


def verify_file(folder: str | os.PathLike[str], manifest: Manifest, name: str) -> Path:
    """Check one file of a deployment that ``manifest`` lists, and return its path."""
    _check_files(Path(folder), manifest.files, [name])
    return Path(folder) / name


def load_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """Read only the manifest, checked against its own digest."""
    return _load(Manifest, Path(folder), MANIFEST_NAME, "a deployment that `sepnas export` wrote")


def check_credential(folder: Path, name: str, entries: Mapping[str, FileEntry]) -> Path:
    """Check the certificates and the key of ``folder / name``, and return the folder that contains them.

    ``entries`` are the files listed by the manifest in ``folder``; ``name`` is ``tls``, ``client/tls`` or
    ``authority``. Raises :class:`DeploymentError` that names the wrong file.
    """
    listed = [f"{name}/{pem}" for pem in PEM_NAMES if name != "authority" or pem != "cert.pem"]
    _check_files(folder, entries, listed)
    renewal = _renewal_for(folder / listed[0], listed[0], entries)
    return folder / name / renewal.folder if renewal else folder / name


def exported_entry(name: str, entries: Mapping[str, FileEntry]) -> FileEntry:
    """The exported certificate of a folder (see :func:`check_credential`), which a renewal replaces."""
    file = f"{name}/{'ca.pem' if name == 'authority' else 'cert.pem'}"
    if file not in entries:
        raise DeploymentError(f"{file}: no manifest lists it, so it is not read; export the deployment again")
    return entries[file]


def file_entry(path: Path) -> FileEntry:
    """The hash and the length of a file on disk."""
    with open_regular(path) as file:
        return _entry(file, os.fstat(file.fileno()).st_size)


def _load(kind: type[_Sealed], folder: Path, name: str, what: str) -> _Sealed:
    path = folder / name
    if not _is_there(path):
        raise DeploymentError(f"{folder}: has no {name}; expected {what}")
    _check_inside(folder, path)
    try:
        return kind.load(path)
    except VersionError:
        raise
    except UnreadableError as error:
        raise DeploymentError(str(error)) from error
    except SpecError as error:
        raise DeploymentError(f"{error}\n{path} is damaged; export or copy the deployment again") from error


def _is_there(path: Path) -> bool:
    try:
        return exists(path)
    except OSError as error:
        raise DeploymentError(f"{path}: cannot be read: {why(error, path)}") from error


def _check_inside(folder: Path, path: Path) -> None:
    """Refuse a link to a file outside the folder, which may be another user's; `tls` itself may be a mount."""
    root = path.parent if path.name in PEM_NAMES else folder
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root)):
        raise DeploymentError(
            f"{path}: is a link to {os.path.realpath(path)}, out of the deployment; put the file itself there"
        )


def _entry_of(path: Path, expected: FileEntry) -> FileEntry:
    """A file's hash and length; a file of unexpected length, such as an endless one, is not read."""
    with open_regular(path) as file:
        length = os.fstat(file.fileno()).st_size
        if length != expected.bytes:
            return expected.model_copy(update={"bytes": length})
        return _entry(file, length)


def _entry(file: BinaryIO, max_bytes: int) -> FileEntry:
    digest, length = hashlib.sha256(), 0
    while length <= max_bytes and (chunk := file.read(_CHUNK_BYTES)):
        digest.update(chunk)
        length += len(chunk)
    return FileEntry(sha256=digest.hexdigest(), bytes=length)


def _check_files(folder: Path, entries: Mapping[str, FileEntry], names: Iterable[str]) -> None:
    for name in names:
        path = folder / name
        shown = f"{folder.name}/{name}"
        if name not in entries:
            raise DeploymentError(f"{shown}: no manifest lists it, so it is not read; export the deployment again")
        entry, sealed_by = entries[name], "the manifest"
        renewal = _renewal_for(path, name, entries) if path.name in PEM_NAMES else None
        if renewal:
            path = path.parent / renewal.folder / path.name
            shown = f"{folder.name}/{path.relative_to(folder).as_posix()}"
            entry, sealed_by = _renewed_entry(renewal, path), RENEWAL_NAME
        try:
            _check_inside(folder, path)
            if path.name == KEY_NAME:
                check_private(path)
            found = _entry_of(path, entry)
        except FileNotFoundError:
            raise DeploymentError(f"{shown}: is missing from {folder}; export or copy the deployment again") from None
        except OSError as error:
            raise DeploymentError(f"{shown}: cannot be read ({path}): {why(error, path)}") from error
        if found != entry:
            raise DeploymentError(_difference(shown, found, entry, sealed_by))


def _renewal_for(path: Path, name: str, entries: Mapping[str, FileEntry]) -> Renewal | None:
    """The renewal beside a certificate or key, if it belongs to this export."""
    folder = path.parent
    if not _is_there(folder / RENEWAL_NAME):
        return None
    _check_inside(folder, folder / RENEWAL_NAME)
    try:
        renewal = Renewal.load(folder / RENEWAL_NAME)
    except VersionError:
        raise
    except UnreadableError as error:
        raise DeploymentError(str(error)) from error
    except SpecError as error:
        raise DeploymentError(
            f"{error}\n{folder / RENEWAL_NAME} is damaged; copy the folder again, or run: sepnas certs renew DEPLOYMENT"
        ) from error
    exported = exported_entry(PurePosixPath(name).parent.as_posix(), entries)
    return renewal if renewal.replaces == exported.sha256 else None


def _renewed_entry(renewal: Renewal, path: Path) -> FileEntry:
    if path.name not in renewal.files:
        raise DeploymentError(f"{path}: {RENEWAL_NAME} beside it does not list it; run: sepnas certs renew DEPLOYMENT")
    return renewal.files[path.name]


def _difference(shown: str, found: FileEntry, entry: FileEntry, sealed_by: str) -> str:
    hint = "export or copy the deployment again"
    if shown.endswith("/hosts.yaml"):
        hint = "this example belongs to the deployment: put it back, edit a copy, and name the copy with --devices"
    if found.bytes != entry.bytes:
        return f"{shown}: has {found.bytes} bytes, {sealed_by} says {entry.bytes}; {hint}"
    return f"{shown}: sha256 is {found.sha256}, {sealed_by} says {entry.sha256}; {hint}"


def _check_belongs(folder: Path, shard: ShardManifest, manifest: Manifest) -> None:
    if shard.deployment_id != manifest.deployment_id:
        raise DeploymentError(
            f"{folder}: is a shard of deployment {shard.deployment_id[:16]}, but the deployment around it "
            f"('{manifest.name}') is {manifest.deployment_id[:16]}; put the right folder there"
        )
    own, wanted = ({name: plan.digest for name, plan in each.plans.items()} for each in (shard, manifest))
    if own != wanted:
        differing = sorted(name for name in own.keys() | wanted.keys() if own.get(name) != wanted.get(name))
        raise DeploymentError(
            f"{folder}: was exported with another plan '{differing[0]}' than the deployment around it "
            f"('{manifest.name}'); put the folder of the same export there"
        )
    name = folder.resolve().name
    if _OF_A_DEVICE.fullmatch(name) and name != device_folder(shard.rank):  # a copy may have any other name
        raise DeploymentError(f"{folder}: holds the shard of rank {shard.rank}; its name must be device{shard.rank}")
