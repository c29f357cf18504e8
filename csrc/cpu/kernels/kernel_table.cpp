// Compiled once per instruction set: the table of its entry points.
#include "cpu/kernels/isa.hpp"

#include "cpu/isa/kernel_table.hpp"
#include "cpu/kernels/entry_points.hpp"
#include "cpu/kernels/fma_peak.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
constexpr EngineKernels<T> engine_kernels{
    packed_size<T>, pack_scratch_size<T>,  pack<T>,       accumulators_size<T>, add_accumulators<T>, finish_gradient<T>,
    tile_rows<T>,   point_scratch_size<T>, run_points<T>, flow_scratch_size<T>, run_flow<T>,
};

// constexpr, so that the table is data and no code of this instruction set runs when the module is loaded.
constexpr Kernels kernels{
    fma_peak<float>,
    fma_peak<double>,
    engine_kernels<float>,
    engine_kernels<double>,
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
