// The Python module fastflow._cuda. It takes sizes, addresses on the device and a stream, and knows nothing of torch: who calls
// it vouches for the tensors behind the addresses.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "common/choices.hpp"
#include "cuda/launch.hpp"
#include "cuda/plan.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace fastflow::cuda {
namespace {

using Address = std::uintptr_t;

// A problem and its layout, in one direction of differentiation and one precision.
struct FlowPlan {
    Problem problem{};
    Plan plan{};
    bool is_double, backward;

    FlowPlan(const std::vector<int>& widths, std::int64_t potentials, std::int64_t slots, std::int64_t batch, int times,
             const std::string& activation, const std::string& out_activation, double dt, const std::string& method, const std::string& direction,
             double step_length, const std::string& dtype, bool backward_, int multiprocessors, std::int64_t shared_bytes)
        : is_double(choice<bool>(dtype, "dtype", {{"float32", false}, {"float64", true}})), backward(backward_) {
        if (widths.size() < 2 || widths.size() > max_depth + 1)
            throw nb::value_error(("the CUDA flow integrator takes 1 to " + std::to_string(max_depth) + " hidden layers, got " +
                                   std::to_string(static_cast<int>(widths.size()) - 1) + ": use fewer, or compute in ff.use_backend('reference')")
                                      .c_str());
        problem.depth = static_cast<int>(widths.size()) - 1;
        for (int l = 0; l <= problem.depth; ++l) {
            if (widths[l] < 1) throw nb::value_error("widths must be positive");
            problem.width[l] = widths[l];
            if (l == 0) continue;
            problem.first_unit[l] = problem.units;
            problem.units += widths[l];
        }
        if (potentials < 1 || slots < 0 || batch < 0 || times < 0 || multiprocessors < 1) throw nb::value_error("sizes must not be negative");
        problem.num_potentials = potentials, problem.num_slots = slots, problem.batch = batch;
        problem.activation = activation_named(activation);
        problem.out_activation = out_activation_named(out_activation);
        problem.method = method_named(method);
        problem.direction = direction_named(direction);
        problem.times = times;
        problem.steps = problem.method == Method::euler ? times : problem.method == Method::heun ? times - 1 : (times - 1) / 2;
        if (problem.steps < 0 || (problem.method == Method::rk4 && times % 2 == 0))
            throw nb::value_error(("slots must have the times of whole steps, got " + std::to_string(times)).c_str());
        problem.dt = dt, problem.step_length = step_length;
        plan = make_plan(problem, {multiprocessors, shared_bytes}, is_double ? 8 : 4, backward);
    }
};

template <class P>
void set_address(P*& pointer, Address address) {
    pointer = reinterpret_cast<P*>(address);
}

template <class P>
void set_layers(const Problem& problem, P* (&pointers)[max_depth + 1], const std::vector<Address>& addresses) {
    if (static_cast<int>(addresses.size()) != problem.depth) throw nb::value_error("there must be one address for each layer");
    for (int l = 1; l <= problem.depth; ++l) set_address(pointers[l], addresses[l - 1]);
}

using Layers = std::vector<Address>;

template <class T>
Flow<T> describe(const FlowPlan& plan, const Layers& weights, const Layers& bias_jets, Address out_weight, Address out_bias, Address order,
                 Address offsets, Address slot_of, Address path, Address workspace) {
    Flow<T> flow{};
    flow.problem = plan.problem, flow.plan = plan.plan;
    flow.dt = static_cast<T>(plan.problem.dt), flow.step_length = static_cast<T>(plan.problem.step_length);
    flow.sign = plan.problem.direction == Direction::descent ? T(-1) : T(1);
    set_layers(plan.problem, flow.weight, weights), set_layers(plan.problem, flow.bias_jet, bias_jets);
    set_address(flow.out_weight, out_weight), set_address(flow.out_bias, out_bias);
    set_address(flow.order, order), set_address(flow.offsets, offsets), set_address(flow.slot_of, slot_of);
    set_address(flow.path, path), set_address(flow.workspace, workspace);
    return flow;
}

template <class F>
void with_type(const FlowPlan& plan, bool backward, F f) {
    if (plan.backward != backward) throw nb::value_error("the plan is for the other direction of differentiation");
    plan.is_double ? f(double{}) : f(float{});
}

void flow(const FlowPlan& plan, const Layers& weights, const Layers& bias_jets, Address out_weight, Address out_bias, Address order, Address offsets,
          Address slot_of, Address z0, Address path, Address error, Address workspace, Address stream) {
    with_type(plan, false, [&](auto zero) {
        auto flow = describe<decltype(zero)>(plan, weights, bias_jets, out_weight, out_bias, order, offsets, slot_of, path, workspace);
        set_address(flow.z0, z0), set_address(flow.error, error);
        launch_flow(flow, reinterpret_cast<void*>(stream));
    });
}

void flow_backward(const FlowPlan& plan, const Layers& weights, const Layers& bias_jets, Address out_weight, Address out_bias, Address order,
                   Address offsets, Address slot_of, Address slot_order, Address slot_offsets, Address path, Address path_bar, Address z0_bar,
                   const Layers& weights_bar, const Layers& bias_jets_bar, Address out_weight_bar, Address out_bias_bar, Address workspace,
                   Address stream) {
    with_type(plan, true, [&](auto zero) {
        auto flow = describe<decltype(zero)>(plan, weights, bias_jets, out_weight, out_bias, order, offsets, slot_of, path, workspace);
        set_address(flow.slot_order, slot_order), set_address(flow.slot_offsets, slot_offsets);
        set_address(flow.path_bar, path_bar), set_address(flow.z0_bar, z0_bar);
        set_layers(plan.problem, flow.weight_bar, weights_bar), set_layers(plan.problem, flow.bias_jet_bar, bias_jets_bar);
        set_address(flow.out_weight_bar, out_weight_bar), set_address(flow.out_bias_bar, out_bias_bar);
        launch_flow_backward(flow, reinterpret_cast<void*>(stream));
    });
}

nb::dict build_info() {
    nb::dict info;
    info["version"] = FASTFLOW_VERSION;
    info["compiler"] = compiler();
    info["architectures"] = architectures();
    return info;
}

}  // namespace
}  // namespace fastflow::cuda

