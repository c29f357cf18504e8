#include "cuda/backward.hpp"
#include "cuda/launch.cuh"

namespace fastflow::cuda {
namespace {

extern __shared__ __align__(16) unsigned char shared_memory[];

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

template <class T>
void launch_elementwise(void (*kernel)(Flow<T>), const Flow<T>& flow, std::int64_t elements, void* stream) {
    const std::int64_t blocks = (elements + max_threads - 1) / max_threads;
    launch(kernel, flow, blocks < 65536 ? blocks : 65536, max_threads, 0, stream);
}

}  // namespace

template <class T>
void launch_flow_backward(const Flow<T>& flow, void* stream) {
    launch(flow.plan.state_in_shared ? flow_bwd_kernel<T, true> : flow_bwd_kernel<T, false>, flow, flow.plan.blocks, flow.plan.threads,
           flow.plan.shared_bytes, stream);
    launch_elementwise(reduce_weights_kernel<T>, flow, flow.problem.num_potentials * flow.plan.partial_bias, stream);
    launch_elementwise(reduce_biases_kernel<T>, flow, flow.problem.num_slots * flow.problem.units, stream);
}

template void launch_flow_backward(const Flow<float>&, void*);
template void launch_flow_backward(const Flow<double>&, void*);

}  // namespace fastflow::cuda
