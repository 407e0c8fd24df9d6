"""Float super-resolution networks. None of them knows that it may be quantized."""

from quantsr.models.edsr import EDSR

MODELS = {"edsr": EDSR}
