// Random networks on every kernel of every instruction set and thread count must give the same bytes, and damaged ones
// an exception. Made for running under sanitizers: -DQUANTSR_SANITIZE=address,undefined, or =thread.
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>

#include "quantsr/engine.h"

namespace {

using quantsr::DType;
using quantsr::Op;

// A random program over 3 channels, and the arrays its ops point to.
class Network {
 public:
  explicit Network(unsigned seed) : random_(seed) {
    int channels = 3;
    for (int i = 0, n = pick(1, 6); i < n; ++i) {
      const int outputs = pick(0, 1) ? pick(1, 70) : channels;
      const std::string before = last_;
      switch (pick(0, 8)) {
        case 7: layer_norm(channels); break;
        case 8: add("gelu", {last_}, {}, {}); break;
        case 0: conv2d(channels, outputs); break;
        case 1: edge_conv2d(channels, outputs); break;
        case 2: qconv2d(channels, outputs, true); break;
        default: qconv2d(channels, outputs);
      }
      if (ops.back().kind == "layer_norm" || ops.back().kind == "gelu") continue;
      if (pick(0, 1)) add("relu", {last_}, {}, {});
      if (outputs == channels && pick(0, 1)) add("residual", {before, last_}, {{"gain", 0.5}}, {});
      channels = outputs;
    }
    finish(channels);
  }

  // A run of low-bit layers of all widths; channels: between them.
  Network(unsigned seed, int layers, int channels) : random_(seed) {
    for (int i = 0; i < layers; ++i) qconv2d(i == 0 ? 3 : channels, i == layers - 1 ? 3 : channels);
    finish(3);
  }

  // A transformer: layers of attention and of linear maps, in windows of a side.
  Network(unsigned seed, int layers, int heads, int depth, int window) : random_(seed) {
    const int channels = heads * depth;
    add("pad", {last_}, {{"multiple", double(window)}}, {});
    conv2d(3, channels);
    for (int i = 0; i < layers; ++i) {
      std::string stream = last_;
      layer_norm(channels);
      pick(0, 3) ? qconv2d(channels, 3 * channels, false, 1) : conv2d(channels, 3 * channels, 1);
      const int shift = i % 2 ? pick(0, window - 1) : 0;
      window <= 16 && pick(0, 1) ? qattention(heads, depth, window, shift) : attention(heads, depth, window, shift);
      qconv2d(channels, channels, false, 1);
      add("residual", {stream, last_}, {{"gain", 1.0}}, {});
      stream = last_;
      layer_norm(channels);
      qconv2d(channels, 2 * channels, false, 1);
      add("gelu", {last_}, {}, {});
      pick(0, 3) ? qconv2d(2 * channels, channels, false, 1) : conv2d(2 * channels, channels, 1);
      add("residual", {stream, last_}, {{"gain", 1.0}}, {});
      if (pick(0, 2) == 0) qconv2d(channels, channels);
    }
    finish(channels);
    const double factor = ops.back().attrs.at("upscale");
    add("crop", {last_, "image"}, {{"factor", factor}}, {});
  }

  std::vector<Op> ops;
  const std::string& output() const { return last_; }
  int pick(int low, int high) { return std::uniform_int_distribution<int>(low, high)(random_); }

  std::vector<float> run(const std::string& isa, const std::string& kernel, int threads, int height, int width) const {
    std::vector<float> image(size_t(height) * width * 3);
    for (size_t i = 0; i < image.size(); ++i) image[i] = float(i * 37 % 256) / 255;
    quantsr::Engine engine(ops, last_, 3, threads, isa, kernel);
    std::vector<float> out(image.size() * engine.upscale() * engine.upscale());
    engine.run(image.data(), height, width, out.data());
    engine.run(image.data(), height / 2 + 1, width / 2 + 1, out.data());
    engine.run(image.data(), height, width, out.data());
    return out;
  }

 private:
  void finish(int channels) {
    const int upscale = pick(2, 4);
    conv2d(channels, 3 * upscale * upscale);
    add("pixel_shuffle", {last_}, {{"upscale", double(upscale)}}, {});
  }

