// The engine's functions in the Python module. They read CPU tensors and write into tensors that the caller allocates, whose
// contents beforehand don't matter. All tensors contiguous, without requires_grad, float32 or float64 like z; index and slot
// int64. B samples, D dimensions, K potentials, S slots, layers of widths H_1 .. H_L, H_0 = D.
//
//     network = (weights: list of (K, H_l, H_{l-1}),  bias_jets: list of (S, 3, H_l),  out_weight (K, H_L),  out_bias (K,))
//     gradient: the same structure, written to
//     options of every call: activation: str, out_activation: str, has_time: bool, laplacian: "exact" | "probes" | "none",
//                            probes: (m, D) or None, num_threads: int
//     jet = (u (B,), grad (B, D), laplacian (B,), u_t (B,), u_tt (B,)), each of which may be None
//
//     jet_forward(network, z, index, slot, jet, **options)
//     jet_backward(network, z, index, slot, jet_bar, z_bar or None, gradient, **options)
//     residual_loss(network, z, index, slot, coefficients (K, 5), source (B,) or None, residual (B,), **options) -> loss
//     residual_loss_backward(network, z, index, slot, coefficients, source, residual, loss_bar: float, z_bar or None, gradient,
//                            coefficients_bar (K, 5), source_bar (B,) or None, **options) -> loss
#include "engine_bindings.hpp"

#include <nanobind/stl/string.h>

#include "arguments.hpp"
#include "engine.hpp"

namespace fastflow::cpu {
namespace {

// The options that every call has.
struct Options {
    std::string activation, out_activation;
    bool has_time;
    std::string laplacian;
    nb::object probes;
    int num_threads;

    explicit Options(const nb::kwargs& kwargs) {
        activation = take<std::string>(kwargs, "activation");
        out_activation = take<std::string>(kwargs, "out_activation");
        has_time = take<bool>(kwargs, "has_time");
        laplacian = take<std::string>(kwargs, "laplacian");
        probes = kwargs.contains("probes") ? nb::object(kwargs["probes"]) : nb::none();
        num_threads = take<int>(kwargs, "num_threads");
        if (num_threads < 1) throw nb::value_error("num_threads must be at least 1");
        for (const auto& [key, value] : kwargs) {
            const std::string name = nb::cast<std::string>(key);
            if (name != "activation" && name != "out_activation" && name != "has_time" && name != "laplacian" && name != "probes" &&
                name != "num_threads")
                throw nb::type_error(("unexpected keyword argument '" + name + "'").c_str());
        }
    }

   private:
    template <class V>
    static V take(const nb::kwargs& kwargs, const char* name) {
        V value;
        if (!kwargs.contains(name)) throw nb::type_error((std::string("missing keyword argument '") + name + "'").c_str());
        if (!nb::try_cast(nb::object(kwargs[name]), value)) throw nb::type_error((std::string(name) + " has the wrong type").c_str());
        return value;
    }
};

nb::handle item(const nb::sequence& sequence, const char* name, std::size_t i, std::size_t expected) {
    if (nb::len(sequence) != expected)
        throw nb::value_error((std::string(name) + " must have " + std::to_string(expected) + " items, got " + std::to_string(nb::len(sequence))).c_str());
    return nb::object(sequence[i]);  // kept alive by the sequence, a list or tuple
}

nb::sequence list_of(nb::handle value, const std::string& name) {
    if (!nb::isinstance<nb::list>(value) && !nb::isinstance<nb::tuple>(value)) throw nb::type_error((name + " must be a list or tuple").c_str());
    return nb::borrow<nb::sequence>(value);
}

// What all calls at points have in common.
template <class T>
struct PointArguments {
    Arguments& arguments;
    PointCall<T> call{};
    std::int64_t count;
    const std::int64_t* index;

    PointArguments(Arguments& arguments_, const nb::sequence& network, nb::handle z, nb::handle index_, nb::handle slot, const Options& options)
        : arguments(arguments_) {
        const Shape shape = arguments.shape(z, "z", 2);
        count = shape[0];
        read_network(network, shape[1], options);
        call.z = arguments.array<T>(z, "z", shape);
        index = arguments.indices(index_, "index", {count}, call.net.potentials);
        call.slot = arguments.indices(slot, "slot", {count}, call.net.slots);
    }

