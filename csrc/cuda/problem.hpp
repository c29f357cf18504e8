// What the integrator is asked, as plain data that goes to the kernels by value. All arrays are contiguous and row-major, and
// lie in device memory.
#pragma once

#include <cstdint>

#include "common/options.hpp"

namespace fastflow::cuda {

// Sizes of a bank of potentials u = psi(w . h_L + c), h_l = sigma(W_l h_{l-1} + b_l), and of the flow along them.
// Arrays by layer are indexed 1..depth.
struct Problem {
    int depth;
    int width[max_depth + 1];       // width[0] is the dimension of z
    int first_unit[max_depth + 1];  // hidden units before layer l, when all layers' units are counted through
    int units;                      // of all hidden layers
    std::int64_t num_potentials, num_slots, batch;
    int steps, times;
    Activation activation;
    OutActivation out_activation;
    Method method;
    Direction direction;
    double dt, step_length;  // a negative step_length: steps keep their own
};

// How a launch is laid out. Tile state is kept in matrices with a row for each unit and a column for each of the tile's
// samples; rows are counted from the state's start.
struct Plan {
    int tile_shift;  // a tile has 1 << tile_shift samples
    int stride;      // elements between rows: a multiple of four, and an odd one, so that rows fall into different banks
    int threads;
    std::int64_t blocks, tiles_per_block;
    bool resident;                     // a potential's weights stay in shared memory; otherwise rows stream through it
    bool state_in_shared;              // otherwise tile state lies in the workspace
    int weight_offset[max_depth + 1];  // of W_l in shared memory; zero where it streams
    int weight_elements;               // shared memory for weights
    std::int64_t shared_bytes;
    std::int64_t state_elements;  // of one block

    int point[4];                        // where each stage evaluates the field; the first is the path's point
    int increment, end, scratch;         // scratch: for products that aren't finished yet
    int h[max_depth + 1];                // h_l
    int signal;                          // sigma'(a_l), then e_l = sigma'(a_l) du/dh_l, of all hidden units
    int sigma1, curvature, delta_bar;    // backward: sigma'(a_l); sigma''(a_l) du/dh_l, then the cotangent of a_l; that of du/dh_l
    int adjoint, increment_bar, stage_bar, given, trial;

    std::int64_t partial_elements;               // gradients of one potential from one block
    std::int64_t partial_weight[max_depth + 1];  // where they start: those of W_l,
    std::int64_t partial_out_weight, partial_out_bias, partial_bias;  // the output unit, and b_l by time (times, units)
    std::int64_t workspace_elements;
};

template <class T>
struct Flow {
    Problem problem;
    Plan plan;
    T dt, step_length, sign;
    const T* weight[max_depth + 1];     // (num_potentials, width[l], width[l - 1])
    const T* bias_jet[max_depth + 1];   // (num_slots, 3, width[l]), of which the flow uses the first of three
    const T* out_weight;                // (num_potentials, width[depth])
    const T* out_bias;                  // (num_potentials,)
    const std::int64_t* order;          // samples sorted by potential (batch,)
    const std::int64_t* offsets;        // where each potential's samples start in `order` (num_potentials + 1,)
    const std::int64_t* slot_of;        // (times, num_potentials)
    const T* z0;                        // (batch, dim); forward only
    T* path;                            // (batch, steps + 1, dim)
    T* error;                           // (batch,); forward only
    T* workspace;

    // Backward only.
    const T* path_bar;                 // (batch, steps + 1, dim)
    const std::int64_t* slot_order;    // entries of slot_of, counted through, sorted by slot (times * num_potentials,)
    const std::int64_t* slot_offsets;  // where each slot's entries start in `slot_order` (num_slots + 1,)
    T* z0_bar;                         // (batch, dim)
    T* weight_bar[max_depth + 1];      // gradients in the shapes of the parameters
    T* bias_jet_bar[max_depth + 1];
    T* out_weight_bar;
    T* out_bias_bar;
};

}  // namespace fastflow::cuda
