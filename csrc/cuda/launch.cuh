// Starting one kernel, with errors as exceptions.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "cuda/launch.hpp"
#include "cuda/plan.hpp"

namespace fastflow::cuda {

inline void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    cudaGetLastError();  // or the next call would report it again
    throw std::runtime_error(std::string("the CUDA flow integrator could not ") + what + ": " + cudaGetErrorString(status) +
                             "; compute in ff.use_backend('reference') instead");
}

template <class T>
void launch(void (*kernel)(Flow<T>), const Flow<T>& flow, std::int64_t blocks, int threads, std::int64_t shared_bytes, void* stream) {
    if (shared_bytes > 48 * 1024)
        check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)),
              ("ask for " + std::to_string(shared_bytes) + " bytes of shared memory").c_str());
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, static_cast<cudaStream_t>(stream)>>>(flow);
    check(cudaGetLastError(), "start a kernel");
}

}  // namespace fastflow::cuda
