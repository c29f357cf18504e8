// Starting the kernels: forward.cu and backward.cu do it on a device, and a test's emulator on the host.
#pragma once

#include <string>

#include "cuda/problem.hpp"

namespace fastflow::cuda {

// Enqueue on `stream`; throw std::runtime_error if the device refuses.
template <class T>
void launch_flow(const Flow<T>& flow, void* stream);
template <class T>
void launch_flow_backward(const Flow<T>& flow, void* stream);

// Which compiler made the kernels, and for which architectures.
std::string compiler();
std::string architectures();

}  // namespace fastflow::cuda
