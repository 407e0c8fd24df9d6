// How the steps of a plan run. Most run one after the other, each shared out among the threads in rows or bands of
// rows. Runs of low-bit convolutions, the bulk of the work, run together, tile by tile, because a whole layer of a
// photograph does not fit into a core's cache while a tile does: a tile goes through all layers before the next tile
// starts. As a layer needs one more pixel on each side than it makes, the tile moves up and left by one pixel with
// every layer; what it needs from there was made by the tiles above and to the left (Wolf and Lam, "A data locality
// optimizing algorithm", PLDI 1991, call it skewing). Nothing is computed twice. Buffers are those of the whole layers,
// so that a layer may overwrite the input of the layer before: what tiles to come still read lies below or to the
// right. The steps of a transformer's layer look at no pixel outside of a window: they run together too, some windows
// at a time.
#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <numeric>
#include <thread>

#include "ops/ops.h"

namespace quantsr {
namespace {

View<const float> read(const View<float>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }
View<const uint8_t> read(const View<uint8_t>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }

// A step's work on a part of the image: a job for its kernel.
class Part {
 public:
  Part(const Plan& plan, Workspace& space, const Step& step, const Region& region, int worker)
      : plan_(plan), space_(space), step_(step), region_(region), worker_(worker) {}

  QConvJob qconv() const {
    const PackedConv& packed = step_.packed;
    return {step_.shape,           packed.codes.data(), packed.init.data(),
            packed.offsets.data(), packed.steps.data(), read(space_.codes(step_.in, region_, worker_)),
            region_.height,        region_.width,       epilogue(step_.shape.out_channels)};
  }

  Conv2dJob conv2d() const {
    const PackedConv& packed = step_.packed;
    return {step_.shape,
            packed.floats.data(),
            packed.bias.data(),
            floats_in(),
            region_.height,
            region_.width,
            epilogue(step_.shape.out_channels)};
  }

  // All of it, on one thread.
  void run() const {
    const int64_t rows = region_.height;
    const auto each_row = [&](auto row) {
      for (int64_t y = 0; y < rows; ++y) row(y);
    };
    const int64_t width = region_.width;
    const int channels = plan_.slots[step_.in].channels;
    const float *mul = step_.mul.data(), *bias = step_.bias.data();
    switch (step_.kind) {
      case OpKind::conv2d: return step_.conv2d_kernel->run(conv2d(), 0, rows, space_.scratch(worker_));
      case OpKind::qconv2d: return step_.qconv_kernel->run(qconv(), 0, rows, space_.scratch(worker_));
      case OpKind::affine:
        return each_row([&](int64_t y) { affine_row(floats_in(), mul, bias, floats_out(), y, width, channels); });
      case OpKind::relu: return each_row([&](int64_t y) { relu_row(floats_in(), floats_out(), y, width, channels); });
      case OpKind::residual:
        return each_row(
            [&](int64_t y) { residual_row(skip(), floats_in(), step_.gain, floats_out(), y, width, channels); });
      case OpKind::quantize:
        return each_row([&](int64_t y) {
          quantize_row(floats_in(), step_.inv.data(), step_.offset.data(), step_.levels,
                       space_.codes(step_.codes, region_, worker_), y, width, channels);
        });
      case OpKind::layer_norm:
        return transformer().layer_norm({floats_in(), rows, width, step_.epsilon, mul, bias, epilogue(channels)}, 0,
                                        rows);
      case OpKind::gelu: return transformer().gelu({floats_in(), rows, width, epilogue(channels)}, 0, rows);
      case OpKind::window_attention: return attention();
      case OpKind::qwindow_attention: return qattention();
      // These never run in parts: run_step.
      case OpKind::edge_conv2d:
      case OpKind::edge_qconv2d:
      case OpKind::pixel_shuffle:
      case OpKind::pad:
      case OpKind::crop: break;
    }
    std::abort();
  }

 private:
  const TransformerKernels& transformer() const { return transformer_kernels(plan_.isa); }
  View<const float> floats_in() const { return read(space_.floats(step_.in, region_, worker_)); }
  View<const float> skip() const { return read(space_.floats(step_.skip, region_, worker_)); }
  View<float> floats_out() const { return space_.floats(step_.out, region_, worker_); }

