// The name under which TensorRT's headers include the CUDA runtime.
#pragma once

#include "cuda_runtime.h"
