"""Members of a tar archive, read forwards within bounds that no header can move.

`tarfile` believes what headers say: a member of 4 EB is skipped byte by byte, a negative size
leads backwards, and an archive that is damaged in its middle seems to end there. Here every size
is checked before anything is read, and what cannot be read is an error with its place.
"""

from __future__ import annotations

import bz2
import gzip
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

BLOCK = 512
MAX_MEMBER_BYTES = 256 << 20
MAX_HEADER_BYTES = 1 << 16  # of a long name, or of extended attributes
MAX_EXPANSION = 200  # decompressed bytes per compressed one
EXPANSION_FROM = 64 << 20  # decompressed bytes from which the ratio counts
CHUNK = 1 << 20
COMPRESSIONS = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
}
UNPACK = {"gzip": "gunzip", "bzip2": "bunzip2", "xz": "unxz", "zstd": "unzstd"}
# Headers that say more about the next one.
_BEFORE = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class DamagedTarError(ValueError):
    """An archive cannot be read beyond some place.

    Args:
        reason: what is wrong, and where.
        name: the member that it befell, if any.
    """

    def __init__(self, reason: str, name: str | None = None) -> None:
        super().__init__(reason)
        self.reason, self.name = reason, name


class TarMember(NamedTuple):
    """One member; its place and size in bytes.

    Args:
        wrong: why its content cannot be read; empty where it can.
        target: name of the member whose content it shares, where it is a hard link.
    """

    name: str
    offset: int
    size: int
    wrong: str = ""
    target: str | None = None


def compression_of(start: bytes) -> str | None:
    """How a file that begins so is compressed."""
    return next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)


class TarStream:
    """The bytes of an archive, read forwards; a compressed one is expanded within bounds.

    Args:
        file: opened for reading.
        length: of the file in bytes, where it can seek and is not compressed.
    """

    def __init__(self, file: IO[bytes], length: int | None = None) -> None:
        self.position = 0
        self.length = length
        self._raw = self._file = file
        self._counted: _Counted | None = None
        if length is None:
            self._counted = _Counted(file)
            compression = compression_of(self._counted.peek(6))
            self._raw = self._expanded(compression, self._counted)

    @staticmethod
    def _expanded(compression: str | None, counted: _Counted) -> IO[bytes]:
        if compression == "gzip":
            return gzip.GzipFile(fileobj=counted, mode="rb")  # type: ignore[return-value, arg-type]
        if compression == "bzip2":
            return bz2.BZ2File(counted)  # type: ignore[return-value, arg-type]
        if compression is not None:
            raise DamagedTarError(
                f"compressed with {compression}, which is not read; "
                f"unpack it with {UNPACK[compression]}"
            )
        return counted  # type: ignore[return-value]

    def read(self, size: int) -> bytes:
        """So many bytes, or fewer at the end."""
        parts = []
        left = size
        while left:
            try:
                part = self._raw.read(min(left, CHUNK))
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                raise DamagedTarError(f"damaged compression: {error}") from None
            if not part:
                break
            parts.append(part)
            left -= len(part)
            self.position += len(part)
            self._check_expansion()
        return b"".join(parts)

    def skip_to(self, place: int) -> None:
        """Go forwards to a place, or to the end if that comes first."""
        if self.length is not None:
            self.position = min(place, self.length)
            self._file.seek(self.position)
            return
        while self.position < place and self.read(min(place - self.position, CHUNK)):
            pass

    def _check_expansion(self) -> None:
        if self._counted is None or self.position < EXPANSION_FROM:
            return
        if self.position > MAX_EXPANSION * self._counted.count:
            raise DamagedTarError(
                f"{self._counted.count:,} compressed bytes became more than "
                f"{self.position:,}: perhaps a decompression bomb, the rest is not read"
            )


