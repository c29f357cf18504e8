#include "cpu/schedule/partition.hpp"

#include <algorithm>
#include <numeric>

namespace fastflow::cpu {
namespace {

bool in_order(std::int64_t count, const std::int64_t* index, const std::int64_t* slot) {
    for (std::int64_t i = 1; i < count; ++i)
        if (index[i] < index[i - 1] || (index[i] == index[i - 1] && slot != nullptr && slot[i] < slot[i - 1])) return false;
    return true;
}

// One pass of a radix sort: stable, by keys in [0, buckets).
void sort_by(std::vector<std::int64_t>& order, const std::int64_t* key, std::int64_t buckets) {
    std::vector<std::int64_t> position(buckets + 1, 0);
    for (const std::int64_t i : order) ++position[key[i] + 1];
    std::partial_sum(position.begin(), position.end(), position.begin());
    std::vector<std::int64_t> sorted(order.size());
    for (const std::int64_t i : order) sorted[position[key[i]]++] = i;
    order.swap(sorted);
}

}  // namespace

Partition partition(std::int64_t count, std::int64_t potentials, const std::int64_t* index, std::int64_t slots, const std::int64_t* slot,
                    std::int64_t least_rows, std::int64_t most_chunks) {
    Partition result;
    result.count = count;
    if (!in_order(count, index, slot)) {
        result.order.resize(count);
        std::iota(result.order.begin(), result.order.end(), 0);
        if (slot != nullptr) sort_by(result.order, slot, slots);
        sort_by(result.order, index, potentials);
    }
    result.first_chunk.reserve(potentials + 1);
    std::int64_t begin = 0;
    for (std::int64_t k = 0; k < potentials; ++k) {
        result.first_chunk.push_back(static_cast<std::int64_t>(result.chunks.size()));
        std::int64_t end = begin;
        if (result.order.empty())
            end = std::upper_bound(index + begin, index + count, k) - index;
        else
            while (end < count && index[result.order[end]] == k) ++end;

        const std::int64_t rows = end - begin;
        const std::int64_t number = std::min(std::max<std::int64_t>(most_chunks, 1), (rows + least_rows - 1) / least_rows);
        for (std::int64_t c = 0; c < number; ++c) result.chunks.push_back({k, begin + rows * c / number, begin + rows * (c + 1) / number});
        begin = end;
    }
    result.first_chunk.push_back(static_cast<std::int64_t>(result.chunks.size()));
    return result;
}

}  // namespace fastflow::cpu
