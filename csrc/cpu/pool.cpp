#include "pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>

namespace fastflow::cpu {
namespace {

using Task = std::function<void(std::int64_t, int)>;

inline void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Waits until `done()`: a few microseconds of spinning, which catches the next of several calls in a row, and then sleep.
template <class Done>
void wait(std::mutex& mutex, std::condition_variable& wakeup, Done done) {
    for (int spin = 0; spin < 2000; ++spin) {
        if (done()) return;
        pause();
    }
    std::unique_lock<std::mutex> lock(mutex);
    wakeup.wait(lock, done);
}

class Pool {
   public:
    void run(int threads, std::int64_t count, const Task& task) {
        threads = std::min(threads, start_workers(threads - 1) + 1);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            task_ = &task;
            count_ = count;
            next_ = 0;
            invited_ = threads;
            running_ = workers_;
            ++round_;
        }
        start_.notify_all();
        take_tasks(0);
        wait(mutex_, finish_, [this] { return running_ == 0; });
    }

    std::mutex busy;

   private:
    // Tells how many there are, which is fewer than wanted where the system has no more threads to give.
    int start_workers(int wanted) {
        try {
            for (; workers_ < wanted; ++workers_) std::thread(&Pool::work, this, workers_ + 1, round_.load()).detach();
        } catch (const std::system_error&) {
        }
        return workers_;
    }

    void work(int worker, std::uint64_t seen) {
        for (;;) {
            wait(mutex_, start_, [&] { return round_ != seen; });
            ++seen;
            if (worker < invited_) take_tasks(worker);
            if (--running_ == 0) {
                const std::lock_guard<std::mutex> lock(mutex_);
                finish_.notify_one();
            }
        }
    }

    void take_tasks(int worker) {
        for (std::int64_t i; (i = next_++) < count_;) (*task_)(i, worker);
    }

    std::mutex mutex_;
    std::condition_variable start_, finish_;
    std::atomic<std::uint64_t> round_{0};
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> running_{0};
    const Task* task_ = nullptr;
    std::int64_t count_ = 0;
    int invited_ = 0, workers_ = 0;
};

// Never destroyed: its threads run until the process ends. A forked child has no threads but this one, and whatever state
// the locks were in, so it starts over with a new pool.
Pool* pool = nullptr;
std::once_flag once;

Pool& the_pool() {
    std::call_once(once, [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, [] { pool = new Pool; });
    });
    return *pool;
}

}  // namespace

void parallel_for(int threads, std::int64_t count, const Task& task) {
    threads = static_cast<int>(std::min<std::int64_t>(threads, count));
    if (threads > 1) {
        Pool& shared = the_pool();
        const std::unique_lock<std::mutex> lock(shared.busy, std::try_to_lock);
        if (lock.owns_lock()) return shared.run(threads, count, task);
    }
    for (std::int64_t i = 0; i < count; ++i) task(i, 0);
}

}  // namespace fastflow::cpu
