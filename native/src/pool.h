// A few threads that stay, and one loop that shares items among them and the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace quantsr {

class Pool {
 public:
  // threads: how many work together, the caller included; >= 1. Throws std::invalid_argument if they cannot be started.
  explicit Pool(int threads);
  ~Pool();

  // Calls body(item, worker) for all items, worker in 0..threads-1, and returns when all are done. One caller
  // at a time; body must not throw. In a forked child, where the other threads are gone, the caller does all the work.
  using Body = std::function<void(int64_t item, int worker)>;
  void run(int64_t items, const Body& body);

  int threads() const { return threads_; }

 private:
  struct State;
  int threads_;
  int owner_;  // process
  std::unique_ptr<State> state_;
};

}  // namespace quantsr
