#include "runtime/json_text.h"

#include <algorithm>
#include <nlohmann/json.hpp>
#include <string_view>
#include <unordered_map>

namespace retinasdk::runtime {
namespace {

constexpr size_t kMaxDepth = 64;
constexpr size_t kMaxBytes = size_t{16} << 20;  // The largest specs have some ten thousand bytes.
constexpr size_t kMaxDigits = 4300;             // Of an integer, as in Python.

// Builds values while nlohmann's parser reads the text. Its own values would keep no order, or compare each name of an
// object with all others; and depth is checked before memory is taken.
class Builder {
 public:
  using number_integer_t = nlohmann::json::number_integer_t;
  using number_unsigned_t = nlohmann::json::number_unsigned_t;
  using number_float_t = nlohmann::json::number_float_t;
  using string_t = nlohmann::json::string_t;
  using binary_t = nlohmann::json::binary_t;

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(number_integer_t value) { return add(JsonInteger{value, {}}); }

  bool number_unsigned(number_unsigned_t value) {
    if (value <= INT64_MAX) return number_integer(static_cast<int64_t>(value));
    return add(JsonInteger{INT64_MAX, std::to_string(value)});
  }

  bool number_float(number_float_t value, const string_t& written) {
    if (written.find_first_not_of("-0123456789") != std::string::npos) return add(value);
    const bool is_negative = written[0] == '-';
    if (written.size() - (is_negative ? 1 : 0) > kMaxDigits) throw JsonError("it has an integer of over 4300 digits");
    return add(JsonInteger{is_negative ? INT64_MIN : INT64_MAX, written});
  }

  bool string(string_t& value) { return add(std::move(value)); }
  bool binary(binary_t&) { return false; }  // Is in no text.

  bool key(string_t& value) {
    keys_.back() = std::move(value);
    return true;
  }

  bool start_object(size_t) { return open<JsonObject>(); }
  bool start_array(size_t) { return open<JsonList>(); }

  bool end_object() {
    auto& members = std::get<JsonObject>(open_.back().content);
    std::unordered_map<std::string_view, size_t> places;
    std::vector<bool> is_repeated(members.size());
    for (size_t i = 0; i < members.size(); ++i) {
      const auto [place, is_new] = places.emplace(members[i].first, i);
      if (is_new) continue;
      members[place->second].second = std::move(members[i].second);
      is_repeated[i] = true;
    }
    if (places.size() < members.size()) {
      places.clear();  // Its keys are views of the names.
      JsonObject once;
      for (size_t i = 0; i < members.size(); ++i) {
        if (!is_repeated[i]) once.push_back(std::move(members[i]));
      }
      members = std::move(once);
    }
    return close();
  }

  bool end_array() { return close(); }

  bool parse_error(size_t, const std::string&, const nlohmann::json::exception& error) {
    const std::string_view text =
        error.what();  // Such as "[json.exception.parse_error.101] parse error at line 1, ..."
    const size_t start = text.find("] ");
    throw JsonError(std::string(start == std::string_view::npos ? text : text.substr(start + 2)));
  }

  JsonValue root;

 private:
  template <typename T>
  bool add(T content) {
    place().content = std::move(content);
    return true;
  }

  // Returns the new value at the place that comes next.
  JsonValue& place() {
    if (open_.empty()) return root;
    if (auto* list = std::get_if<JsonList>(&open_.back().content)) return list->emplace_back();
    return std::get<JsonObject>(open_.back().content).emplace_back(std::move(keys_.back()), JsonValue()).second;
  }

  template <typename T>
  bool open() {
    if (open_.size() == kMaxDepth) throw JsonError("it is nested more than 64 levels deep");
    open_.emplace_back().content.emplace<T>();
    keys_.emplace_back();
    return true;
  }

  bool close() {
    auto content = std::move(open_.back().content);
    open_.pop_back();
    keys_.pop_back();
    return add(std::move(content));
  }

  std::vector<JsonValue> open_;    // Lists and objects whose end has not come yet.
  std::vector<std::string> keys_;  // For each of them, the name of the member that comes next.
};

}  // namespace

const char* python_type(const JsonValue& value) {
  constexpr const char* kNames[] = {"NoneType", "bool", "int", "float", "str", "list", "dict"};
  return kNames[value.content.index()];
}

JsonValue parse_json(const std::string& text) {
  if (text.size() > kMaxBytes) throw JsonError("it has more than 16 MiB");
  if (text.compare(0, 3, "\xEF\xBB\xBF") == 0) {
    throw JsonError("Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)");
  }
  Builder builder;
  nlohmann::json::sax_parse(text, &builder);
  return std::move(builder.root);
}

}  // namespace retinasdk::runtime
