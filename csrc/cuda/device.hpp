// What kernels use of the machine: which thread this is, the block's barrier, and a stop for arguments that can't be right. Everything else in this folder's headers is
// plain C++, so that tests can compile the same code for the host, where an emulator provides these.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FASTFLOW_DEVICE __device__ __forceinline__
#define FASTFLOW_HOST_DEVICE __host__ __device__
#else
#define FASTFLOW_DEVICE inline
#define FASTFLOW_HOST_DEVICE
#endif

namespace fastflow::cuda {

constexpr int warp_size = 32;

#if defined(__CUDACC__)
FASTFLOW_DEVICE int thread_index() { return static_cast<int>(threadIdx.x); }
FASTFLOW_DEVICE int thread_count() { return static_cast<int>(blockDim.x); }
FASTFLOW_DEVICE std::int64_t block_index() { return blockIdx.x; }
FASTFLOW_DEVICE std::int64_t block_count() { return gridDim.x; }
FASTFLOW_DEVICE void barrier() { __syncthreads(); }
FASTFLOW_DEVICE void stop() { __trap(); }
#else
int thread_index();
int thread_count();
std::int64_t block_index();
std::int64_t block_count();
void barrier();
void stop();
#endif

}  // namespace fastflow::cuda
