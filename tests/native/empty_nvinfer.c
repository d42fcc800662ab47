/* The two functions of libnvinfer that libretinasdk looks for, for tests/native/tensorrt_library.cpp. */
#include <stdint.h>

#ifndef FOREIGN
int32_t getInferLibVersion(void) { return 101303; }
#endif
void* createInferRuntime_INTERNAL(void* logger, int32_t version) {
  (void)version;
  (void)logger;
  return 0;
}
