#!/usr/bin/env bash
# Checks that the CUDA kernels and their host code build for a Jetson: compiles them with nvcc for sm_87 and ARM64, and
# links them with CUDA's static runtime into a library without undefined symbols.
#
#   tests/native/checks/cross_aarch64.sh BUILD
set -euo pipefail
source="$(cd "$(dirname "$0")/../../.." && pwd)"
build="$1"
mkdir -p "$build"

# Download NVIDIA's CUDA runtime for ARM64, in the version of nvcc.
version="$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')"
runtime="nvidia-cuda-runtime"
[ "${version%%.*}" -ge 13 ] || runtime="nvidia-cuda-runtime-cu${version%%.*}"
if [ ! -d "$build/nvidia" ]; then
  python3 -m pip download --quiet --no-deps --only-binary=:all: --platform manylinux2014_aarch64 \
    --platform manylinux_2_28_aarch64 --dest "$build" "$runtime==$version.*"
  python3 -m zipfile -e "$build"/*.whl "$build"
fi
# With -ccbin, nvcc does not search its own include folder, so it must be named.
include="$(nvcc --dryrun -c "$source/csrc/cuda/nms_cuda.cu" 2>&1 | sed -n 's/^#\$ TOP=//p')/include"
cudart="$(find "$build/nvidia" -name libcudart_static.a | head -n 1)"

objects=()
for name in preprocess decode nms soft_nms fusion device; do
  nvcc -ccbin aarch64-linux-gnu-g++-12 -std=c++17 -arch=sm_87 -fmad=false -Werror all-warnings -cudart none -I"$include" \
    -Xcompiler -fPIC,-fvisibility=hidden,-ffp-contract=off -I"$source/csrc" -I"$source/csrc/include" -c "$source/csrc/cuda/${name}_cuda.cu" -o "$build/$name.o"
  objects+=("$build/$name.o")
done
# --no-undefined fails if a symbol is missing. Only libraries of the system may be needed.
aarch64-linux-gnu-g++-12 -shared -Wl,--no-undefined -o "$build/libretinasdk_cuda.so" "${objects[@]}" "$cudart" \
  -ldl -lpthread -lrt
aarch64-linux-gnu-readelf -h "$build/libretinasdk_cuda.so" | grep -q AArch64
aarch64-linux-gnu-readelf -d "$build/libretinasdk_cuda.so" | sed -n 's/.*NEEDED.*\[\(.*\)\]/needs \1/p'
echo "libretinasdk_cuda.so: ARM64, sm_87, $(stat -c %s "$build/libretinasdk_cuda.so") bytes"
