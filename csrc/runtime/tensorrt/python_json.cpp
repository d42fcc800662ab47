#include "runtime/tensorrt/python_json.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace retinasdk::runtime::trt {
namespace {

std::string quoted(const std::string& text) {
  constexpr bool kAsciiOnly = true;
  return nlohmann::json(text).dump(-1, ' ', kAsciiOnly);
}

struct Writer {
  std::string operator()(std::nullptr_t) const { return "null"; }
  std::string operator()(bool value) const { return value ? "true" : "false"; }
  std::string operator()(const JsonInteger& value) const {
    return value.digits.empty() ? std::to_string(value.value) : value.digits;
  }
  std::string operator()(double value) const { return python_repr(value); }
  std::string operator()(const std::string& value) const { return quoted(value); }

  std::string operator()(const JsonList& items) const {
    std::string text;
    for (const JsonValue& item : items) text += (text.empty() ? "" : ", ") + as_python_writes(item);
    return "[" + text + "]";
  }

  std::string operator()(const JsonObject& members) const {
    std::vector<const JsonObject::value_type*> sorted;
    for (const auto& member : members) sorted.push_back(&member);
    // The order of the bytes of UTF-8 is that of the code points, which is Python's.
    std::sort(sorted.begin(), sorted.end(), [](const auto* a, const auto* b) { return a->first < b->first; });
    std::string text;
    for (const auto* member : sorted) {
      text += (text.empty() ? "" : ", ") + quoted(member->first) + ": " + as_python_writes(member->second);
    }
    return "{" + text + "}";
  }
};

}  // namespace

std::string as_python_writes(const JsonValue& value) { return std::visit(Writer{}, value.content); }

}  // namespace retinasdk::runtime::trt
