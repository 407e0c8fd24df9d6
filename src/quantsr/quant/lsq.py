"""LSQ: learned step size quantization.

Paper: Esser et al., "Learned Step Size Quantization", ICLR 2020 (arXiv 1902.08153). With v = clamp(x / s, qmin, qmax):

    forward    x_hat = s * round(v)
    backward   d x_hat / d x = 1 inside [qmin, qmax], 0 outside
               d x_hat / d s = round(v) - v inside, qmin or qmax outside, times g = 1 / sqrt(numel * qmax)

That is RLQ without temperature and without shift, and so it is built. First step: 2 * mean|x| / sqrt(qmax).
Differs from the paper: first activation steps come from calibration over several batches through the float network, not
from the first batch; numel counts the batch, as in RLQ (the paper counts the features of one image).
"""

from quantsr.quant.config import QuantConfig
from quantsr.quant.rlq import RLQ


def weight(config: QuantConfig, channels: int) -> RLQ:
    """LSQ of a weight (O, I, K, K) or (O, I); channels: O."""
    steps = channels if config.weight_granularity == "per_channel" else None
    return RLQ(config.weight_bits, temperature=None, step_channels=steps, range_init=config.range_init)


def act(config: QuantConfig, channels: int) -> RLQ:
    """LSQ of an activation (N, C, ...)."""
    return RLQ(config.act_bits, temperature=None, range_init=config.range_init)
