// Every qconv2d kernel of every instruction set of this CPU against a plain integer convolution: no sum may differ.
// Usage: test_qconv [cases = 560] [first = 0]
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>

#include "quantsr/engine.h"

namespace {

using quantsr::DType;

struct Case {
  int height, width, inputs, outputs, kernel, weight_bits, act_bits, zero;
  std::vector<int> codes;       // [y][x][input]
  std::vector<int8_t> weights;  // [output][ky][kx][input]
};

class Random {
 public:
  explicit Random(unsigned seed) : engine_(seed) {}
  int pick(int low, int high) { return low + static_cast<int>(engine_() % static_cast<unsigned>(high - low + 1)); }

  // A function (y, x) -> value in low..high. Extremes drive sums to where overflow would show; stripes and boards of
  // one and two pixels also meet all signs of a transform.
  template <class Use>
  void fill(int low, int high, Use use) {
    const int kind = pick(0, 6), side_y = pick(1, 2), side_x = pick(0, 2), phase = pick(0, 3);
    const int rare = kind % 2 ? low : high, common = low + high - rare;
    switch (kind) {
      case 0: return use([&](int, int) { return pick(low, high); });
      case 1:
      case 2: return use([&](int, int) { return common; });
      case 3:
      case 4: return use([&](int, int) { return pick(0, 30) ? common : rare; });
      case 5: return use([&](int, int) { return pick(0, 1) ? low : high; });
      default:
        use([&](int y, int x) {
          return ((y + phase) / side_y + (side_x ? (x + phase / 2) / side_x : 0)) % 2 ? low : high;
        });
    }
  }