class _Counted:
    """A file whose bytes are counted as they are read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._ahead = b""
        self.count = 0

    def peek(self, size: int) -> bytes:
        self._ahead = self._file.read(size)
        return self._ahead

    def read(self, size: int = -1) -> bytes:
        if self._ahead and size >= 0:
            found, self._ahead = self._ahead[:size], self._ahead[size:]
        else:
            found = self._ahead + self._file.read(size)
            self._ahead = b""
        self.count += len(found)
        return found

    def seek(self, place: int, whence: int = 0) -> int:
        raise OSError("read forwards only")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return False


def members(stream: TarStream) -> Iterator[TarMember]:
    """The members that are no folders, in their order.

    The content of a member may be read from the stream before the next one is asked for. Archives
    that were written one after the other into one file are read as one.

    Raises:
        DamagedTarError: the archive cannot be read further.
    """
    ended = False
    attributes: dict[str, bytes] = {}
    while True:
        place = stream.position
        block = stream.read(BLOCK)
        if not block and ended:
            return
        if len(block) < BLOCK:
            raise DamagedTarError(
                f"the archive is cut short at byte {place + len(block):,}"
                if block or not place
                else f"no end mark at byte {place:,}, the archive may have been cut short"
            )
        if block.count(0) == BLOCK:
            ended = True
            continue
        info = _header(block, place)
        if info.type in _BEFORE:
            attributes |= _attributes(stream, info)
            continue
        offset, size = _extent(stream, info, block, attributes)
        name, linked = _name(info, attributes), attributes.get("linkpath")
        sparse = info.type == tarfile.GNUTYPE_SPARSE or any(
            key.startswith("GNU.sparse.") for key in attributes
        )
        attributes = {}
        ended = False
        if stream.length is not None and offset + size > stream.length:
            raise DamagedTarError(
                f"the header at byte {place:,} claims {size:,} bytes, there are "
                f"{stream.length - offset:,}",
                name,
            )
        if info.isreg() or info.issym() or info.islnk():
            yield TarMember(name, offset, size, _wrong(info, size, sparse), _target(info, linked))
        stream.skip_to(offset + -(-size // BLOCK) * BLOCK)
        if stream.position < offset + size:
            raise DamagedTarError(
                f"the header at byte {place:,} claims {size:,} bytes, there are "
                f"{stream.position - offset:,}",
                name,
            )


def _header(block: bytes, place: int) -> tarfile.TarInfo:
    try:
        # Names in another encoding stay apart from each other, and can be written as UTF-8.
        info = tarfile.TarInfo.frombuf(block, "utf-8", "backslashreplace")
    except tarfile.TarError as error:
        reason = f"no header at byte {place:,} ({error})"
        raise DamagedTarError(f"{reason}; what follows it is not read") from None
    if info.size < 0:
        raise DamagedTarError(f"the header at byte {place:,} claims {info.size:,} bytes")
    return info


def _wrong(info: tarfile.TarInfo, size: int, sparse: bool) -> str:
    if not info.isreg():
        return "a link, not a file"
    if sparse:
        return "a sparse file, which is not read"
    if size > MAX_MEMBER_BYTES:
        return f"{size:,} bytes, more than {MAX_MEMBER_BYTES:,}"
    return ""


def _target(info: tarfile.TarInfo, linked: bytes | None) -> str | None:
    if not info.islnk():
        return None
    return _plain(info.linkname if linked is None else linked.decode("utf-8", "backslashreplace"))


def _extent(
    stream: TarStream, info: tarfile.TarInfo, block: bytes, attributes: dict[str, bytes]
) -> tuple[int, int]:
    """Where the content of a member begins, and its size in bytes."""
    more = info.type == tarfile.GNUTYPE_SPARSE and block[482] != 0
    while more:  # further maps of a sparse file stand before its content
        block = stream.read(BLOCK)
        more = len(block) == BLOCK and block[504] != 0
    size = info.size
    given = attributes.get("size", b"")
    if given.isdigit() and len(given) < 20:
        size = int(given)
    has_content = info.isreg() or info.type not in tarfile.SUPPORTED_TYPES
    has_content |= info.type == tarfile.XGLTYPE
    return stream.position, size if has_content else 0


def _name(info: tarfile.TarInfo, attributes: dict[str, bytes]) -> str:
    given = attributes.get("path", attributes.get("GNU.sparse.name"))
    name = info.name if given is None else given.decode("utf-8", "backslashreplace")
    return _plain(name)


def _plain(name: str) -> str:
    return name.removeprefix("./").replace("\0", "")


def _attributes(stream: TarStream, info: tarfile.TarInfo) -> dict[str, bytes]:
    """Extension of the next header: a long name, or a list of key=value."""
    place = stream.position
    if info.size > MAX_HEADER_BYTES:
        raise DamagedTarError(
            f"the extended header at byte {place:,} claims {info.size:,} bytes, more than "
            f"{MAX_HEADER_BYTES:,}"
        )
    content = stream.read(info.size)
    stream.skip_to(place + -(-info.size // BLOCK) * BLOCK)
    if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
        which = "path" if info.type == tarfile.GNUTYPE_LONGNAME else "linkpath"
        return {which: content.partition(b"\0")[0]}
    found: dict[str, bytes] = {}
    start = 0
    while start < len(content) and content[start]:
        space = content.find(b" ", start, start + 8)
        length = content[start : max(space, start)]
        if not length.isdigit() or int(length) <= len(length) + 1:
            raise DamagedTarError(f"the extended header at byte {place:,} is damaged")
        key, _, value = content[space + 1 : start + int(length) - 1].partition(b"=")
        found[key.decode("utf-8", "backslashreplace")] = value
        start += int(length)
    return found
