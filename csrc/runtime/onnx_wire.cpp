#include "runtime/onnx_wire.h"

#include <cstdint>
#include <fstream>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "runtime/json_text.h"
#include "runtime/sha256.h"

namespace retinasdk::runtime {
namespace {

constexpr int kMaxOuterFields = 1 << 18;
constexpr int kMaxFields = 1 << 20;
constexpr int kMaxNodes = 1 << 16;  // Exports with all their post-processing have some thousand.
constexpr int kMaxDepth = 200;      // Of graphs and functions inside each other.

// The messages of onnx.proto that lead to tensors or functions.
enum class Kind { kModel, kGraph, kFunction, kNode, kAttribute, kSparseTensor, kTensor, kEntry, kValue };

struct Child {
  Kind parent;
  uint64_t number;  // Of the field.
  Kind kind;
};

constexpr Child kChildren[] = {{Kind::kModel, 7, Kind::kGraph},
                               {Kind::kModel, 25, Kind::kFunction},
                               {Kind::kGraph, 1, Kind::kNode},
                               {Kind::kGraph, 5, Kind::kTensor},
                               {Kind::kGraph, 11, Kind::kValue},
                               {Kind::kGraph, 12, Kind::kValue},
                               {Kind::kGraph, 15, Kind::kSparseTensor},
                               {Kind::kFunction, 7, Kind::kNode},
                               {Kind::kFunction, 11, Kind::kAttribute},
                               {Kind::kNode, 5, Kind::kAttribute},
                               {Kind::kAttribute, 5, Kind::kTensor},
                               {Kind::kAttribute, 6, Kind::kGraph},
                               {Kind::kAttribute, 10, Kind::kTensor},
                               {Kind::kAttribute, 11, Kind::kGraph},
                               {Kind::kAttribute, 22, Kind::kSparseTensor},
                               {Kind::kAttribute, 23, Kind::kSparseTensor},
                               {Kind::kSparseTensor, 1, Kind::kTensor},
                               {Kind::kSparseTensor, 2, Kind::kTensor},
                               {Kind::kTensor, 13, Kind::kEntry}};

// Field numbers of onnx.proto.
constexpr uint64_t kModelGraph = 7, kModelFunction = 25, kGraphNode = 1, kFunctionName = 1, kFunctionNode = 7,
                   kFunctionDomain = 10, kNodeType = 4, kNodeAttribute = 5, kNodeDomain = 7, kEntryKey = 1,
                   kEntryValue = 2;

struct Field {
  uint64_t number;
  bool is_integer;
  std::string_view bytes;

  std::string_view data() const {
    if (is_integer) throw WireError("field " + std::to_string(number) + " must be bytes, got a number");
    return bytes;
  }
};

// Reads the fields of a message in their order.
class Fields {
 public:
  explicit Fields(std::string_view message) : message_(message) {}

  bool next(Field& field) {
    if (at_ >= message_.size()) return false;
    const size_t start = at_;
    const uint64_t key = varint();
    field = {key >> 3, (key & 7) == 0, {}};
    if (field.is_integer) {
      varint();
      return true;
    }
    uint64_t size = 0;
    switch (key & 7) {
      case 1:
        size = 8;
        break;
      case 2:
        size = varint();
        break;
      case 5:
        size = 4;
        break;
      default:
        throw WireError("not a protocol buffer: wire type " + std::to_string(key & 7) + " at byte " +
                        std::to_string(start));
    }
    if (size > message_.size() - at_) {
      throw WireError("not a protocol buffer: the field at byte " + std::to_string(start) +
                      " is longer than the rest of the message");
    }
    field.bytes = message_.substr(at_, size);
    at_ += size;
    return true;
  }

 private:
  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; at_ < message_.size() && shift <= 63; shift += 7) {
      const auto byte = static_cast<uint8_t>(message_[at_++]);
      value |= static_cast<uint64_t>(byte & 127) << shift;
      if (byte < 128) return value;
    }
    throw WireError("not a protocol buffer: invalid number that ends at byte " + std::to_string(at_));
  }

  std::string_view message_;
  size_t at_ = 0;
};

// The names of the files with external data that a model refers to. Throws FunctionsError beyond kMaxFields fields.
std::set<std::string> external_locations(std::string_view model) {
  std::set<std::string> found;
  int left = kMaxFields;
  std::vector<std::pair<Kind, std::string_view>> waiting = {{Kind::kModel, model}};
  while (!waiting.empty()) {
    const auto [kind, message] = waiting.back();
    waiting.pop_back();
    std::string_view key, value;
    Fields fields(message);
    for (Field field{}; fields.next(field);) {
      if (--left < 0) throw FunctionsError("it has more than 1048576 fields, which no RetinaNet has");
      if (kind == Kind::kEntry && field.number == kEntryKey) key = field.data();
      if (kind == Kind::kEntry && field.number == kEntryValue) value = field.data();
      for (const Child& child : kChildren) {
        if (child.parent == kind && child.number == field.number) waiting.emplace_back(child.kind, field.data());
      }
    }
    if (key == "location") found.emplace(value);
  }
  return found;
}

