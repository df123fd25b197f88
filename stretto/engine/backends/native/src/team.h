// Threads that share out the jobs of a program's phases.
//
// A phase is over when its jobs are done, not when every thread has come by: a thread that the
// system took off its processor between jobs holds nobody up. It finds later that the phases, or
// the whole run, went on without it.
#pragma once

#include <sched.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

namespace stretto {

class Team {
  public:
    // A thread's place in a run.
    struct Place {
        uint32_t run;
        int thread;
    };
    using Program = void (*)(Team& team, Place place, void* context);

    // What to run, and on what: one thing, so that no thread gets the halves of two.
    struct Task {
        Program program;
        void* context;
    };

    Team(int threads, int phases)
        : threads_(threads), phases_(phases), done_(new Counter<int>[phases]),
          next_(new Counter<uint64_t>[(size_t)phases * threads]) {
        open(1);
        try {
            for (int i = 1; i < threads; i++) workers_.emplace_back([this, i] { serve(i); });
        } catch (const std::system_error&) {
            // The system gives no more threads: those there are do all the jobs.
        }
    }

    ~Team() {
        leave_parent();
        task_ = nullptr;
        run_.fetch_add(1);
        run_.notify_all();
        for (auto& worker : workers_) worker.join();
    }

    // Runs a task's program on all threads; returns when its last phase is over. A thread that comes
    // late may begin the program when the run is over: tasks and contexts live as long as the team,
    // and before its first phase a program looks at nothing that changes but atomics.
    void run(const Task& task) {
        leave_parent();
        task_ = &task;
        const uint32_t run = run_.load(std::memory_order_relaxed) + 1;
        run_.store(run, std::memory_order_release);
        run_.notify_all();
        task.program(*this, {run, 0}, task.context);
        open(run + 1);
    }

    // One phase: `job(i)` for each i below `jobs`, shared with the others; false when the run is
    // over. Every thread comes by the same phases in the same order. Each begins with a share of
    // neighbouring jobs, so that memory is read in long runs, and then helps the others.
    template <class Job>
    bool phase(Place place, int index, int jobs, Job job) {
        for (int i = 0; i < threads_; i++)
            if (!take(place.run, index, (place.thread + i) % threads_, jobs, job)) return false;
        for (int spins = 0; done_[index].value.load(std::memory_order_acquire) < jobs; spins++) {
            if (next(index, 0).load(std::memory_order_relaxed) >> 32 != place.run) return false;
            rest(spins);
        }
        return true;
    }

  private:
    template <class T>
    struct alignas(64) Counter {
        std::atomic<T> value{0};
    };

    // The first job of a share that nobody has; the upper half says of which run.
    std::atomic<uint64_t>& next(int index, int share) { return next_[(size_t)index * threads_ + share].value; }

    template <class Job>
    bool take(uint32_t run, int index, int share, int jobs, Job& job) {
        const int first = (int)((int64_t)share * jobs / threads_);
        const int number = (int)((int64_t)(share + 1) * jobs / threads_) - first;
        std::atomic<uint64_t>& free = next(index, share);
        uint64_t ticket = free.load(std::memory_order_relaxed);
        for (;;) {
            if (ticket >> 32 != run) return false;
            const int i = (int)(ticket & 0xffffffff);
            if (i >= number) return true;
            if (!free.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
            job(first + i);
            done_[index].value.fetch_add(1, std::memory_order_release);
            ticket = free.load(std::memory_order_relaxed);
        }
    }

    // From here on no thread gets a job of an earlier run, however late it comes: what the jobs
    // look at may change.
    void open(uint32_t run) {
        for (int i = 0; i < phases_; i++) {
            for (int share = 0; share < threads_; share++)
                next(i, share).store((uint64_t)run << 32, std::memory_order_release);
            done_[i].value.store(0, std::memory_order_relaxed);
        }
    }

    // A forked process has none of the threads, and perhaps half a run of its parent: it goes on
    // alone. What describes the threads is never freed, for there is nobody to join.
    void leave_parent() {
        if (getpid() == owner_) return;
        owner_ = getpid();
        new std::vector<std::thread>(std::move(workers_));
        workers_.clear();
        open(run_.load() + 1);
    }

    static void rest(int spins) {
        __builtin_ia32_pause();
        if (spins > 4096) sched_yield();
    }

    void serve(int thread) {
        uint32_t seen = 0;
        for (;;) {
            // Steps follow each other closely: look for the next one a while before sleeping.
            for (int spins = 0; run_.load(std::memory_order_acquire) == seen && spins < 20000; spins++)
                __builtin_ia32_pause();
            run_.wait(seen, std::memory_order_acquire);
            seen = run_.load(std::memory_order_acquire);
            const Task* task = task_;
            if (!task) return;
            task->program(*this, {seen, thread}, task->context);
        }
    }

    const int threads_, phases_;
    pid_t owner_ = getpid();
    std::unique_ptr<Counter<int>[]> done_;
    std::unique_ptr<Counter<uint64_t>[]> next_;
    std::atomic<uint32_t> run_{0};
    std::atomic<const Task*> task_{nullptr};
    std::vector<std::thread> workers_;
};

}  // namespace stretto
