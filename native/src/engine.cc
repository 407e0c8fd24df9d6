#include "quantsr/engine.h"

#include <unistd.h>

#include <atomic>
#include <cstring>
#include <mutex>

#include "error.h"
#include "float_mode.h"
#include "plan.h"
#include "pool.h"
#include "schedule.h"
#include "workspace.h"

namespace quantsr {
namespace {

constexpr int64_t kMaxSide = int64_t{1} << 24;

int checked_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads) fail("threads", up_to(kMaxThreads), threads);
  return threads;
}

void check_size(int64_t height, int64_t width) {
  if (height < 1 || height > kMaxSide) fail("image height", up_to(kMaxSide), height);
  if (width < 1 || width > kMaxSide) fail("image width", up_to(kMaxSide), width);
}

// What one run at a time may use, in one process.
struct Turn {
  Turn(const Plan& plan, int threads) : seconds(plan.steps.size()) { space.prepare_threads(plan, threads); }

  const int owner = getpid();
  std::mutex mutex;
  Workspace space;
  std::vector<double> seconds;
};

}  // namespace

struct Engine::State {
  State(Plan made, int threads)
      : plan(std::move(made)), pool(checked_threads(threads)), last(new Turn(plan, threads)) {}
  ~State() {
    Turn* turn = last.load();
    if (turn->owner == getpid()) delete turn;
  }

  // In a forked child another one: the parent's may be in use, by a thread that the child lacks, for ever.
  Turn& turn() {
    Turn* found = last.load();
    while (found->owner != getpid()) {
      auto own = std::make_unique<Turn>(plan, pool.threads());
      if (last.compare_exchange_strong(found, own.get())) return *own.release();
    }
    return *found;
  }

  const Plan plan;
  Pool pool;
  std::atomic<Turn*> last;
};

Engine::Engine(const std::vector<Op>& ops, const std::string& output, int image_channels, int threads,
               const std::string& isa, const std::string& preferred_kernel)
    : state_(std::make_unique<State>(make_plan(ops, output, image_channels, choose_isa(isa), preferred_kernel),
                                     threads)) {}

Engine::~Engine() = default;

int Engine::upscale() const { return state_->plan.slots[state_->plan.output_slot].factor; }
int Engine::output_channels() const { return state_->plan.slots[state_->plan.output_slot].channels; }
int Engine::image_channels() const { return state_->plan.slots[state_->plan.image_slot].channels; }
std::string Engine::isa() const { return isa_name(state_->plan.isa); }
int Engine::threads() const { return state_->pool.threads(); }

int64_t Engine::workspace_bytes(int64_t height, int64_t width) const {
  check_size(height, width);
  return Workspace::bytes(state_->plan, height, width);
}

void Engine::run(const float* image, int64_t height, int64_t width, float* out) {
  check_size(height, width);
  Turn& turn = state_->turn();
  const std::lock_guard<std::mutex> lock(turn.mutex);
  const Plan& plan = state_->plan;
  Workspace& space = turn.space;
  space.prepare(plan, height, width);
  space.set_output(plan.output_slot, out);
  const DefaultFloatMode mode;
  const View<float> to = space.floats(plan.image_slot);
  const int64_t row = width * image_channels();
  for (int64_t y = 0; y < height; ++y) std::memcpy(to.origin + y * to.row_stride, image + y * row, row * sizeof(float));
  run_plan(plan, space, state_->pool, turn.seconds);
}

std::vector<double> Engine::step_seconds() const {
  Turn& turn = state_->turn();
  const std::lock_guard<std::mutex> lock(turn.mutex);
  return turn.seconds;
}

std::vector<std::string> Engine::describe() const {
  std::vector<std::string> lines;
  for (const Step& step : state_->plan.steps)
    lines.push_back(*step.kernel ? step.text + ": " + step.kernel : step.text);
  return lines;
}

}  // namespace quantsr
