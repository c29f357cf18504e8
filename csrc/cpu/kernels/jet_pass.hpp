// One pass over a loaded tile: values, then tangents a few samples at a time, the output map, what the caller wants of each
// sample, and back. While its samples' tangents are in the cache, a group goes there and back.
#pragma once

#include "cpu/kernels/output_map.hpp"
#include "cpu/kernels/tangents.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct JetPass {
    Tile<T> tile;
    Tangents<T> tangents;
    OutputMap<T> output_map;

    JetPass(const Network<T>& net, const Potential<T>& potential, Arena& arena)
        : tile(net, potential, arena), tangents(tile, arena), output_map(tile, arena) {}
    JetPass(const JetPass&) = delete;  // its parts refer to each other

    // Calls visit(i) for each sample when its scalars are known.
    template <class Visit>
    void forward(Visit visit) {
        tile.forward(2);
        output_map.forward();
        for_groups([&](int from, int count, bool tangential) {
            if (tangential) tangents.forward(from, count, false);
            for (int i = from; i < from + count; ++i) visit(i);
        });
    }

    // Here visit(i) calls output_map.backward and returns what that does.
    template <class Visit>
    void backward(Accumulators<T>& accumulators, bool wants_z_bar, Visit visit) {
        tile.forward(tile.has_laplacian || tile.has_time ? 3 : 2);
        output_map.forward();
        bool has_grad_v_bar = false;
        for_groups([&](int from, int count, bool tangential) {
            if (tangential) tangents.forward(from, count, true);
            for (int i = from; i < from + count; ++i) has_grad_v_bar |= visit(i);
            if (tangential) tangents.backward(from, count, accumulators);
        });
        tile.backward(has_grad_v_bar, wants_z_bar, &accumulators);
    }

   private:
    template <class F>
    void for_groups(F f) {
        const bool tangential = tile.has_laplacian && tile.depth > 1;
        const int group = tangential ? tangents.group : tile.n;
        for (int from = 0; from < tile.n; from += group) f(from, tile.n - from < group ? tile.n - from : group, tangential);
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
