from pathlib import Path

import numpy as np
import pytest

from quantsr import config as configs
from quantsr import images
from quantsr.data.augment import CHANGES
from quantsr.data.patches import PatchSampler, Photo


def outcomes(name: str, patch: np.ndarray, count: int = 200) -> dict[bytes, np.ndarray]:
    """All that a change makes of a patch in many draws, each once."""
    changed = (CHANGES[name](np.random.default_rng(seed))(patch) for seed in range(count))
    return {made.tobytes(): made for made in changed}


@pytest.fixture
def patch() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)


def test_turns_are_the_eight_of_a_square(patch: np.ndarray) -> None:
    made = outcomes("turns", patch)
    wanted = [np.rot90(side, turn) for side in (patch, patch[:, ::-1]) for turn in range(4)]
    assert set(made) == {side.tobytes() for side in wanted} and len(made) == 8


def test_channels_come_in_all_six_orders(patch: np.ndarray) -> None:
    made = outcomes("channels", patch).values()
    assert len(made) == 6
    assert all(np.array_equal(np.sort(other, axis=2), np.sort(patch, axis=2)) for other in made)


@pytest.mark.parametrize("upscale", [2, 3, 4])
@pytest.mark.parametrize("name", CHANGES)
def test_a_changed_pair_is_still_a_pair(patch: np.ndarray, name: str, upscale: int) -> None:
    lr = images.downscale(patch, upscale).astype(int)
    for seed in range(40):
        made, hr = (CHANGES[name](np.random.default_rng(seed))(side) for side in (lr.astype(np.uint8), patch))
        # rows are shrunk and rounded before columns: a level, where they change places
        assert np.abs(made.astype(int) - images.downscale(hr, upscale)).max() <= 1


def test_the_sampler_changes_lr_and_hr_alike(tmp_path: Path, patch: np.ndarray) -> None:
    hr = patch.repeat(8, 0).repeat(8, 1)  # of squares, so that LR shows the same colours
    photo = Photo("squares", 0, 1.0, tmp_path / "hr.npy", tmp_path / "lr.npy")
    np.save(photo.hr_file, hr)
    np.save(photo.lr_file, patch.repeat(4, 0).repeat(4, 1))
    sampler = PatchSampler([photo], upscale=2, patch=16, batch=32, seed=0, augment=["turns", "channels"])
    lr, large = sampler(0)
    assert np.array_equal(lr.repeat_interleave(2, 2).repeat_interleave(2, 3), large)
    assert len({tuple(colour) for colour in (lr * 255).round().permute(0, 2, 3, 1).reshape(-1, 3).tolist()}) > 144


@pytest.mark.parametrize("augment", [["flips"], ["turns", "turns"]])
def test_unknown_or_repeated_augmentations_are_refused(augment: list[str]) -> None:
    with pytest.raises(configs.ConfigError, match=r"data\.augment: got .*, wanted some of turns, phases, channels"):
        configs.from_dict({"data": {"augment": augment}})


def test_every_change_can_be_asked_for() -> None:
    assert {*CHANGES, "phases"} == set(configs.AUGMENTATIONS)
