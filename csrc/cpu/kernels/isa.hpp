// What every source that is compiled once per instruction set includes first.
//
// The build compiles such a source several times, each time with the flags of one instruction set and with FASTFLOW_ISA
// defined as its name. All that it defines belongs in
//
//     namespace fastflow::cpu::FASTFLOW_ISA { ... }
//
// so that the copies have different names. That includes templates, inline functions and lambdas of its own headers.
//
// What it must not use is any function or template defined in somebody else's header, std::max and std::vector included.
// Where the compiler doesn't inline such a function, it emits a weak symbol with this instruction set's code; the linker
// keeps one copy of it for the whole module, and a processor without that instruction set may be the one to run it.
// Free to use: the language, compiler builtins, intrinsics, types and constants, and C functions (memcpy, malloc, sqrt).
// Nor may it have objects with dynamic initialisation: those would run at import, on any processor. Make them constexpr.
// The build checks every object file for both.
#pragma once

#ifndef FASTFLOW_ISA
#error "this source is compiled once per instruction set: list it in FASTFLOW_PER_ISA_SOURCES in CMakeLists.txt"
#endif

namespace fastflow::cpu::FASTFLOW_ISA {

// The widest vector of the instruction set, in bytes, and the number of vector registers.
#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
constexpr int vector_registers = 32;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
constexpr int vector_registers = 16;
#elif defined(__aarch64__)
constexpr int vector_bytes = 16;
constexpr int vector_registers = 32;
#else
constexpr int vector_bytes = 16;
constexpr int vector_registers = 16;
#endif

}  // namespace fastflow::cpu::FASTFLOW_ISA
