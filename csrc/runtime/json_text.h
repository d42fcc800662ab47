// JSON that comes from outside, parsed by nlohmann/json. The counterpart of retinasdk/_util/json_text.py.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace retinasdk::runtime {

// A text is not JSON, or goes beyond the limits of parse_json().
class JsonError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct JsonValue;
using JsonList = std::vector<JsonValue>;
using JsonObject = std::vector<std::pair<std::string, JsonValue>>;  // In the order of the text. Each name once.

// An integer, in full: Python's integers have no limit.
struct JsonInteger {
  int64_t value;       // The nearest one in 64 bits.
  std::string digits;  // As in the text, if it has more than 64 bits.
};

struct JsonValue {
  std::variant<std::nullptr_t, bool, JsonInteger, double, std::string, JsonList, JsonObject> content;

  template <typename T>
  const T* get() const {
    return std::get_if<T>(&content);
  }
};

// Returns the value as Python writes it in error messages, such as {'a': [1, None]}.
std::string python_repr(const JsonValue& value);
std::string python_repr(const std::string& text);
std::string python_repr(double number);

// Returns the name of the type that Python gives the value, such as "dict".
const char* python_type(const JsonValue& value);

// Parses a text of at most 16 MiB, nested at most 64 levels deep. Of two members with one name, the last one counts.
//
// Throws JsonError. NaN and Infinity, which are not JSON, are refused here; Python refuses them in the next step.
JsonValue parse_json(const std::string& text);

}  // namespace retinasdk::runtime
