// Detects objects in pictures, and prints them as JSON lines: embed_cpp MODEL.onnx PICTURE.ppm... [--score SCORE]
//
// A binary PPM needs no image library. ImageMagick writes one: convert photo.jpg photo.ppm
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "retinasdk/detector.hpp"

namespace {

struct Picture {
  int width = 0, height = 0;
  std::vector<std::uint8_t> pixels;  // RGB.
};

Picture read_ppm(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string kind;
  Picture picture;
  int highest = 0;
  file >> kind >> picture.width >> picture.height >> highest;
  file.get();  // One white space ends the header.
  if (!file || kind != "P6" || highest != 255 || picture.width < 1 || picture.height < 1 || picture.width > 65536 ||
      picture.height > 65536) {
    throw std::runtime_error(path +
                             " must be a binary PPM (P6) of 8 bits; write one with: convert photo.jpg photo.ppm");
  }
  picture.pixels.resize(static_cast<std::size_t>(picture.width) * static_cast<std::size_t>(picture.height) * 3);
  file.read(reinterpret_cast<char*>(picture.pixels.data()), static_cast<std::streamsize>(picture.pixels.size()));
  if (!file) throw std::runtime_error(path + " is incomplete");
  return picture;
}

void print(const std::string& path, const retinasdk::Detections& found) {
  for (const retinasdk::Detection& object : found) {
    std::printf("{\"image\": \"%s\", \"label\": \"%s\", \"score\": %.9g, \"xyxy\": [%.9g, %.9g, %.9g, %.9g]}\n",
                path.c_str(), object.label.c_str(), static_cast<double>(object.score), static_cast<double>(object.x1),
                static_cast<double>(object.y1), static_cast<double>(object.x2), static_cast<double>(object.y2));
  }
}

void run(int count, char** arguments) {
  std::vector<std::string> paths;
  retinasdk::CallOptions options;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--score") == 0 && i + 1 < count) {
      options.score_threshold = std::stod(arguments[++i]);
    } else {
      paths.emplace_back(arguments[i]);
    }
  }
  if (paths.size() < 2) throw std::runtime_error("usage: embed_cpp MODEL.onnx PICTURE.ppm... [--score SCORE]");
  const retinasdk::Detector detector(paths[0]);
  if (!detector.warning().empty()) std::fprintf(stderr, "%s\n", detector.warning().c_str());
  for (std::size_t i = 1; i < paths.size(); ++i) {
    const Picture picture = read_ppm(paths[i]);
    const auto image = retinasdk::Image::rgb(picture.pixels.data(), picture.width, picture.height);
    print(paths[i], detector.detect(image, options));
  }
}

}  // namespace

int main(int count, char** arguments) {
  try {
    run(count, arguments);
  } catch (const std::exception& error) {  // retinasdk::ModelError and others say what to do.
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
}
