#include "cpu/schedule/pool.hpp"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

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
        const int helpers = start_workers(threads - 1);
        task_ = &task;
        count_ = count;
        next_ = 0;
        running_ = helpers;
        for (int i = 0; i < helpers; ++i) invite(*workers_[i]);
        take_tasks(0);
        wait(mutex_, finish_, [this] { return running_ == 0; });
    }

    std::mutex busy;

   private:
    // Woken one by one: a call for a few threads leaves all the others asleep.
    struct Worker {
        std::mutex mutex;
        std::condition_variable wakeup;
        std::atomic<std::uint64_t> invitations{0};
    };

    // Tells how many of them there are, which is fewer than wanted where the system has no more threads to give.
    int start_workers(int wanted) {
        try {
            while (static_cast<int>(workers_.size()) < wanted) {
                auto worker = std::make_unique<Worker>();
                std::thread(&Pool::work, this, static_cast<int>(workers_.size()) + 1, std::ref(*worker)).detach();
                workers_.push_back(std::move(worker));
            }
        } catch (const std::system_error&) {
        }
        return std::min(wanted, static_cast<int>(workers_.size()));
    }

    static void invite(Worker& worker) {
        {
            const std::lock_guard<std::mutex> lock(worker.mutex);
            ++worker.invitations;
        }
        worker.wakeup.notify_one();
    }

    void work(int number, Worker& self) {
        for (std::uint64_t seen = 0;; ++seen) {
            wait(self.mutex, self.wakeup, [&] { return self.invitations != seen; });
            take_tasks(number);
            if (--running_ == 0) {
                const std::lock_guard<std::mutex> lock(mutex_);
                finish_.notify_one();
            }
        }
    }

    void take_tasks(int worker) {
        for (std::int64_t i; (i = next_++) < count_;) (*task_)(i, worker);
    }

    std::vector<std::unique_ptr<Worker>> workers_;  // worker i is number i + 1
    std::mutex mutex_;
    std::condition_variable finish_;
    std::atomic<std::int64_t> next_{0};
    std::atomic<int> running_{0};
    const Task* task_ = nullptr;
    std::int64_t count_ = 0;
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
