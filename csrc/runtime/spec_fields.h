// Reads JSON objects field by field, with the checks and the words of retinasdk/_util/dataclass_json.py.
#pragma once

#include <array>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/errors.h"
#include "runtime/json_text.h"

namespace retinasdk::runtime {

// An integer of a spec. Those beyond 64 bits are refused later, where the rules are checked, and then shown in full.
struct Integer {
  int64_t value;
  std::string shown;
};

[[noreturn]] inline void refuse(const std::string& message) { throw ModelError(message); }

[[noreturn]] inline void refuse_type(const std::string& where, const char* type, const JsonValue& given) {
  refuse(where + " must be of type " + type + ", got " + python_repr(given));
}

inline void read_value(std::string& target, const JsonValue& value, const std::string& where) {
  const auto* text = value.get<std::string>();
  if (text == nullptr) refuse_type(where, "str", value);
  target = *text;
}

inline void read_value(bool& target, const JsonValue& value, const std::string& where) {
  const auto* boolean = value.get<bool>();
  if (boolean == nullptr) refuse_type(where, "bool", value);
  target = *boolean;
}

inline void read_value(Integer& target, const JsonValue& value, const std::string& where) {
  const auto* integer = value.get<JsonInteger>();
  if (integer == nullptr) refuse_type(where, "int", value);
  target = {integer->value, python_repr(value)};
}

inline void read_value(double& target, const JsonValue& value, const std::string& where) {
  if (const auto* number = value.get<double>()) {
    target = *number;
  } else if (const auto* integer = value.get<JsonInteger>()) {
    target = integer->digits.empty() ? static_cast<double>(integer->value) : std::stod(integer->digits);
  } else {
    refuse_type(where, "float", value);
  }
}

template <typename T>
void read_value(std::optional<T>& target, const JsonValue& value, const std::string& where) {
  target.reset();
  if (value.get<std::nullptr_t>() != nullptr) return;
  read_value(target.emplace(), value, where);
}

inline const JsonList& list_of(const JsonValue& value, const std::string& where, size_t entries = 0) {
  const auto* list = value.get<JsonList>();
  if (list == nullptr) refuse(where + " must be a list, got " + python_repr(value));
  if (entries != 0 && list->size() != entries) {
    refuse(where + " must have " + std::to_string(entries) + " entries, got " + python_repr(value));
  }
  return *list;
}

inline const JsonObject& object_of(const JsonValue& value, const std::string& where) {
  const auto* object = value.get<JsonObject>();
  if (object == nullptr) refuse(where + " must be an object, got " + python_repr(value));
  return *object;
}

template <typename T>
void read_value(std::vector<T>& target, const JsonValue& value, const std::string& where) {
  const JsonList& list = list_of(value, where);
  target.assign(list.size(), T());
  for (size_t i = 0; i < list.size(); ++i) read_value(target[i], list[i], where + "[" + std::to_string(i) + "]");
}

template <typename T, size_t kSize>
void read_value(std::array<T, kSize>& target, const JsonValue& value, const std::string& where) {
  const JsonList& list = list_of(value, where, kSize);
  for (size_t i = 0; i < kSize; ++i) read_value(target[i], list[i], where + "[" + std::to_string(i) + "]");
}

inline void read_value(std::map<std::string, std::string>& target, const JsonValue& value, const std::string& where) {
  for (const auto& [name, item] : object_of(value, where)) read_value(target[name], item, where + "." + name);
}

// A field of T: its name, whether it has no default, and the function that reads it.
template <typename T>
struct Field {
  const char* name;
  bool is_required;
  void (*read)(T& target, const JsonValue& value, const std::string& where);
};

// Reads an object whose fields are listed. `where` is the prefix of their names in errors, such as "resize.".
template <typename T>
T read_object(const JsonObject& object, const std::vector<Field<T>>& fields, const std::string& where) {
  const auto find = [&fields](const std::string& name) {
    for (const Field<T>& field : fields) {
      if (name == field.name) return &field;
    }
    return static_cast<const Field<T>*>(nullptr);
  };
  const std::string* unknown = nullptr;
  for (const auto& member : object) {
    if (find(member.first) == nullptr && (unknown == nullptr || member.first < *unknown)) unknown = &member.first;
  }
  if (unknown != nullptr) {
    std::string known;
    for (const Field<T>& field : fields) known += (known.empty() ? "" : ", ") + std::string(field.name);
    refuse("unknown field " + where + *unknown + "; known are " + known);
  }
  for (const Field<T>& field : fields) {
    bool is_missing = field.is_required;
    for (const auto& member : object) is_missing = is_missing && member.first != field.name;
    if (is_missing) refuse("field " + where + field.name + " is missing");
  }
  T target;
  for (const auto& [name, value] : object) find(name)->read(target, value, where + name);
  return target;
}

}  // namespace retinasdk::runtime
