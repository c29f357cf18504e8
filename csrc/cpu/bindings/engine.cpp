// The engine's functions in the Python module. They read CPU tensors and write into tensors that the caller allocates, whose
// contents beforehand don't matter. All tensors are contiguous, float32 or float64 like z; index, slot and slots int64.
// B samples, D dimensions, K potentials, S slots, layers of widths H_1 .. H_L, H_0 = D, M probes, T times.
//
//     network  = (weights: list of (K, H_l, H_{l-1}), bias_jets: list of (S, 3, H_l), out_weight (K, H_L), out_bias (K,))
//     gradient = the same structure, written to
//     jet      = (u (B,), grad (B, D), laplacian (B,), u_t (B,), u_tt (B,)), of which each may be None
//     net      = keywords activation: "tanh" | "sin" | "gelu" | "silu" | "softplus", out_activation: "identity" | "tanh",
//                num_threads: int
//     jets     = keywords has_time: bool, laplacian: "exact" | "hutchinson" | "none", probes: (M, D) or None
//     path     = keywords dt: float, method: "euler" | "heun" | "rk4", direction: "forward" | "descent" | "reverse",
//                step_length: float or None; slots (T, K) has the bias rows of each potential at the method's times
//
//     jet(network, z, index, slot, jet, **net, **jets)
//     jet_backward(network, z, index, slot, jet_bar, z_bar or None, gradient, **net, **jets)
//     residual_loss(network, z, index, slot, coefficients (K, 5), source (B,) or None, residual (B,), **net, **jets) -> loss
//     residual_loss_and_gradient(network, z, index, slot, coefficients, source, residual, loss_bar: float, z_bar or None, gradient,
//                                coefficients_bar (K, 5), source_bar (B,) or None, **net, **jets) -> loss
//
//     flow(network, z0, index, slots, path (B, steps + 1, D), error (B,) or None, **net, **path)
//     flow_backward(network, path, index, slots, path_bar, z0_bar or None, gradient, **net, **path)
//     rollout_loss(network, z0, index, slots, coefficients, source (B, steps) or None, path, residual (B, steps) or None,
//                  **net, **jets, **path) -> loss
//     rollout_loss_and_gradient(network, z0 or None, index, slots, coefficients, source, path, residual, loss_bar: float,
//                               path_bar or None, z0_bar or None, gradient, coefficients_bar, source_bar, **net, **jets, **path) -> loss
//         With z0 it computes the path too; without, `path` is one that rollout_loss wrote.
#include "cpu/bindings/engine.hpp"

#include "cpu/bindings/network_arguments.hpp"
#include "cpu/schedule/run.hpp"

namespace fastflow::cpu {
namespace {

// What all calls at points have in common.
template <class T>
struct PointArguments {
    Arguments& arguments;
    PointCall<T> call{};
    std::int64_t count;
    const std::int64_t* index;
    int threads;

    PointArguments(Arguments& arguments_, nb::handle network, nb::handle z, nb::handle index_, nb::handle slot, Options options)
        : arguments(arguments_) {
        const Shape shape = arguments.shape(z, "z", 2);
        count = shape[0];
        call.net = read_network<T>(arguments, network, shape[1], options);
        read_derivatives(call.net, arguments, options);
        threads = take_threads(options);
        options.done();
        call.z = arguments.array<T>(z, "z", shape);
        index = arguments.indices(index_, "index", {count}, call.net.num_potentials);
        call.slot = arguments.indices(slot, "slot", {count}, call.net.num_slots);
    }

    void read_gradients(nb::handle gradient, nb::handle z_bar) {
        call.gradient = read_gradient(arguments, gradient, call.net);
        call.z_bar = arguments.optional<T>(z_bar, "z_bar", {count, call.net.width[0]});
    }

