// Compiled once per instruction set: the entry points for work at given points, and what all calls share.
#include "cpu/kernels/points.hpp"

#include "cpu/kernels/entry_points.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
std::size_t packed_size(const Network<T>& net) {
    Arena arena{nullptr};
    Potential<T> potential(net, arena);
    return arena.used;
}

template <class T>
std::size_t pack_scratch_size(const Network<T>& net) {
    const std::size_t rotation = rotation_scratch_size(net.width[1], net.width[0]), gram = Potential<T>::gram_scratch_size(net);
    return rotation > gram ? rotation : gram;
}

template <class T>
void pack(const Network<T>& net, std::int64_t potential, void* packed, void* scratch) {
    Arena arena{packed};
    Potential<T>(net, arena).pack(net, potential, Arena{scratch});
}

template <class T>
std::size_t accumulators_size(const Network<T>& net) {
    Arena arena{nullptr};
    Accumulators<T> accumulators(net, arena);
    return arena.used;
}

template <class T>
void add_accumulators(const Network<T>& net, void* to, void* from) {
    Arena to_arena{to}, from_arena{from};
    Accumulators<T>(net, to_arena).add(net, Accumulators<T>(net, from_arena));
}

template <class T>
void finish_gradient(const Network<T>& net, std::int64_t potential, void* packed, void* accumulators, const NetworkGradient<T>& out,
                     T* coefficients_bar) {
    Arena packed_arena{packed}, arena{accumulators};
    Accumulators<T>(net, arena).finish(net, Potential<T>(net, packed_arena), potential, out, coefficients_bar);
}

template <class T>
std::int64_t tile_rows(const Network<T>& net) {
    return Tile<T>::choose_capacity(net);
}

template <class T>
std::size_t point_scratch_size(const PointCall<T>& call) {
    Arena arena{nullptr};
    PointRunner<T> runner(call, nullptr, arena);
    return arena.used;
}

template <class T>
void run_points(const PointCall<T>& call, const Chunk& chunk, void* packed, void* scratch, const ChunkGradient<T>& out) {
    Arena arena{scratch};
    PointRunner<T>(call, packed, arena).run(chunk, out);
}

#define FASTFLOW_INSTANTIATE(T)                                                                                     \
    template std::size_t packed_size<T>(const Network<T>&);                                                         \
    template std::size_t pack_scratch_size<T>(const Network<T>&);                                                   \
    template void pack<T>(const Network<T>&, std::int64_t, void*, void*);                                           \
    template std::size_t accumulators_size<T>(const Network<T>&);                                                   \
    template void add_accumulators<T>(const Network<T>&, void*, void*);                                             \
    template void finish_gradient<T>(const Network<T>&, std::int64_t, void*, void*, const NetworkGradient<T>&, T*); \
    template std::int64_t tile_rows<T>(const Network<T>&);                                                          \
    template std::size_t point_scratch_size<T>(const PointCall<T>&);                                                \
    template void run_points<T>(const PointCall<T>&, const Chunk&, void*, void*, const ChunkGradient<T>&);
FASTFLOW_INSTANTIATE(float)
FASTFLOW_INSTANTIATE(double)
#undef FASTFLOW_INSTANTIATE

}  // namespace fastflow::cpu::FASTFLOW_ISA
