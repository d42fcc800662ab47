// Fuzzes merge_tiles().
#include "merge_properties.h"
#include "spoiled_cases.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t count) {
  Random random(bytes, count);
  MergeCase made = make_merge(random);
  if (!random.chance(6)) {
    run(made);
    return 0;
  }
  std::vector<int32_t> kept(static_cast<size_t>(made.count)), joined(kept.size());
  spoil(random, made);
  check_refused("",
                [&] { retinasdk::merge_tiles(made.given(), made.grid(), made.options, kept.data(), joined.data()); });
  return 0;
}