 private:
  std::mt19937 engine_;
};

Case make_case(unsigned seed) {
  Random random(seed);
  Case c;
  const int n = static_cast<int>(seed);
  // Mostly small, since emulators are slow; all kinds of remainders of tiles and blocks.
  c.height = random.pick(1, 13), c.width = random.pick(1, 18);
  c.inputs = random.pick(1, 40), c.outputs = random.pick(1, 40);
  if (n % 16 == 0) c.inputs = random.pick(41, 130);
  if (n % 16 == 1) c.outputs = random.pick(41, 110);
  if (n % 60 == 2) c.height = 67, c.width = 35;
  if (n % 60 == 3) c.height = c.width = 1;
  if (n % 60 == 4) c.height = 3, c.width = 70;
  c.kernel = n % 10 == 9 ? 1 : 3;
  c.weight_bits = 2 + n % 3;
  c.act_bits = 2 + n / 3 % 3;
  if (n % 7 == 5) c.weight_bits = c.act_bits = 8;
  if (n % 49 == 12) c.weight_bits = 4;
  c.zero = n / 9 % 2 ? 1 << (c.act_bits - 1) : 0;
  if (n % 5 == 3) c.zero = random.pick(1, (1 << c.act_bits) - 1);
  c.codes.resize(size_t(c.height) * c.width * c.inputs);
  random.fill(0, (1 << c.act_bits) - 1, [&](auto value) {
    for (size_t i = 0; i < c.codes.size(); ++i) {
      const int pixel = static_cast<int>(i / c.inputs);
      c.codes[i] = value(pixel / c.width, pixel % c.width);
    }
  });
  const int half = 1 << (c.weight_bits - 1), taps = c.kernel * c.kernel;
  c.weights.resize(size_t(c.outputs) * taps * c.inputs);
  random.fill(-half, half - 1, [&](auto value) {
    for (size_t i = 0; i < c.weights.size(); ++i) {
      const int tap = static_cast<int>(i / c.inputs) % taps;
      c.weights[i] = static_cast<int8_t>(value(tap / c.kernel, tap % c.kernel));
    }
  });
  return c;
}

// sum (a - zero) * w; beyond the border a = zero.
std::vector<int> plain(const Case& c) {
  std::vector<int> sums(size_t(c.height) * c.width * c.outputs);
  const int half = c.kernel / 2;
  for (int y = 0; y < c.height; ++y)
    for (int x = 0; x < c.width; ++x)
      for (int o = 0; o < c.outputs; ++o) {
        int sum = 0;
        for (int ky = 0; ky < c.kernel; ++ky)
          for (int kx = 0; kx < c.kernel; ++kx) {
            const int sy = y + ky - half, sx = x + kx - half;
            if (sy < 0 || sx < 0 || sy >= c.height || sx >= c.width) continue;
            const int* a = &c.codes[(size_t(sy) * c.width + sx) * c.inputs];
            const int8_t* w = &c.weights[((size_t(o) * c.kernel + ky) * c.kernel + kx) * c.inputs];
            for (int i = 0; i < c.inputs; ++i) sum += (a[i] - c.zero) * w[i];
          }
        sums[(size_t(y) * c.width + x) * c.outputs + o] = sum;
      }
  return sums;
}

// The codes as an image, quantized as they are, and convolved with mul = 1, bias = 0. Empty if the kernel does not fit.
std::vector<float> engine_sums(const Case& c, const std::string& isa, const std::string& kernel) {
  const std::vector<float> ones(c.outputs, 1.0f), zeros(std::max(c.inputs, c.outputs), 0.0f);
  const quantsr::Tensor weight{DType::i8, {c.outputs, c.kernel, c.kernel, c.inputs}, c.weights.data()};
  const auto floats = [](const std::vector<float>& v, int count) {
    return quantsr::Tensor{DType::f32, {count}, v.data()};
  };
  const std::vector<quantsr::Op> ops = {
      {"quantize",
       {"image"},
       "a",
       {{"inv", 1.0}, {"levels", (1 << c.act_bits) - 1.0}},
       {{"offset", floats(zeros, c.inputs)}}},
      {"qconv2d",
       {"a"},
       "y",
       {{"in_channels", double(c.inputs)},
        {"out_channels", double(c.outputs)},
        {"kernel", double(c.kernel)},
        {"weight_bits", double(c.weight_bits)},
        {"act_bits", double(c.act_bits)},
        {"zero", double(c.zero)}},
       {{"weight", weight}, {"mul", floats(ones, c.outputs)}, {"bias", floats(zeros, c.outputs)}}}};
  quantsr::Engine engine(ops, "y", c.inputs, 1, isa, kernel);
  const std::string step = engine.describe().back();
  if (step.substr(step.rfind(' ') + 1) != kernel) return {};
  const std::vector<float> image(c.codes.begin(), c.codes.end());
  std::vector<float> out(size_t(c.height) * c.width * c.outputs);
  engine.run(image.data(), c.height, c.width, out.data());
  return out;
}

}  // namespace

int main(int argc, char** argv) {
  const unsigned cases = argc > 1 ? unsigned(std::atoi(argv[1])) : 560;
  const unsigned first = argc > 2 ? unsigned(std::atoi(argv[2])) : 0;
  struct Count {
    int cases = 0;
    size_t sums = 0, wrong = 0;
  };
  std::map<std::string, Count> counts;
  for (unsigned seed = first; seed < first + cases; ++seed) {
    const Case c = make_case(seed);
    const std::vector<int> wanted = plain(c);
    for (const std::string& isa : quantsr::available_isas())
      for (const std::string& kernel : quantsr::qconv_kernel_names(isa)) {
        Count& count = counts[isa + " " + kernel];
        const std::vector<float> got = engine_sums(c, isa, kernel);
        if (got.empty()) continue;
        size_t wrong = 0;
        for (size_t i = 0; i < got.size(); ++i) wrong += got[i] != float(wanted[i]);
        if (wrong) std::printf("case %u: %zu of %zu sums of %s differ\n", seed, wrong, got.size(), kernel.c_str());
        ++count.cases, count.sums += got.size(), count.wrong += wrong;
      }
  }
  bool failed = false;
  for (const auto& [name, n] : counts) {
    std::printf("%-30s %4d cases %9zu sums %zu differing\n", name.c_str(), n.cases, n.sums, n.wrong);
    failed |= n.wrong != 0 || n.cases == 0;
  }
  return failed;
}
