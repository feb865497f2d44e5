"""Read UTF-8 text files, plain or compressed, in bounded pieces. Errors name the file and the line."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import zstandard

from span_electra.common.errors import InputError

READ_SIZE = 1 << 20  # bytes
COMPRESSED_READ_SIZE = 1 << 14  # bytes, which may hold thousands of times as much text
LONGEST_LINE = 10 << 20  # bytes


def _raw_chunks(path: Path) -> Iterator[bytes]:
    """Yield the file's bytes, decompressed."""
    try:
        if path.suffix.lower() == ".zst":
            yield from _zstd_chunks(path)
            return
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as stream:
            while data := stream.read(READ_SIZE):
                yield data
    except (zstandard.ZstdError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{path}: not a whole {path.suffix} file ({error}). Fetch or compress it again.") from error


def _zstd_chunks(path: Path) -> Iterator[bytes]:
    # zstandard's own stream reader accepts a truncated file. `zstd --long=31` writes windows of 2 ** 31 bytes, and the
    # library refuses more than 2 ** 27 by default.
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << 31)
    frame = None
    with path.open("rb") as stream:
        while data := stream.read(COMPRESSED_READ_SIZE):
            while data:
                frame = frame or decompressor.decompressobj()
                if text := frame.decompress(data):
                    yield text
                data = frame.unused_data if frame.eof else b""
                frame = None if frame.eof else frame
    if frame:
        raise EOFError("the end is missing")


def read_text(path: Path) -> Iterator[tuple[int, str]]:
    """Yield whole lines of a UTF-8 file, about `READ_SIZE` bytes at a time, after the number of the first line."""
    line_number, pending = 1, b""
    for data in _raw_chunks(path):
        if line_number == 1 and not pending:
            data = data.removeprefix(b"\xef\xbb\xbf")
        if (position := data.find(b"\0")) >= 0:
            line = line_number + data.count(b"\n", 0, position)
            raise InputError(
                f"{path}, line {line}: a NUL byte, so this is binary or UTF-16. Convert the file to UTF-8."
            )
        first_end = data.find(b"\n")
        if len(pending) + (len(data) if first_end < 0 else first_end) > LONGEST_LINE:
            raise InputError(
                f"{path}, line {line_number}: longer than {LONGEST_LINE >> 20} MiB. Break the text into lines, such "
                "as a paragraph or a sentence each."
            )
        lines, newline, rest = data.rpartition(b"\n")
        if not newline:
            pending += data
            continue
        whole = pending + lines
        yield line_number, _decode(path, line_number, whole)
        line_number += whole.count(b"\n") + 1
        pending = rest
    if pending:
        yield line_number, _decode(path, line_number, pending)


def _decode(path: Path, line_number: int, data: bytes) -> str:
    try:
        return data.decode("utf-8").replace("\r\n", "\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        line = line_number + data.count(b"\n", 0, error.start)
        column = error.start - data.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{path}, line {line}, byte {column}: 0x{data[error.start]:02x} is not UTF-8. Convert the "
            "file, for example with `iconv -f latin1 -t utf-8`."
        ) from error


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    for first, text in read_text(path):
        yield from enumerate(text.split("\n"), first)
