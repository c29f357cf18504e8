// What one call of the engine comes down to for the kernels: its arrays, and the chunk of samples that a task takes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/network.hpp"

namespace fastflow::cpu {

// Samples [begin, end) of the call's order, all of one potential.
struct Chunk {
    std::int64_t potential, begin, end;
};

// Where a chunk's gradients go. Zeroed beforehand: accumulators and loss.
template <class T>
struct ChunkGradient {
    void* accumulators;
    T* partial_rows;              // rows of bias gradients that other chunks share, (3, widths of all layers) each
    std::int64_t* partial_slots;  // the slot of each row
    double* loss;                 // sum of squared residuals
};

enum class PointMode { jet, jet_backward, residual, residual_backward };

// Jets, their backward, residuals: everything that happens at given points.
template <class T>
struct PointCall {
    Network<T> net;
    PointMode mode;
    const T* z;                 // (count, dim)
    const std::int64_t* slot;   // (count,)
    const std::int64_t* order;  // (count,): samples sorted by potential and slot; null when they are in order already

    JetArrays<T> jet;            // jet: the output
    JetArrays<const T> jet_bar;  // jet_backward: the cotangents, null for zero

    const T* coefficients;  // residual: (num_potentials, num_coefficients)
    const T* source;        // residual: (count,), optional
    T* residual;            // residual: (count,)
    T loss_scale;           // residual_backward: cotangent of the mean square, times 2 / count

    NetworkGradient<T> gradient;
    T* z_bar;                  // (count, dim), optional
    T* coefficients_bar;       // residual_backward: (num_potentials, num_coefficients)
    T* source_bar;             // residual_backward: (count,), optional
    const std::int32_t* runs;  // (num_slots,): how many runs of the order's samples have that slot

    bool backward() const { return mode == PointMode::jet_backward || mode == PointMode::residual_backward; }
    bool residuals() const { return mode == PointMode::residual || mode == PointMode::residual_backward; }
};

// A path, its backward, a rollout loss: everything that happens along flows.
template <class T>
struct FlowCall {
    Network<T> net;  // for a flow alone without Laplacian and time derivatives
    Method method;
    Direction direction;
    T sign;                     // -1 for descent
    T dt, step_length;          // step_length < 0: increments keep their lengths
    int steps, times;
    const std::int64_t* slots;  // (times, num_potentials): bias rows at the times that the method uses
    const std::int64_t* order;  // as in PointCall

    const T* z;         // (count, dim): the path's first points, to compute it from; null when the path is given
    bool backward;      // compute gradients
    T* path;            // (count, steps + 1, dim)
    T* reverse_error;   // reverse, with z: (count,)
    const T* path_bar;  // backward: (count, steps + 1, dim), optional

    const T* coefficients;  // rollout: as in PointCall; else null
    const T* source;        // rollout: (count, steps), optional
    T* residual;            // rollout: (count, steps), optional
    T loss_scale;           // rollout backward: cotangent of the mean square, times 2 / (count steps)

    NetworkGradient<T> gradient;
    T* z_bar;             // (count, dim), optional: of the path's first points
    T* coefficients_bar;  // rollout backward: (num_potentials, num_coefficients)
    T* source_bar;        // rollout backward: (count, steps), optional
};

}  // namespace fastflow::cpu
