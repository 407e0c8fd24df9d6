#include "quantsr/engine.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <mutex>

#include "error.h"
#include "ops/ops.h"
#include "plan.h"
#include "pool.h"
#include "workspace.h"

namespace quantsr {
namespace {

constexpr int kMaxThreads = 1024;
constexpr int64_t kMaxSide = int64_t{1} << 24;

View<const float> read(const View<float>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }
View<const uint8_t> read(const View<uint8_t>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }

Epilogue epilogue_of(const Step& step, const Workspace& space) {
  Epilogue e{};
  e.channels = step.shape.out_channels;
  e.mul = step.mul.data();
  e.bias = step.bias.data();
  e.relu = step.relu;
  if (step.skip >= 0) e.skip = read(space.floats(step.skip));
  e.gain = step.gain;
  if (step.out >= 0) e.out = space.floats(step.out);
  if (step.codes >= 0) e.codes = space.codes(step.codes);
  e.inv = step.inv;
  e.levels = step.levels;
  e.offset = step.offset.data();
  return e;
}

// Shares out the rows of an image in bands: body(first row, row behind the last, worker).
template <class Body>
void run_bands(int64_t height, Pool& pool, const Body& body) {
  pool.run((height + kRowRun - 1) / kRowRun,
           [&](int64_t band, int worker) { body(band * kRowRun, std::min(height, (band + 1) * kRowRun), worker); });
}

void run_qconv2d(const Step& step, Workspace& space, Pool& pool) {
  const QConvJob job{step.shape,
                     step.packed.codes.data(),
                     step.packed.init.data(),
                     read(space.codes(step.in)),
                     space.height(step.in),
                     space.width(step.in),
                     epilogue_of(step, space)};
  const RunQConv run = step.qconv_kernel->run;
  run_bands(job.height, pool,
            [&](int64_t begin, int64_t end, int worker) { run(job, begin, end, space.scratch(worker)); });
}

void run_conv2d(const Step& step, Workspace& space, Pool& pool) {
  const Conv2dJob job{step.shape,
                      step.packed.floats.data(),
                      step.packed.bias.data(),
                      read(space.floats(step.in)),
                      space.height(step.in),
                      space.width(step.in),
                      epilogue_of(step, space)};
  const RunConv2d run = step.conv2d_kernel->run;
  run_bands(job.height, pool,
            [&](int64_t begin, int64_t end, int worker) { run(job, begin, end, space.scratch(worker)); });
}

void run_row(const Step& step, const Plan& plan, const Workspace& space, int64_t y) {
  const View<const float> x = read(space.floats(step.in));
  const int64_t width = space.width(step.in);
  const int channels = plan.slots[step.in].channels;
  switch (step.kind) {
    case StepKind::affine:
      return affine_row(x, step.mul.data(), step.bias.data(), space.floats(step.out), y, width, channels);
    case StepKind::relu: return relu_row(x, space.floats(step.out), y, width, channels);
    case StepKind::residual:
      return residual_row(read(space.floats(step.skip)), x, step.gain, space.floats(step.out), y, width, channels);
    case StepKind::quantize:
      return quantize_row(x, step.inv, step.offset.data(), step.levels, space.codes(step.codes), y, width, channels);
    case StepKind::pixel_shuffle:
      return pixel_shuffle_row(x, step.upscale, space.floats(step.out), y, width, plan.slots[step.out].channels);
    default: return;
  }
}

void run_step(const Step& step, const Plan& plan, Workspace& space, Pool& pool) {
  if (step.kind == StepKind::qconv2d) return run_qconv2d(step, space, pool);
  if (step.kind == StepKind::conv2d) return run_conv2d(step, space, pool);
  pool.run(space.height(step.in), [&](int64_t y, int) { run_row(step, plan, space, y); });
}

int checked_threads(int threads) {
  if (threads < 1 || threads > kMaxThreads) fail("threads", "1..1024", threads);
  return threads;
}

}  // namespace

struct Engine::State {
  State(Plan made, int threads) : plan(std::move(made)), pool(checked_threads(threads)) {
    space.prepare_scratch(plan, threads);
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

void Engine::run(const float* image, int64_t height, int64_t width, float* out) {
  if (height < 1 || height > kMaxSide) fail("image height", "1..2^24", height);
  if (width < 1 || width > kMaxSide) fail("image width", "1..2^24", width);
  const std::lock_guard<std::mutex> lock(state_->mutex);
  const Plan& plan = state_->plan;
  Workspace& space = state_->space;
  space.prepare(plan, height, width);
  space.set_output(plan.output_slot, out);
  const View<float> to = space.floats(plan.image_slot);
  const int64_t row = width * image_channels();
  for (int64_t y = 0; y < height; ++y) std::memcpy(to.origin + y * to.row_stride, image + y * row, row * sizeof(float));
  for (size_t i = 0; i < plan.steps.size(); ++i) {
    const auto start = std::chrono::steady_clock::now();
    run_step(plan.steps[i], plan, space, state_->pool);
    state_->seconds[i] = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
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
