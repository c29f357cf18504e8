// Jets, their backward and residual losses (residual_loss.hpp) of a chunk of samples, tile by tile.
#pragma once

#include "cpu/calls.hpp"
#include "cpu/kernels/jet_pass.hpp"
#include "cpu/kernels/residual_loss.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct PointRunner {
    const PointCall<T>& call;
    const Network<T>& net;
    Potential<T> potential;
    JetPass<T> pass;
    Tile<T>& tile;
    BiasGradient<T> bias_gradient;

    PointRunner(const PointCall<T>& call_, void* packed, Arena& arena) : PointRunner(call_, Arena{packed}, arena) {}

    void run(const Chunk& chunk, const ChunkGradient<T>& out) {
        Arena accumulator_arena{out.accumulators};
        Accumulators<T> accumulators(net, accumulator_arena);
        bias_gradient.partial_rows = out.partial_rows;
        bias_gradient.partial_slots = out.partial_slots;

        for (std::int64_t begin = chunk.begin; begin < chunk.end; begin += tile.capacity) {
            tile.n = static_cast<int>(chunk.end - begin < tile.capacity ? chunk.end - begin : tile.capacity);
            load(begin);
            const auto visit = [&](int i) { return this->visit(i, sample(begin + i), chunk.potential, accumulators, out.loss); };
            if (!call.backward()) {
                pass.forward(visit);
            } else {
                pass.backward(accumulators, call.z_bar != nullptr, visit);
                store_backward(begin);
            }
        }
        if (call.backward()) bias_gradient.flush();
    }

   private:
    PointRunner(const PointCall<T>& call_, Arena packed, Arena& arena)
        : call(call_), net(call_.net), potential(net, packed), pass(net, potential, arena), tile(pass.tile),
          bias_gradient(net, call_.gradient, call_.runs, arena) {
        tile.has_time_tangents = tile.has_time && (call.mode != PointMode::jet || call.jet.u_tt != nullptr);
    }

    std::int64_t sample(std::int64_t position) const { return call.order != nullptr ? call.order[position] : position; }

    void load(std::int64_t begin) {
        tile.load_points(call.z, call.order != nullptr ? call.order + begin : nullptr, begin);
        bool same = true;
        const std::int64_t slot = call.slot[sample(begin)];
        for (int i = 1; i < tile.n; ++i) same = same && call.slot[sample(begin + i)] == slot;
        for (int i = 0; i < (same ? 1 : tile.n); ++i) tile.load_bias(call.slot[sample(begin + i)], i, same);
    }

    // Writes what the call wants of sample i, whose number is `id`; in a backward call prepares its cotangents and tells
    // whether that of grad v can be other than zero.
    bool visit(int i, std::int64_t id, std::int64_t k, Accumulators<T>& accumulators, double* loss) {
        OutputMap<T>& output_map = pass.output_map;
        if (call.mode == PointMode::jet_backward) {
            const JetArrays<const T>& bar = call.jet_bar;
            const auto get = [&](const T* array) { return array != nullptr ? array[id] : T(0); };
            return output_map.backward(i, {get(bar.u), T(0), get(bar.laplacian), get(bar.u_t), get(bar.u_tt)},
                                       bar.grad != nullptr ? bar.grad + id * net.width[0] : nullptr);
        }
        const Scalars<T> scalars = output_map.scalars(i);
        if (call.mode == PointMode::jet) {
            const JetArrays<T>& jet = call.jet;
            if (jet.u != nullptr) jet.u[id] = scalars.u;
            if (jet.grad != nullptr) output_map.write_gradient(i, jet.grad + id * net.width[0]);
            if (jet.laplacian != nullptr) jet.laplacian[id] = scalars.laplacian;
            if (jet.u_t != nullptr) jet.u_t[id] = scalars.u_t;
            if (jet.u_tt != nullptr) jet.u_tt[id] = scalars.u_tt;
            return false;
        }
        const T* c = call.coefficients + k * num_coefficients;
        const T r = residual(c, scalars, call.source != nullptr ? call.source[id] : T(0));
        call.residual[id] = r;
        *loss += static_cast<double>(r) * r;
        if (call.mode == PointMode::residual) return false;
        const T r_bar = call.loss_scale * r;
        if (call.source_bar != nullptr) call.source_bar[id] = r_bar;
        return output_map.backward(i, residual_backward(c, scalars, r_bar, accumulators.coefficients), nullptr);
    }

    void store_backward(std::int64_t begin) {
        const int dim = net.width[0];
        if (call.z_bar != nullptr)
            for (int i = 0; i < tile.n; ++i)
                __builtin_memcpy(call.z_bar + sample(begin + i) * dim, tile.z_bar + tile.at(i, tile.layers[0].stride), sizeof(T) * dim);
        for (int i = 0, next; i < tile.n; i = next) {  // runs of samples that share a slot
            const std::int64_t slot = call.slot[sample(begin + i)];
            for (next = i + 1; next < tile.n && call.slot[sample(begin + next)] == slot;) ++next;
            bias_gradient.begin(slot);
            tile.bias_gradient(i, next - i, bias_gradient.layout, bias_gradient.row);
        }
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
