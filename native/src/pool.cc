#include "pool.h"

#include <unistd.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "error.h"
#include "float_mode.h"

namespace quantsr {
namespace {

// Layers follow each other within microseconds: looking out this often before sleeping (up to some 100 us, as long as
// a CPU pauses) saves the wake-up.
constexpr int kSpins = 2000;

inline void pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

struct Pool::State {
  std::mutex mutex;
  std::condition_variable wake, idle;
  std::vector<std::thread> workers;
  std::atomic<uint64_t> jobs{0};  // counts up with every job
  std::atomic<int> busy{0};       // workers inside the current job
  bool stop = false;
  // The current job; body is null between jobs, so that a thread that wakes late finds nothing.
  const Body* body = nullptr;
  int64_t items = 0;
  std::atomic<int64_t> next{0};

  ~State() {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      stop = true;
    }
    wake.notify_all();
    for (std::thread& worker : workers) worker.join();
  }

  void work(const Body& job, int64_t count, int worker) {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) job(i, worker);
  }

  void serve(int worker) {
    const DefaultFloatMode mode;  // not what the thread that started it had set
    uint64_t seen = 0;
    for (;;) {
      for (int i = 0; i < kSpins && jobs.load(std::memory_order_relaxed) == seen; ++i) pause();
      std::unique_lock<std::mutex> lock(mutex);
      wake.wait(lock, [&] { return stop || jobs.load(std::memory_order_relaxed) != seen; });
      if (stop) return;
      seen = jobs.load(std::memory_order_relaxed);
      if (body == nullptr) continue;
      const Body* job = body;
      const int64_t count = items;
      busy.fetch_add(1, std::memory_order_relaxed);
      lock.unlock();
      work(*job, count, worker);
      lock.lock();
      if (busy.fetch_sub(1, std::memory_order_release) == 1) idle.notify_one();
    }
  }

  void begin(int64_t count, const Body& job) {
    const std::lock_guard<std::mutex> lock(mutex);
    body = &job;
    items = count;
    next.store(0, std::memory_order_relaxed);
    jobs.fetch_add(1, std::memory_order_relaxed);
    wake.notify_all();
  }

  void finish() {
    for (int i = 0; i < kSpins && busy.load(std::memory_order_acquire) != 0; ++i) pause();
    std::unique_lock<std::mutex> lock(mutex);
    body = nullptr;
    idle.wait(lock, [&] { return busy.load(std::memory_order_relaxed) == 0; });
  }
};

Pool::Pool(int threads) : threads_(threads), owner_(getpid()), state_(std::make_unique<State>()) {
  state_->workers.reserve(threads - 1);
  try {
    for (int worker = 1; worker < threads; ++worker)
      state_->workers.emplace_back([state = state_.get(), worker] { state->serve(worker); });
  } catch (const std::system_error& error) {
    fail("threads", "as many as this process can start", std::to_string(threads) + " (" + error.what() + ")");
  }
}

Pool::~Pool() {
  // In a child its threads and waiters exist only in the parent: nothing can be joined or destroyed.
  if (getpid() != owner_) state_.release();
}

void Pool::run(int64_t items, const Body& body) {
  if (threads_ == 1 || items <= 1 || getpid() != owner_) {
    for (int64_t i = 0; i < items; ++i) body(i, 0);
    return;
  }
  state_->begin(items, body);
  state_->work(body, items, 0);
  state_->finish();
}

}  // namespace quantsr
