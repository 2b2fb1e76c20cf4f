"""Damage bytes, header fields and JSON, a little or a lot."""

import json
from collections.abc import Callable

import numpy as np

ODD_NUMBERS = (
    *(0, -1, 1, 2, 7, 255, -32768, 32767, 65535, 2**31 - 1, -(2**31), 2**62),
    *(0.5, 1e-30, -1e30, 1e38, np.nan, np.inf, -np.inf),
)
_ODD_TEXTS = "", "n/a", "\0", "é\u202e", "x" * 3000, "../..", "1e999", "-", "[18F]" * 50
_ODD_VALUES = (
    *(None, True, [], {}, [[]], [None], {"a": {"b": []}}, 0, -1, 1e308, float("nan")),
    *(10**400, [300, "x"], [1e400], ["FDG"], *_ODD_TEXTS),
)


def damaged(data: bytes, generator: np.random.Generator, until: int | None = None) -> bytes:
    """The bytes with one to three changes, within the first `until` where that is given."""
    changes: tuple[Callable, ...] = (_flip, _flip, _overwrite, _cut, _repeat, _remove, _extend)
    if until is not None:
        changes = (_flip, _flip, _overwrite)
    changed = bytearray(data)
    for _ in range(generator.integers(1, 4)):
        change = changes[generator.integers(len(changes))]
        if len(changed) > 1:
            changed = change(changed, min(until or len(changed), len(changed)), generator)
    return bytes(changed)


def _flip(data: bytearray, end: int, generator: np.random.Generator) -> bytearray:
    for place in generator.integers(0, end, generator.integers(1, 9)):
        data[place] = generator.integers(256)
    return data


def _overwrite(data: bytearray, end: int, generator: np.random.Generator) -> bytearray:
    """A run of one value, as a lost block leaves behind."""
    start = int(generator.integers(0, end))
    length = int(min(generator.integers(1, 64), end - start))
    data[start : start + length] = bytes([generator.choice((0, 32, 255))]) * length
    return data


def _cut(data: bytearray, end: int, generator: np.random.Generator) -> bytearray:
    return data[: generator.integers(0, end)]


def _extend(data: bytearray, _: int, generator: np.random.Generator) -> bytearray:
    return data + generator.bytes(generator.integers(1, 200))


def _repeat(data: bytearray, end: int, generator: np.random.Generator) -> bytearray:
    start, stop = sorted(generator.integers(0, end, 2))
    return data[:stop] + data[start:]


def _remove(data: bytearray, end: int, generator: np.random.Generator) -> bytearray:
    start, stop = sorted(generator.integers(0, end, 2))
    return data[:start] + data[stop:]


def set_fields(header: np.ndarray, generator: np.random.Generator) -> None:
    """Put odd numbers into one to four fields of a structured header, in place."""
    names = header.dtype.names
    for _ in range(generator.integers(1, 5)):
        name = names[generator.integers(len(names))]
        cell = header[name].reshape(-1) if header[name].ndim else header[name]
        if header.dtype[name].base.kind == "S":
            header[name] = generator.bytes(header.dtype[name].itemsize)
            continue
        kind = header.dtype[name].base
        value = ODD_NUMBERS[generator.integers(len(ODD_NUMBERS))]
        with np.errstate(all="ignore"):
            if kind.kind in "iu":
                limits = np.iinfo(kind)
                finite = 0 if not np.isfinite(value) else int(value)
                value = min(max(finite, limits.min), limits.max)
            odd = np.array(value, dtype=kind)
        if cell.ndim:
            cell[generator.integers(len(cell))] = odd
        else:
            header[name] = odd


def odd_value(generator: np.random.Generator) -> object:
    """What nobody expects in the place of a value."""
    return _ODD_VALUES[generator.integers(len(_ODD_VALUES))]


def odd_json(content: dict, generator: np.random.Generator) -> bytes:
    """A sidecar with odd values, odd bytes, or nested without end."""
    way = generator.integers(8)
    if way == 0:
        deep = int(generator.choice((100, 5000, 100_000)))
        return b'{"TracerName": ' + b"[" * deep + b"]" * deep + b"}"
    if way < 4:
        return damaged(json.dumps(content).encode(), generator)
    changed = dict(content)
    for _ in range(generator.integers(1, 4)):
        key = list(content)[generator.integers(len(content))]
        changed[key] = odd_value(generator)
    whole = changed if way < 7 else odd_value(generator)
    return json.dumps(whole).encode("utf-8", "replace")


def odd_table(text: str, generator: np.random.Generator) -> bytes:
    """A table with odd cells, another separator or encoding, or odd bytes."""
    way = generator.integers(4)
    if way == 0:
        return damaged(text.encode(), generator)
    if way == 1:
        encoding = ("utf-16", "utf-8-sig", "latin-1")[generator.integers(3)]
        return text.encode(encoding, "replace")
    lines = [line.split(",") for line in text.splitlines()]
    for _ in range(generator.integers(1, 5)):
        line = lines[generator.integers(len(lines))]
        place = generator.integers(len(line))
        line[place] = _ODD_TEXTS[generator.integers(len(_ODD_TEXTS))]
        if generator.random() < 0.2:
            line *= int(generator.integers(0, 4))
        if not line:
            line.append('"')
    separator = (",", ";", "\t", "\r\n")[generator.integers(4)]
    return "\n".join(separator.join(line) for line in lines).encode("utf-8", "replace")
