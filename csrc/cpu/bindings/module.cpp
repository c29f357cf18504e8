// The Python module fastflow._native. It takes numbers, pointers and sizes, and knows nothing of torch.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

#include "cpu/bindings/engine.hpp"
#include "cpu/isa/cpu_features.hpp"
#include "cpu/isa/kernel_table.hpp"

namespace nb = nanobind;
namespace cpu = fastflow::cpu;

namespace {

std::vector<std::string> names(const std::vector<cpu::Isa>& isas) {
    std::vector<std::string> list;
    for (const cpu::Isa isa : isas) list.emplace_back(cpu::name(isa));
    return list;
}

nb::dict build_info() {
    nb::dict info;
    info["version"] = FASTFLOW_VERSION;
    info["compiler"] = FASTFLOW_COMPILER;
    info["build_type"] = FASTFLOW_BUILD_TYPE;
    info["instruction_sets"] = names(cpu::compiled_isas());
    info["nanobind"] = std::to_string(NB_VERSION_MAJOR) + "." + std::to_string(NB_VERSION_MINOR) + "." + std::to_string(NB_VERSION_PATCH);
    return info;
}

double fma_peak(const std::string& dtype, double seconds) {
    if (!(seconds > 0) || std::isinf(seconds)) throw std::invalid_argument("seconds must be a positive number, got " + std::to_string(seconds));
    const cpu::Kernels& kernels = cpu::kernels();
    const auto measure = dtype == "float32" ? kernels.fma_peak_f32 : dtype == "float64" ? kernels.fma_peak_f64 : nullptr;
    if (measure == nullptr) throw std::invalid_argument("dtype must be 'float32' or 'float64', got '" + dtype + "'");
    nb::gil_scoped_release release;
    return measure(seconds);
}

}  // namespace

NB_MODULE(_native, m) {
    m.doc() = "The CPU engine of fastflow: compiled for several instruction sets, one chosen at run time.";

    m.def("build_info", &build_info,
          "How this module was built: version, compiler, build_type, instruction_sets (compiled in, best first), nanobind.");

    m.def(
        "supported_instruction_sets", [] { return names(cpu::supported_isas()); },
        "The compiled-in instruction sets that this processor can run, best first. Any of them may be set as FASTFLOW_ISA.");

    m.def(
        "instruction_set", [] { return std::string(cpu::name(cpu::active_isa())); },
        "The instruction set in use: the best one supported, or the one that FASTFLOW_ISA names.\n\n"
        "Decided at the first call. Raises ValueError if FASTFLOW_ISA names one that is unknown or not supported here.");

    m.def("fma_peak", &fma_peak, nb::arg("dtype") = "float32", nb::arg("seconds") = 0.2,
          "Floating-point operations per second of one thread doing only multiply-adds (two operations each) in the\n"
          "instruction set in use: the best of many short repetitions within `seconds` of CPU time.\n\n"
          "Raises ValueError if dtype is neither 'float32' nor 'float64' or seconds is not positive.");

    cpu::bind_engine(m);
}
