"""Damage to documents and files: by structure, by text and by byte, all of it drawn from one seed."""

import gzip
import json
import random
from collections.abc import Callable
from typing import Any

DEEP = 3000
"""Levels of a document that is nested too deep for a parser that recurses."""


def odd_value(draw: random.Random) -> Any:
    """A value that was not expected."""
    return draw.choice(
        [
            None,
            True,
            False,
            0,
            -1,
            1,
            2**63,
            -(2**64),
            10**400,
            0.1,
            -0.0,
            1e308,
            float("inf"),
            float("nan"),
            "",
            " ",
            "\n",
            "\x00",
            "\ud800",
            "é",
            "\u202e",
            "\ufeff",
            "x" * 5000,
            "null",
            "~",
            "../../etc/passwd",
            "/",
            "a/b",
            "-1",
            "1e999",
            "{}",
            "[[",
            "<think>",
            "<|im_end|>",
            "$HOME",
            "%s{0}{x}",
            [],
            {},
            [[]],
            [None],
            {"": None},
            {"a": {"b": [1]}},
            ["x", 1, None],
            [{}] * 3,
            {"prompt": {"prompt": "x"}},
            "2026-01-01",
            "=1+1",
            "safe",
            "unsafe",
        ]
    )


def document(value: Any, draw: random.Random) -> Any:
    """A document of JSON with one to three of its parts removed, renamed, doubled or replaced."""
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        value = _changed(value, draw)
    return value


def _changed(value: Any, draw: random.Random) -> Any:
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        act = draw.randrange(5)
        rest = dict(value)
        if act == 0:
            del rest[key]
        elif act == 1:
            rest[draw.choice((str(key) + "x", str(key).upper(), "", "id"))] = rest.pop(key)
        elif act == 2:
            rest[draw.choice(("new", "é", " ", "\x00", "__class__"))] = odd_value(draw)
        elif act == 3:
            rest[key] = odd_value(draw)
        else:
            rest[key] = _changed(rest[key], draw)
        return rest
    if isinstance(value, list) and value and draw.random() < 0.9:
        place, act = draw.randrange(len(value)), draw.randrange(4)
        if act == 0:
            return value[:place] + value[place + 1 :]
        if act == 1:
            return [*value, value[place]]
        return [*value[:place], odd_value(draw) if act == 2 else _changed(value[place], draw), *value[place + 1 :]]
    return odd_value(draw)


def content(raw: bytes, draw: random.Random) -> bytes:
    """A file's bytes, cut, doubled, overwritten, or in another encoding."""
    act = draw.randrange(12)
    place = draw.randrange(len(raw) + 1)
    if act == 0:
        return raw[:place]
    if act == 1:
        return raw[:place] + bytes(draw.randrange(256) for _ in range(draw.randrange(1, 9))) + raw[place:]
    if act == 2:
        changed = bytearray(raw)
        for _ in range(draw.randrange(1, 6)):
            if changed:
                changed[draw.randrange(len(changed))] = draw.randrange(256)
        return bytes(changed)
    if act == 3:
        return b"\xef\xbb\xbf" + raw
    if act == 4:
        return raw.decode("utf-8", "replace").encode(draw.choice(("utf-16", "utf-32", "latin-1")), "replace")
    if act == 5:
        return raw.replace(b"\n", draw.choice((b"\r\n", b"\r", b"\n\n", b"", b"\x00")))
    if act == 6:
        return raw[:place] + raw[place:][: draw.randrange(1, 200)] * draw.randrange(2, 5) + raw[place:]
    if act == 7:
        return raw[:place] + b"\x00" * draw.choice((1, 16, 4096)) + raw[place + 16 :]
    if act == 8:
        return b"[" * DEEP if draw.random() < 0.5 else raw[:place] + b"9" * 5000 + raw[place:]
    if act == 9:
        return draw.choice(
            (b"", b"\n", b"\x00", b"null", b"[]", b"{}", b"\xff\xfe", b"---\n...", b"!!python/none x", b"-")
        )
    if act == 10:
        packed = gzip.compress(raw)
        return packed[: draw.randrange(len(packed))] if draw.random() < 0.5 else packed
    lines = raw.split(b"\n")
    draw.shuffle(lines)
    return b"\n".join(lines)


def rows(values: list[Any], draw: random.Random) -> bytes:
    """Rows as JSONL, one or more of which are damaged."""
    out = list(values)
    for _ in range(draw.choice((1, 1, 2))):
        place = draw.randrange(len(out))
        out[place] = document(out[place], draw)
    lines = [_dumped(row) for row in out]
    act = draw.randrange(8)
    if act == 0:
        lines[-1] = lines[-1][: draw.randrange(len(lines[-1]) + 1)]
    elif act == 1:
        lines.insert(draw.randrange(len(lines)), '{"a":' * DEEP)
    elif act == 2:
        return _dumped(out).encode("utf-8", "surrogatepass")
    text = "\n".join(lines).encode("utf-8", "surrogatepass") + (b"\n" if act != 3 else b"")
    return content(text, draw) if act == 4 else text


def _dumped(value: Any) -> str:
    """JSON, of integers too long for Python's own limit as well."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**300:
        return "1" + "0" * 5000
    return json.dumps(value, ensure_ascii=False)


def as_json(value: Any, draw: random.Random) -> bytes:
    """A damaged document as JSON; every fifth is damaged as a file as well."""
    text = _dumped(document(value, draw)).encode("utf-8", "surrogatepass")
    return content(text, draw) if draw.random() < 0.2 else text


def as_yaml(text: str, draw: random.Random) -> bytes:
    """YAML with lines removed, doubled, moved in or out, or with values replaced."""
    lines = text.splitlines()
    for _ in range(draw.choice((1, 1, 2, 3))):
        place = draw.randrange(len(lines))
        line = lines[place]
        key, colon, _ = line.partition(":")
        acts: list[Callable[[], Any]] = [
            lambda place=place: lines.pop(place),
            lambda place=place, line=line: lines.insert(place, line),
            lambda place=place, line=line: lines.__setitem__(place, "  " + line),
            lambda place=place, line=line: lines.__setitem__(place, line.lstrip()),
            lambda place=place, key=key, colon=colon: lines.__setitem__(place, f"{key}{colon} {_yaml_value(draw)}"),
            lambda place=place, key=key, colon=colon: lines.__setitem__(place, f"{key}{colon} {_yaml_value(draw)}"),
            lambda place=place, line=line, key=key: lines.__setitem__(
                place, line.replace(key.strip(), f"{key.strip()}x", 1)
            ),
        ]
        draw.choice(acts)()
        if not lines:
            return b""
    raw = "\n".join(lines).encode("utf-8", "surrogatepass")
    return content(raw, draw) if draw.random() < 0.25 else raw


def _yaml_value(draw: random.Random) -> str:
    if draw.random() < 0.4:
        return draw.choice(
            (
                "&a [*a]",
                "*nobody",
                "!!python/object:os.system x",
                "!!binary AAAA",
                "{<<: {a: 1}}",
                "[1, 2",
                "{a: b",
                "'open",
                "|",
                ">",
                "0x1F",
                "1_000",
                ".nan",
                ".inf",
                "2026-01-01",
                "yes",
                "~",
                "? x",
                "- - -",
                "@x",
                "%x",
                "`x`",
                "\t",
                "[" * 400,
                "9" * 5000,
                "!!int '9'",
                "!!float x",
                "!<tag> x",
            )
        )
    return _dumped(odd_value(draw))
