"""Codes to bytes and back: an LSB-first bit stream.

Code i occupies bits i*b .. i*b + b-1 of the stream, and bit k of the stream is bit k % 8 of byte k // 8. Bytes drawn
with bit 7 on the left, one digit per bit, naming the code that the bit belongs to:

    2 bits:  byte 0 |33 22 11 00|                                                      4 codes in 1 byte
    3 bits:  byte 0 |22 111 000|   byte 1 |5 444 333 2|   byte 2 |777 666 55|          8 codes in 3 bytes
    4 bits:  byte 0 |1111 0000|                                                        2 codes in 1 byte

At 8 bits a code is a byte; files have none so wide (see `ops.FILE_BITS`). Eight codes fill exactly b bytes at every
width, so one formula serves all. The last byte ends in zero bits.
"""

import numpy as np

BITS = (2, 3, 4, 8)
_SHIFTS = np.arange(8, dtype=np.uint64)  # times `bits`: where each of eight codes starts in its little-endian word


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` bits take."""
    return (count * bits + 7) // 8


def pack(codes: np.ndarray, bits: int) -> np.ndarray:
    """Codes, uint8 of any shape in 0 .. 2**bits - 1, in C order to a vector of packed_size(codes.size, bits) bytes.

    Raises ValueError for another width, dtype or a code out of range.
    """
    _check_bits(bits)
    if codes.dtype != np.uint8:
        raise ValueError(f"codes have dtype {codes.dtype}, wanted uint8")
    if codes.size and int(codes.max()) >= 1 << bits:
        raise ValueError(f"codes reach {int(codes.max())}, wanted at most {(1 << bits) - 1} for {bits} bits")
    groups = np.zeros((-(-codes.size // 8), 8), np.uint8)
    groups.reshape(-1)[: codes.size] = codes.reshape(-1)
    words = np.zeros(len(groups), "<u8")
    for i in range(8):
        words |= groups[:, i].astype("<u8") << np.uint64(i * bits)
    return words.view(np.uint8).reshape(-1, 8)[:, :bits].reshape(-1)[: packed_size(codes.size, bits)].copy()


def unpack(packed: np.ndarray, bits: int, count: int) -> np.ndarray:
    """The inverse: `count` codes, uint8 in 0 .. 2**bits - 1, from a uint8 vector of packed_size(count, bits) bytes.

    Raises ValueError for another width, dtype or size, and for padding bits that are not zero.
    """
    check(packed, bits, count)
    groups = np.zeros((-(-count // 8), 8), np.uint8)
    whole = len(packed) // bits
    groups[:whole, :bits] = packed[: whole * bits].reshape(-1, bits)
    rest = packed[whole * bits :]
    groups[whole:, : len(rest)] = rest
    words = groups.view("<u8")  # (groups, 1)
    codes = (words >> (_SHIFTS * np.uint64(bits))) & np.uint64((1 << bits) - 1)  # (groups, 8)
    return codes.astype(np.uint8).reshape(-1)[:count]


def check(packed: np.ndarray, bits: int, count: int) -> None:
    """Raise ValueError unless `packed` is what pack() makes of some `count` codes: dtype, size, zero padding bits."""
    _check_bits(bits)
    if packed.dtype != np.uint8 or packed.shape != (packed_size(count, bits),):
        wanted = f"uint8 ({packed_size(count, bits)},) for {count} codes of {bits} bits"
        raise ValueError(f"packed codes are {packed.dtype} {packed.shape}, wanted {wanted}")
    used = count * bits % 8
    if used and int(packed[-1]) >> used:
        raise ValueError(f"the last byte is {int(packed[-1]):#04x}, wanted zero above its lowest {used} bits")


def _check_bits(bits: int) -> None:
    if bits not in BITS:
        raise ValueError(f"bits is {bits!r}, wanted one of {BITS}")
