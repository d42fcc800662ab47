"""Tests that need a GPU: they compare the CUDA path on a real GPU with the CPU.

    RETINASDK_REQUIRE_CUDA=1 pytest tests/gpu          on the GPU; fails with the reason if there is none
    RETINASDK_REQUIRE_CUDA=kernels pytest tests/gpu    the same, but skips what needs TensorRT where none runs on it
    RETINASDK_GPU_TESTS=fake pytest tests/gpu          over stand-ins (tests/support/fakes), not on the GPU

Where pycuda is missing, tests/support/libcuda_driver.py takes its place. `make gpu` runs all this and more.

This folder is a package, unlike its parent, so that its conftest.py does not replace that of tests/.
"""
