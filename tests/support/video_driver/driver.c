// A video driver without a GPU: the functions of libcuda, libnvcuvid and libnvidia-encode that the package
// pynvvideocodec calls. Device memory is host memory, copies are made at once, and "decoding" a packet gives a picture
// that tells the number of the packet. So the package's own code can be run: how it lays out, locks and reuses frames.
//
// Beliefs: a parser calls back once for the sequence and then once for each packet, shows a picture one packet later,
// and shows the last one when the stream ends. Structures are those of NVIDIA's headers (Debian: libffmpeg-nvenc-dev).
#include <ffnvcodec/dynlink_cuda.h>
#include <ffnvcodec/dynlink_cuviddec.h>
#include <ffnvcodec/dynlink_nvcuvid.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long Address;

static int number_in(const char* variable) { return atoi(getenv(variable)); }

// -- libcuda ---------------------------------------------------------------------------------------------------------

static int allocated;  // Blocks of device memory.
int driver_allocated(void) { return allocated; }

int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int ordinal) { return *device = 0; }
int cuCtxCreate_v2(void** context, unsigned flags, int device) { return *context = (void*)16, 0; }
int cuCtxDestroy_v2(void* context) { return 0; }
int cuCtxPushCurrent_v2(void* context) { return 0; }
int cuCtxPopCurrent_v2(void** context) { return 0; }
int cuCtxGetDevice(int* device) { return *device = 0; }
int cuDevicePrimaryCtxRetain(void** context, int device) { return *context = (void*)16, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuStreamCreate(void** stream, unsigned flags) { return *stream = (void*)32, 0; }
int cuStreamDestroy_v2(void* stream) { return 0; }
int cuStreamGetCtx(void* stream, void** context) { return *context = (void*)16, 0; }
int cuStreamSynchronize(void* stream) { return 0; }
int cuStreamWaitEvent(void* stream, void* event, unsigned flags) { return event == NULL; }
int cuEventCreate(void** event, unsigned flags) { return *event = malloc(1), 0; }
int cuEventDestroy_v2(void* event) { return free(event), 0; }
int cuEventRecord(void* event, void* stream) { return 0; }
int cuEventSynchronize(void* event) { return 0; }
int cuGetErrorName(int error, const char** name) { return *name = "error", 0; }
int cuGetErrorString(int error, const char** text) { return *text = "error", 0; }
int cuPointerGetAttribute(unsigned* data, int attribute, Address pointer) { return *data = CU_MEMORYTYPE_DEVICE, 0; }
int cuMemAlloc_v2(Address* pointer, size_t size) { return *pointer = (Address)calloc(1, size), ++allocated, 0; }
int cuMemAllocAsync(Address* pointer, size_t size, void* stream) { return cuMemAlloc_v2(pointer, size); }
int cuMemAllocPitch_v2(Address* pointer, size_t* pitch, size_t width, size_t height, unsigned element) {
  *pitch = (width + 511) / 512 * 512;
  return cuMemAlloc_v2(pointer, *pitch * height);
}
int cuMemFree_v2(Address pointer) { return free((void*)pointer), --allocated, 0; }
int cuMemFreeAsync(Address pointer, void* stream) { return cuMemFree_v2(pointer); }
int cuMemcpyDtoH_v2(void* target, Address source, size_t size) { return memcpy(target, (void*)source, size), 0; }
int cuMemcpyHtoD_v2(Address target, const void* source, size_t size) { return memcpy((void*)target, source, size), 0; }
int cuMemcpyDtoHAsync_v2(void* target, Address source, size_t size, void* stream) {
  return cuMemcpyDtoH_v2(target, source, size);
}
int cuMemcpy2D_v2(const CUDA_MEMCPY2D* copy) {
  const char* source = copy->srcMemoryType == CU_MEMORYTYPE_HOST ? copy->srcHost : (char*)copy->srcDevice;
  char* target = copy->dstMemoryType == CU_MEMORYTYPE_HOST ? copy->dstHost : (char*)copy->dstDevice;
  for (size_t y = 0; y < copy->Height; ++y)
    memcpy(target + y * copy->dstPitch, source + y * copy->srcPitch, copy->WidthInBytes);
  return 0;
}
int cuMemcpy2DAsync_v2(const CUDA_MEMCPY2D* copy, void* stream) { return cuMemcpy2D_v2(copy); }

// -- libnvidia-encode ------------------------------------------------------------------------------------------------

int NvEncodeAPIGetMaxSupportedVersion(uint32_t* version) { return *version = 13 << 4, 0; }

// -- libnvcuvid ------------------------------------------------------------------------------------------------------

enum { kSurfaces = 4 };

static CUVIDPARSERPARAMS callbacks;
static int packets, pending, surface_width, surface_height, pitch;
static int number_of[kSurfaces];
static long long time_of[kSurfaces];
static uint8_t* surface;

int cuvidCreateVideoParser(void** parser, CUVIDPARSERPARAMS* parameters) {
  callbacks = *parameters;
  packets = 0;
  pending = -1;
  return *parser = (void*)48, 0;
}

static void begin(void) {
  CUVIDEOFORMAT format;
  memset(&format, 0, sizeof format);
  format.codec = callbacks.CodecType;
  format.frame_rate.numerator = 25;
  format.frame_rate.denominator = format.progressive_sequence = format.bitrate = 1;
  format.bit_depth_luma_minus8 = format.bit_depth_chroma_minus8 = number_in("VIDEO_BITS") - 8;
  format.chroma_format = cudaVideoChromaFormat_420;
  format.min_num_decode_surfaces = kSurfaces;
  format.display_area.right = number_in("VIDEO_WIDTH");
  format.display_area.bottom = number_in("VIDEO_HEIGHT");
  format.coded_width = (number_in("VIDEO_WIDTH") + 15) / 16 * 16;
  format.coded_height = (number_in("VIDEO_HEIGHT") + 15) / 16 * 16;
  callbacks.pfnSequenceCallback(callbacks.pUserData, &format);
}

static void show(int index) {
  if (index < 0) return;
  CUVIDPARSERDISPINFO shown;
  memset(&shown, 0, sizeof shown);
  shown.picture_index = index;
  shown.progressive_frame = 1;
  shown.timestamp = time_of[index];
  callbacks.pfnDisplayPicture(callbacks.pUserData, &shown);
}

int cuvidParseVideoData(void* parser, CUVIDSOURCEDATAPACKET* packet) {
  if (packet->payload_size > 0) {
    if (packets == 0) begin();
    CUVIDPICPARAMS picture;
    memset(&picture, 0, sizeof picture);
    const int index = picture.CurrPicIdx = packets % kSurfaces;
    number_of[index] = packets++;
    time_of[index] = packet->timestamp;
    callbacks.pfnDecodePicture(callbacks.pUserData, &picture);
    show(pending);
    pending = index;
  }
  if (packet->flags & CUVID_PKT_ENDOFSTREAM) {
    show(pending);
    pending = -1;
  }
  return 0;
}

int cuvidGetDecoderCaps(CUVIDDECODECAPS* caps) {
  caps->bIsSupported = caps->nNumNVDECs = 1;
  caps->nMaxWidth = caps->nMaxHeight = 8192;
  caps->nMaxMBCount = 1 << 20;
  caps->nMinWidth = caps->nMinHeight = 16;
  return caps->nOutputFormatMask = 255, 0;
}

int cuvidCreateDecoder(void** decoder, CUVIDDECODECREATEINFO* info) {
  surface_width = (int)info->ulTargetWidth;
  surface_height = (int)info->ulTargetHeight;
  pitch = (surface_width * 2 + 511) / 512 * 512;
  surface = realloc(surface, (size_t)pitch * surface_height * 2);
  return *decoder = (void*)64, 0;
}

// Rows of a plane: value (first + right * x + down * y) of 8 bits, in the upper byte where samples have two.
static void fill(uint8_t* plane, int rows, int first, int right, int down) {
  const int is_wide = number_in("VIDEO_BITS") > 8;
  for (int y = 0; y < rows; ++y) {
    for (int x = 0; x < surface_width; ++x) {
      const uint8_t value = (uint8_t)(first + right * x + down * y);
      plane[y * pitch + (is_wide ? 2 * x + 1 : x)] = value;
      if (is_wide) plane[y * pitch + 2 * x] = 0;
    }
  }
}

int cuvidMapVideoFrame64(void* decoder, int index, Address* frame, unsigned* row_bytes, CUVIDPROCPARAMS* parameters) {
  memset(surface, 0xEE, (size_t)pitch * surface_height * 2);
  fill(surface, surface_height, 7 * number_of[index], 1, 3);
  fill(surface + pitch * ((surface_height + 1) / 2 * 2), surface_height / 2, 11 * number_of[index], 5, 1);
  *frame = (Address)surface;
  return *row_bytes = (unsigned)pitch, 0;
}

int cuvidDestroyDecoder(void* decoder) { return 0; }
int cuvidDestroyVideoParser(void* parser) { return 0; }
int cuvidDecodePicture(void* decoder, CUVIDPICPARAMS* picture) { return 0; }
int cuvidGetDecodeStatus(void* decoder, int index, CUVIDGETDECODESTATUS* status) {
  return status->decodeStatus = cuvidDecodeStatus_Success, 0;
}
int cuvidUnmapVideoFrame64(void* decoder, Address frame) { return 0; }
int cuvidReconfigureDecoder(void* decoder, void* parameters) { return 0; }

// Looked up by the package, but not called.
#define UNUSED(name) \
  int name(void) { return 1; }
UNUSED(cuvidCreateVideoSource)
UNUSED(cuvidCreateVideoSourceW)
UNUSED(cuvidCtxLock)
UNUSED(cuvidCtxLockCreate)
UNUSED(cuvidCtxLockDestroy)
UNUSED(cuvidCtxUnlock)
UNUSED(cuvidDestroyVideoSource)
UNUSED(cuvidGetSourceAudioFormat)
UNUSED(cuvidGetSourceVideoFormat)
UNUSED(cuvidGetVideoSourceState)
UNUSED(cuvidSetVideoSourceState)
