"""Damage to packed models that the exhaustive tests on tiny ones (tests/packing/test_file.py) are too slow for."""

import hashlib
import random

import numpy as np
import pytest
from packing.tiny import random_image, tiny_model

from quantsr import zoo
from quantsr.engine import Engine
from quantsr.packing.file import ChecksumError, NotAModelError, TruncatedError, dumps, loads
from quantsr.packing.program import PackedModel, PackedModelError


@pytest.mark.parametrize("count", [20, pytest.param(2000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", zoo.bundled())
def test_damage_to_a_shipped_model_is_noticed(name: str, count: int) -> None:
    chance = random.Random(f"{name}{count}")
    data = zoo.find(name).read_bytes()
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(count):
        at = chance.randrange(header if chance.random() < 0.5 else len(data))
        with pytest.raises(PackedModelError):
            loads(data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :])
        with pytest.raises((TruncatedError, ChecksumError, NotAModelError)):
            loads(data[:at])


def resealed(data: bytearray) -> bytes:
    """With the checksum of the bytes as they now are."""
    at = data.index(b'"sha256":"') + 10
    data[at : at + 64] = b"0" * 64
    data[at : at + 64] = hashlib.sha256(data).hexdigest().encode()
    return bytes(data)


def mutated(data: bytes, chance: random.Random) -> bytes:
    """One to three changes behind the checksum: bytes, digits, parts cut, doubled, exchanged; the length put right."""
    changed = bytearray(data)
    first = data.index(b'"sha256":"') + 80
    header = 8 + int.from_bytes(data[:8], "little")
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(first, header) if chance.random() < 0.7 else chance.randrange(first, len(changed))
        length = chance.choice([1, 2, 8, 40])
        how = chance.randrange(6)
        if how == 0:
            changed[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            changed[at] = chance.choice(b'0123456789-.e"[]{},:\\\\ \\xff\\x00')
        elif how == 2:
            digits = [i for i in range(first, min(header, len(changed))) if chr(changed[i]).isdigit()]
            if digits:
                changed[chance.choice(digits)] = chance.choice(b"0123456789")
        elif how == 3:
            del changed[at : at + length]
        elif how == 4:
            changed[at:at] = changed[at : at + length]
        else:
            other = chance.randrange(first, len(changed))
            changed[at : at + length] = changed[other : other + length]
    if chance.random() < 0.8:  # the header keeps its end
        changed[:8] = (header - 8 + len(changed) - len(data)).to_bytes(8, "little", signed=False)
    return resealed(changed)


@pytest.mark.parametrize("count", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_resealed_mutations_raise_nothing_else(count: int) -> None:
    """A named error, or a model that the engine too takes, and runs, or refuses by a ValueError."""
    chance = random.Random(count)
    whole = dumps(tiny_model(channels=2, blocks=1, upsampler="direct", depths={"full": [0]}))
    image = random_image(4, 5)
    accepted = 0
    for _ in range(count):
        data = mutated(whole, chance)
        try:
            model = loads(data)
        except PackedModelError as error:
            assert type(error) is not PackedModelError and len(str(error)) < 5000
            continue
        accepted += 1
        run(model, image)
    assert accepted > count // 100


def run(model: PackedModel, image: np.ndarray) -> None:
    engine = Engine(model, threads=1)
    assert engine(image).shape == (4 * engine.upscale, 5 * engine.upscale, 3)
