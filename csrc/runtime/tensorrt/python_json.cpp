#include "runtime/tensorrt/python_json.h"

#include <iomanip>
#include <locale>
#include <sstream>

namespace retinasdk::runtime::trt {
namespace {

// The number with the fewest digits that reads back as the same number, such as "1.5e-05". The streams do not follow
// the locale of the application, unlike printf.
std::string shortest_scientific(double number) {
  constexpr int kEnough = 17;
  for (int digits = 1;; ++digits) {
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text << std::scientific << std::setprecision(digits - 1) << number;
    std::istringstream back(text.str());
    back.imbue(std::locale::classic());
    double same = 0.0;
    back >> same;
    if (same == number || digits == kEnough) return text.str();
  }
}

// As Python's repr(): with an exponent below 1e-4 and from 1e16 on.
std::string float_text(double number) {
  std::string text = shortest_scientific(number);
  const size_t e = text.find('e');
  const int exponent = std::stoi(text.substr(e + 1));
  if (exponent < -4 || exponent >= 16) return text;
  const std::string sign = text[0] == '-' ? "-" : "";
  std::string digits = text.substr(sign.size(), e - sign.size());
  if (digits.size() > 1) digits.erase(1, 1);  // The point.
  if (exponent < 0) return sign + "0." + std::string(static_cast<size_t>(-exponent - 1), '0') + digits;
  const size_t whole = static_cast<size_t>(exponent) + 1;
  if (digits.size() <= whole) return sign + digits + std::string(whole - digits.size(), '0') + ".0";
  return sign + digits.substr(0, whole) + "." + digits.substr(whole);
}

}  // namespace

std::string as_python_writes(const nlohmann::json& value) {
  if (value.is_number_float()) return float_text(value.get<double>());
  // Keys of nlohmann::json are sorted by their bytes of UTF-8, which is Python's order by code points.
  if (value.is_object() || value.is_array()) {
    std::string text;
    for (const auto& [key, item] : value.items()) {
      text += text.empty() ? "" : ", ";
      if (value.is_object()) text += as_python_writes(key) + ": ";
      text += as_python_writes(item);
    }
    return value.is_object() ? "{" + text + "}" : "[" + text + "]";
  }
  constexpr bool kAsciiOnly = true;
  return value.dump(-1, ' ', kAsciiOnly);
}

}  // namespace retinasdk::runtime::trt