NB_MODULE(FASTFLOW_CUDA_MODULE, m) {
    using namespace fastflow::cuda;
    m.doc() = "The CUDA flow integrator of fastflow: whole paths, and their adjoint, in one launch.";

    m.def("build_info", &build_info, "How this module was built: version, compiler, architectures.");

    nb::class_<FlowPlan>(m, "FlowPlan", "How one kind of flow is laid out on a device; made without touching the device.")
        .def(nb::init<const std::vector<int>&, std::int64_t, std::int64_t, std::int64_t, int, const std::string&, const std::string&, double,
                      const std::string&, const std::string&, double, const std::string&, bool, int, std::int64_t>(),
             nb::kw_only(), "widths"_a, "potentials"_a, "slots"_a, "batch"_a, "times"_a, "activation"_a, "out_activation"_a, "dt"_a, "method"_a,
             "direction"_a, "step_length"_a, "dtype"_a, "backward"_a, "multiprocessors"_a, "shared_bytes"_a,
             "widths: the latents' dimension, then the hidden layers'. times: stage times of the path. step_length: negative\n"
             "for none. multiprocessors, shared_bytes: the device's, the latter per block with opt-in.\n\n"
             "Raises ValueError for an option that is unknown, or a network that doesn't fit.")
        .def_prop_ro(
            "workspace_bytes", [](const FlowPlan& p) { return p.plan.workspace_elements * (p.is_double ? 8 : 4); },
            "What a call needs, aligned to 16.")
        .def_prop_ro(
            "tile", [](const FlowPlan& p) { return 1 << p.plan.tile_shift; }, "Samples of a tile.")
        .def_prop_ro("blocks", [](const FlowPlan& p) { return p.plan.blocks; })
        .def_prop_ro("threads", [](const FlowPlan& p) { return p.plan.threads; })
        .def_prop_ro(
            "shared_bytes", [](const FlowPlan& p) { return p.plan.shared_bytes; }, "Of one block.")
        .def_prop_ro(
            "resident", [](const FlowPlan& p) { return p.plan.resident; }, "Whether a potential's weights stay in shared memory.")
        .def_prop_ro("state_in_shared", [](const FlowPlan& p) { return p.plan.state_in_shared; }, "Whether tile state lies there too.");

    m.def("flow", &flow, nb::kw_only(), "plan"_a, "weights"_a, "bias_jets"_a, "out_weight"_a, "out_bias"_a, "order"_a, "offsets"_a, "slot_of"_a,
          "z0"_a, "path"_a, "error"_a, "workspace"_a, "stream"_a,
          "Enqueue a path of every sample: writes path and error. Arguments beside the plan are addresses, laid out as\n"
          "csrc/cuda/problem.hpp says. Raises RuntimeError if the device refuses.");
    m.def("flow_backward", &flow_backward, nb::kw_only(), "plan"_a, "weights"_a, "bias_jets"_a, "out_weight"_a, "out_bias"_a, "order"_a, "offsets"_a,
          "slot_of"_a, "slot_order"_a, "slot_offsets"_a, "path"_a, "path_bar"_a, "z0_bar"_a, "weights_bar"_a, "bias_jets_bar"_a, "out_weight_bar"_a,
          "out_bias_bar"_a, "workspace"_a, "stream"_a, "Enqueue the adjoint of a path: writes all gradients. Arguments as for flow.");
}
