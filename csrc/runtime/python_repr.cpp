// Values as Python writes them, so that errors have the same words in both languages.
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <utility>

#include "runtime/json_text.h"

namespace retinasdk::runtime {
namespace {

// Ranges of characters that Python escapes because they cannot be seen: controls, formats, spaces, private use. Code
// points that Unicode has not assigned are left out, so they are shown as they are.
constexpr std::pair<uint32_t, uint32_t> kInvisible[] = {
    {0x7F, 0xA0},     {0xAD, 0xAD},       {0x600, 0x605},     {0x61C, 0x61C},     {0x6DD, 0x6DD},
    {0x70F, 0x70F},   {0x1680, 0x1680},   {0x180E, 0x180E},   {0x2000, 0x200F},   {0x2028, 0x202F},
    {0x205F, 0x206F}, {0x3000, 0x3000},   {0xE000, 0xF8FF},   {0xFEFF, 0xFEFF},   {0xFFF0, 0xFFFB},
    {0xFFFE, 0xFFFF}, {0x1D173, 0x1D17A}, {0xE0000, 0xE00FF}, {0xF0000, 0x10FFFF}};

// Returns the code point that starts at `at` in valid UTF-8, and moves `at` behind it.
uint32_t next_character(const std::string& text, size_t& at) {
  const auto first = static_cast<uint8_t>(text[at++]);
  if (first < 0x80) return first;
  const int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : 1;
  uint32_t character = first & (0x3Fu >> more);
  for (int i = 0; i < more && at < text.size(); ++i)
    character = character << 6 | (static_cast<uint8_t>(text[at++]) & 63);
  return character;
}

bool is_visible(uint32_t character) {
  if (character < 0x20) return false;
  for (const auto& [first, last] : kInvisible) {
    if (character >= first && character <= last) return false;
  }
  return true;
}

}  // namespace

std::string python_repr(const std::string& text) {
  const bool has_single = text.find('\'') != std::string::npos;
  const char quote = has_single && text.find('"') == std::string::npos ? '"' : '\'';
  std::string shown(1, quote);
  for (size_t at = 0; at < text.size();) {
    const size_t start = at;
    const uint32_t character = next_character(text, at);
    if (character == static_cast<uint32_t>(quote) || character == '\\') {
      shown += {'\\', static_cast<char>(character)};
    } else if (character == '\n' || character == '\r' || character == '\t') {
      shown += {'\\', character == '\n' ? 'n' : character == '\r' ? 'r' : 't'};
    } else if (is_visible(character)) {
      shown.append(text, start, at - start);
    } else {
      std::array<char, 16> escaped{};
      const char* format = character < 0x100 ? "\\x%02x" : character < 0x10000 ? "\\u%04x" : "\\U%08x";
      std::snprintf(escaped.data(), escaped.size(), format, static_cast<unsigned>(character));
      shown += escaped.data();
    }
  }
  return shown + quote;
}

std::string python_repr(double number) {
  if (std::isnan(number)) return "nan";
  if (std::isinf(number)) return number < 0 ? "-inf" : "inf";
  std::array<char, 40> buffer{};
  const auto end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), number, std::chars_format::scientific);
  std::string digits(buffer.data(), end.ptr);  // The shortest that give the number again, such as -1.25e-07.
  const bool is_negative = digits[0] == '-';
  if (is_negative) digits.erase(0, 1);
  const size_t mark = digits.find('e');
  int exponent = 0;
  const char* first = digits.data() + mark + (digits[mark + 1] == '+' ? 2 : 1);
  std::from_chars(first, digits.data() + digits.size(), exponent);
  digits.resize(mark);
  if (digits.size() > 1) digits.erase(1, 1);  // The point.
  std::string shown;
  if (exponent < -4 || exponent >= 16) {
    shown = digits.substr(0, 1) + (digits.size() > 1 ? "." + digits.substr(1) : "");
    std::array<char, 16> power{};
    std::snprintf(power.data(), power.size(), "e%c%02d", exponent < 0 ? '-' : '+', std::abs(exponent));
    shown += power.data();
  } else if (exponent < 0) {
    shown = "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  } else {
    const auto whole = static_cast<size_t>(exponent) + 1;
    if (digits.size() < whole) digits.append(whole - digits.size(), '0');
    shown = digits.substr(0, whole) + "." + (digits.size() > whole ? digits.substr(whole) : "0");
  }
  return is_negative ? "-" + shown : shown;
}

std::string python_repr(const JsonValue& value) {
  if (value.get<std::nullptr_t>() != nullptr) return "None";
  if (const auto* boolean = value.get<bool>()) return *boolean ? "True" : "False";
  if (const auto* integer = value.get<JsonInteger>()) {
    return integer->digits.empty() ? std::to_string(integer->value) : integer->digits;
  }
  if (const auto* number = value.get<double>()) return python_repr(*number);
  if (const auto* text = value.get<std::string>()) return python_repr(*text);
  std::string shown;
  if (const auto* list = value.get<JsonList>()) {
    for (const JsonValue& item : *list) shown += (shown.empty() ? "" : ", ") + python_repr(item);
    return "[" + shown + "]";
  }
  for (const auto& [name, item] : *value.get<JsonObject>()) {
    shown += (shown.empty() ? "" : ", ") + python_repr(name) + ": " + python_repr(item);
  }
  return "{" + shown + "}";
}

}  // namespace retinasdk::runtime
