"""Networks whose hidden states a decoder reuses: skip connections as return values.

VAEAC, appendix A.1: skip connections run from the prior network to the generative network and
are joined there by concatenation. A linear layer of two things side by side is the sum of two
linear layers, and the half that sees the encoder's states is the same for every z: `prepare`
computes it once a row, the decoder's call only the rest.
"""

from vae_arbcond.skip_networks.convolutional import (
    ConvResidualBlock,
    SkipConvDecoder,
    SkipConvEncoder,
    SkipNetwork,
)
from vae_arbcond.skip_networks.dense import (
    LayeredDecoder,
    LayeredEncoder,
    SkipMlpDecoder,
    SkipMlpEncoder,
)

__all__ = [
    "ConvResidualBlock",
    "LayeredDecoder",
    "LayeredEncoder",
    "SkipConvDecoder",
    "SkipConvEncoder",
    "SkipMlpDecoder",
    "SkipMlpEncoder",
    "SkipNetwork",
]