using Key = std::pair<std::string_view, std::string_view>;  // Domain and name.

Key key_of(std::string_view message, uint64_t name_number, uint64_t domain_number) {
  Key key;
  Fields fields(message);
  for (Field field{}; fields.next(field);) {
    if (field.number == name_number) key.second = field.data();
    if (field.number == domain_number) key.first = field.data();
  }
  return key;
}

// Counts the nodes of graphs and functions.
class NodeCounter {
 public:
  explicit NodeCounter(const std::vector<std::string_view>& functions) {
    for (const std::string_view function : functions) {
      bodies_[key_of(function, kFunctionName, kFunctionDomain)] = function;
    }
  }

  int count(std::string_view message, uint64_t node_number) {
    int total = 0;
    add_nodes(message, node_number, total);
    return total;
  }

 private:
  // Adds the nodes of a graph or function, and of their inner graphs.
  void add_nodes(std::string_view message, uint64_t node_number, int& total) {
    if (++depth_ > kMaxDepth) throw FunctionsError("its functions or graphs are nested hundreds of levels deep");
    Fields nodes(message);
    for (Field node{}; nodes.next(node);) {
      if (node.number != node_number) continue;
      total += nodes_of(key_of(node.data(), kNodeType, kNodeDomain));
      if (total > kMaxNodes) {
        throw FunctionsError("its functions stand for more than 65536 operators, which no RetinaNet has");
      }
      Fields attributes(node.data());
      for (Field attribute{}; attributes.next(attribute);) {
        if (attribute.number != kNodeAttribute) continue;
        Fields inner(attribute.data());
        for (Field graph{}; inner.next(graph);) {
          if (graph.number == 6 || graph.number == 11) add_nodes(graph.data(), kGraphNode, total);
        }
      }
    }
    --depth_;
  }

  int nodes_of(const Key& key) {
    if (callers_.count(key) != 0) {
      throw FunctionsError("its function " + python_repr(std::string(key.second)) + " calls itself");
    }
    const auto body = bodies_.find(key);
    if (body == bodies_.end()) return 1;
    const auto known = counts_.find(key);
    if (known != counts_.end()) return known->second;
    callers_.insert(key);
    const int nodes = count(body->second, kFunctionNode);
    callers_.erase(key);
    return counts_[key] = nodes;
  }

  std::map<Key, std::string_view> bodies_;
  std::map<Key, int> counts_;
  std::set<Key> callers_;
  int depth_ = 0;
};

}  // namespace

void check_functions(std::string_view model) {
  std::vector<std::string_view> graphs, functions;
  int outer = 0;
  Fields fields(model);
  for (Field field{}; fields.next(field);) {
    if (++outer > kMaxOuterFields) {
      throw FunctionsError("it has more than 262144 outermost fields, which no RetinaNet has");
    }
    if (field.number == kModelGraph) graphs.push_back(field.data());
    if (field.number == kModelFunction) functions.push_back(field.data());
  }
  if (functions.empty()) return;
  external_locations(model);  // Counts all fields.
  NodeCounter counter(functions);
  for (const std::string_view graph : graphs) counter.count(graph, kGraphNode);
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content;
  file.seekg(0, std::ios::end);
  const std::streamoff size = file.tellg();
  if (size > 0) content.resize(static_cast<size_t>(size));
  file.seekg(0);
  file.read(content.data(), static_cast<std::streamsize>(content.size()));
  if (!file) throw std::runtime_error(path.string() + " cannot be read");
  return content;
}

std::string model_sha256(const std::filesystem::path& path) {
  const std::string content = read_file(path);
  Sha256 digest;
  digest.update(content);
  std::set<std::string> locations;
  try {
    locations = external_locations(content);
  } catch (const WireError&) {       // It counts alone.
  } catch (const FunctionsError&) {  // It has too many fields, and counts alone.
  }
  std::string block(size_t{1} << 20, '\0');
  for (const std::string& location : locations) {
    const std::filesystem::path data = path.parent_path() / std::filesystem::u8path(location);
    if (!std::filesystem::is_regular_file(data)) continue;  // ONNX Runtime refuses such a model itself.
    std::ifstream file(data, std::ios::binary);
    while (file) {
      file.read(block.data(), static_cast<std::streamsize>(block.size()));
      digest.update({block.data(), static_cast<size_t>(file.gcount())});
    }
    if (file.bad()) throw std::runtime_error(data.string() + " cannot be read");
  }
  return digest.hexadecimal();
}

}  // namespace retinasdk::runtime
