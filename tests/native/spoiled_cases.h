// Puts one value that ops.h forbids into a case, so that the function must throw std::invalid_argument.
#pragma once

#include "merge_properties.h"
#include "random_cases.h"

// Returns a number that is not above 0.
inline float not_positive(Random& random) {
  return random.chance(3) ? kNan : random.chance(2) ? -random.real(0.0f, 9.0f) : -kInfinity;
}

inline void spoil(Random& random, PreprocessCase& made) {
  retinasdk::PreprocessOptions& options = made.options;
  const int side = random.outside(1, 65536);
  switch (random.integer(0, 7)) {
    case 0:
      made.view.height = side;
      break;
    case 1:
      made.view.width = side;
      break;
    case 2:
      options.resized_height = side;
      break;
    case 3:
      options.resized_width = side;
      break;
    case 4:
      options.padded_height = random.outside(options.resized_height, 65536);
      break;
    case 5:
      options.padded_width = random.outside(options.resized_width, 65536);
      break;
    case 6:
      options.std[random.integer(0, 2)] = not_positive(random);
      break;
    default:
      options.source_step = options.antialias  ? 1.0
                            : random.chance(2) ? 65536.5
                                               : static_cast<double>(not_positive(random));
      if (options.source_step == 0.0) options.source_step = kNan;
  }
}

// What decode() is called with besides a HeadsCase.
inline void spoil_decode(Random& random, HeadsCase& made, int& capacity) {
  retinasdk::DecodeOptions& options = made.options;
  retinasdk::HeadLevel& level =
      made.levels[static_cast<size_t>(random.integer(0, static_cast<int>(made.levels.size()) - 1))];
  switch (random.integer(0, 12)) {
    case 0:
      options.batch = random.outside(0, 1 << 20);
      break;
    case 1:
      options.anchors = random.outside(1, 1024);
      break;
    case 2:
      options.classes = random.outside(1, 65536);
      break;
    case 3:
      options.top_k = random.outside(1, retinasdk::kMaxPerImage);
      break;
    case 4:
      options.logit_threshold = kNan;
      break;
    case 5:
      options.coder.weights[random.integer(0, 3)] = not_positive(random);
      break;
    case 6:
      options.coder.means[random.integer(0, 3)] = random.chance(2) ? kNan : kInfinity;
      break;
    case 7:
      level.height = random.outside(1, 65536);
      break;
    case 8:
      level.width = random.outside(1, 65536);
      break;
    case 9:
      level.height = level.width = 65536;
      break;  // Too many pairs.
    case 10:
      options.class_ids.push_back(random.outside(0, options.classes - 1));
      break;
    case 11:
      options.ignored_regions = random.outside(0, retinasdk::kMaxPerImage);
      break;
    default:
      capacity = random.integer(std::numeric_limits<int>::min(), capacity - 1);
  }
}

// What the suppressions have in common.
inline void spoil_suppression(Random& random, CandidatesCase& made) {
  const auto image = static_cast<size_t>(random.integer(0, made.batch - 1));
  switch (random.integer(0, 4)) {
    case 0:
      made.nms.max_detections = random.outside(1, retinasdk::kMaxPerImage);
      break;
    case 1:
      made.nms.max_per_class = random.outside(1, retinasdk::kMaxPerImage);
      break;
    case 2:
      made.nms.iou_threshold = kNan;
      break;
    case 3:
      made.counts[image] = random.outside(0, made.capacity);
      break;
    default:
      made.batch = random.outside(0, retinasdk::kMaxPerImage);
  }
}

inline void spoil(Random& random, MergeCase& made) {
  switch (random.integer(0, 10)) {
    case 0:
      made.options.iou_threshold = kNan;
      break;
    case 1:
      made.options.cover_limit = random.chance(2) ? 1.5f : not_positive(random) - 1.0f;
      break;
    case 2:
      made.options.cut_slack_y = not_positive(random) - 1.0f;
      break;
    case 3:
      made.options.cut_slack_x = not_positive(random) - 1.0f;
      break;
    case 4:
      made.height = random.outside(1, 1 << 20);
      break;
    case 5:
      made.tile_width = random.outside(1, made.width);
      break;
    case 6:
      made.tops.front() = random.outside(0, 0);
      break;
    case 7:
      made.lefts.back() = random.outside(made.lefts.back(), made.lefts.back());
      break;
    case 8:
      made.count = random.outside(0, retinasdk::kMaxMerged);
      break;
    default:
      if (made.count == 0) {
        made.options.iou_threshold = kNan;
      } else if (random.chance(2)) {
        made.class_ids.back() = random.outside(0, 65535);
      } else {
        made.tiles.back() = random.outside(0, static_cast<int>(made.tops.size() * made.lefts.size()));
      }
  }
}
