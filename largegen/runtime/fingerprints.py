"""Short texts that differ for different weights.

They are stored in embedding files, models and the progress of runs, so what each gives may never change.
"""

import hashlib
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

SAMPLES = 1024  # values of a tensor that are looked at, or up to twice as many


def weight_sample(weights: "Tensor") -> bytes:
    """Return values evenly taken from a tensor, as float32."""
    sample = weights.detach().flatten()[:: max(1, weights.numel() // SAMPLES)]
    content: bytes = sample.float().cpu().numpy().tobytes()
    return content


def network_checksum(network: "nn.Module") -> str:
    """Return 8 hexadecimal digits for the names and a sample of a network's weights: an encoder's fingerprint."""
    checksum = 0
    for name, value in sorted(network.state_dict().items()):
        checksum = zlib.crc32(name.encode() + weight_sample(value), checksum)
    return f"{checksum:08x}"


def network_digest(network: "nn.Module", about: object) -> str:
    """Return 16 hexadecimal digits for the sum and norm of each weight: an autoencoder's fingerprint.

    Args:
        network: The network.
        about: What else tells it apart, by its `repr`.
    """
    digest = hashlib.sha256(repr(about).encode())
    for name, value in network.state_dict().items():
        digest.update(f"{name} {value.double().sum().item():.6e} {value.double().norm().item():.6e}".encode())
    return digest.hexdigest()[:16]


def content_digest(contents: Iterable[bytes], weights: "Iterable[Tensor]") -> str:
    """Return the SHA-256, in hexadecimal, of contents and of a sample of each tensor: the fingerprint of a run."""
    digest = hashlib.sha256()
    for content in contents:
        digest.update(content)
    for tensor in weights:
        digest.update(weight_sample(tensor))
    return digest.hexdigest()
