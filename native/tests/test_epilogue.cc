// What follows a sum, for numbers that are hard to round or to clamp: behind every qconv2d kernel of every instruction
// set of this CPU, and behind conv2d. See epilogue.h.
#include <cmath>
#include <cstdio>
#include <limits>

#include "quantsr/engine.h"

namespace {

using quantsr::DType;
using quantsr::Op;
using quantsr::Tensor;
using Floats = std::vector<float>;

constexpr int kHeight = 3, kWidth = 7, kChannels = 21;
// Powers of two, so that products here are exact even where the compiler fuses them.
constexpr float kGain = 0.5f, kInv = 2.0f, kLevels = 15.0f;
constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

const Floats kNumbers = {0.0f, -0.0f, 1e-45f, -1e-45f, 0.5f,   1.5f,  2.5f, 3.5f, -0.5f, 14.5f, 14.49999f,
                         kInf, -kInf, kNan,   1e30f,   -1e30f, 3e38f, 7.0f, 7.5f, 6.5f,  -7.5f};
const Floats kSums = {0.0f, 0.25f, -0.25f, 3e38f, -3e38f, -0.0f, 1e-45f, 1.0f};

template <class Value>
Floats made(int count, Value value) {
  Floats v;
  for (int i = 0; i < count; ++i) v.push_back(value(i));
  return v;
}

// Each pixel shifts the numbers by one, so that every number meets every channel.
const Floats kImage =
    made(kHeight * kWidth * kChannels, [](int i) { return kNumbers[size_t(i + i / kChannels) % kNumbers.size()]; });
const Floats kBias = made(kChannels, [](int c) { return kSums[size_t(c) % kSums.size()]; });
const Floats kOffset = made(kChannels, [](int c) { return 0.25f * float(c % 3); });
const Floats kOnes(kChannels, 1.0f), kZeros(kChannels* kChannels);
const std::vector<int8_t> kZeroCodes(kChannels * 9 * kChannels);
const std::vector<int8_t> kEye = [] {
  std::vector<int8_t> eye(kChannels * kChannels);
  for (int c = 0; c < kChannels; ++c) eye[c * (kChannels + 1)] = 1;
  return eye;
}();

Tensor floats(const Floats& values, const std::vector<int64_t>& shape = {kChannels}) {
  return {DType::f32, shape, values.data()};
}

Op qconv2d(const char* in, const char* out, int k, const std::vector<int8_t>& weights, const Floats& bias) {
  const double channels = kChannels;
  const Tensor weight{DType::i8, {kChannels, k, k, kChannels}, weights.data()};
  return {"qconv2d",
          {in},
          out,
          {{"in_channels", channels},
           {"out_channels", channels},
           {"kernel", double(k)},
           {"weight_bits", 4},
           {"act_bits", 4},
           {"zero", 0}},
          {{"weight", weight}, {"mul", floats(kOnes)}, {"bias", floats(bias)}}};
}

Op conv2d(const char* in) {
  return {"conv2d", {in}, "y", {}, {{"weight", floats(kZeros, {kChannels, 1, 1, kChannels})}, {"bias", floats(kBias)}}};
}

// The ways to y = bias, or NaN: a convolution whose weights are 0.
enum class Start { qconv2d, conv2d, conv2d_of_nan };

std::vector<Op> begin(Start start) {
  if (start == Start::conv2d_of_nan) return {conv2d("image")};  // 0 * infinity; every pixel has one
  if (start == Start::conv2d)
    return {{"affine", {"image"}, "a", {}, {{"scale", floats(kZeros)}, {"offset", floats(kZeros)}}},
            {"relu", {"a"}, "b", {}, {}},
            conv2d("b")};
  return {{"quantize", {"image"}, "a", {{"inv", 1}, {"levels", 15}}, {{"offset", floats(kZeros)}}},
          qconv2d("a", "y", 3, kZeroCodes, kBias)};
}

// What comes behind y: relu or not, image * gain + that, and a quantizer, whose codes come out as floats.
float expected(Start start, bool relu, size_t i) {
  float f = start == Start::conv2d_of_nan ? kNan : kBias[i % kChannels];
  if (relu && !(f > 0)) f = 0;
  f = kImage[i] * kGain + f;
  const float v = f * kInv + kOffset[i % kChannels];
  return v > 0 ? std::nearbyint(std::fmin(v, kLevels)) : 0.0f;
}

bool right(Start start, const std::string& isa, const std::string& kernel, bool relu) {
  std::vector<Op> ops = begin(start);
  if (relu) ops.push_back({"relu", {"y"}, "r", {}, {}});
  ops.push_back({"residual", {"image", relu ? "r" : "y"}, "z", {{"gain", kGain}}, {}});
  ops.push_back({"quantize", {"z"}, "codes", {{"inv", kInv}, {"levels", kLevels}}, {{"offset", floats(kOffset)}}});
  ops.push_back(qconv2d("codes", "out", 1, kEye, kZeros));
  quantsr::Engine engine(ops, "out", kChannels, 1, isa, kernel);
  Floats out(kImage.size());
  engine.run(kImage.data(), kHeight, kWidth, out.data());
  for (size_t i = 0; i < out.size(); ++i) {
    const float wanted = expected(start, relu, i);
    if (out[i] == wanted) continue;
    std::printf("%s, %s: image %g, bias %g, relu %d: wanted code %g, got %g\n", engine.describe()[0].c_str(),
                isa.c_str(), double(kImage[i]), double(kBias[i % kChannels]), relu, double(wanted), double(out[i]));
    return false;
  }
  return true;
}

}  // namespace

int main() {
  int failures = 0;
  for (const std::string& isa : quantsr::available_isas())
    for (const bool relu : {false, true}) {
      for (const std::string& kernel : quantsr::qconv_kernel_names(isa))
        failures += !right(Start::qconv2d, isa, kernel, relu);
      for (const Start start : {Start::conv2d, Start::conv2d_of_nan}) failures += !right(start, isa, "", relu);
    }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