  void add(const std::string& kind, std::vector<std::string> inputs, std::map<std::string, double> attrs,
           std::map<std::string, quantsr::Tensor> tensors) {
    last_ = "v" + std::to_string(ops.size());
    ops.push_back({kind, std::move(inputs), last_, std::move(attrs), std::move(tensors)});
  }

  quantsr::Tensor floats(std::vector<int64_t> shape) {
    size_t size = 1;
    for (int64_t side : shape) size *= size_t(side);
    floats_.push_back(std::make_unique<float[]>(size));
    for (size_t i = 0; i < size; ++i) floats_.back()[i] = std::normal_distribution<float>(0, 0.1f)(random_);
    return {DType::f32, std::move(shape), floats_.back().get()};
  }

  quantsr::Tensor zeros(int count) {
    floats_.push_back(std::make_unique<float[]>(size_t(count)));
    return {DType::f32, {count}, floats_.back().get()};
  }

  int bits() {
    const int b = pick(2, 5);
    return b == 5 ? 8 : b;
  }

  void affine(int channels) {
    add("affine", {last_}, {}, {{"scale", floats({channels})}, {"offset", floats({channels})}});
  }

  void layer_norm(int channels) {
    add("layer_norm", {last_}, {{"epsilon", 0.125}}, {{"scale", floats({channels})}, {"offset", floats({channels})}});
  }

  void attention(int heads, int depth, int window, int shift) {
    const int span = 2 * window - 1;
    add("window_attention", {last_},
        {{"heads", double(heads)},
         {"window", double(window)},
         {"shift", double(shift)},
         {"scale", double(1 / float(depth))}},
        {{"position_bias", floats({span * span, heads})}});
  }

  // Of codes of any width and zeros; every second time with steps and offsets per channel.
  void qattention(int heads, int depth, int window, int shift) {
    const int span = 2 * window - 1, levels = pick(2, 15), most = pick(2, 15), channels = 3 * heads * depth;
    if (pick(0, 1)) affine(channels);
    add("quantize", {last_}, {{"inv", pick(0, 1) ? 1.0 : 8.0}, {"levels", double(levels)}},
        {{"offset", pick(0, 1) ? zeros(channels) : floats({channels})}});
    add("qwindow_attention", {last_},
        {{"heads", double(heads)},
         {"window", double(window)},
         {"shift", double(shift)},
         {"query_zero", double(pick(0, levels))},
         {"key_zero", double(pick(0, levels))},
         {"value_zero", double(pick(0, levels))},
         {"score_mul", 0.0625},
         {"softmax_inv", double(pick(1, 60))},
         {"softmax_levels", double(most)},
         {"softmax_zero", double(pick(0, most))},
         {"mix_mul", 0.125}},
        {{"position_bias", floats({span * span, heads})}, {"softmax_offset", floats({heads})}});
  }

  void conv2d(int channels, int outputs, int kernel = 0) {
    const int k = kernel > 0 ? kernel : 2 * pick(0, 2) + 1;
    add("conv2d", {last_}, {}, {{"weight", floats({outputs, k, k, channels})}, {"bias", floats({outputs})}});
  }

  void edge_conv2d(int channels, int outputs) {
    const int k = 2 * pick(0, 2) + 1;
    add("edge_conv2d", {last_}, {}, {{"weight", floats({9, outputs, k, k, channels})}, {"bias", floats({9, outputs})}});
  }