    void read_network(const nb::sequence& network, std::int64_t dim, const Options& options) {
        Network<T>& net = call.net;
        const nb::sequence weights = list_of(item(network, "network", 0, 4), "weights");
        const nb::sequence bias_jets = list_of(item(network, "network", 1, 4), "bias_jets");
        const std::size_t depth = nb::len(weights);
        if (depth < 1 || depth > max_depth)
            throw nb::value_error(("weights must have between 1 and " + std::to_string(max_depth) + " items, got " + std::to_string(depth)).c_str());
        if (dim < 1) throw nb::value_error("z must have at least one column");
        net.depth = static_cast<int>(depth);
        net.width[0] = static_cast<int>(dim);
        for (std::size_t l = 1; l <= depth; ++l) {
            const std::string name = "weights[" + std::to_string(l - 1) + "]", bias_name = "bias_jets[" + std::to_string(l - 1) + "]";
            const nb::handle weight = item(weights, "weights", l - 1, depth), bias = item(bias_jets, "bias_jets", l - 1, depth);
            const Shape shape = arguments.shape(weight, name, 3), bias_shape = arguments.shape(bias, bias_name, 3);
            if (l == 1) net.potentials = shape[0], net.slots = bias_shape[0];
            if (shape[0] < 1 || shape[1] < 1) throw nb::value_error((name + " must not be empty").c_str());
            net.width[l] = static_cast<int>(shape[1]);
            net.weight[l] = arguments.array<T>(weight, name, {net.potentials, net.width[l], net.width[l - 1]});
            net.bias_jets[l] = arguments.array<T>(bias, bias_name, {net.slots, 3, net.width[l]});
        }
        net.out_weight = arguments.array<T>(item(network, "network", 2, 4), "out_weight", {net.potentials, net.width[depth]});
        net.out_bias = arguments.array<T>(item(network, "network", 3, 4), "out_bias", {net.potentials});
        net.activation = activation_named(options.activation);
        net.output_map = output_map_named(options.out_activation);
        net.has_time = options.has_time;
        net.laplacian = laplacian_named(options.laplacian);
        if (net.laplacian == Laplacian::probes) {
            const Shape shape = arguments.shape(options.probes, "probes", 2);
            if (shape[0] < 1) throw nb::value_error("probes must not be empty");
            net.num_probes = static_cast<int>(shape[0]);
            net.probes = arguments.array<T>(options.probes, "probes", {shape[0], dim});
        }
    }

    void read_gradient(const nb::sequence& gradient, nb::handle z_bar) {
        const Network<T>& net = call.net;
        const nb::sequence weights = list_of(item(gradient, "gradient", 0, 4), "gradient[0]");
        const nb::sequence bias_jets = list_of(item(gradient, "gradient", 1, 4), "gradient[1]");
        for (int l = 1; l <= net.depth; ++l) {
            const std::string number = "[" + std::to_string(l - 1) + "]";
            call.gradient.weight[l] = arguments.array<T>(item(weights, "gradient[0]", l - 1, net.depth), "gradient[0]" + number,
                                                         {net.potentials, net.width[l], net.width[l - 1]});
            call.gradient.bias_jets[l] = arguments.array<T>(item(bias_jets, "gradient[1]", l - 1, net.depth), "gradient[1]" + number,
                                                            {net.slots, 3, net.width[l]});
        }
        call.gradient.out_weight = arguments.array<T>(item(gradient, "gradient", 2, 4), "gradient[2]", {net.potentials, net.width[net.depth]});
        call.gradient.out_bias = arguments.array<T>(item(gradient, "gradient", 3, 4), "gradient[3]", {net.potentials});
        call.z_bar = arguments.optional<T>(z_bar, "z_bar", {count, net.width[0]});
    }

    template <class Array>
    JetArrays<Array> read_jet(const nb::sequence& jet, const char* name) {
        const auto get = [&](std::size_t i, const char* part, const Shape& shape) {
            return arguments.optional<T>(item(jet, name, i, 5), std::string(name) + "." + part, shape);
        };
        return {get(0, "u", {count}), get(1, "grad", {count, call.net.width[0]}), get(2, "laplacian", {count}), get(3, "u_t", {count}),
                get(4, "u_tt", {count})};
    }

    void read_residual(nb::handle coefficients, nb::handle source, nb::handle residual) {
        call.coefficients = arguments.array<T>(coefficients, "coefficients", {call.net.potentials, num_coefficients});
        call.source = arguments.optional<T>(source, "source", {count});
        call.residual = arguments.array<T>(residual, "residual", {count});
    }

