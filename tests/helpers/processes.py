"""Two processes that belong together, as torchrun would start them."""

import os
import socket
import subprocess
import sys


def start_two(program: str, **pipes) -> list[subprocess.Popen]:
    """Start the same Python program twice, as the two processes of a group on the CPU, with text in its pipes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    environment |= {"LOCAL_WORLD_SIZE": "2", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return [
        subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            text=True,
            **pipes,
        )
        for rank in range(2)
    ]
