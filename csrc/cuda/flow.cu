// The kernels and their launches.
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "backward.hpp"
#include "forward.hpp"
#include "launch.hpp"

namespace fastflow::cuda {
namespace {

extern __shared__ __align__(16) unsigned char shared_memory[];

template <class T, bool state_in_shared>
__global__ void __launch_bounds__(max_threads, 1) flow_fwd_kernel(const __grid_constant__ Flow<T> flow) {
    Forward<T, state_in_shared>(flow, reinterpret_cast<T*>(shared_memory)).run();
}

template <class T, bool state_in_shared>
__global__ void __launch_bounds__(max_threads, 1) flow_bwd_kernel(const __grid_constant__ Flow<T> flow) {
    Backward<T, state_in_shared>(flow, reinterpret_cast<T*>(shared_memory)).run();
}

template <class T>
__global__ void __launch_bounds__(max_threads) reduce_weights_kernel(const __grid_constant__ Flow<T> flow) {
    reduce_weights(flow);
}

template <class T>
__global__ void __launch_bounds__(max_threads) reduce_biases_kernel(const __grid_constant__ Flow<T> flow) {
    reduce_biases(flow);
}

void check(cudaError_t status, const char* what) {
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

template <class T>
void launch_elementwise(void (*kernel)(Flow<T>), const Flow<T>& flow, std::int64_t elements, void* stream) {
    const std::int64_t blocks = (elements + max_threads - 1) / max_threads;
    launch(kernel, flow, blocks < 65536 ? blocks : 65536, max_threads, 0, stream);
}

}  // namespace

template <class T>
void launch_forward(const Flow<T>& flow, void* stream) {
    launch(flow.plan.state_in_shared ? flow_fwd_kernel<T, true> : flow_fwd_kernel<T, false>, flow, flow.plan.blocks, flow.plan.threads,
           flow.plan.shared_bytes, stream);
}

template <class T>
void launch_backward(const Flow<T>& flow, void* stream) {
    launch(flow.plan.state_in_shared ? flow_bwd_kernel<T, true> : flow_bwd_kernel<T, false>, flow, flow.plan.blocks, flow.plan.threads,
           flow.plan.shared_bytes, stream);
    launch_elementwise(reduce_weights_kernel<T>, flow, flow.problem.potentials * flow.plan.partial_bias, stream);
    launch_elementwise(reduce_biases_kernel<T>, flow, flow.problem.slots * flow.problem.units, stream);
}

template void launch_forward(const Flow<float>&, void*);
template void launch_forward(const Flow<double>&, void*);
template void launch_backward(const Flow<float>&, void*);
template void launch_backward(const Flow<double>&, void*);

std::string compiler() {
    return "nvcc " + std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." + std::to_string(__CUDACC_VER_BUILD__);
}

std::string architectures() { return FASTFLOW_CUDA_ARCHITECTURES; }

}  // namespace fastflow::cuda
