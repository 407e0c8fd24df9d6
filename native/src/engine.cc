#include "quantsr/engine.h"

#include <cstring>
#include <mutex>

#include "error.h"
#include "plan.h"
#include "pool.h"
#include "schedule.h"
#include "workspace.h"

namespace quantsr {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxSide = int64_t{1} << 24;

int checked_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads) fail("threads", "1..1024", threads);
  return threads;
}

void check_size(int64_t height, int64_t width) {
  if (height < 1 || height > kMaxSide) fail("image height", "1..2^24", height);
  if (width < 1 || width > kMaxSide) fail("image width", "1..2^24", width);
}

}  // namespace

struct Engine::State {
  State(Plan made, int threads) : plan(std::move(made)), pool(checked_threads(threads)) {
    space.prepare_threads(plan, threads);
    seconds.resize(plan.steps.size());
  }

  const Plan plan;
  Pool pool;
  Workspace space;
  std::vector<double> seconds;
  std::mutex mutex;
};

Engine::Engine(const std::vector<Op>& ops, const std::string& output, int image_channels, int threads,
               const std::string& isa, const std::string& preferred_kernel)
    : state_(std::make_unique<State>(make_plan(ops, output, image_channels, choose_isa(isa), preferred_kernel),
                                     threads)) {}

Engine::~Engine() = default;

int Engine::upscale() const { return state_->plan.slots[state_->plan.output_slot].scale; }
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
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const Plan& plan = state_->plan;
  Workspace& space = state_->space;
  space.prepare(plan, height, width);
  space.set_output(plan.output_slot, out);
  const View<float> to = space.floats(plan.image_slot);
  const int64_t row = width * image_channels();
  for (int64_t y = 0; y < height; ++y) std::memcpy(to.origin + y * to.row_stride, image + y * row, row * sizeof(float));
  run_plan(plan, space, state_->pool, state_->seconds);
}

std::vector<double> Engine::step_seconds() const {
  const std::lock_guard<std::mutex> lock(state_->mutex);
  return state_->seconds;
}

std::vector<std::string> Engine::describe() const {
  std::vector<std::string> lines;
  for (const Step& step : state_->plan.steps)
    lines.push_back(*step.kernel ? step.text + ": " + step.kernel : step.text);
  return lines;
}

}  // namespace quantsr
