// Runs the native core with seeded, hostile inputs, without Python: fuzz_core [seed [rounds]].
//
// Buffers are exactly as large as ops.h requires, so that the address sanitizer detects any access beyond them. The
// test checks properties that hold for every input. Some cases are run again by eight threads at the same time.
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "cpu/kernels_cpu.h"
#include "detection_properties.h"
#include "image_properties.h"
#include "math/divisor.h"
#include "merge_properties.h"

namespace {

void check_bad_arguments() {
  Random random(0);
  PreprocessCase small = make_preprocess(random, 4, 4, 2, 2);
  small.options.padded_width = 1;
  check_refused("padded width must be 2 to 65536, got 1", [&] { run(small); });
  HeadsCase heads = make_heads(random);
  const retinasdk::Candidates no_room{nullptr, nullptr, nullptr, nullptr, 0};
  check_refused("the capacity of the candidates must be at least",
                [&] { retinasdk::decode(heads.levels, heads.options, heads.clip_sizes.data(), no_room); });
  check_refused("at least one feature level", [&] { retinasdk::decode({}, heads.options, nullptr, no_room); });
  heads.options.class_ids = {heads.options.classes};
  check_refused("class id must be 0 to", [&] { run(heads); });
  heads.options.class_ids.clear();
  heads.rules.sigma = 0.0f;
  check_refused("sigma must be above 0", [&] { run(heads); });
  heads.rules.sigma = 0.5f;
  heads.rules.models = 0;
  check_refused("models must be 1 to", [&] { run(heads); });
  heads.levels[0].height = 60000;
  heads.levels[0].width = 60000;
  check_refused("pairs, but at most 2147483647 pairs are supported", [&] { run(heads); });
  std::vector<uint8_t> samples(64);
  check_refused("frames must have an even height and width, got 2 x 3", [&] {
    retinasdk::yuv_to_rgb({retinasdk::PixelFormat::kNv12, samples.data(), 4, samples.data(), 4, 2, 3, {}, false},
                          samples.data());
  });
  const std::vector<int32_t> apart{0, 9, 8};
  const retinasdk::TileAxis gap{apart.data(), 3, 8, 16};
  check_refused("must ascend from 0 and cover the image without gaps, got 3 tiles of length 8 from 0 to 16",
                [&] { retinasdk::merge_tiles({}, {gap, gap}, {}, nullptr, nullptr); });
  // The largest number, whose sum with the length of a tile has more than 32 bits.
  const std::vector<int32_t> starts{0, 0x7fffffff, 0x7fffffff};
  const retinasdk::TileAxis beyond{starts.data(), static_cast<int>(starts.size()), 8, 16};
  check_refused("from 0 to 2147483655 for an image of size 16",
                [&] { retinasdk::merge_tiles({}, {beyond, beyond}, {}, nullptr, nullptr); });
  const retinasdk::TileAxis whole{starts.data(), 1, 8, 8};
  retinasdk::TileBoxes none{};
  none.count = -1;
  check_refused("boxes of all tiles must be 0 to 67108864, got -1",
                [&] { retinasdk::merge_tiles(none, {whole, whole}, {}, nullptr, nullptr); });
  check_refused("batch must be 0 to 1048576, got -1",
                [&] { retinasdk::nms(-1, no_room, {0.5f, 1}, nullptr, nullptr); });
}

// Compares the filter of this machine with passes(), at random lengths and alignments.
void run_filter(Random& random) {
  const int count = random.integer(0, 200);
  const int skipped = random.integer(0, count);
  std::vector<float> values;
  for (int i = 0; i < count; ++i) values.push_back(random.chance(4) ? random.hostile() : random.real(-2, 2));
  const float threshold = random.chance(8) ? random.hostile() : random.real(-2, 2);
  std::vector<int32_t> expected;
  for (int i = skipped; i < count; ++i) {
    if (retinasdk::passes(values[static_cast<size_t>(i)], threshold)) expected.push_back(i - skipped);
  }
  std::vector<int32_t> found(static_cast<size_t>(count - skipped));
  found.resize(static_cast<size_t>(
      retinasdk::cpu::positions_above(values.data() + skipped, count - skipped, threshold, found.data())));
  check(found == expected, "the filter finds the values that pass");
}

// Compares the division of the CUDA kernels with that of the language, mostly around multiples of the divisor.
void run_division(Random& random) {
  constexpr uint32_t kEnd = uint32_t{1} << 31;
  const auto number = [&] { return static_cast<uint32_t>(random.integer(0, 0x7ffffffe)) >> random.integer(0, 30); };
  const uint32_t divisor = random.chance(8) ? kEnd : number() + 1;
  const retinasdk::Divisor prepared = retinasdk::make_divisor(divisor);
  const uint32_t multiple = number() / divisor * divisor;
  for (const uint32_t value : {number(), multiple, multiple + divisor - 1, (kEnd - 1) / divisor * divisor, kEnd - 1}) {
    if (value >= kEnd) continue;
    check(retinasdk::divide(value, prepared) == value / divisor, "a division by multiplication is exact");
  }
}

// Runs a case in eight threads at the same time.
template <typename Case>
void run_in_threads(const Case& made) {
  const auto alone = run(made);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] { check(run(made) == alone, "every thread gets the same answer"); });
  }
  for (std::thread& thread : threads) thread.join();
}

// Checks that the threads of a call change nothing. The image is large enough for several.
void run_with_threads(Random& random) {
  PreprocessCase made = make_preprocess(random, 1500, 1400, 90 + random.integer(0, 600), 700);
  for (const bool eight_bit : {false, true}) {
    made.options.eight_bit = eight_bit;
    const auto alone = run(made);
    for (const int threads : {2, 3, 1000}) check(run(made, threads) == alone, "threads do not change the pixels");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 200;
  Random random(seed);
  check_bad_arguments();
  const int shapes[][4] = {{1, 1, 1, 1},    {1, 1, 90, 70},    {5000, 3, 1, 1},
                           {3, 5000, 1, 2}, {5000, 3, 7, 300}, {2, 2, 1, 1}};
  for (const auto& shape : shapes) {
    for (int i = 0; i < 4; ++i) run(make_preprocess(random, shape[0], shape[1], shape[2], shape[3]));
  }
  run_with_threads(random);
  for (int round = 0; round < rounds; ++round) {
    run(make_preprocess(random, random.integer(1, 90), random.integer(1, 90), random.integer(1, 90),
                        random.integer(1, 90)));
    const int height = random.integer(1, 90), width = random.integer(1, 90);
    run(make_preprocess(random, height, width, height, width));
    run(make_heads(random));
    run(make_candidates(random, {60, 91, 2500, 300}), make_rules(random, kManyClasses));
    run_rotated(make_rotated(random), random);
    run(make_merge(random));
    run_filter(random);
    for (int i = 0; i < 50; ++i) run_division(random);
    if (round % 20 == 0) {
      run_in_threads(make_preprocess(random, 70, 50, 60, 90));
      run_in_threads(make_heads(random));
    }
  }
  std::printf("fuzz_core: %d rounds with seed %llu, filter %s: all properties hold\n", rounds,
              static_cast<unsigned long long>(seed), retinasdk::simd_name());
}
