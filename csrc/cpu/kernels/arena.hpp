// Memory for one task: pieces are cut from a block, 64-byte aligned. Over no block at all it only measures, so that the
// same code that cuts the pieces also tells how large the block must be.
#pragma once

#include <cstddef>
#include <cstdint>

#include "cpu/kernels/isa.hpp"

namespace fastflow::cpu::FASTFLOW_ISA {

struct Arena {
    void* block;
    std::size_t used = 0;

    template <class T>
    T* take(std::size_t count) {
        const std::size_t at = used;
        used += (count * sizeof(T) + 63) / 64 * 64;
        return block == nullptr ? nullptr : reinterpret_cast<T*>(reinterpret_cast<std::uintptr_t>(block) + at);
    }
};

}  // namespace fastflow::cpu::FASTFLOW_ISA
