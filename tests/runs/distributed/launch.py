"""Processes of a multi-host run on one machine, for tests."""

import os
import socket


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(each: int) -> dict[str, str]:
    # The flags of these tests; of two numbers of devices the last one counts.
    flags = f"--xla_force_host_platform_device_count={each}"
    return os.environ | {
        "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {flags}",
        "JAX_PLATFORMS": "cpu",
    }
