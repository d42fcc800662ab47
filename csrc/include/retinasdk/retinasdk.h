/* libretinasdk: RetinaNet detectors in C. detector.hpp is the same for C++.
 *
 *   rsdk_options options;
 *   rsdk_options_init(&options, sizeof options);
 *   rsdk_detector* detector = NULL;
 *   if (rsdk_detector_open("model.onnx", &options, &detector) != RSDK_OK) puts(rsdk_last_error());
 *   rsdk_image image = {sizeof image, RSDK_RGB8, 640, 480, {pixels}, {640 * 3}};
 *   rsdk_results* results = NULL;
 *   if (rsdk_detect(detector, &image, 1, NULL, &results) == RSDK_OK) {
 *     rsdk_detections found = {sizeof found};
 *     rsdk_results_get(results, 0, &found);
 *     for (size_t i = 0; i < found.count; ++i) {
 *       printf("%s %.3f\n", rsdk_detector_label(detector, found.class_ids[i]), found.scores[i]);
 *     }
 *   }
 *   rsdk_results_free(results);
 *   rsdk_detector_close(detector);
 *
 * Results: boxes, scores and classes are those of Detector(model, device="cpu", convolution="direct") of the Python
 * package, to the last bit, with the same library of ONNX Runtime on the same machine.
 *
 * Memory: the caller owns what it passes in, and may free it when the function returns. Handles belong to the caller,
 * who releases them with their own function. Pointers that a function returns belong to the handle, and are valid until
 * it is released.
 *
 * Threads: several threads may call rsdk_detect() and the other functions of one detector at once.
 * rsdk_detector_close() must be the last call: no other one may run at the same time. One result handle may be read by
 * several threads.
 *
 * Processes: a detector does not work in a child of fork(). There, rsdk_detect() returns RSDK_ERROR_DEVICE.
 *
 * Errors: functions return a status. rsdk_last_error() has the message: what is wrong, what was expected, what to do.
 * No exception and no signal leaves the library, it never ends the process, and it prints nothing.
 *
 * Versions: structs begin with their size, which the program sets to sizeof. A later library accepts the shorter
 * structs of earlier headers, and then uses defaults for the fields that they lack. Values of enums are never changed.
 * Before version 1.0, a new minor version may change the interface. rsdk_version() tells which library is loaded.
 */
#ifndef RETINASDK_RETINASDK_H
#define RETINASDK_RETINASDK_H

#include <stddef.h>
#include <stdint.h>

#define RSDK_VERSION_MAJOR 0
#define RSDK_VERSION_MINOR 1
#define RSDK_VERSION_PATCH 0
#define RSDK_VERSION "0.1.0"

#if defined(_WIN32) && defined(RSDK_BUILD_SHARED)
#define RSDK_API __declspec(dllexport)
#elif defined(_WIN32) && defined(RSDK_SHARED)
#define RSDK_API __declspec(dllimport)
#elif defined(__GNUC__)
#define RSDK_API __attribute__((visibility("default")))
#else
#define RSDK_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* A loaded model. */
typedef struct rsdk_detector rsdk_detector;
/* What rsdk_detect() found in each image. */
typedef struct rsdk_results rsdk_results;

typedef enum rsdk_status {
  RSDK_OK = 0,
  RSDK_ERROR_ARGUMENT = 1,           /* An argument is out of range. */
  RSDK_ERROR_MODEL = 2,              /* The model file or its spec cannot be used, or the two do not match. */
  RSDK_ERROR_IMAGE = 3,              /* The size of an image is not supported. */
  RSDK_ERROR_DEVICE = 4,             /* The device is not available, failed, or the process was forked. */
  RSDK_ERROR_MISSING_DEPENDENCY = 5, /* A library that is loaded at run time is missing, such as ONNX Runtime. */
  RSDK_ERROR_MEMORY = 6,             /* There is not enough memory. */
  RSDK_ERROR_INTERNAL = 7            /* Anything else: a defect of the library. */
} rsdk_status;

