// Speed of the convolution kernels on one thread, in multiply-adds per second of CPU time, beside what the bare
// instructions reach: the low-bit ones for a 64 -> 64 layer, the float ones for the layers of the shipped networks.
// Kernels of fewer products are counted as if they were direct, so they may exceed the instructions' peak. Candidates
// take turns, so that a slow moment hits all of them alike; the table gives median and best.
// Usage: bench_kernels [side = 256] [rounds = 15] [part of a name = all]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <random>
#include <string>

#include "kernels/kernels.h"
#include "kernels/peak.h"
#include "quantsr/engine.h"
#include "round_up.h"

namespace {

using namespace quantsr;

constexpr int kChannels = 64;

double cpu_seconds() {
  timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) * 1e-9;
}

// A call of `run` does `macs` multiply-adds.
struct Candidate {
  std::string name;
  double macs;
  std::function<void()> run;
  std::vector<double> seconds{};
};

// The buffers of a layer, with borders, for any kernel.
struct Layer {
  explicit Layer(int side)
      : side(side),
        columns(round_up(side, kPixelRun) + 2),
        codes(padded()),
        result(padded()),
        stream(padded()),
        table(kChannels) {
    std::mt19937 random(1);
    for (size_t i = 0; i < codes.size(); ++i) codes[i] = random() % 16;
    for (size_t i = 0; i < stream.size(); ++i) stream[i] = static_cast<float>(random() % 100) * 0.01f;
    for (int c = 0; c < kChannels; ++c) table[c] = 1e-2f;
    for (int i = 0; i < 9 * kChannels * kChannels; ++i) weights.push_back(static_cast<int8_t>(random() % 16) - 8);
  }

  size_t padded() const { return static_cast<size_t>(columns) * (side + kRowRun + 2) * kChannels; }

  template <class T>
  View<T> view(T* data) const {
    return {data + (columns + 1) * kChannels, columns * kChannels, kChannels};
  }

  // What the second convolution of a block does: in-place residual, then codes for the next one.
  Epilogue epilogue(bool residual, bool quantize) {
    Epilogue e{};
    e.channels = kChannels;
    e.mul = e.bias = e.inv = e.offset = table.data();
    e.relu = !residual;
    if (residual) e.skip = view<const float>(stream.data());
    if (residual || !quantize) e.out = view(stream.data());
    if (quantize) e.codes = view(result.data());
    e.gain = 1;
    e.levels = 15;
    return e;
  }

  int64_t side, columns;
  AlignedArray<uint8_t> codes, result;
  AlignedArray<float> stream, table;
  std::vector<int8_t> weights;
};

double macs(const Layer& layer) { return 9.0 * kChannels * kChannels * layer.side * layer.side; }

// The buffers of a float layer.
struct FloatLayer {
  FloatLayer(ConvShape shape_, int side_)
      : shape(shape_),
        side(side_),
        columns(round_up(side, kPixelRun) + shape.kernel - 1),
        in(columns * (side + kRowRun + shape.kernel - 1) * shape.in_channels),
        out(int64_t{side} * side * shape.out_channels),
        weights(int64_t{shape.out_channels} * shape.kernel * shape.kernel * shape.in_channels),
        bias(shape.out_channels) {
    std::mt19937 random(1);
    for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(random() % 100) * 0.01f;
    for (size_t i = 0; i < weights.size(); ++i) weights[i] = static_cast<float>(random() % 16) * 1e-3f - 8e-3f;
  }

  Conv2dJob job(const PackedConv& packed) {
    Epilogue e{};
    e.channels = shape.out_channels;
    e.out = {out.data(), int64_t{side} * shape.out_channels, shape.out_channels};
    const int64_t row = columns * shape.in_channels;
    const View<const float> from{in.data() + shape.kernel / 2 * (row + shape.in_channels), row, shape.in_channels};
    return {shape, packed.floats.data(), packed.bias.data(), from, side, side, e};
  }

  double macs() const { return double(weights.size()) * side * side; }
  std::string name() const {
    const std::string k = std::to_string(shape.kernel);
    return k + "x" + k + " " + std::to_string(shape.in_channels) + "->" + std::to_string(shape.out_channels);
  }

  ConvShape shape;
  int side;
  int64_t columns;
  AlignedArray<float> in, out, weights, bias;
};

