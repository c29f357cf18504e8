// Compiled once per instruction set: the table of its entry points.
#include "isa.hpp"

#include "fma_peak.hpp"
#include "kernels.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// constexpr, so that the table is data and no code of this instruction set runs when the module is loaded.
constexpr Kernels kernels{
    fma_peak<float>,
    fma_peak<double>,
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
