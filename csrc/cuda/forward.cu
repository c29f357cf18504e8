#include "cuda/forward.hpp"
#include "cuda/launch.cuh"

namespace fastflow::cuda {
namespace {

extern __shared__ __align__(16) unsigned char shared_memory[];

// One block for each multiprocessor is enough to ask for: the compiler may then use all registers.
template <class T, bool state_in_shared>
__global__ void __launch_bounds__(max_threads, 1) flow_fwd_kernel(const __grid_constant__ Flow<T> flow) {
    Forward<T, state_in_shared>(flow, reinterpret_cast<T*>(shared_memory)).run();
}

}  // namespace

template <class T>
void launch_flow(const Flow<T>& flow, void* stream) {
    launch(flow.plan.state_in_shared ? flow_fwd_kernel<T, true> : flow_fwd_kernel<T, false>, flow, flow.plan.blocks, flow.plan.threads,
           flow.plan.shared_bytes, stream);
}

template void launch_flow(const Flow<float>&, void*);
template void launch_flow(const Flow<double>&, void*);

std::string compiler() {
    return "nvcc " + std::to_string(__CUDACC_VER_MAJOR__) + "." + std::to_string(__CUDACC_VER_MINOR__) + "." + std::to_string(__CUDACC_VER_BUILD__);
}

std::string architectures() { return FASTFLOW_CUDA_ARCHITECTURES; }

}  // namespace fastflow::cuda
