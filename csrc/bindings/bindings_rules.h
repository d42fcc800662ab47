// The names of the values of overlap_rules.h in both Python modules.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "retinasdk/overlap_rules.h"

namespace retinasdk {

// Returns the value that has the given name. `what` is the name of the argument, for the error message.
template <typename T>
T named(const std::string& what, const std::string& given, const char* first, T first_value, const char* second,
        T second_value) {
  if (given == first) return first_value;
  if (given == second) return second_value;
  throw pybind11::value_error(what + " must be '" + first + "' or '" + second + "', got '" + given + "'");
}

inline Decay decay_named(const std::string& name) {
  return named("decay", name, "linear", Decay::kLinear, "gaussian", Decay::kGaussian);
}

inline ScoreScale score_scale_named(const std::string& name) {
  return named("scale", name, "logit", ScoreScale::kLogit, "probability", ScoreScale::kProbability);
}

inline FusedScore fused_score_named(const std::string& name) {
  return named("fused_score", name, "mean", FusedScore::kMean, "best", FusedScore::kBest);
}

}  // namespace retinasdk
