// How the samples of a call are divided into tasks. It depends on the call alone and never on the number of threads, so that
// sums come out with the same bits whoever computes their parts.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/calls.hpp"

namespace fastflow::cpu {

struct Partition {
    std::vector<std::int64_t> order;          // samples by potential, then slot; empty when they are in order already
    std::vector<Chunk> chunks;                // by potential
    std::vector<std::int64_t> first_chunk;    // (potentials + 1,): chunks of potential k are [first_chunk[k], first_chunk[k + 1])
    std::int64_t count = 0;

    std::int64_t sample(std::int64_t position) const { return order.empty() ? position : order[position]; }
};

// `slot` may be null. Chunks have at least about `least_rows` samples, and there are at most `most_chunks` of them in each
// potential where that leaves more.
Partition partition(std::int64_t count, std::int64_t potentials, const std::int64_t* index, std::int64_t slots, const std::int64_t* slot,
                    std::int64_t least_rows, std::int64_t most_chunks);

}  // namespace fastflow::cpu
