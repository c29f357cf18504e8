// The kernels' entry points, as one table that every instruction set fills with its own code.
//
// To add an entry point: write it in a source listed in FASTFLOW_PER_ISA_SOURCES, declare it in that source's header inside
// namespace fastflow::cpu::FASTFLOW_ISA, add a pointer here, and fill it in kernels.cpp. Call it as kernels().entry(...).
#pragma once

#include "cpu/isa/cpu_features.hpp"
#include "cpu/calls.hpp"

namespace fastflow::cpu {

struct Kernels {
    double (*fma_peak_f32)(double seconds);
    double (*fma_peak_f64)(double seconds);
    EngineKernels<float> f32;
    EngineKernels<double> f64;
};

#define FASTFLOW_DECLARE_TABLE(isa) \
    namespace isa {                 \
    extern const Kernels kernels;   \
    }
FASTFLOW_FOR_EACH_ISA(FASTFLOW_DECLARE_TABLE)
#undef FASTFLOW_DECLARE_TABLE

const Kernels& kernels(Isa isa);
const Kernels& kernels();  // those of active_isa(); throws as it does

}  // namespace fastflow::cpu
