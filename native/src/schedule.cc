// How the steps of a plan run. Most run one after the other, each shared out among the threads in bands of rows. Runs
// of low-bit convolutions, the bulk of the work, run together, tile by tile, because a whole layer of a photograph does
// not fit into a core's cache while a tile does: a tile goes through all layers before the next tile starts. As a layer
// needs one more pixel on each side than it makes, the tile moves up and left by one pixel with every layer; what it
// needs from there was made by the tiles above and to the left (Wolf and Lam, "A data locality optimizing algorithm",
// PLDI 1991, call it skewing). Nothing is computed twice. Buffers are those of the whole layers, so that a layer may
// overwrite the input of the layer before: what tiles to come still read lies below or to the right.
#include "schedule.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>

#include "ops/ops.h"

namespace quantsr {
namespace {

// Of a layer; x, y: of the top left pixel.
struct Region {
  int64_t y, x, height, width;
};

View<const float> read(const View<float>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }
View<const uint8_t> read(const View<uint8_t>& view) { return {view.origin, view.row_stride, view.pixel_stride}; }

template <class T>
View<T> shifted(View<T> view, const Region& region) {
  view.origin += region.y * view.row_stride + region.x * view.pixel_stride;
  return view;
}

Epilogue epilogue_of(const Step& step, const Workspace& space, const Region& region) {
  Epilogue e{};
  e.channels = step.shape.out_channels;
  e.mul = step.mul.data();
  e.bias = step.bias.data();
  e.relu = step.relu;
  if (step.skip >= 0) e.skip = shifted(read(space.floats(step.skip)), region);
  e.gain = step.gain;
  if (step.out >= 0) e.out = shifted(space.floats(step.out), region);
  if (step.codes >= 0) e.codes = shifted(space.codes(step.codes), region);
  e.inv = step.inv.data();
  e.levels = step.levels;
  e.offset = step.offset.data();
  return e;
}

Region whole(const Step& step, const Workspace& space) { return {0, 0, space.height(step.in), space.width(step.in)}; }

QConvJob qconv_job(const Step& step, const Workspace& space, const Region& region) {
  return {step.shape,
          step.packed.codes.data(),
          step.packed.init.data(),
          step.packed.offsets.data(),
          step.packed.steps.data(),
          shifted(read(space.codes(step.in)), region),
          region.height,
          region.width,
          epilogue_of(step, space, region)};
}

// Shares out the rows of an image in bands: body(first row, row behind the last, worker).
template <class Body>
void run_bands(int64_t height, Pool& pool, const Body& body) {
  pool.run((height + kRowRun - 1) / kRowRun,
           [&](int64_t band, int worker) { body(band * kRowRun, std::min(height, (band + 1) * kRowRun), worker); });
}

// Also edge_conv2d: the middle class everywhere, then the edges of the band over it.
void run_conv2d(const Step& step, Workspace& space, Pool& pool) {
  const Conv2dJob job{step.shape,
                      step.packed.floats.data(),
                      step.packed.bias.data(),
                      read(space.floats(step.in)),
                      space.height(step.in),
                      space.width(step.in),
                      epilogue_of(step, space, whole(step, space))};
  const RunConv2d run = step.conv2d_kernel->run;
  run_bands(job.height, pool, [&](int64_t begin, int64_t end, int worker) {
    run(job, begin, end, space.scratch(worker));
    if (step.kind == StepKind::edge_conv2d) run_edges(step.edges, job, begin, end);
  });
}

// The middle class everywhere, then the edges of the band over it.
void run_edge_qconv2d(const Step& step, Workspace& space, Pool& pool) {
  const QConvJob job = qconv_job(step, space, whole(step, space));
  run_bands(job.height, pool, [&](int64_t begin, int64_t end, int worker) {
    step.qconv_kernel->run(job, begin, end, space.scratch(worker));
    run_edges(step.qedges, job, begin, end, space.scratch(worker));
  });
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
      return quantize_row(x, step.inv.data(), step.offset.data(), step.levels, space.codes(step.codes), y, width,
                          channels);
    case StepKind::pixel_shuffle:
      return pixel_shuffle_row(x, step.upscale, step.mul.data(), step.bias.data(), space.floats(step.out), y, width,
                               plan.slots[step.out].channels);
    default: return;
  }
}

void run_step(const Step& step, const Plan& plan, Workspace& space, Pool& pool) {
  if (step.kind == StepKind::conv2d || step.kind == StepKind::edge_conv2d) return run_conv2d(step, space, pool);
  if (step.kind == StepKind::edge_qconv2d) return run_edge_qconv2d(step, space, pool);
  pool.run(space.height(step.in), [&](int64_t y, int) { run_row(step, plan, space, y); });
}

// --- tiles ---

// The part of `region` that lies within height x width.
Region clipped(Region r, int64_t height, int64_t width) {
  const int64_t y = std::max<int64_t>(r.y, 0), x = std::max<int64_t>(r.x, 0);
  return {y, x, std::min(r.y + r.height, height) - y, std::min(r.x + r.width, width) - x};
}

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

bool same_size(const Plan& plan, const Step& a, const Step& b) {
  return plan.slots[a.in].scale == plan.slots[b.in].scale;
}

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// A tile's stream and codes, 384 bytes a pixel at 64 channels, should stay in the second-level cache; but every tile
// reads all weights again. Where the kernels take longer, and the weights of fast ones are larger, the second counts
// for more: best of several on a core with 2 MB.
int64_t tile_pixels(Isa isa) { return isa == Isa::amx ? 12 * 256 : 24 * 256; }

// seconds: of each of the layers.
void run_layers(Isa isa, const Step* layers, int64_t count, Workspace& space, Pool& pool, double* seconds) {
  const int64_t height = space.height(layers->in), width = space.width(layers->in);
  Tiles tiles(height, width, count, tile_shape(height, width, pool.threads(), tile_pixels(isa)));
  std::vector<double> spent(count * pool.threads());
  pool.run(tiles.count(), [&](int64_t number, int worker) {
    for (int64_t l = 0; l < count; ++l) {
      const Region region = tiles.at(number, l);
      tiles.wait(number, l);
      if (region.height > 0 && region.width > 0) {
        const double start = now();
        layers[l].qconv_kernel->run(qconv_job(layers[l], space, region), 0, region.height, space.scratch(worker));
        spent[worker * count + l] += now() - start;
      }
      tiles.finish(number, l);
    }
  });
  for (size_t i = 0; i < spent.size(); ++i) seconds[i % count] += spent[i] / pool.threads();
}

}  // namespace

void run_plan(const Plan& plan, Workspace& space, Pool& pool, std::vector<double>& seconds) {
  seconds.assign(plan.steps.size(), 0);
  const size_t count = plan.steps.size();
  for (size_t i = 0; i < count;) {
    size_t end = i;
    while (end < count && plan.steps[end].kind == StepKind::qconv2d && same_size(plan, plan.steps[i], plan.steps[end]))
      ++end;
    if (end > i) {
      run_layers(plan.isa, &plan.steps[i], static_cast<int64_t>(end - i), space, pool, &seconds[i]);
      i = end;
      continue;
    }
    const double start = now();
    run_step(plan.steps[i], plan, space, pool);
    seconds[i++] = now() - start;
  }
}

}  // namespace quantsr