    double run(PointMode mode, double loss_bar, const Options& options) {
        call.mode = mode;
        nb::gil_scoped_release release;
        return run_points(call, count, index, loss_bar, options.num_threads);
    }
};

// Calls f(T{}) with the type of z.
template <class F>
auto with_type(Arguments& arguments, nb::handle z, F f) {
    return arguments.is_double(z, "z") ? f(double{}) : f(float{});
}

void jet_forward(nb::sequence network, nb::object z, nb::object index, nb::object slot, nb::sequence jet, nb::kwargs kwargs) {
    const Options options(kwargs);
    Arguments arguments;
    with_type(arguments, z, [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, options);
        points.call.jet = points.template read_jet<T>(jet, "jet");
        points.run(PointMode::jet, 0, options);
    });
}

void jet_backward(nb::sequence network, nb::object z, nb::object index, nb::object slot, nb::sequence jet_bar, nb::object z_bar, nb::sequence gradient,
                  nb::kwargs kwargs) {
    const Options options(kwargs);
    Arguments arguments;
    with_type(arguments, z, [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, options);
        points.call.jet_bar = points.template read_jet<const T>(jet_bar, "jet_bar");
        points.read_gradient(gradient, z_bar);
        if (points.call.jet_bar.laplacian == nullptr) points.call.net.laplacian = Laplacian::none;
        if (points.call.net.laplacian == Laplacian::none) points.call.jet_bar.laplacian = nullptr;  // that of a constant
        if (!points.call.net.has_time) points.call.jet_bar.u_t = points.call.jet_bar.u_tt = nullptr;
        points.run(PointMode::jet_backward, 0, options);
    });
}

double residual_loss(nb::sequence network, nb::object z, nb::object index, nb::object slot, nb::object coefficients, nb::object source,
                     nb::object residual, nb::kwargs kwargs) {
    const Options options(kwargs);
    Arguments arguments;
    return with_type(arguments, z, [&](auto zero) {
        PointArguments<decltype(zero)> points(arguments, network, z, index, slot, options);
        points.read_residual(coefficients, source, residual);
        return points.run(PointMode::residual, 0, options);
    });
}

double residual_loss_backward(nb::sequence network, nb::object z, nb::object index, nb::object slot, nb::object coefficients, nb::object source,
                              nb::object residual, double loss_bar, nb::object z_bar, nb::sequence gradient, nb::object coefficients_bar,
                              nb::object source_bar, nb::kwargs kwargs) {
    const Options options(kwargs);
    Arguments arguments;
    return with_type(arguments, z, [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, options);
        points.read_residual(coefficients, source, residual);
        points.read_gradient(gradient, z_bar);
        points.call.coefficients_bar = arguments.array<T>(coefficients_bar, "coefficients_bar", {points.call.net.potentials, num_coefficients});
        points.call.source_bar = arguments.optional<T>(source_bar, "source_bar", {points.count});
        return points.run(PointMode::residual_backward, loss_bar, options);
    });
}

}  // namespace

void bind_engine(nb::module_& m) {
    m.def("jet_forward", &jet_forward, nb::arg("network"), nb::arg("z"), nb::arg("index"), nb::arg("slot"), nb::arg("jet"), nb::arg("options"),
          "Writes the jets of z.");
    m.def("jet_backward", &jet_backward, nb::arg("network"), nb::arg("z"), nb::arg("index"), nb::arg("slot"), nb::arg("jet_bar"),
          nb::arg("z_bar").none(), nb::arg("gradient"), nb::arg("options"), "Writes the gradients that the cotangents of the jets cause.");
    m.def("residual_loss", &residual_loss, nb::arg("network"), nb::arg("z"), nb::arg("index"), nb::arg("slot"), nb::arg("coefficients"),
          nb::arg("source").none(), nb::arg("residual"), nb::arg("options"),
          "Writes residual = c0 u + c1 u_t + c2 u_tt + c3 laplacian + c4 |grad|^2 + source and returns its mean square.");
    m.def("residual_loss_backward", &residual_loss_backward, nb::arg("network"), nb::arg("z"), nb::arg("index"), nb::arg("slot"),
          nb::arg("coefficients"), nb::arg("source").none(), nb::arg("residual"), nb::arg("loss_bar"), nb::arg("z_bar").none(), nb::arg("gradient"),
          nb::arg("coefficients_bar"), nb::arg("source_bar").none(), nb::arg("options"),
          "As residual_loss, and writes the gradients of loss_bar times the loss in the same pass.");
}

}  // namespace fastflow::cpu
