// Which instruction sets this module was compiled for, which of them this processor has, and which one is in use.
#pragma once

#include <string>
#include <vector>

// Every instruction set compiled in, best first. CMakeLists.txt compiles the kernels for the same names.
#if defined(__x86_64__)
#define FASTFLOW_FOR_EACH_ISA(X) X(avx512) X(avx2) X(baseline)
#elif defined(__aarch64__)
#define FASTFLOW_FOR_EACH_ISA(X) X(neon)
#else
#define FASTFLOW_FOR_EACH_ISA(X) X(baseline)
#endif

namespace fastflow::cpu {

enum class Isa {
#define FASTFLOW_ENUMERATOR(isa) isa,
    FASTFLOW_FOR_EACH_ISA(FASTFLOW_ENUMERATOR)
#undef FASTFLOW_ENUMERATOR
};

const char* name(Isa isa);

std::vector<Isa> compiled_isas();   // best first
std::vector<Isa> supported_isas();  // those of them that this processor and its operating system can run, best first

// The instruction set in use: the best one supported, or the one that the environment variable FASTFLOW_ISA names.
// Decided at the first call, for the life of the process. Throws std::invalid_argument if FASTFLOW_ISA names one that is
// unknown or not supported here.
Isa active_isa();

}  // namespace fastflow::cpu
