// The options and limits of both engines, on the CPU and on a CUDA device. Types and constants only: sources that are compiled
// for one instruction set include this, and so does code for a device.
#pragma once

namespace fastflow {

constexpr int max_depth = 8;  // hidden layers

enum class Activation { tanh, sin, gelu, silu, softplus };
enum class OutActivation { identity, tanh };
enum class Laplacian { none, exact, hutchinson };
enum class Method { euler, heun, rk4 };
enum class Direction { forward, descent, reverse };

}  // namespace fastflow
