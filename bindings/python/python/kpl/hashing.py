"""Hash keys: the 128-bit numbers that choose a record's shard."""

from __future__ import annotations

from kpl._kpl import md5_hash_key

__all__ = ["md5_hash_key", "parse_explicit_hash_key"]

_UINT128_MAX = (1 << 128) - 1


def parse_explicit_hash_key(s: str) -> int:
    """Return an explicit hash key as a number. Only the digits 0 to 9 are allowed."""
    if not s or not s.isascii() or not s.isdigit():
        raise ValueError(f"explicit hash key is {s!r}, but must be a decimal number: not a canonical decimal uint128")
    value = int(s)
    if value > _UINT128_MAX:
        raise ValueError(f"explicit hash key is {s}, but must be at most {_UINT128_MAX}: out of uint128 range")
    return value
