// A sample's residual r = c0 u + c1 u_t + c2 u_tt + c3 laplacian + c4 |grad u|^2 + f, and back: for the wave equation, c2 = 1 and c3 = -c^2.
#pragma once

#include "cpu/kernels/output_map.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

template <class T>
inline T residual(const T* c, const Scalars<T>& s, T source) {
    return c[0] * s.u + c[1] * s.u_t + c[2] * s.u_tt + c[3] * s.laplacian + c[4] * s.grad_square + source;
}

// The cotangents of the scalars; adds those of the coefficients to `c_bar`.
template <class T>
inline Scalars<T> residual_backward(const T* c, const Scalars<T>& s, T residual_bar, double* c_bar) {
    const T terms[num_coefficients] = {s.u, s.u_t, s.u_tt, s.laplacian, s.grad_square};
    for (int k = 0; k < num_coefficients; ++k) c_bar[k] += residual_bar * terms[k];
    return {residual_bar * c[0], residual_bar * c[4], residual_bar * c[3], residual_bar * c[1], residual_bar * c[2]};
}

}  // namespace fastflow::cpu::FASTFLOW_ISA
