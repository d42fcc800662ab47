"""What only a GPU can prove: the CUDA path on a real chip against the CPU.

    RETINASDK_REQUIRE_CUDA=1 pytest tests/gpu      on the GPU: fails, with the reason, where none can be used
    RETINASDK_GPU_TESTS=fake pytest tests/gpu      over stand-ins (tests/support/fakes): proves the tests, not the chip

A package, unlike its parent: its conftest.py must not stand in for that of tests/.
"""