  // edges: a kernel for each class of pixels, which may be 5x5. kernel: 0 for any.
  void qconv2d(int channels, int outputs, bool edges = false, int kernel = 0) {
    const int k = kernel > 0 ? kernel : 2 * pick(0, edges ? 2 : 1) + 1, wb = bits(), ab = bits(), half = 1 << (wb - 1),
              classes = edges ? 9 : 1;
    if (pick(0, 1)) affine(channels);
    const bool plain = pick(0, 1) != 0;
    add("quantize", {last_}, {{"inv", plain ? 1.0 : 4.0}, {"levels", (1 << ab) - 1.0}},
        {{"offset", plain ? zeros(channels) : floats({channels})}});
    const size_t size = size_t(classes) * outputs * k * k * channels;
    codes_.push_back(std::make_unique<int8_t[]>(size));
    for (size_t i = 0; i < size; ++i) codes_.back()[i] = int8_t(pick(-half, half - 1));
    const auto shape = [&](std::vector<int64_t> sides) {
      if (edges) sides.insert(sides.begin(), 9);
      return sides;
    };
    add(edges ? "edge_qconv2d" : "qconv2d", {last_},
        {{"in_channels", double(channels)},
         {"out_channels", double(outputs)},
         {"kernel", double(k)},
         {"weight_bits", double(wb)},
         {"act_bits", double(ab)},
         {"zero", pick(0, 1) ? double(pick(0, (1 << ab) - 1)) : 0.0}},
        {{"weight", {DType::i8, shape({outputs, k, k, channels}), codes_.back().get()}},
         {"mul", floats(shape({outputs}))},
         {"bias", floats(shape({outputs}))}});
  }

  std::mt19937 random_;
  std::vector<std::unique_ptr<float[]>> floats_;
  std::vector<std::unique_ptr<int8_t[]>> codes_;
  std::string last_ = "image";
};

bool same_everywhere(unsigned seed, const Network& net, int height, int width) {
  const std::vector<float> wanted = net.run("ref", "", 1, height, width);
  for (const std::string& isa : quantsr::available_isas())
    for (const std::string& kernel : quantsr::qconv_kernel_names(isa))
      for (int threads : {1, 3}) {
        const std::vector<float> got = net.run(isa, kernel, threads, height, width);
        if (std::memcmp(got.data(), wanted.data(), got.size() * sizeof(float)) != 0) {
          std::printf("seed %u: %s with %d threads differs from ref\n", seed, kernel.c_str(), threads);
          return false;
        }
      }
  return true;
}

// Damage must be noticed at construction, or be harmless.
bool refuses_damage(unsigned seed) {
  Network net(seed);
  Op& op = net.ops[size_t(net.pick(0, int(net.ops.size()) - 1))];
  switch (net.pick(0, 4)) {
    case 0: op.inputs[0] = net.output(); break;
    case 1: op.attrs["upscale"] = 3; break;
    case 2: op.kind = "relu"; break;
    case 3:
      for (auto& entry : op.tensors) entry.second.shape[0] -= 1;
      if (op.tensors.empty()) op.output = "image";
      break;
    default:
      for (auto& entry : op.attrs) entry.second = 1e300;
      if (op.attrs.empty()) op.inputs.push_back("image");
  }
  try {
    net.run("", "", 1, 3, 3);
  } catch (const std::invalid_argument&) {
    return true;
  }
  return op.kind == "relu" || op.kind == "pixel_shuffle";  // a legal program after all
}

}  // namespace

int main() {
  int failures = 0;
  for (unsigned seed = 0; seed < 60; ++seed) {
    Network net(seed);
    failures += !same_everywhere(seed, net, net.pick(1, 20), net.pick(1, 20));
  }
  for (unsigned seed = 0; seed < 8; ++seed)  // several tiles of the schedule
    failures += !same_everywhere(seed, Network(seed, 6, 3), 90, 70);
  for (unsigned seed = 0; seed < 2; ++seed)  // tiles side by side
    failures += !same_everywhere(seed, Network(seed, 6, 3), 20, 530);
  for (unsigned seed = 0; seed < 2; ++seed)  // wide pixels, where a tile reads furthest behind the last row
    failures += !same_everywhere(seed, Network(seed, 3, 704), 1, 108);
  for (unsigned seed = 0; seed < 24; ++seed) {
    Network net(seed, 3, 1 + int(seed % 3), 1 + int(seed * 7 % 13), 2 + int(seed % 7));
    failures += !same_everywhere(seed, net, net.pick(1, 40), net.pick(1, 60));
  }
  failures += !same_everywhere(0, Network(0, 2, 6, 10, 8), 24, 300);  // tiles side by side
  for (unsigned seed = 0; seed < 300; ++seed)
    if (!refuses_damage(seed)) std::printf("seed %u: damage was not refused\n", seed), ++failures;
  std::printf("%d failures\n", failures);
  return failures != 0;
}
