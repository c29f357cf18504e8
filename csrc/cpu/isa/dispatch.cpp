#include "cpu/isa/kernel_table.hpp"

namespace fastflow::cpu {

const Kernels& kernels(Isa isa) {
    switch (isa) {
#define FASTFLOW_CASE(isa) \
    case Isa::isa: return isa::kernels;
        FASTFLOW_FOR_EACH_ISA(FASTFLOW_CASE)
#undef FASTFLOW_CASE
    }
    __builtin_unreachable();
}

const Kernels& kernels() { return kernels(active_isa()); }

}  // namespace fastflow::cpu