    template <class Array>
    JetArrays<Array> read_jet(nb::handle jet, const char* name) {
        const Items parts(jet, name, 5);
        const auto get = [&](std::size_t i, const char* part, const Shape& shape) {
            return arguments.optional<T>(parts[i], std::string(name) + "." + part, shape);
        };
        return {get(0, "u", {count}), get(1, "grad", {count, call.net.width[0]}), get(2, "laplacian", {count}), get(3, "u_t", {count}),
                get(4, "u_tt", {count})};
    }

    void read_residual(nb::handle coefficients, nb::handle source, nb::handle residual) {
        call.coefficients = arguments.array<T>(coefficients, "coefficients", {call.net.num_potentials, num_coefficients});
        call.source = arguments.optional<T>(source, "source", {count});
        call.residual = arguments.array<T>(residual, "residual", {count});
    }

    double run(PointMode mode, double loss_bar = 0) {
        call.mode = mode;
        nb::gil_scoped_release release;
        return run_points(call, count, index, loss_bar, threads);
    }
};

void jet(nb::object network, nb::object z, nb::object index, nb::object slot, nb::object jet, nb::kwargs options) {
    Arguments arguments;
    with_type(arguments, z, "z", [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, Options(options));
        points.call.jet = points.template read_jet<T>(jet, "jet");
        points.run(PointMode::jet);
    });
}

void jet_backward(nb::object network, nb::object z, nb::object index, nb::object slot, nb::object jet_bar, nb::object z_bar, nb::object gradient,
                  nb::kwargs options) {
    Arguments arguments;
    with_type(arguments, z, "z", [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, Options(options));
        JetArrays<const T>& bar = points.call.jet_bar;
        Network<T>& net = points.call.net;
        bar = points.template read_jet<const T>(jet_bar, "jet_bar");
        points.read_gradients(gradient, z_bar);
        if (bar.laplacian == nullptr) net.laplacian = Laplacian::none;
        if (bar.u_t == nullptr && bar.u_tt == nullptr) net.has_time = false;
        if (net.laplacian == Laplacian::none) bar.laplacian = nullptr;  // cotangents of constants
        if (!net.has_time) bar.u_t = bar.u_tt = nullptr;
        points.run(PointMode::jet_backward);
    });
}

double residual_loss(nb::object network, nb::object z, nb::object index, nb::object slot, nb::object coefficients, nb::object source,
                     nb::object residual, nb::kwargs options) {
    Arguments arguments;
    return with_type(arguments, z, "z", [&](auto zero) {
        PointArguments<decltype(zero)> points(arguments, network, z, index, slot, Options(options));
        points.read_residual(coefficients, source, residual);
        return points.run(PointMode::residual);
    });
}

double residual_loss_and_gradient(nb::object network, nb::object z, nb::object index, nb::object slot, nb::object coefficients, nb::object source,
                                  nb::object residual, double loss_bar, nb::object z_bar, nb::object gradient, nb::object coefficients_bar,
                                  nb::object source_bar, nb::kwargs options) {
    Arguments arguments;
    return with_type(arguments, z, "z", [&](auto zero) {
        using T = decltype(zero);
        PointArguments<T> points(arguments, network, z, index, slot, Options(options));
        points.read_residual(coefficients, source, residual);
        points.read_gradients(gradient, z_bar);
        points.call.coefficients_bar = arguments.array<T>(coefficients_bar, "coefficients_bar", {points.call.net.num_potentials, num_coefficients});
        points.call.source_bar = arguments.optional<T>(source_bar, "source_bar", {points.count});
        return points.run(PointMode::residual_backward, loss_bar);
    });
}

// What all calls along flows have in common.
template <class T>
struct FlowArguments {
    Arguments& arguments;
    FlowCall<T> call{};
    std::int64_t count;
    const std::int64_t* index;
    int threads;

