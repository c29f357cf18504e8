// The functions behind EngineKernels (isa/kernel_table.hpp), for T float and double.
#pragma once

#include "cpu/calls.hpp"
#include "cpu/kernels/isa.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

// points.cpp
template <class T>
std::size_t packed_size(const Network<T>&);
template <class T>
std::size_t pack_scratch_size(const Network<T>&);
template <class T>
void pack(const Network<T>&, std::int64_t potential, void* packed, void* scratch);

template <class T>
std::size_t accumulators_size(const Network<T>&);
template <class T>
void add_accumulators(const Network<T>&, void* to, void* from);
template <class T>
void finish_gradient(const Network<T>&, std::int64_t potential, void* packed, void* accumulators, const NetworkGradient<T>&, T* coefficients_bar);

template <class T>
std::int64_t tile_rows(const Network<T>&);
template <class T>
std::size_t point_scratch_size(const PointCall<T>&);
template <class T>
void run_points(const PointCall<T>&, const Chunk&, void* packed, void* scratch, const ChunkGradient<T>&);

// flow.cpp
template <class T>
std::size_t flow_scratch_size(const FlowCall<T>&);
template <class T>
void run_flow(const FlowCall<T>&, const Chunk&, void* packed, void* scratch, const ChunkGradient<T>&);

}  // namespace fastflow::cpu::FASTFLOW_ISA
