#include "runtime/tensorrt/lane_images.h"

#include <algorithm>
#include <cstring>

namespace retinasdk::runtime::trt {
namespace {

bool same_pixels(const ImageView& a, const ImageView& b) {
  return a.pixels == b.pixels && a.row_bytes == b.row_bytes && a.height == b.height && a.width == b.width;
}

void copy_rows(const ImageView& image, std::byte* target) {
  const size_t row = static_cast<size_t>(image.width) * 3;
  for (int y = 0; y < image.height; ++y) {
    std::memcpy(target + static_cast<size_t>(y) * row, image.pixels + y * image.row_bytes, row);
  }
}

// Appends the bytes of values to a key.
template <typename... Values>
void append(std::string& key, const Values&... values) {
  (key.append(reinterpret_cast<const char*>(&values), sizeof values), ...);
}

}  // namespace

PreparedImages LaneImages::prepare(const std::vector<ImageView>& images, const std::vector<Transform>& transforms,
                                   cuda::Scalar type, std::byte* output, size_t bytes_of_output) {
  PreparedImages prepared;
  prepared.output = output;
  prepared.bytes_of_output = bytes_of_output;
  // Each image once: a batch may be padded with copies of one image.
  Layout uploads;
  std::vector<Field> places;
  size_t scratch_bytes = 1;
  for (size_t i = 0; i < images.size(); ++i) {
    const ImageView& image = images[i];
    const auto first = std::find_if(images.begin(), images.begin() + static_cast<std::ptrdiff_t>(i),
                                    [&image](const ImageView& other) { return same_pixels(image, other); });
    const auto number = static_cast<size_t>(first - images.begin());
    places.push_back(number < i
                         ? places[number]
                         : uploads.add(static_cast<size_t>(image.height) * static_cast<size_t>(image.width) * 3));
    const PreprocessOptions host = preprocess_options(spec_, transforms[i]);
    const cuda::DevicePreprocessOptions options{host.resized_height,
                                                host.resized_width,
                                                host.padded_height,
                                                host.padded_width,
                                                {host.mean[0], host.mean[1], host.mean[2]},
                                                {host.std[0], host.std[1], host.std[2]},
                                                host.reverse_channels,
                                                host.antialias,
                                                type,
                                                host.source_step,
                                                host.eight_bit};
    const cuda::DeviceImage described{
        PixelFormat::kInterleaved, nullptr, image.width * 3, nullptr, 0, image.height, image.width};
    scratch_bytes = std::max(scratch_bytes, cuda::preprocess_scratch_bytes(described, options));
    prepared.images.push_back({described, options});
  }
  moves_ += scratch_.reserve(scratch_bytes) ? 1 : 0;
  moves_ += block_.reserve(uploads.size_bytes()) ? 1 : 0;
  prepared.scratch = {scratch_.data(), scratch_bytes};
  append(prepared.key, moves_, scratch_bytes);
  for (size_t i = 0; i < images.size(); ++i) {
    auto& [described, options] = prepared.images[i];
    described.pixels = places[i].in<const uint8_t>(block_.device());
    // An image that was copied already is copied once more, which is rare and harmless.
    copy_rows(images[i], block_.host() + places[i].offset);
    prepared.upload_bytes = std::max(prepared.upload_bytes, places[i].offset + places[i].size_bytes);
    append(prepared.key, described.pixels, described.height, described.width, options.resized_height,
           options.resized_width, options.padded_height, options.padded_width, options.source_step);
  }
  return prepared;
}

void LaneImages::launch(const PreparedImages& prepared, const Stream& stream) const {
  block_.upload(prepared.upload_bytes, stream, "copying images to the GPU");
  checked("launching a frame", [&] {
    for (size_t i = 0; i < prepared.images.size(); ++i) {
      const auto& [image, options] = prepared.images[i];
      cuda::preprocess(image, options, prepared.output + i * prepared.bytes_of_output, prepared.scratch,
                       stream.handle());
    }
  });
}

}  // namespace retinasdk::runtime::trt