    FlowArguments(Arguments& arguments_, nb::handle network, nb::handle path, nb::handle index_, nb::handle slots, bool with_jets, Options options)
        : arguments(arguments_) {
        const Shape shape = arguments.shape(path, "path", 3);
        count = shape[0];
        if (shape[1] < 1) throw nb::value_error(("path must have shape (B, steps + 1, D), got " + to_string(shape)).c_str());
        call.steps = to_int(shape[1] - 1, "the number of steps");
        call.net = read_network<T>(arguments, network, shape[2], options);
        if (with_jets) read_derivatives(call.net, arguments, options);
        read_method(options);
        threads = take_threads(options);
        options.done();
        if (with_jets && call.direction != Direction::forward) throw nb::value_error("direction must be 'forward' in a rollout");
        call.path = arguments.array<T>(path, "path", shape);
        call.slots = arguments.indices(slots, "slots", {call.times, call.net.num_potentials}, call.net.num_slots);
        index = arguments.indices(index_, "index", {count}, call.net.num_potentials);
    }

    void read_start(nb::handle z0) { call.z = arguments.optional<T>(z0, "z0", {count, call.net.width[0]}); }

    void read_gradients(nb::handle path_bar, nb::handle z0_bar, nb::handle gradient) {
        call.backward = true;
        call.path_bar = arguments.optional<T>(path_bar, "path_bar", {count, call.steps + 1, call.net.width[0]});
        call.z_bar = arguments.optional<T>(z0_bar, "z0_bar", {count, call.net.width[0]});
        call.gradient = read_gradient(arguments, gradient, call.net);
    }

    void read_residual(nb::handle coefficients, nb::handle source, nb::handle residual) {
        call.coefficients = arguments.array<T>(coefficients, "coefficients", {call.net.num_potentials, num_coefficients});
        call.source = arguments.optional<T>(source, "source", {count, call.steps});
        call.residual = arguments.optional<T>(residual, "residual", {count, call.steps});
    }

    double run(double loss_bar = 0) {
        nb::gil_scoped_release release;
        return run_flow(call, count, index, loss_bar, threads);
    }

   private:
    void read_method(Options& options) {
        call.method = method_named(options.take<std::string>("method"));
        call.times = call.method == Method::euler ? call.steps : call.method == Method::heun ? call.steps + 1 : 2 * call.steps + 1;
        call.direction = direction_named(options.take<std::string>("direction"));
        call.sign = call.direction == Direction::descent ? T(-1) : T(1);
        call.dt = static_cast<T>(options.take<double>("dt"));
        const nb::object length = options.object("step_length");
        call.step_length = length.is_none() ? T(-1) : static_cast<T>(options.take<double>("step_length"));
        if (!length.is_none() && !(call.step_length >= 0)) throw nb::value_error("step_length must not be negative");
    }
};

void flow(nb::object network, nb::object z0, nb::object index, nb::object slots, nb::object path, nb::object error, nb::kwargs options) {
    Arguments arguments;
    with_type(arguments, path, "path", [&](auto zero) {
        using T = decltype(zero);
        FlowArguments<T> flow(arguments, network, path, index, slots, false, Options(options));
        flow.call.z = arguments.array<T>(z0, "z0", {flow.count, flow.call.net.width[0]});
        if (flow.call.direction == Direction::reverse) flow.call.reverse_error = arguments.array<T>(error, "error", {flow.count});
        flow.run();
    });
}

void flow_backward(nb::object network, nb::object path, nb::object index, nb::object slots, nb::object path_bar, nb::object z0_bar,
                   nb::object gradient, nb::kwargs options) {
    Arguments arguments;
    with_type(arguments, path, "path", [&](auto zero) {
        FlowArguments<decltype(zero)> flow(arguments, network, path, index, slots, false, Options(options));
        flow.read_gradients(path_bar, z0_bar, gradient);
        flow.run();
    });
}

double rollout_loss(nb::object network, nb::object z0, nb::object index, nb::object slots, nb::object coefficients, nb::object source,
                    nb::object path, nb::object residual, nb::kwargs options) {
    Arguments arguments;
    return with_type(arguments, path, "path", [&](auto zero) {
        using T = decltype(zero);
        FlowArguments<T> flow(arguments, network, path, index, slots, true, Options(options));
        flow.call.z = arguments.array<T>(z0, "z0", {flow.count, flow.call.net.width[0]});
        flow.read_residual(coefficients, source, residual);
        return flow.run();
    });
}

