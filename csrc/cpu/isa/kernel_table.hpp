// The kernels' entry points, as one table that every instruction set fills with its own code.
//
// To add an entry point: write it in a source listed in FASTFLOW_PER_ISA_SOURCES, declare it in kernels/entry_points.hpp, add a
// pointer here, and fill it in kernels/kernel_table.cpp. Call it as kernels().entry(...).
#pragma once

#include "cpu/calls.hpp"
#include "cpu/isa/cpu_features.hpp"

namespace fastflow::cpu {

// The engine's entry points for one precision. Blocks are 64-byte aligned; sizes are in bytes.
template <class T>
struct EngineKernels {
    std::size_t (*packed_size)(const Network<T>&);
    std::size_t (*pack_scratch_size)(const Network<T>&);
    void (*pack)(const Network<T>&, std::int64_t potential, void* packed, void* scratch);

    std::size_t (*accumulators_size)(const Network<T>&);
    void (*add_accumulators)(const Network<T>&, void* to, void* from);
    void (*finish_gradient)(const Network<T>&, std::int64_t potential, void* packed, void* accumulators, const NetworkGradient<T>&,
                            T* coefficients_bar);

    std::int64_t (*tile_rows)(const Network<T>&);
    std::size_t (*point_scratch_size)(const PointCall<T>&);
    void (*run_points)(const PointCall<T>&, const Chunk&, void* packed, void* scratch, const ChunkGradient<T>&);
    std::size_t (*flow_scratch_size)(const FlowCall<T>&);
    void (*run_flow)(const FlowCall<T>&, const Chunk&, void* packed, void* scratch, const ChunkGradient<T>&);
};

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
