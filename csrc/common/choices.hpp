// Options by the names that Python gives them.
#pragma once

#include <nanobind/nanobind.h>

#include <string>
#include <utility>

#include "common/options.hpp"

namespace fastflow {

// The choice that is called `value`; `name` is the option's.
template <class T, std::size_t N>
T choice(const std::string& value, const char* name, const std::pair<const char*, T> (&choices)[N]) {
    std::string list;
    for (const auto& [text, result] : choices) {
        if (value == text) return result;
        list += (list.empty() ? "'" : ", '") + std::string(text) + "'";
    }
    throw nanobind::value_error((std::string(name) + " must be one of " + list + ", got '" + value + "'").c_str());
}

inline Activation activation_named(const std::string& value) {
    return choice<Activation>(value, "activation",
                              {{"tanh", Activation::tanh},
                               {"sin", Activation::sin},
                               {"gelu", Activation::gelu},
                               {"silu", Activation::silu},
                               {"softplus", Activation::softplus}});
}

inline OutActivation out_activation_named(const std::string& value) {
    return choice<OutActivation>(value, "out_activation", {{"identity", OutActivation::identity}, {"tanh", OutActivation::tanh}});
}

inline Laplacian laplacian_named(const std::string& value) {
    return choice<Laplacian>(value, "laplacian", {{"none", Laplacian::none}, {"exact", Laplacian::exact}, {"hutchinson", Laplacian::hutchinson}});
}

inline Method method_named(const std::string& value) {
    return choice<Method>(value, "method", {{"euler", Method::euler}, {"heun", Method::heun}, {"rk4", Method::rk4}});
}

inline Direction direction_named(const std::string& value) {
    return choice<Direction>(value, "direction", {{"forward", Direction::forward}, {"descent", Direction::descent}, {"reverse", Direction::reverse}});
}

}  // namespace fastflow