double rollout_loss_and_gradient(nb::object network, nb::object z0, nb::object index, nb::object slots, nb::object coefficients, nb::object source,
                                 nb::object path, nb::object residual, double loss_bar, nb::object path_bar, nb::object z0_bar, nb::object gradient,
                                 nb::object coefficients_bar, nb::object source_bar, nb::kwargs options) {
    Arguments arguments;
    return with_type(arguments, path, "path", [&](auto zero) {
        using T = decltype(zero);
        FlowArguments<T> flow(arguments, network, path, index, slots, true, Options(options));
        flow.read_start(z0);
        flow.read_residual(coefficients, source, residual);
        flow.read_gradients(path_bar, z0_bar, gradient);
        flow.call.coefficients_bar = arguments.array<T>(coefficients_bar, "coefficients_bar", {flow.call.net.num_potentials, num_coefficients});
        flow.call.source_bar = arguments.optional<T>(source_bar, "source_bar", {flow.count, flow.call.steps});
        return flow.run(loss_bar);
    });
}

}  // namespace

void bind_engine(nb::module_& m) {
    using nb::arg;
    m.def("jet", &jet, arg("network"), arg("z"), arg("index"), arg("slot"), arg("jet"), arg("options"), "Writes the jets of z.");
    m.def("jet_backward", &jet_backward, arg("network"), arg("z"), arg("index"), arg("slot"), arg("jet_bar"), arg("z_bar").none(), arg("gradient"),
          arg("options"), "Writes the gradients for the cotangents of the jets.");
    m.def("residual_loss", &residual_loss, arg("network"), arg("z"), arg("index"), arg("slot"), arg("coefficients"), arg("source").none(),
          arg("residual"), arg("options"),
          "Writes residual = c0 u + c1 u_t + c2 u_tt + c3 laplacian + c4 |grad|^2 + source and returns its mean square.");
    m.def("residual_loss_and_gradient", &residual_loss_and_gradient, arg("network"), arg("z"), arg("index"), arg("slot"), arg("coefficients"),
          arg("source").none(), arg("residual"), arg("loss_bar"), arg("z_bar").none(), arg("gradient"), arg("coefficients_bar"),
          arg("source_bar").none(), arg("options"), "As residual_loss; in the same pass writes the gradients of loss_bar times the loss.");
    m.def("flow", &flow, arg("network"), arg("z0"), arg("index"), arg("slots"), arg("path"), arg("error").none(), arg("options"),
          "Writes the path of the flow dz/dt = +-grad u, or, in reverse, that of undoing it, with its relative error.");
    m.def("flow_backward", &flow_backward, arg("network"), arg("path"), arg("index"), arg("slots"), arg("path_bar"), arg("z0_bar").none(),
          arg("gradient"), arg("options"), "Writes the gradients for the cotangent of a path that `flow` wrote.");
    m.def("rollout_loss", &rollout_loss, arg("network"), arg("z0"), arg("index"), arg("slots"), arg("coefficients"), arg("source").none(),
          arg("path"), arg("residual").none(), arg("options"),
          "Writes the path and returns the mean of the squared residuals at its points but the last.");
    m.def("rollout_loss_and_gradient", &rollout_loss_and_gradient, arg("network"), arg("z0").none(), arg("index"), arg("slots"), arg("coefficients"),
          arg("source").none(), arg("path"), arg("residual").none(), arg("loss_bar"), arg("path_bar").none(), arg("z0_bar").none(), arg("gradient"),
          arg("coefficients_bar"), arg("source_bar").none(), arg("options"),
          "As rollout_loss; in the same pass writes the gradients of loss_bar times the loss plus path_bar . path.");
}

}  // namespace fastflow::cpu
