// What the engine's Python functions have in common: keyword options, the network, the gradient's structure.
#pragma once

#include <nanobind/stl/string.h>
#include <algorithm>

#include "common/choices.hpp"
#include "cpu/bindings/arguments.hpp"

namespace fastflow::cpu {

// Keyword arguments, each taken by name; `done` refuses what nobody took.
class Options {
   public:
    explicit Options(const nb::kwargs& kwargs) : kwargs_(kwargs) {}

    template <class V>
    V take(const char* name) {
        const nb::object given = object(name);
        V value;
        if (given.is_none()) throw nb::type_error((std::string("missing keyword argument '") + name + "'").c_str());
        if (!nb::try_cast(given, value)) throw nb::type_error((std::string(name) + " has the wrong type").c_str());
        return value;
    }

    // None when it's absent.
    nb::object object(const char* name) {
        taken_.push_back(name);
        return kwargs_.contains(name) ? nb::object(kwargs_[name]) : nb::none();
    }

    void done() const {
        for (const auto& [key, value] : kwargs_) {
            const std::string name = nb::cast<std::string>(key);
            if (std::find(taken_.begin(), taken_.end(), name) == taken_.end())
                throw nb::type_error(("unexpected keyword argument '" + name + "'").c_str());
        }
    }

   private:
    const nb::kwargs& kwargs_;
    std::vector<std::string> taken_;
};

// A list or tuple of a certain length.
class Items {
   public:
    Items(nb::handle value, const std::string& name) : name_(name) {
        if (!nb::isinstance<nb::list>(value) && !nb::isinstance<nb::tuple>(value)) throw nb::type_error((name + " must be a list or tuple").c_str());
        for (nb::handle item : nb::borrow<nb::sequence>(value)) items_.push_back(nb::borrow(item));
    }
    Items(nb::handle value, const std::string& name, std::size_t length) : Items(value, name) {
        if (items_.size() != length)
            throw nb::value_error((name + " must have " + std::to_string(length) + " items, got " + std::to_string(items_.size())).c_str());
    }

    std::size_t size() const { return items_.size(); }
    nb::handle operator[](std::size_t i) const { return items_[i]; }
    std::string name(std::size_t i) const { return name_ + "[" + std::to_string(i) + "]"; }

   private:
    std::string name_;
    std::vector<nb::object> items_;
};

// A size that the kernels count in `int`.
inline int to_int(std::int64_t size, const std::string& what) {
    constexpr std::int64_t largest = 1 << 28;
    if (size > largest) throw nb::value_error((what + " must be at most " + std::to_string(largest) + ", got " + std::to_string(size)).c_str());
    return static_cast<int>(size);
}

inline int take_threads(Options& options) {
    const int threads = options.take<int>("num_threads");
    if (threads < 1) throw nb::value_error(("num_threads must be at least 1, got " + std::to_string(threads)).c_str());
    return threads;
}

// network = (weights, bias_jets, out_weight, out_bias), for points of `dim` dimensions; without derivatives of the field.
template <class T>
Network<T> read_network(Arguments& arguments, nb::handle network, std::int64_t dim, Options& options) {
    Network<T> net{};
    const Items parts(network, "network", 4), weights(parts[0], "weights");
    const std::size_t depth = weights.size();
    if (depth < 1 || depth > max_depth)
        throw nb::value_error(("weights must have between 1 and " + std::to_string(max_depth) + " items, got " + std::to_string(depth)).c_str());
    const Items bias_jets(parts[1], "bias_jets", depth);
    if (dim < 1) throw nb::value_error("z must have at least one column");
    net.depth = static_cast<int>(depth);
    net.width[0] = to_int(dim, "the dimension of z");
    net.num_potentials = arguments.shape(weights[0], weights.name(0), 3)[0];
    net.num_slots = arguments.shape(bias_jets[0], bias_jets.name(0), 3)[0];
    for (std::size_t l = 1; l <= depth; ++l) {
        const Shape shape = arguments.shape(weights[l - 1], weights.name(l - 1), 3);
        if (shape[0] < 1 || shape[1] < 1) throw nb::value_error((weights.name(l - 1) + " must not be empty").c_str());
        net.width[l] = to_int(shape[1], "the width of " + weights.name(l - 1));
        net.weight[l] = arguments.array<T>(weights[l - 1], weights.name(l - 1), {net.num_potentials, net.width[l], net.width[l - 1]});
        net.bias_jet[l] = arguments.array<T>(bias_jets[l - 1], bias_jets.name(l - 1), {net.num_slots, 3, net.width[l]});
    }
    net.out_weight = arguments.array<T>(parts[2], "out_weight", {net.num_potentials, net.width[depth]});
    net.out_bias = arguments.array<T>(parts[3], "out_bias", {net.num_potentials});
    net.activation = activation_named(options.take<std::string>("activation"));
    net.out_activation = out_activation_named(options.take<std::string>("out_activation"));
    return net;
}

// The options about derivatives of the field.
template <class T>
void read_derivatives(Network<T>& net, Arguments& arguments, Options& options) {
    net.has_time = options.take<bool>("has_time");
    net.laplacian = laplacian_named(options.take<std::string>("laplacian"));
    const nb::object probes = options.object("probes");
    if (net.laplacian != Laplacian::hutchinson) return;
    const std::int64_t number = arguments.shape(probes, "probes", 2)[0];
    if (number < 1) throw nb::value_error("probes must not be empty");
    net.num_probes = to_int(number, "the number of probes");
    net.probes = arguments.array<T>(probes, "probes", {number, net.width[0]});
}

// gradient: the network's structure, to be written.
template <class T>
NetworkGradient<T> read_gradient(Arguments& arguments, nb::handle gradient, const Network<T>& net) {
    NetworkGradient<T> result{};
    const std::size_t depth = net.depth;
    const Items parts(gradient, "gradient", 4), weights(parts[0], "gradient[0]", depth), bias_jets(parts[1], "gradient[1]", depth);
    for (std::size_t l = 1; l <= depth; ++l) {
        result.weight[l] = arguments.array<T>(weights[l - 1], weights.name(l - 1), {net.num_potentials, net.width[l], net.width[l - 1]});
        result.bias_jet[l] = arguments.array<T>(bias_jets[l - 1], bias_jets.name(l - 1), {net.num_slots, 3, net.width[l]});
    }
    result.out_weight = arguments.array<T>(parts[2], parts.name(2), {net.num_potentials, net.width[depth]});
    result.out_bias = arguments.array<T>(parts[3], parts.name(3), {net.num_potentials});
    return result;
}

// Calls f(T{}) with the element type of z.
template <class F>
auto with_type(Arguments& arguments, nb::handle z, const char* name, F f) {
    return arguments.is_double(z, name) ? f(double{}) : f(float{});
}

}  // namespace fastflow::cpu
