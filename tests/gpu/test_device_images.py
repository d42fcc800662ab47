"""Tests images in GPU memory: they are read in place, after pending writes, and never copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gpu_device import IMAGE_SIZES, DeviceArray, Gpu, counted
from pictures import Image, blocks

from retinasdk import Detector, DeviceFrame, _native
from retinasdk.cuda.device import CudaStream


def assert_detects_without_upload(gpu: Gpu, on_gpu: Detector, given: Any, image: Image) -> None:
    """The result is that of the image on the host, and only the parameters are copied to the GPU."""
    wanted = on_gpu(image)
    with counted(gpu.driver, "memcpy_htod_async") as uploads:
        for _ in range(3):  # launched plainly, recorded, replayed
            assert on_gpu(given) == wanted
    assert len(wanted) > 0
    assert all(source.nbytes < 2000 for _, source, _ in uploads)  # thresholds, sizes, regions to ignore


@pytest.mark.parametrize("size", IMAGE_SIZES)
def test_arrays(engine_gpu: Gpu, on_gpu: Detector, size: tuple[int, int]) -> None:
    image = blocks(*size, seed=5)
    assert_detects_without_upload(engine_gpu, on_gpu, DeviceArray(engine_gpu, image), image)


def test_a_host_image_is_uploaded(engine_gpu: Gpu, on_gpu: Detector) -> None:
    """Checks that the counter of the test above counts copies."""
    if engine_gpu.device.integrated:
        pytest.skip("here the GPU reads the CPU's memory")
    on_gpu(blocks())
    with counted(engine_gpu.driver, "memcpy_htod_async") as uploads:
        on_gpu(blocks())
    assert any(source.nbytes == blocks().nbytes for _, source, _ in uploads)


def test_crops(engine_gpu: Gpu, on_gpu: Detector) -> None:
    """The distance between rows may be larger than a row."""
    image = blocks(200, 200, seed=2)
    crop = image[50:140, 30:150]
    array = DeviceArray(engine_gpu, image)
    described = array.__cuda_array_interface__
    offset = 50 * image.strides[0] + 30 * 3
    described.update(shape=crop.shape, strides=crop.strides, data=(described["data"][0] + offset, False))
    array.shape = crop.shape
    assert_detects_without_upload(engine_gpu, on_gpu, array, crop)


def test_images_that_are_still_being_written(engine_gpu: Gpu, on_gpu: Detector, stream: CudaStream) -> None:
    """The frame waits for the array's stream, which copies 96 MB before it writes the image."""
    wanted = [on_gpu(blocks(seed=seed)) for seed in range(5)]
    before = [DeviceArray(engine_gpu, blocks(2000, 2000), stream) for _ in range(8)]
    image = DeviceArray(engine_gpu, blocks(seed=9), stream)
    for seed, detections in enumerate(wanted):
        stream.wait()
        for array in before:
            array.write(blocks(2000, 2000))
        image.write(blocks(seed=seed))
        assert on_gpu(image) == detections
    stream.wait()


def test_lists_of_both_kinds(engine_gpu: Gpu, on_gpu: Detector) -> None:
    images = [blocks(seed=seed) for seed in range(4)]
    on_device = DeviceArray(engine_gpu, images[1])
    wanted = on_gpu(images)
    assert on_gpu([images[0], on_device, *images[2:]]) == wanted
    assert on_gpu([on_device] * 3) == [wanted[1]] * 3


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16], ids=["NV12", "P010"])
@pytest.mark.parametrize(("matrix", "full_range"), [("bt709", False), ("bt601", True)])
def test_camera_frames(
    engine_gpu: Gpu, on_gpu: Detector, stream: CudaStream, dtype: type, matrix: Any, full_range: bool
) -> None:
    """Frames that are still being written are detected in place, with the boxes of their RGB pixels."""
    luma = blocks(90, 120, seed=5)[..., 0].astype(dtype)
    chroma = blocks(45, 120, seed=6)[..., 0].astype(dtype)
    if dtype is np.uint16:
        luma, chroma = luma << 8, chroma << 8
    wanted = _native.yuv_to_rgb(luma, chroma.reshape(45, 60, 2), matrix=matrix, full_range=full_range)
    planes = [DeviceArray(engine_gpu, plane, stream) for plane in (luma, chroma)]
    frame = DeviceFrame.from_arrays(*planes, matrix=matrix, full_range=full_range)
    assert_detects_without_upload(engine_gpu, on_gpu, frame, wanted)
    assert np.array_equal(frame.to_rgb(), wanted)


def test_pycuda_arrays(chip: Gpu, on_gpu: Detector) -> None:
    """GPUArray is pycuda's own class. The stand-in for pycuda does not have it."""
    from pycuda import gpuarray

    image = blocks(seed=7)
    array = gpuarray.to_gpu(image)
    chip.driver.Context.synchronize()  # copies of pageable memory may return before their end
    assert_detects_without_upload(chip, on_gpu, array, image)
