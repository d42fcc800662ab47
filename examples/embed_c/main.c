/* Detects objects in a picture, and prints them as JSON lines: embed_c MODEL.onnx PICTURE.ppm [SCORE]
 *
 * A binary PPM needs no image library. ImageMagick writes one: convert photo.jpg photo.ppm
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "retinasdk/retinasdk.h"

typedef struct picture {
  int width, height;
  uint8_t* pixels; /* RGB, from malloc(). */
} picture;

/* Returns 0 if the file is no binary PPM of 8 bits. */
static int read_ppm(const char* path, picture* read) {
  FILE* file = fopen(path, "rb");
  int highest = 0;
  size_t size = 0;
  read->pixels = NULL;
  if (file == NULL) return 0;
  if (fscanf(file, "P6 %d %d %d", &read->width, &read->height, &highest) == 3 && highest == 255 && read->width > 0 &&
      read->height > 0 && read->width <= 65536 && read->height <= 65536) {
    fgetc(file); /* One white space ends the header. */
    size = (size_t)read->width * (size_t)read->height * 3;
    read->pixels = malloc(size);
    if (read->pixels != NULL && fread(read->pixels, 1, size, file) != size) {
      free(read->pixels);
      read->pixels = NULL;
    }
  }
  fclose(file);
  return read->pixels != NULL;
}

static void print_found(const rsdk_detector* detector, const rsdk_results* results, const char* path) {
  rsdk_detections found = {sizeof found, 0, NULL, NULL, NULL, NULL};
  if (rsdk_results_get(results, 0, &found) != RSDK_OK) return;
  for (size_t i = 0; i < found.count; ++i) {
    const float* box = found.xyxy + 4 * i;
    printf("{\"image\": \"%s\", \"label\": \"%s\", \"score\": %.9g, \"xyxy\": [%.9g, %.9g, %.9g, %.9g]}\n", path,
           rsdk_detector_label(detector, found.class_ids[i]), found.scores[i], box[0], box[1], box[2], box[3]);
  }
}

int main(int count, char** arguments) {
  picture picture;
  rsdk_options options;
  rsdk_detector* detector = NULL;
  rsdk_results* results = NULL;
  rsdk_status status;
  if (count < 3) {
    fprintf(stderr, "usage: embed_c MODEL.onnx PICTURE.ppm [SCORE]\n");
    return 1;
  }
  if (!read_ppm(arguments[2], &picture)) {
    fprintf(stderr, "%s must be a binary PPM (P6) of 8 bits; write one with: convert photo.jpg photo.ppm\n",
            arguments[2]);
    return 1;
  }
  rsdk_options_init(&options, sizeof options);
  if (count > 3) options.score_threshold = atof(arguments[3]);
  status = rsdk_detector_open(arguments[1], &options, &detector);
  if (status == RSDK_OK) {
    const rsdk_image image = {
        sizeof image, RSDK_RGB8, picture.width, picture.height, {picture.pixels, NULL}, {0, 0}, 0, 0};
    status = rsdk_detect(detector, &image, 1, NULL, &results);
  }
  if (status == RSDK_OK) {
    print_found(detector, results, arguments[2]);
  } else {
    fprintf(stderr, "%s\n", rsdk_last_error());
  }
  rsdk_results_free(results);
  rsdk_detector_close(detector);
  free(picture.pixels);
  return status == RSDK_OK ? 0 : 1;
}
