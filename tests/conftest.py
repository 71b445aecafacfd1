import os


# The tests compile much and compute little. Eight devices, for those of the meshes.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=8",
)
