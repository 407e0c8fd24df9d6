// What follows a sum, for numbers that are hard to round or to clamp: with every qconv2d kernel of every instruction
// set of this CPU, and behind conv2d. See epilogue.h.
#include <cmath>
#include <cstdio>
#include <limits>

#include "quantsr/engine.h"

namespace {

using quantsr::DType;
using quantsr::Op;
using quantsr::Tensor;

constexpr int kChannels = 21, kHeight = 3, kWidth = 7;
// Powers of two, so that products here are exact even where the compiler fuses them.
constexpr float kGain = 0.5f, kInv = 2.0f, kLevels = 15.0f;
constexpr float kInf = std::numeric_limits<float>::infinity(), kNan = std::numeric_limits<float>::quiet_NaN();

const std::vector<float> kImage = {0.0f, -0.0f, 1e-45f, -1e-45f, 0.5f,   1.5f,  2.5f, 3.5f, -0.5f, 14.5f, 14.49999f,
                                   kInf, -kInf, kNan,   1e30f,   -1e30f, 3e38f, 7.0f, 7.5f, 6.5f,  -7.5f};
const std::vector<float> kBias = {0.0f, 0.25f, -0.25f, 3e38f, -3e38f, -0.0f, 1e-45f, 1.0f};

// Each pixel shifts the list by one, so that every number meets every channel.
float image_at(int i) { return kImage[size_t(i + i / kChannels) % kImage.size()]; }
float bias_at(int i) { return kBias[size_t(i) % kBias.size()]; }
float offset_at(int channel) { return 0.25f * float(channel % 3); }

float expected(int i, bool relu) {
  float f = bias_at(i % kChannels);
  if (relu && !(f > 0)) f = 0;
  f = image_at(i) * kGain + f;
  const float v = f * kInv + offset_at(i % kChannels);
  return v > 0 ? std::nearbyint(std::fmin(v, kLevels)) : 0.0f;
}

// image * gain + (bias, or relu of it), quantized; the codes come out as floats. The bias comes out of a convolution by
// `kind` with weights 0.
bool right(const std::string& kind, const std::string& isa, const std::string& kernel, bool relu) {
  std::vector<float> image(size_t(kHeight) * kWidth * kChannels), bias, offset, ones(kChannels, 1), zeros(kChannels);
  for (size_t i = 0; i < image.size(); ++i) image[i] = image_at(int(i));
  for (int c = 0; c < kChannels; ++c) bias.push_back(bias_at(c)), offset.push_back(offset_at(c));
  std::vector<int8_t> none(kChannels * 9 * kChannels), eye(kChannels * kChannels);
  for (int c = 0; c < kChannels; ++c) eye[c * kChannels + c] = 1;
  const std::vector<float> no_floats(kChannels * kChannels);

  const auto floats = [](const std::vector<float>& v) { return Tensor{DType::f32, {kChannels}, v.data()}; };
  const auto qconv = [&](const char* in, const char* out, const std::vector<int8_t>& weights, const auto& shift) {
    const int k = weights.size() == eye.size() ? 1 : 3;
    return Op{"qconv2d",
              {in},
              out,
              {{"in_channels", kChannels},
               {"out_channels", kChannels},
               {"kernel", k},
               {"weight_bits", 4},
               {"act_bits", 4},
               {"zero", 0}},
              {{"weight", {DType::i8, {kChannels, k, k, kChannels}, weights.data()}},
               {"mul", floats(ones)},
               {"bias", floats(shift)}}};
  };
  std::vector<Op> ops;
  if (kind == "qconv2d") {
    ops.push_back({"quantize", {"image"}, "a", {{"inv", 1}, {"levels", 15}}, {{"offset", floats(zeros)}}});
    ops.push_back(qconv("a", "y", none, bias));
  } else {
    // 0 * the image would be NaN where that is not finite
    ops.push_back({"affine", {"image"}, "zero", {}, {{"scale", floats(zeros)}, {"offset", floats(zeros)}}});
    ops.push_back({"relu", {"zero"}, "a", {}, {}});
    ops.push_back({"conv2d",
                   {"a"},
                   "y",
                   {},
                   {{"weight", {DType::f32, {kChannels, 1, 1, kChannels}, no_floats.data()}}, {"bias", floats(bias)}}});
  }
  if (relu) ops.push_back({"relu", {"y"}, "r", {}, {}});
  ops.push_back({"residual", {"image", relu ? "r" : "y"}, "z", {{"gain", kGain}}, {}});
  ops.push_back({"quantize", {"z"}, "codes", {{"inv", kInv}, {"levels", kLevels}}, {{"offset", floats(offset)}}});
  ops.push_back(qconv("codes", "out", eye, zeros));

  quantsr::Engine engine(ops, "out", kChannels, 1, isa, kernel);
  std::vector<float> out(image.size());
  engine.run(image.data(), kHeight, kWidth, out.data());
  for (size_t i = 0; i < out.size(); ++i)
    if (out[i] != expected(int(i), relu)) {
      std::printf("%s %s: image %g, bias %g, relu %d: wanted code %g, got %g\n", kind.c_str(), kernel.c_str(),
                  double(image[i]), double(bias_at(int(i) % kChannels)), relu, double(expected(int(i), relu)),
                  double(out[i]));
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
        failures += !right("qconv2d", isa, kernel, relu);
      failures += !right("conv2d", isa, "", relu);
    }
  std::printf("%d failures\n", failures);
  return failures != 0;
}
