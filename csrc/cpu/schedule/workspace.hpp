// Aligned memory that a thread keeps from call to call, so that a small call doesn't pay for fresh pages every time.
#pragma once

#include <cstddef>
#include <memory>
#include <new>

namespace fastflow::cpu {

class Workspace {
   public:
    // At least `size` bytes, 64-byte aligned, contents undefined. Invalidates what it gave before.
    char* get(std::size_t size) {
        if (size > size_) {
            block_.reset();
            block_.reset(static_cast<char*>(::operator new(size, alignment)));
            size_ = size;
        }
        return block_.get();
    }

    // Gives large memory back to the system.
    void trim() {
        constexpr std::size_t worth_keeping = std::size_t(16) << 20;
        if (size_ > worth_keeping) block_.reset(), size_ = 0;
    }

   private:
    static constexpr std::align_val_t alignment{64};
    struct Free {
        void operator()(char* block) const { ::operator delete(block, alignment); }
    };
    std::unique_ptr<char, Free> block_;
    std::size_t size_ = 0;
};

}  // namespace fastflow::cpu