/* Returns the version of the library, such as "0.1.0". Compare it with RSDK_VERSION, that of the header. */
RSDK_API const char* rsdk_version(void);

/* Returns the message of the last function that failed in the calling thread, or "". It is valid until the next call in
 * this thread. */
RSDK_API const char* rsdk_last_error(void);

/* -- models ------------------------------------------------------------------------------------------------------ */

typedef enum rsdk_suppression_rule {
  RSDK_GREEDY = 0,        /* A box that overlaps a better one of its class is dropped. */
  RSDK_SOFT_LINEAR = 1,   /* Its score is multiplied by 1 - IoU, if the IoU is above the threshold. */
  RSDK_SOFT_GAUSSIAN = 2, /* Its score is multiplied by exp(-IoU^2 / sigma). */
  RSDK_FUSION = 3         /* Boxes that overlap are averaged, weighted by their scores. */
} rsdk_suppression_rule;

/* How a model is opened. Fill it with rsdk_options_init(), then change what you need. */
typedef struct rsdk_options {
  size_t struct_size;
  const char* device;      /* "cpu", "cuda", or "auto" (default): the GPU for an engine, the CPU for an ONNX file. */
  const char* spec_json;   /* The model's spec as JSON text. NULL (default): the one of the model file. */
  const char* onnxruntime; /* Path of the library of ONNX Runtime. NULL (default): the environment variable
                              RETINASDK_ONNXRUNTIME, else libonnxruntime of the system. */
  int32_t threads;         /* Threads of a call on the CPU, 1 to 1024. 0 (default): one for each core. */
  double score_threshold;  /* Only scores above it are reported, 0 to 1. NaN (default): that of the spec. */
  /* How overlapping boxes are resolved. The defaults are the rules of the framework that trained the model. */
  int32_t suppression;    /* An rsdk_suppression_rule. Rotated boxes have RSDK_GREEDY only. */
  int32_t across_classes; /* 1: boxes of different classes suppress each other too. */
  double iou_threshold;   /* 0 to 1. NaN (default): that of the spec. */
  double sigma;           /* Width of RSDK_SOFT_GAUSSIAN, 0.5 by default. */
  int32_t fused_best;     /* Score of a fused box: 0, the mean of its members (default), or 1, the best. */
  int32_t max_per_class;  /* Detections of a class in an image, 1 to 1048576. 0 (default): that of the spec. */
  int32_t max_detections; /* Detections in an image, 1 to 1048576. 0 (default): that of the spec. */
} rsdk_options;

/* Fills options with defaults. size: sizeof(rsdk_options). */
RSDK_API void rsdk_options_init(rsdk_options* options, size_t size);

/* Opens a model: an ONNX file that ends at its raw heads, with its spec beside it (model.json) or in its metadata.
 *
 * path: UTF-8. options: NULL for the defaults. detector: receives the handle, or NULL if an error is returned. */
RSDK_API rsdk_status rsdk_detector_open(const char* path, const rsdk_options* options, rsdk_detector** detector);

/* Releases a detector. NULL is allowed. */
RSDK_API void rsdk_detector_close(rsdk_detector* detector);

/* Returns the name of the model, and "cpu" or "cuda". */
RSDK_API const char* rsdk_detector_name(const rsdk_detector* detector);
RSDK_API const char* rsdk_detector_device(const rsdk_detector* detector);

/* Returns the number of classes, and the label of a class, or NULL if there is no such class. */
RSDK_API int32_t rsdk_detector_class_count(const rsdk_detector* detector);
RSDK_API const char* rsdk_detector_label(const rsdk_detector* detector, int32_t class_id);

/* Returns whether the model detects rotated boxes. */
RSDK_API int32_t rsdk_detector_is_rotated(const rsdk_detector* detector);

/* Returns what should be said to a person about the model file, such as a spec that was edited, or "". */
RSDK_API const char* rsdk_detector_warning(const rsdk_detector* detector);

/* -- images ------------------------------------------------------------------------------------------------------ */

