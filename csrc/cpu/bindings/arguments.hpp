// Python arguments to arrays: every check names the argument, what was expected and what came.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <deque>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "cpu/network.hpp"

namespace fastflow::cpu {

namespace nb = nanobind;

using Shape = std::vector<std::int64_t>;

inline std::string to_string(const Shape& shape) {
    std::string text = "(";
    for (std::size_t i = 0; i < shape.size(); ++i) text += (i > 0 ? ", " : "") + std::to_string(shape[i]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

enum class Element { float32, float64, int64, other };

template <class T>
constexpr Element element_of = std::is_same_v<T, float>    ? Element::float32
                               : std::is_same_v<T, double> ? Element::float64
                                                           : Element::int64;

// Keeps the arrays of one call alive while the kernels work on them.
class Arguments {
   public:
    // The shape of an array of any type; `dimensions` is how many it must have.
    const Shape& shape(nb::handle value, const std::string& name, std::size_t dimensions) {
        const Array& array = convert(value, name);
        if (array.shape.size() != dimensions)
            throw nb::value_error((name + " must have " + std::to_string(dimensions) + " dimensions, got shape " + to_string(array.shape)).c_str());
        return array.shape;
    }

    bool is_double(nb::handle value, const std::string& name) {
        const Element element = convert(value, name).element;
        if (element == Element::float64) return true;
        if (element == Element::float32) return false;
        throw nb::type_error((name + " must be float32 or float64").c_str());
    }

    // The data of a contiguous array of exactly this type and shape.
    template <class T>
    T* array(nb::handle value, const std::string& name, const Shape& expected) {
        const Array& array = convert(value, name);
        if (array.element != element_of<T>)
            throw nb::type_error((name + " must be " + (sizeof(T) == 4 ? "float32" : std::is_integral_v<T> ? "int64" : "float64")).c_str());
        if (shape(value, name, expected.size()) != expected)
            throw nb::value_error((name + " must have shape " + to_string(expected) + ", got " + to_string(array.shape)).c_str());
        if (!array.contiguous) throw nb::value_error((name + " must be contiguous").c_str());
        return static_cast<T*>(array.data);
    }

    template <class T>
    T* optional(nb::handle value, const std::string& name, const Shape& expected) {
        return value.is_none() ? nullptr : array<T>(value, name, expected);
    }

    // Integers in [0, bound). A copy: what was checked is what the kernels read, whatever another thread writes meanwhile.
    const std::int64_t* indices(nb::handle value, const std::string& name, const Shape& expected, std::int64_t bound) {
        const std::int64_t* data = array<std::int64_t>(value, name, expected);
        std::int64_t count = 1;
        for (const std::int64_t n : expected) count *= n;
        const std::vector<std::int64_t>& checked = indices_.emplace_back(data, data + count);
        for (const std::int64_t i : checked)
            if (i < 0 || i >= bound)
                throw nb::index_error((name + " must lie in [0, " + std::to_string(bound) + "), got " + std::to_string(i)).c_str());
        return checked.data();
    }

   private:
    struct Array {
        nb::object owner;
        void* data;
        Shape shape;
        Element element;
        bool contiguous;
    };

    const Array& convert(nb::handle value, const std::string& name) {
        for (const auto& [object, array] : kept_)
            if (object.is(value)) return array;
        const auto refuse = [&] {
            throw nb::type_error((name + " must be a CPU tensor, got " + std::string(nb::type_name(value.type()).c_str())).c_str());
        };
        if (value.is_none()) refuse();
        std::optional<Array> array;
        try {
            array = nb::hasattr(value, "data_ptr") ? from_tensor(value) : from_exchange(value);
        } catch (nb::python_error&) {  // a tensor without plain storage
        }
        if (!array) refuse();
        return kept_.emplace_back(value, *std::move(array)).second;
    }

    // A torch tensor by its methods, which take a tenth of an exchange's time.
    static std::optional<Array> from_tensor(nb::handle value) {
        const auto is = [&](const char* method) { return nb::cast<bool>(value.attr(method)()); };
        if (!nb::cast<bool>(value.attr("is_cpu"))) return std::nullopt;
        const auto size = nb::cast<int>(value.attr("element_size")());
        Element element = Element::other;
        if (is("is_floating_point"))
            element = size == 4 ? Element::float32 : size == 8 ? Element::float64 : Element::other;
        else if (size == 8 && is("is_signed") && !is("is_complex"))
            element = Element::int64;
        Shape shape;
        for (const nb::handle n : value.attr("shape")) shape.push_back(nb::cast<std::int64_t>(n));
        auto* data = reinterpret_cast<void*>(nb::cast<std::uintptr_t>(value.attr("data_ptr")()));
        return Array{nb::borrow(value), data, std::move(shape), element, is("is_contiguous")};
    }

    // Anything else that exchanges arrays: NumPy's, or DLPack's.
    static std::optional<Array> from_exchange(nb::handle value) {
        nb::ndarray<> array;
        if (!nb::try_cast(value, array) || array.device_type() != nb::device::cpu::value) return std::nullopt;
        const nb::dlpack::dtype type = array.dtype();
        const Element element = type == nb::dtype<float>()          ? Element::float32
                                : type == nb::dtype<double>()       ? Element::float64
                                : type == nb::dtype<std::int64_t>() ? Element::int64
                                                                    : Element::other;
        Shape shape;
        bool contiguous = true;
        for (std::size_t i = 0; i < array.ndim(); ++i) shape.push_back(static_cast<std::int64_t>(array.shape(i)));
        std::int64_t stride = 1;
        for (std::size_t i = array.ndim(); i-- > 0; stride *= shape[i])
            contiguous = contiguous && (shape[i] <= 1 || array.size() == 0 || array.stride(i) == stride);
        return Array{nb::cast(array), array.data(), std::move(shape), element, contiguous};
    }

    // References to their elements stay valid.
    std::deque<std::pair<nb::handle, Array>> kept_;
    std::deque<std::vector<std::int64_t>> indices_;
};

}  // namespace fastflow::cpu
