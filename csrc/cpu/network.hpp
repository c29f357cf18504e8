// What the engine is asked: plain descriptions shared by the bindings, the scheduler and the kernels of every instruction
// set. All arrays are contiguous and row-major; a null pointer means "absent" where a comment says optional.
#pragma once

#include <cstdint>

#include "common/options.hpp"

namespace fastflow::cpu {

// A bank of potentials u = psi(w . h_L + c), h_l = sigma(W_l h_{l-1} + b_l). Arrays by layer are indexed 1..depth.
template <class T>
struct Network {
    std::int64_t num_potentials, num_slots;
    int depth;
    int width[max_depth + 1];  // width[0] is the dimension of z
    Activation activation;
    OutActivation out_activation;
    bool has_time;
    Laplacian laplacian;
    int num_probes;
    bool gram;                          // whether potentials are packed with W_1 W_1^T
    const T* weight[max_depth + 1];     // (num_potentials, width[l], width[l - 1])
    const T* bias_jet[max_depth + 1];   // (num_slots, 3, width[l]): b, d b / dt, d2 b / dt2
    const T* out_weight;                // (num_potentials, width[depth])
    const T* out_bias;                  // (num_potentials,)
    const T* probes;                    // (num_probes, width[0]); for Laplacian::hutchinson
};

// Gradients with respect to a network's parameters, in the shapes of the parameters.
template <class T>
struct NetworkGradient {
    T* weight[max_depth + 1];
    T* bias_jet[max_depth + 1];
    T* out_weight;
    T* out_bias;
};

// The jet of each sample: five quantities, of which each pointer is optional.
template <class T>
struct JetArrays {
    T* u;          // (count,)
    T* grad;       // (count, dim)
    T* laplacian;  // (count,)
    T* u_t;        // (count,)
    T* u_tt;       // (count,)
};

// r = c0 u + c1 u_t + c2 u_tt + c3 laplacian + c4 |grad|^2 + f
constexpr int num_coefficients = 5;

}  // namespace fastflow::cpu