  Epilogue epilogue(int channels) const {
    Epilogue e{};
    e.channels = channels;
    e.mul = step_.mul.data();
    e.bias = step_.bias.data();
    e.relu = step_.relu;
    if (step_.skip >= 0) e.skip = skip();
    e.gain = step_.gain;
    if (step_.out >= 0) e.out = floats_out();
    if (step_.codes >= 0) e.codes = space_.codes(step_.codes, region_, worker_);
    e.inv = step_.inv.data();
    e.levels = step_.levels;
    e.offset = step_.offset.data();
    return e;
  }

  void attention() const {
    const int channels = plan_.slots[step_.in].channels / 3;
    const AttentionJob job{floats_in(), step_.heads, channels / step_.heads, step_.logit_scale, epilogue(channels)};
    each_window([&](const WindowPart& part) { transformer().attention(job, part, space_.scratch(worker_)); });
  }

  void qattention() const {
    QAttentionJob job = step_.qattention;
    job.in = read(space_.codes(step_.in, region_, worker_));
    job.epilogue = epilogue(job.heads * job.depth);
    each_window([&](const WindowPart& part) { transformer().qattention(job, part, space_.scratch(worker_)); });
  }

  // The windows of the part, which is one row of them.
  template <class Work>
  void each_window(Work work) const {
    const int height = static_cast<int>(region_.height);
    for (int64_t x = 0; x < region_.width;) {
      const int64_t beyond = (region_.x + x - step_.shift + step_.window) % step_.window;  // where its window begins
      const int width = static_cast<int>(std::min(step_.window - beyond, region_.width - x));
      work(WindowPart{0, x, width, width * height, step_.position_bias.of(height, width)});
      x += width;
    }
  }

