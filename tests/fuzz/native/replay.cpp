// Runs every fuzz target without a fuzzer: on all stored inputs, and on seeded random ones. See tests/fuzz/run.py.
//
//   fuzz_replay FOLDER [ROUNDS]   FOLDER holds corpus/TARGET and crashes/TARGET
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#define TARGET(name) extern "C" int fuzz_##name(const uint8_t* bytes, size_t count);
#include "targets.inc"
#undef TARGET

namespace {

namespace fs = std::filesystem;

struct Target {
  const char* name;
  int (*run)(const uint8_t* bytes, size_t count);
};

constexpr Target kTargets[] = {
#define TARGET(name) {#name, fuzz_##name},
#include "targets.inc"
#undef TARGET
};

// Runs the target on each file of the folder and returns how many there are.
int replay(const Target& target, const fs::path& folder) {
  int files = 0;
  if (!fs::is_directory(folder)) return files;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder)) {
    std::ifstream file(entry.path(), std::ios::binary);
    const std::vector<uint8_t> bytes((std::istreambuf_iterator<char>(file)), {});
    std::fprintf(stderr, "%s\n", entry.path().c_str());  // The last one is the one that failed.
    target.run(bytes.data(), bytes.size());
    ++files;
  }
  return files;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: fuzz_replay FOLDER [ROUNDS]\n");
    return 2;
  }
  const fs::path folder = argv[1];
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 20;
  for (const Target& target : kTargets) {
    const int files =
        replay(target, folder / "crashes" / target.name) + replay(target, folder / "corpus" / target.name);
    std::mt19937 engine(1);
    for (int round = 0; round < rounds; ++round) {
      std::vector<uint8_t> bytes(engine() % 200);
      for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(engine());
      target.run(bytes.data(), bytes.size());
    }
    std::printf("%s: %d stored inputs and %d random ones\n", target.name, files, rounds);
  }
}
