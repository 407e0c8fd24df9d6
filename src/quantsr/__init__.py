"""Image super-resolution with 2 to 4 bit networks that really run.

>>> import quantsr
>>> model = quantsr.load("quantsr-c-x4-w4a4")
>>> larger = model.upscale(image, depth="half")  # uint8 RGB (H, W, 3) -> (4H, 4W, 3)
"""

from quantsr.model import Model, load

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "load"]
