// Compares the CUDA kernels on the emulated device with the CPU functions, without Python: parity_cuda [seed [rounds]].
#include <cstdio>
#include <cstdlib>

#include "parity_detections.h"
#include "parity_images.h"

int main(int argc, char** argv) {
  const uint64_t seed = argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 1;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 40;
  Random random(seed);
  // So wide that the CPU does not keep all the rows that an output row is made of.
  PreprocessCase wide = make_preprocess(random, 300, 2, 2, 65500);
  wide.options.eight_bit = wide.options.antialias = true;
  wide.options.source_step = 0.0;
  check_preprocess(wide);
  // In one bin of the histogram, which then does not tell which are the best, and in many. See bin_of().
  for (const float highest : {1.014f, 6.0f}) check_crowded_level(random, highest);
  for (int round = 0; round < rounds; ++round) {
    check_preprocess(make_preprocess(random, random.integer(1, 40), random.integer(1, 40), random.integer(1, 40),
                                     random.integer(1, 40)));
    const int height = random.integer(1, 40), width = random.integer(1, 40);
    PreprocessCase same = make_preprocess(random, height, width, height, width);
    if (random.chance(2)) same.options.source_step = 0.0;
    check_preprocess(same);
    check_camera_frame(random);
    check_heads(make_heads(random), random.integer(0, 9));
    CandidatesCase candidates = make_candidates(random);
    check_nms(candidates);
    check_rotated(make_rotated(random), random.integer(0, 9));
  }
  std::printf("parity_cuda: %d rounds with seed %llu: all results are equal\n", rounds,
              static_cast<unsigned long long>(seed));
}
