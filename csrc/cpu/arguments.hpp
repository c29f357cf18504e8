// Python arguments to arrays: every check names the argument, what was expected and what came.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "problem.hpp"

namespace fastflow::cpu {

namespace nb = nanobind;

using Shape = std::vector<std::int64_t>;

inline std::string to_string(const Shape& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

// Keeps the arrays of one call alive while the kernels work on them.
class Arguments {
   public:
    // The shape of an array of any type; `dimensions` is how many it must have.
    Shape shape(nb::handle value, const std::string& name, std::size_t dimensions) {
        const nb::ndarray<> array = convert(value, name);
        Shape shape;
        for (std::size_t i = 0; i < array.ndim(); ++i) shape.push_back(static_cast<std::int64_t>(array.shape(i)));
        if (shape.size() != dimensions)
            throw nb::value_error((name + " must have " + std::to_string(dimensions) + " dimensions, got shape " + to_string(shape)).c_str());
        return shape;
    }

    bool is_double(nb::handle value, const std::string& name) {
        const nb::dlpack::dtype type = convert(value, name).dtype();
        if (type == nb::dtype<double>()) return true;
        if (type == nb::dtype<float>()) return false;
        throw nb::type_error((name + " must be float32 or float64").c_str());
    }

    // The data of a contiguous array of exactly this type and shape.
    template <class T>
    T* array(nb::handle value, const std::string& name, const Shape& expected) {
        nb::ndarray<> array = convert(value, name);
        if (array.dtype() != nb::dtype<T>())
            throw nb::type_error((name + " must be " + (sizeof(T) == 4 ? "float32" : std::is_integral_v<T> ? "int64" : "float64")).c_str());
        if (shape(value, name, expected.size()) != expected)
            throw nb::value_error((name + " must have shape " + to_string(expected) + ", got " + to_string(shape(value, name, expected.size()))).c_str());
        std::int64_t stride = 1;
        for (std::size_t i = array.ndim(); i-- > 0; stride *= expected[i])
            if (expected[i] > 1 && array.stride(i) != stride && array.size() > 0) throw nb::value_error((name + " must be contiguous").c_str());
        return static_cast<T*>(array.data());
    }

    template <class T>
    T* optional(nb::handle value, const std::string& name, const Shape& expected) {
        return value.is_none() ? nullptr : array<T>(value, name, expected);
    }

    // Integers in [0, bound).
    const std::int64_t* indices(nb::handle value, const std::string& name, const Shape& expected, std::int64_t bound) {
        const std::int64_t* data = array<std::int64_t>(value, name, expected);
        std::int64_t count = 1;
        for (const std::int64_t n : expected) count *= n;
        for (std::int64_t i = 0; i < count; ++i)
            if (data[i] < 0 || data[i] >= bound)
                throw nb::index_error((name + " must lie in [0, " + std::to_string(bound) + "), got " + std::to_string(data[i])).c_str());
        return data;
    }

   private:
    nb::ndarray<> convert(nb::handle value, const std::string& name) {
        for (const auto& [object, array] : kept_)
            if (object.is(value)) return array;
        nb::ndarray<> array;
        if (value.is_none() || !nb::try_cast(value, array) || array.device_type() != nb::device::cpu::value)
            throw nb::type_error((name + " must be a CPU tensor, got " +
                                  std::string(nb::type_name(value.type()).c_str())).c_str());
        kept_.emplace_back(value, array);
        return array;
    }

    std::vector<std::pair<nb::handle, nb::ndarray<>>> kept_;
};

template <class T, std::size_t N>
T choice(const std::string& value, const char* name, const std::pair<const char*, T> (&choices)[N]) {
    std::string list;
    for (const auto& [text, result] : choices) {
        if (value == text) return result;
        list += (list.empty() ? "'" : ", '") + std::string(text) + "'";
    }
    throw nb::value_error((std::string(name) + " must be one of " + list + ", got '" + value + "'").c_str());
}

inline Activation activation_named(const std::string& value) {
    return choice<Activation>(value, "activation", {{"tanh", Activation::tanh}, {"sin", Activation::sin}, {"gelu", Activation::gelu},
                                                    {"silu", Activation::silu}, {"softplus", Activation::softplus}});
}

inline OutputMap output_map_named(const std::string& value) {
    return choice<OutputMap>(value, "out_activation", {{"identity", OutputMap::identity}, {"tanh", OutputMap::tanh}});
}

inline Laplacian laplacian_named(const std::string& value) {
    return choice<Laplacian>(value, "laplacian", {{"none", Laplacian::none}, {"exact", Laplacian::exact}, {"probes", Laplacian::probes}});
}

}  // namespace fastflow::cpu
