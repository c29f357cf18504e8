// From v = w_o . h_L + b_o to u = psi(v), for the jet and for its cotangents.
//
//     u = psi(v)    grad u = psi' gamma    lap u = psi' lap v + psi'' |gamma|^2    u_t = psi' v_t    u_tt = psi' v_tt + psi'' v_t^2
#pragma once

#include "cpu/kernels/activations.hpp"
#include "cpu/kernels/tile.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Scalars {
    T value, grad_square, laplacian, u_t, u_tt;
};

template <class T>
struct OutputMapping {
    Tile<T>& tile;
    T *psi, *first, *second, *third;  // per sample
    T* probe_gammas;                  // gamma basis (n, directions' stride); with probes only
    int probe_stride;

    OutputMapping(Tile<T>& tile_, Arena& arena) : tile(tile_) {
        T** const scalars[] = {&psi, &first, &second, &third};
        for (T** scalar : scalars) *scalar = arena.take<T>(round_up(tile.capacity, lanes<T>));
        probe_stride = row_stride<T>(tile.potential.directions);
        probe_gammas = probed() ? arena.take<T>(static_cast<std::size_t>(tile.capacity) * probe_stride) : nullptr;
    }

    // After the tile's forward pass: psi and its derivatives; with probes, their estimate of |gamma|^2.
    void prepare() {
        if (tile.net.out_activation == OutActivation::identity) {
            for (int i = 0; i < tile.n; ++i) psi[i] = tile.value[i], first[i] = 1, second[i] = third[i] = 0;
            return;
        }
        for (int i = tile.n; i < round_up(tile.n, lanes<T>); ++i) tile.value[i] = 0;
        for (int i = 0; i < tile.n; i += lanes<T>) {
            const Vec<T> v = load(tile.value + i), value = tanh_value(v);
            const Vec<T> slope = T(4) * logistic<T>(T(2) * v).first;  // 1 - value^2, which would cancel where it saturates
            store<T>(psi + i, value), store<T>(first + i, slope);
            store<T>(second + i, T(-2) * value * slope), store<T>(third + i, slope * (T(4) - T(6) * slope));
        }
        if (!probed()) return;
        const Level<T>& base = tile.levels[0];
        multiply_panels<T>(tile.n, {tile.gamma(), base.stride}, tile.potential.to_probes, {probe_gammas, probe_stride});
    }

    Scalars<T> scalars(int i) const {
        const T vt = tile.v_t[i];
        return {psi[i], first[i] * first[i] * tile.square[i], tile.curved ? first[i] * tile.laplacian[i] + second[i] * curvature_square(i) : T(0),
                first[i] * vt, first[i] * tile.v_tt[i] + second[i] * vt * vt};
    }

    // From the cotangents of sample i's scalars, and of its gradient where `grad_bar` isn't null (dim,): the cotangents of v
    // and its derivatives, and of gamma. Tells whether the latter can be other than zero.
    bool pull_back(int i, const Scalars<T>& bar, const T* grad_bar) {
        const Level<T>& base = tile.levels[0];
        const T* gamma = tile.gamma() + tile.at(i, base.stride);
        T* gamma_bar = tile.delta_bar(0) + tile.at(i, base.stride);
        const T along = 2 * bar.grad_square * first[i] * first[i] + (probed() ? T(0) : 2 * second[i] * bar.laplacian);
        T inner = 2 * bar.grad_square * first[i] * tile.square[i];  // grad_bar . gamma, for grad_square's share of it too
        for (int c = 0; c < base.columns; ++c) {
            const T given = grad_bar != nullptr && c < base.width ? grad_bar[c] : T(0);
            inner += given * gamma[c];
            gamma_bar[c] = along * gamma[c] + first[i] * given;
        }
        const bool probes_share = probed() && second[i] != 0;
        if (probes_share) add_probes(gamma_bar, 2 * second[i] * bar.laplacian, i);

        const T vt = tile.v_t[i];
        tile.value_bar[i] = first[i] * bar.value + second[i] * (inner + bar.laplacian * tile.laplacian[i] + bar.u_t * vt + bar.u_tt * tile.v_tt[i]) +
                            third[i] * (bar.laplacian * curvature_square(i) + bar.u_tt * vt * vt);
        tile.laplacian_bar[i] = first[i] * bar.laplacian;
        tile.v_t_bar[i] = first[i] * bar.u_t + 2 * second[i] * vt * bar.u_tt;
        tile.v_tt_bar[i] = first[i] * bar.u_tt;
        return along != 0 || grad_bar != nullptr || probes_share;
    }

    void write_gradient(int i, T* out) const {
        const T* gamma = tile.gamma() + tile.at(i, tile.levels[0].stride);
        for (int c = 0; c < tile.levels[0].width; ++c) out[c] = first[i] * gamma[c];
    }

   private:
    bool probed() const { return tile.curved && tile.net.laplacian == Laplacian::hutchinson && tile.net.out_activation != OutActivation::identity; }

    // The |gamma|^2 of psi'' |gamma|^2: with probes their estimate of it.
    T curvature_square(int i) const {
        if (!probed()) return tile.square[i];
        T sum = 0;
        for (int j = 0; j < tile.potential.directions; ++j) sum += probe_gammas[i * probe_stride + j] * probe_gammas[i * probe_stride + j];
        return sum;
    }

    void add_probes(T* gamma_bar, T factor, int i) {
        const Level<T>& base = tile.levels[0];
        multiply_panels<T>(1, {probe_gammas + tile.at(i, probe_stride), probe_stride}, tile.potential.from_probes, {tile.scratch, base.stride});
        for (int c = 0; c < base.columns; ++c) gamma_bar[c] += factor * tile.scratch[c];
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
