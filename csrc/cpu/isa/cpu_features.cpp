#include "cpu/isa/cpu_features.hpp"

#include <cstdlib>
#include <stdexcept>

namespace fastflow::cpu {
namespace {

// The compiler's own test reads cpuid and, with xgetbv, whether the operating system saves the wide registers: without
// the latter a processor with AVX-512 still faults at the first zmm instruction.
bool supported(Isa isa) {
#if defined(__x86_64__)
    const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    switch (isa) {
        case Isa::avx512:
            return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                   __builtin_cpu_supports("avx512vl");
        case Isa::avx2: return avx2;
        case Isa::baseline: return true;
    }
    return false;
#else
    (void)isa;
    return true;  // the only instruction set compiled in is the one that every such processor has
#endif
}

std::string names(const std::vector<Isa>& isas) {
    std::string list;
    for (const Isa isa : isas) list += (list.empty() ? "" : ", ") + std::string(name(isa));
    return list;
}

Isa choose() {
    const std::vector<Isa> choices = supported_isas();
    const char* forced = std::getenv("FASTFLOW_ISA");
    if (forced == nullptr || *forced == '\0') return choices.front();
    for (const Isa isa : choices)
        if (std::string(forced) == name(isa)) return isa;

    for (const Isa isa : compiled_isas())
        if (std::string(forced) == name(isa))
            throw std::invalid_argument("FASTFLOW_ISA is '" + std::string(forced) + "', which this processor lacks; it has: " + names(choices) +
                                        ". Set one of these, or unset FASTFLOW_ISA to use the best.");
    throw std::invalid_argument("FASTFLOW_ISA is '" + std::string(forced) + "', which is not an instruction set of this build; expected one of: " +
                                names(choices) + ". Unset FASTFLOW_ISA to use the best.");
}

}  // namespace

const char* name(Isa isa) {
    switch (isa) {
#define FASTFLOW_CASE(isa) \
    case Isa::isa: return #isa;
        FASTFLOW_FOR_EACH_ISA(FASTFLOW_CASE)
#undef FASTFLOW_CASE
    }
    return "";
}

std::vector<Isa> compiled_isas() {
#define FASTFLOW_ITEM(isa) Isa::isa,
    return {FASTFLOW_FOR_EACH_ISA(FASTFLOW_ITEM)};
#undef FASTFLOW_ITEM
}

std::vector<Isa> supported_isas() {
    std::vector<Isa> isas;
    for (const Isa isa : compiled_isas())
        if (supported(isa)) isas.push_back(isa);
    return isas;
}

Isa active_isa() {
    static const Isa isa = choose();  // not set when choose() throws: the next call tries again
    return isa;
}

}  // namespace fastflow::cpu
