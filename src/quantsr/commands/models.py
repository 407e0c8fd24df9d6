"""List the bundled models.

One line each: the name first, then what it is.
"""

import argparse

from quantsr import zoo


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options."""


def run(args: argparse.Namespace) -> int:
    for name in zoo.bundled():
        info = zoo.load_packed(name).info
        blocks = "/".join(str(len(kept)) for kept in info["depths"].values())
        size = (zoo.WEIGHTS / f"{name}.safetensors").stat().st_size
        bits = f"W{info['weight_bits']}A{info['act_bits']}"
        print(f"{name}  x{info['upscale']}  {bits}  {info['channels']} channels  {blocks} blocks  {size / 1e6:.2f} MB")
    return 0