void add_conv2d(Isa isa, FloatLayer& layer, std::vector<Candidate>& out) {
  for (const Conv2dKernel* kernel : conv2d_kernels(isa)) {
    if (!kernel->fits(layer.shape)) continue;
    auto packed = std::make_shared<PackedConv>(kernel->prepare(layer.shape, layer.weights.data(), layer.bias.data()));
    auto scratch = std::make_shared<AlignedArray<std::byte>>(packed->scratch_bytes);
    const Conv2dJob job = layer.job(*packed);
    // A band at a time, as the engine does it.
    const auto run = [=, owner = packed] {
      for (int64_t y = 0; y < job.height; y += kRowRun)
        kernel->run(job, y, std::min(job.height, y + kRowRun), scratch->data());
    };
    out.push_back({"conv2d " + layer.name() + " " + kernel->name, layer.macs(), run});
  }
}

void add_qconv(Isa isa, Layer& layer, std::vector<Candidate>& out) {
  const ConvShape shape{kChannels, kChannels, 3, 4, 4, 8};
  for (const QConvKernel* kernel : qconv_kernels(isa)) {
    if (!kernel->fits(shape)) continue;
    auto packed = std::make_shared<PackedConv>(kernel->prepare(shape, layer.weights.data()));
    if (packed->codes.size() == 0) continue;
    auto scratch = std::make_shared<AlignedArray<std::byte>>(packed->scratch_bytes);
    for (const bool residual : {false, true}) {
      const QConvJob job{shape,
                         packed->codes.data(),
                         packed->init.data(),
                         packed->offsets.data(),
                         packed->steps.data(),
                         layer.view<const uint8_t>(layer.codes.data()),
                         layer.side,
                         layer.side,
                         layer.epilogue(residual, true)};
      out.push_back({std::string("qconv2d 3x3 64->64 ") + kernel->name + (residual ? " + residual" : " + relu"),
                     macs(layer), [=, owner = packed] { kernel->run(job, 0, job.height, scratch->data()); }});
    }
  }
}

// A small layer runs several times in a row, so that it finds the caches as its own work leaves them.
void measure(std::vector<Candidate>& candidates, int rounds, int repeats) {
  for (int round = -1; round < rounds; ++round)  // the first one warms up
    for (Candidate& c : candidates) {
      const double start = cpu_seconds();
      for (int i = 0; i < repeats; ++i) c.run();
      if (round >= 0) c.seconds.push_back((cpu_seconds() - start) / repeats);
    }
}

}  // namespace

int main(int argc, char** argv) {
  const int side = argc > 1 ? std::atoi(argv[1]) : 256, rounds = argc > 2 ? std::atoi(argv[2]) : 15;
  const std::string part = argc > 3 ? argv[3] : "";
  Layer layer(side);
  FloatLayer head({3, 64, 3}, side), after_body({64, 64, 3}, side), tail({64, 48, 3}, side), tail5({64, 48, 5}, side);
  std::vector<Candidate> candidates;
  for (const std::string& isa : available_isas()) {
#ifdef QUANTSR_X86
    if (isa == "avxvnni")
      candidates.push_back({"peak vpdpbusd of 256 bits", 12.0 * 32 * 2000000, [] { peak_vnni_256(2000000); }});
    if (isa == "avx512vnni") {
      candidates.push_back({"peak vpdpbusd", 24.0 * 64 * 1000000, [] { peak_vnni(1000000); }});
      candidates.push_back({"peak vfmadd", 24.0 * 16 * 1000000, [] { peak_fma(1000000); }});
    }
#endif
    if (isa == "ref") continue;
    add_qconv(choose_isa(isa), layer, candidates);
    for (FloatLayer* l : {&head, &after_body, &tail, &tail5}) add_conv2d(choose_isa(isa), *l, candidates);
  }
  candidates.erase(std::remove_if(candidates.begin(), candidates.end(),
                                  [&](const Candidate& c) { return c.name.find(part) == std::string::npos; }),
                   candidates.end());
  measure(candidates, rounds, std::max(1, 256 * 256 / (side * side)));
  std::printf("%-44s %8s %8s %8s\n", "kernel", "ms", "GMAC/s", "best");
  for (Candidate& c : candidates) {
    std::sort(c.seconds.begin(), c.seconds.end());
    const double median = c.seconds[c.seconds.size() / 2];
    std::printf("%-44s %8.2f %8.1f %8.1f\n", c.name.c_str(), median * 1e3, c.macs / median * 1e-9,
                c.macs / c.seconds[0] * 1e-9);
  }
}
