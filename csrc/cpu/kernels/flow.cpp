// Compiled once per instruction set: the entry points for flows.
#include "cpu/kernels/flow.hpp"

#include "cpu/kernels/entry_points.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
std::size_t flow_scratch_size(const FlowCall<T>& call) {
    Arena arena{nullptr};
    FlowRunner<T> runner(call, nullptr, arena);
    return arena.used;
}

template <class T>
void run_flow(const FlowCall<T>& call, const Chunk& chunk, void* packed, void* scratch, const ChunkGradient<T>& out) {
    Arena arena{scratch};
    FlowRunner<T>(call, packed, arena).run(chunk, out);
}

#define FASTFLOW_INSTANTIATE(T)                                    \
    template std::size_t flow_scratch_size<T>(const FlowCall<T>&); \
    template void run_flow<T>(const FlowCall<T>&, const Chunk&, void*, void*, const ChunkGradient<T>&);
FASTFLOW_INSTANTIATE(float)
FASTFLOW_INSTANTIATE(double)
#undef FASTFLOW_INSTANTIATE

}  // namespace fastflow::cpu::FASTFLOW_ISA
