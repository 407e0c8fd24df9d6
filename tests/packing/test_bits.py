import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quantsr.packing.bits import BITS, pack, packed_size, unpack

WIDTHS = pytest.mark.parametrize("bits", BITS)


def codes_of(bits: int) -> st.SearchStrategy[np.ndarray]:
    return arrays(np.uint8, st.integers(0, 70), elements=st.integers(0, 2**bits - 1))


@WIDTHS
@given(data=st.data())
def test_unpack_inverts_pack(bits, data):
    codes = data.draw(codes_of(bits))
    packed = pack(codes, bits)
    assert packed.dtype == np.uint8
    assert packed.shape == (packed_size(codes.size, bits),)
    np.testing.assert_array_equal(unpack(packed, bits, codes.size), codes)


@WIDTHS
@given(data=st.data())
def test_stream_is_the_sum_of_shifted_codes(bits, data):
    """The definition, once more, as one large integer."""
    codes = data.draw(codes_of(bits))
    stream = sum(int(code) << (i * bits) for i, code in enumerate(codes))
    assert pack(codes, bits).tobytes() == stream.to_bytes(packed_size(codes.size, bits), "little")


def test_drawing():
    assert pack(np.array([3, 0, 1, 2], np.uint8), 2).tolist() == [0b10_01_00_11]
    eight = np.array([7, 0, 5, 2, 1, 6, 3, 4], np.uint8)
    assert pack(eight, 3).tolist() == [0b01_000_111, 0b0_001_010_1, 0b100_011_11]
    assert pack(np.array([15, 8, 1], np.uint8), 4).tolist() == [0b1000_1111, 0b0000_0001]


@WIDTHS
def test_shape_is_read_in_c_order(bits):
    codes = (np.arange(24) % 2**bits).astype(np.uint8).reshape(2, 3, 4)
    assert pack(codes.transpose(2, 0, 1), bits).tolist() == pack(codes.transpose(2, 0, 1).ravel(), bits).tolist()


@WIDTHS
@pytest.mark.parametrize("count", [1, 3, 5, 7])
def test_padding_bits_must_be_zero(bits, count):
    packed = pack(np.zeros(count, np.uint8), bits)
    for bit in range(count * bits, 8 * packed.size):
        changed = packed.copy()
        changed[bit // 8] |= 1 << bit % 8
        with pytest.raises(ValueError, match="wanted zero above"):
            unpack(changed, bits, count)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pack(np.array([4], np.uint8), 2), "reach 4, wanted at most 3"),
        (lambda: pack(np.array([1], np.int64), 2), "int64, wanted uint8"),
        (lambda: pack(np.array([1], np.uint8), 5), "wanted one of"),
        (lambda: unpack(np.zeros(2, np.uint8), 4, 5), r"\(2,\), wanted uint8 \(3,\)"),
        (lambda: unpack(np.zeros((3, 1), np.uint8), 4, 5), "wanted uint8"),
        (lambda: unpack(np.zeros(3, np.int8), 4, 5), "wanted uint8"),
        (lambda: unpack(np.zeros(3, np.uint8), 7, 3), "wanted one of"),
    ],
)
def test_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()
