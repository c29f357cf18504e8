// From v = w . h_L + c to u = psi(v), for the jet and for its cotangents.
//
//     u = psi(v)    grad u = psi' grad v    lap u = psi' lap v + psi'' |grad v|^2    u_t = psi' v_t    u_tt = psi' v_tt + psi'' v_t^2
#pragma once

#include "cpu/kernels/activations.hpp"
#include "cpu/kernels/tile.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
struct Scalars {
    T u, grad_square, laplacian, u_t, u_tt;
};

template <class T>
struct OutputMap {
    Tile<T>& tile;
    T *psi, *psi1, *psi2, *psi3;  // per sample
    T* out_tangents;              // grad v . basis (n, stride); for an estimated Laplacian only
    int out_tangents_stride;

    OutputMap(Tile<T>& tile_, Arena& arena) : tile(tile_) {
        T** const scalars[] = {&psi, &psi1, &psi2, &psi3};
        for (T** scalar : scalars) *scalar = arena.take<T>(round_up(tile.capacity, lanes<T>));
        out_tangents_stride = row_stride<T>(tile.potential.num_directions);
        out_tangents = estimated() ? arena.take<T>(static_cast<std::size_t>(tile.capacity) * out_tangents_stride) : nullptr;
    }

    // After the tile's forward pass: psi and its derivatives; for an estimated Laplacian, dv/dz along its directions.
    void forward() {
        if (tile.net.out_activation == OutActivation::identity) {
            for (int i = 0; i < tile.n; ++i) psi[i] = tile.v[i], psi1[i] = 1, psi2[i] = psi3[i] = 0;
            return;
        }
        for (int i = tile.n; i < round_up(tile.n, lanes<T>); ++i) tile.v[i] = 0;
        for (int i = 0; i < tile.n; i += lanes<T>) {
            const Vec<T> v = load(tile.v + i), value = tanh_value(v);
            const Vec<T> derivative = T(4) * logistic<T>(T(2) * v).first;  // 1 - value^2, which would cancel where it saturates
            store<T>(psi + i, value), store<T>(psi1 + i, derivative);
            store<T>(psi2 + i, T(-2) * value * derivative), store<T>(psi3 + i, derivative * (T(4) - T(6) * derivative));
        }
        if (!estimated()) return;
        const Layer<T>& base = tile.layers[0];
        multiply_panels<T>(tile.n, {tile.grad_v(), base.stride}, tile.potential.to_directions, {out_tangents, out_tangents_stride});
    }

    Scalars<T> scalars(int i) const {
        const T vt = tile.v_t[i];
        return {psi[i], psi1[i] * psi1[i] * tile.grad_v_square[i],
                tile.has_laplacian ? psi1[i] * tile.laplacian_v[i] + psi2[i] * traced_square(i) : T(0), psi1[i] * vt,
                psi1[i] * tile.v_tt[i] + psi2[i] * vt * vt};
    }

    // From the cotangents of sample i's scalars, and of its gradient where `grad_bar` isn't null (dim,): the cotangents of v
    // and its derivatives, and of grad v. Tells whether the latter can be other than zero.
    bool backward(int i, const Scalars<T>& bar, const T* grad_bar) {
        const Layer<T>& base = tile.layers[0];
        const T* grad_v = tile.grad_v() + tile.at(i, base.stride);
        T* grad_v_bar = tile.delta_bar(0) + tile.at(i, base.stride);
        const T along = 2 * bar.grad_square * psi1[i] * psi1[i] + (estimated() ? T(0) : 2 * psi2[i] * bar.laplacian);
        T inner = 2 * bar.grad_square * psi1[i] * tile.grad_v_square[i];  // grad_bar . grad_v, for grad_square's share of it too
        for (int c = 0; c < base.columns; ++c) {
            const T given = grad_bar != nullptr && c < base.width ? grad_bar[c] : T(0);
            inner += given * grad_v[c];
            grad_v_bar[c] = along * grad_v[c] + psi1[i] * given;
        }
        const bool directions_share = estimated() && psi2[i] != 0;
        if (directions_share) add_out_tangents(grad_v_bar, 2 * psi2[i] * bar.laplacian, i);

        const T vt = tile.v_t[i];
        tile.v_bar[i] = psi1[i] * bar.u + psi2[i] * (inner + bar.laplacian * tile.laplacian_v[i] + bar.u_t * vt + bar.u_tt * tile.v_tt[i]) +
                        psi3[i] * (bar.laplacian * traced_square(i) + bar.u_tt * vt * vt);
        tile.laplacian_v_bar[i] = psi1[i] * bar.laplacian;
        tile.v_t_bar[i] = psi1[i] * bar.u_t + 2 * psi2[i] * vt * bar.u_tt;
        tile.v_tt_bar[i] = psi1[i] * bar.u_tt;
        return along != 0 || grad_bar != nullptr || directions_share;
    }

    void write_gradient(int i, T* out) const {
        const T* grad_v = tile.grad_v() + tile.at(i, tile.layers[0].stride);
        for (int c = 0; c < tile.layers[0].width; ++c) out[c] = psi1[i] * grad_v[c];
    }

   private:
    bool estimated() const {
        return tile.has_laplacian && tile.net.laplacian == Laplacian::hutchinson && tile.net.out_activation != OutActivation::identity;
    }

    // The |grad v|^2 of psi'' |grad v|^2, or its estimate.
    T traced_square(int i) const {
        if (!estimated()) return tile.grad_v_square[i];
        T sum = 0;
        for (int j = 0; j < tile.potential.num_directions; ++j)
            sum += out_tangents[i * out_tangents_stride + j] * out_tangents[i * out_tangents_stride + j];
        return sum;
    }

    void add_out_tangents(T* grad_v_bar, T factor, int i) {
        const Layer<T>& base = tile.layers[0];
        multiply_panels<T>(1, {out_tangents + tile.at(i, out_tangents_stride), out_tangents_stride}, tile.potential.from_directions,
                           {tile.scratch, base.stride});
        for (int c = 0; c < base.columns; ++c) grad_v_bar[c] += factor * tile.scratch[c];
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