  const Plan& plan_;
  Workspace& space_;
  const Step& step_;
  const Region region_;
  const int worker_;
};

Region whole(const Step& step, const Workspace& space) { return {0, 0, space.height(step.in), space.width(step.in)}; }

// Shares out the rows of an image in bands: body(first row, row behind the last, worker).
template <class Body>
void run_bands(int64_t height, Pool& pool, const Body& body) {
  pool.run((height + kRowRun - 1) / kRowRun,
           [&](int64_t band, int worker) { body(band * kRowRun, std::min(height, (band + 1) * kRowRun), worker); });
}

// Also edge_conv2d: the middle class everywhere, then the edges of the band over it.
void run_conv2d(const Plan& plan, const Step& step, Workspace& space, Pool& pool) {
  const Conv2dJob job = Part(plan, space, step, whole(step, space), 0).conv2d();
  const RunConv2d run = step.conv2d_kernel->run;
  run_bands(job.height, pool, [&](int64_t begin, int64_t end, int worker) {
    run(job, begin, end, space.scratch(worker));
    if (step.kind == OpKind::edge_conv2d) run_edges(step.edges, job, begin, end);
  });
}

// The middle class everywhere, then the edges of the band over it.
void run_edge_qconv2d(const Plan& plan, const Step& step, Workspace& space, Pool& pool) {
  const QConvJob job = Part(plan, space, step, whole(step, space), 0).qconv();
  run_bands(job.height, pool, [&](int64_t begin, int64_t end, int worker) {
    step.qconv_kernel->run(job, begin, end, space.scratch(worker));
    run_edges(step.qedges, job, begin, end, space.scratch(worker));
  });
}

// pad, crop and pixel_shuffle, whose results have another size: a row of the smaller one.
void run_resizing_row(const Plan& plan, const Step& step, const Workspace& space, int64_t y) {
  const View<const float> x = read(space.floats(step.in));
  const View<float> out = space.floats(step.out);
  const int channels = plan.slots[step.out].channels;
  if (step.kind == OpKind::pad)
    return pad_row(x, space.height(step.in), space.width(step.in), out, y, space.width(step.out), channels);
  if (step.kind == OpKind::crop) return crop_row(x, out, y, space.width(step.out), channels);
  pixel_shuffle_row(x, step.upscale, step.mul.data(), step.bias.data(), out, y, space.width(step.out) / step.upscale,
                    channels);
}

void run_step(const Step& step, const Plan& plan, Workspace& space, Pool& pool) {
  switch (step.kind) {
    case OpKind::conv2d:
    case OpKind::edge_conv2d: return run_conv2d(plan, step, space, pool);
    case OpKind::edge_qconv2d: return run_edge_qconv2d(plan, step, space, pool);
    case OpKind::pad:
    case OpKind::crop:
    case OpKind::pixel_shuffle:
      return pool.run(space.height(step.out) / step.upscale,
                      [&](int64_t y, int) { run_resizing_row(plan, step, space, y); });
    default:
      pool.run(space.height(step.in),
               [&](int64_t y, int worker) { Part(plan, space, step, {y, 0, 1, space.width(step.in)}, worker).run(); });
  }
}

// --- tiles ---

// The part of `region` that lies within height x width.
Region clipped(Region r, int64_t height, int64_t width) {
  const int64_t y = std::max<int64_t>(r.y, 0), x = std::max<int64_t>(r.x, 0);
  return {y, x, std::min(r.y + r.height, height) - y, std::min(r.x + r.width, width) - x};
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Runs the steps of a run on parts of the image and measures how long each thread is at each step.
class TimedParts {
 public:
  TimedParts(const Plan& plan, const Run& run, Workspace& space, int threads)
      : plan_(plan),
        steps_(&plan.steps[run.begin]),
        space_(space),
        count_(run.end - run.begin),
        spent_(count_ * threads) {}

  void run(int64_t step, const Region& region, int worker) {
    const double start = now();
    Part(plan_, space_, steps_[step], region, worker).run();
    spent_[worker * count_ + step] += now() - start;
  }

  // Shares out the seconds that the whole run took, waiting included, among its steps.
  void share(double took, double* seconds) const {
    const double all = std::accumulate(spent_.begin(), spent_.end(), 0.0);
    for (size_t i = 0; i < spent_.size(); ++i)
      seconds[i % count_] += took * (all > 0 ? spent_[i] / all : 1.0 / spent_.size());
  }

 private:
  const Plan& plan_;
  const Step* steps_;
  Workspace& space_;
  int64_t count_;
  std::vector<double> spent_;  // [worker][step]
};

struct TileShape {
  int64_t height, width;
};

// Whole rows where they fit: then nothing moves sideways, and kernels meet no parts of their blocks on the way. Long
// rows also suit the hardware's prefetching. There should be several tiles for each thread.
TileShape tile_shape(int64_t height, int64_t width, int threads, int64_t pixels) {
  constexpr int64_t kMaxWidth = 512, kPartWidth = 128, kMinHeight = 8;
  if (threads > 1) pixels = std::min(pixels, height * width / (8 * threads));
  const int64_t across = width <= kMaxWidth ? width : kPartWidth;
  return {std::max(pixels / across / kRowRun * kRowRun, kMinHeight), across};
}

// Tiles of a run of layers, with those that only exist because of the skew. They are numbered along the diagonals, so
// that neighbours in number wait little for each other.
class Tiles {
 public:
  Tiles(int64_t height, int64_t width, int64_t layers, TileShape tile)
      : height_(height),
        width_(width),
        tile_(tile),
        rows_((height + layers - 1 + tile.height - 1) / tile.height),
        columns_(tile.width == width ? 1 : (width + layers - 1 + tile.width - 1) / tile.width),
        done_(rows_ * columns_) {
    for (int64_t diagonal = 0; diagonal < rows_ + columns_ - 1; ++diagonal)
      for (int64_t i = std::max<int64_t>(0, diagonal - columns_ + 1); i <= std::min(diagonal, rows_ - 1); ++i)
        order_.push_back(i * columns_ + diagonal - i);
  }

  int64_t count() const { return rows_ * columns_; }

  // Where a layer's part of a tile lies; it may be empty.
  Region at(int64_t number, int64_t layer) const {
    const int64_t i = order_[number] / columns_, j = order_[number] % columns_;
    const int64_t left = columns_ == 1 ? 0 : j * tile_.width - layer;
    return clipped({i * tile_.height - layer, left, tile_.height, tile_.width}, height_, width_);
  }

  // Returns when the tiles above and to the left have this layer behind them. They have lower numbers, so some thread
  // has them in hand.
  void wait(int64_t number, int64_t layer) const {
    const int64_t tile = order_[number];
    if (tile >= columns_) wait_for(tile - columns_, layer);
    if (tile % columns_ > 0) wait_for(tile - 1, layer);
  }
  void finish(int64_t number, int64_t layer) { done_[order_[number]].store(layer + 1, std::memory_order_release); }

 private:
  void wait_for(int64_t tile, int64_t layer) const {
    for (int spins = 0; done_[tile].load(std::memory_order_acquire) <= layer; ++spins)
      if (spins > kSpins) std::this_thread::yield();
  }

  static constexpr int kSpins = 1000;
  int64_t height_, width_;
  TileShape tile_;
  int64_t rows_, columns_;
  std::vector<std::atomic<int64_t>> done_;  // layers
  std::vector<int64_t> order_;
};

// A tile's stream and codes, 384 bytes a pixel at 64 channels, should stay in the second-level cache; but every tile
// reads all weights again. Where the kernels take longer, and the weights of fast ones are larger, the second counts
// for more: best of several on a core with 2 MB.
int64_t tile_pixels(Isa isa) { return isa == Isa::amx ? 12 * 256 : 24 * 256; }

void run_layers(const Plan& plan, const Run& run, const Workspace& space, Pool& pool, TimedParts& parts) {
  const int in = plan.steps[run.begin].in;
  const int64_t count = run.end - run.begin, height = space.height(in), width = space.width(in);
  Tiles tiles(height, width, count, tile_shape(height, width, pool.threads(), tile_pixels(plan.isa)));
  pool.run(tiles.count(), [&](int64_t number, int worker) {
    for (int64_t l = 0; l < count; ++l) {
      const Region region = tiles.at(number, l);
      tiles.wait(number, l);
      if (region.height > 0 && region.width > 0) parts.run(l, region, worker);
      tiles.finish(number, l);
    }
  });
}

// --- windows ---

// Where tiles begin along an axis, and its end: tiles of `side` pixels, shifted so that they end where windows do.
std::vector<int64_t> borders(int64_t size, int64_t shift, int64_t side) {
  std::vector<int64_t> at{0};
  for (int64_t next = shift > 0 ? side - shift : side; next < size; next += side) at.push_back(next);
  at.push_back(size);
  return at;
}

// A run of steps in tiles. Each reads and writes nothing of other tiles.
void run_windows(const Plan& plan, const Run& run, const Workspace& space, Pool& pool, TimedParts& parts) {
  const int in = plan.steps[run.begin].in;
  const int64_t count = run.end - run.begin, height = space.height(in), width = space.width(in);
  // A grid shifted by s ends windows at s, s + window, ...
  const int64_t back = run.shift > 0 ? run.window - run.shift : 0;
  const std::vector<int64_t> rows = borders(height, back, run.window), columns = borders(width, back, run.tile_width);
  const int64_t across = static_cast<int64_t>(columns.size()) - 1, down = static_cast<int64_t>(rows.size()) - 1;
  pool.run(down * across, [&](int64_t tile, int worker) {
    const int64_t i = tile / across, j = tile % across;
    const Region region{rows[i], columns[j], rows[i + 1] - rows[i], columns[j + 1] - columns[j]};
    for (int64_t s = 0; s < count; ++s) parts.run(s, region, worker);
  });
}

}  // namespace

void run_plan(const Plan& plan, Workspace& space, Pool& pool, std::vector<double>& seconds) {
  seconds.assign(plan.steps.size(), 0);
  for (const Run& run : plan.runs) {
    const double start = now();
    TimedParts parts(plan, run, space, pool.threads());
    switch (run.kind) {
      case RunKind::single: run_step(plan.steps[run.begin], plan, space, pool); break;
      case RunKind::layers: run_layers(plan, run, space, pool, parts); break;
      case RunKind::windows: run_windows(plan, run, space, pool, parts); break;
    }
    parts.share(now() - start, &seconds[run.begin]);
  }
}

}  // namespace quantsr