typedef enum rsdk_pixel_format {
  RSDK_RGB8 = 0,   /* uint8 (height, width, 3): red, green, blue. */
  RSDK_BGR8 = 1,   /* uint8 (height, width, 3): blue, green, red, as in OpenCV. */
  RSDK_GRAY8 = 2,  /* uint8 (height, width). */
  RSDK_GRAY16 = 3, /* uint16 (height, width) in the byte order of the machine. The upper 8 bits are used. */
  /* Planes of luma (height, width) and chroma (height / 2, width / 2, 2): Cb, then Cr. Height and width are even. */
  RSDK_NV12 = 4, /* uint8. */
  RSDK_P010 = 5  /* uint16, with 10 bits in the upper bits. */
} rsdk_pixel_format;

typedef enum rsdk_color_matrix {
  RSDK_BT601 = 0, /* Standard definition, JPEG and most cameras. */
  RSDK_BT709 = 1, /* High definition. */
  RSDK_BT2020 = 2 /* Ultra high definition. */
} rsdk_color_matrix;

/* An image in host memory. It has at most 178956970 pixels, and at most 65536 on each side. */
typedef struct rsdk_image {
  size_t struct_size;
  int32_t format;         /* An rsdk_pixel_format. */
  int32_t width, height;  /* In pixels. */
  const void* planes[2];  /* The first pixel of the first row. The second plane is for RSDK_NV12 and RSDK_P010. */
  ptrdiff_t row_bytes[2]; /* From one row to the next. 0: rows without gaps. Negative: the last row comes first. */
  int32_t matrix;         /* An rsdk_color_matrix, for RSDK_NV12 and RSDK_P010. */
  int32_t full_range;     /* Their values: 1, all of them (JPEG), or 0, video range. */
} rsdk_image;

/* -- detection --------------------------------------------------------------------------------------------------- */

/* The options of a call. Set struct_size, and all other fields to 0 for their defaults. */
typedef struct rsdk_call_options {
  size_t struct_size;
  /* Overrides the score thresholds: one value, or one for each class of the model. NaN keeps that of the detector. */
  const double* score_thresholds;
  size_t score_threshold_count;
  /* The classes to detect, as if the model knew no others: ids, names, or both. Without any: all, except those that the
   * spec never reports. */
  const int32_t* class_ids;
  size_t class_id_count;
  const char* const* class_names;
  size_t class_name_count;
  /* At most 64 regions (x1, y1, x2, y2) in pixels of the image. A box with more than half of its area in one region is
   * dropped before suppression. The count is that of regions. */
  const float* ignore;
  size_t ignore_count;
} rsdk_call_options;

/* The objects of one image, best first. */
typedef struct rsdk_detections {
  size_t struct_size;
  size_t count;             /* n. */
  const float* xyxy;        /* (n, 4): x1, y1, x2, y2 in pixels of the image, with continuous edges. */
  const float* scores;      /* (n,), 0 to 1. */
  const int32_t* class_ids; /* (n,). */
  const float* xywhr;       /* (n, 5) for rotated boxes: center x, center y, width, height, angle in radians, clockwise.
                               Then xyxy are the enclosing boxes. NULL for upright boxes, and without objects. */
} rsdk_detections;

/* Detects objects in images of any sizes. Those whose network inputs have the same size are run as one batch.
 *
 * images: `count` images with the same struct_size. options: NULL for the defaults. results: receives the handle, or
 * NULL if an error is returned. */
RSDK_API rsdk_status rsdk_detect(const rsdk_detector* detector, const rsdk_image* images, size_t count,
                                 const rsdk_call_options* options, rsdk_results** results);

/* Returns the number of images. */
RSDK_API size_t rsdk_results_count(const rsdk_results* results);

/* Describes what was found in an image. found: its struct_size is set. The pointers are valid until the results are
 * freed. */
RSDK_API rsdk_status rsdk_results_get(const rsdk_results* results, size_t index, rsdk_detections* found);

/* Releases results. NULL is allowed. */
RSDK_API void rsdk_results_free(rsdk_results* results);

#ifdef __cplusplus
}
#endif

#endif
