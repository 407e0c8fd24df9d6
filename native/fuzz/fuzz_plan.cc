// Bytes -> a program -> Engine -> runs, for libFuzzer (-DQUANTSR_FUZZ=ON with clang; how to: docs/testing.md).
//
// Every input means something: each byte picks from a list, and the first entries are the legal ones, so most programs
// are accepted, and their damaged neighbours are a byte away. A program must be refused with std::invalid_argument, or
// run: cleanly under the sanitizers and, if its numbers are tame, to the same bytes on every instruction set and
// kernel.
//
// An input, a byte each:
//   instruction set, kernel, threads, height, width, channels of the image, flags
//   for each op: kind, damage, value read (as often as it has inputs, counted from the last made), outputs, kernel
//   side, each attribute, each tensor
#include <cfloat>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "quantsr/engine.h"

namespace {

using quantsr::DType;
using quantsr::Op;
using quantsr::Tensor;

struct Attr {
  const char* name;
  char meaning;  // C: input channels, O: output channels, K: kernel, W: weight bits, A: bits of the input's codes,
                 // Z: their zero, L: levels, U: upscale, F: a float, M: a multiple, S: the input's scale, E: an
                 // epsilon, H: heads, P: window, T: shift, Y: a zero of the input's codes, J: levels of the softmax,
                 // X: their zero
};

struct Role {
  const char* name;
  DType dtype;
  const char* shape;  // letters as for attributes; E: classes of pixels, R: pairs of pixels of a window by distance
};

struct Kind {
  const char* name;
  int inputs;
  std::vector<Attr> attrs;
  std::vector<Role> tensors;
  char output;  // =: as the input, L: codes, O: floats with O channels, U: shuffled, M: padded, 1: cropped, A: a third
};

constexpr DType f32 = DType::f32, i8 = DType::i8;
const std::vector<Attr> kConvAttrs = {{"in_channels", 'C'}, {"out_channels", 'O'}, {"kernel", 'K'},
                                      {"weight_bits", 'W'}, {"act_bits", 'A'},     {"zero", 'Z'}};

// A row for each kind of op; the inputs kept in the repository count on their order.
const std::vector<Kind> kKinds = {
    {"affine", 1, {}, {{"scale", f32, "C"}, {"offset", f32, "C"}}, '='},
    {"conv2d", 1, {}, {{"weight", f32, "OKKC"}, {"bias", f32, "O"}}, 'O'},
    {"edge_conv2d", 1, {}, {{"weight", f32, "EOKKC"}, {"bias", f32, "EO"}}, 'O'},
    {"quantize", 1, {{"inv", 'F'}, {"levels", 'L'}}, {{"offset", f32, "C"}}, 'L'},
    {"qconv2d", 1, kConvAttrs, {{"weight", i8, "OKKC"}, {"mul", f32, "O"}, {"bias", f32, "O"}}, 'O'},
    {"edge_qconv2d", 1, kConvAttrs, {{"weight", i8, "EOKKC"}, {"mul", f32, "EO"}, {"bias", f32, "EO"}}, 'O'},
    {"relu", 1, {}, {}, '='},
    {"residual", 2, {{"gain", 'F'}}, {}, '='},
    {"pixel_shuffle", 1, {{"upscale", 'U'}}, {}, 'U'},
    {"pad", 1, {{"multiple", 'M'}}, {}, 'M'},
    {"crop", 2, {{"factor", 'S'}}, {}, '1'},
    {"layer_norm", 1, {{"epsilon", 'E'}}, {{"scale", f32, "C"}, {"offset", f32, "C"}}, '='},
    {"gelu", 1, {}, {}, '='},
    {"window_attention",
     1,
     {{"heads", 'H'}, {"window", 'P'}, {"shift", 'T'}, {"scale", 'F'}},
     {{"position_bias", f32, "RH"}},
     'A'},
    {"qwindow_attention",
     1,
     {{"heads", 'H'},
      {"window", 'P'},
      {"shift", 'T'},
      {"query_zero", 'Y'},
      {"key_zero", 'Y'},
      {"value_zero", 'Y'},
      {"score_mul", 'F'},
      {"softmax_inv", 'F'},
      {"softmax_levels", 'J'},
      {"softmax_zero", 'X'},
      {"mix_mul", 'F'}},
     {{"position_bias", f32, "RH"}, {"softmax_offset", f32, "H"}},
     'A'},
};
constexpr int kKindBytes = 32;  // a kind is a byte modulo this; those past the table are unknown to the engine

constexpr int kMaxOps = 24;
constexpr int64_t kMaxElements = int64_t{1} << 20;  // of a tensor; larger ones have no data and must be refused
constexpr int64_t kMaxWork = int64_t{1} << 19;      // multiply-adds of a run
constexpr uint8_t kOdd = 224;                       // from here on a byte picks something illegal

const double kOddNumbers[] = {std::numeric_limits<double>::quiet_NaN(),
                              std::numeric_limits<double>::infinity(),
                              -1,
                              0.5,
                              1e300,
                              -1e300,
                              0,
                              65536,
                              65537,
                              2147483648.0,
                              1e-320,
                              256,
                              1,
                              1e39,
                              3,
                              255};
const double kFloats[] = {1, 0.5, 4, -1, 0.1f, 15, 2, 1e-3f};
const double kWildFloats[] = {1e-38f, 1e38f, -1e38f, FLT_MAX, 1e-45f, -FLT_MAX};
const int kLevels[] = {15, 7, 3, 255, 2, 14, 5, 100};
const int kSoftmaxLevels[] = {15, 7, 3, 14, 2, 5};
const int kBits[] = {4, 2, 3, 8};
const int kWindows[] = {4, 8, 2, 3, 5, 16, 32};
const double kEpsilons[] = {1e-5f, 1e-3f, 1, 1e-30f};
const int64_t kOddSides[] = {0, -1, 1, int64_t{1} << 31, int64_t{1} << 62, INT64_MAX, INT64_MIN, 65537};

class Bytes {
 public:
  Bytes(const uint8_t* data, size_t size) : at_(data), end_(data + size) {}
  uint8_t next() { return at_ == end_ ? 0 : *at_++; }
  bool empty() const { return at_ == end_; }

 private:
  const uint8_t *at_, *end_;
};

template <class T, size_t N>
T pick(const T (&list)[N], uint8_t byte) {
  return list[byte % N];
}

struct Value {
  std::string name;
  int channels, scale = 1, levels = 0, zero = -1, multiple = 1;
  bool used = false;
};

class Program {
 public:
  Program(Bytes& bytes, int channels, bool tame) : bytes_(bytes), tame_(tame) {
    values_.push_back({"image", channels});
  }

  void read_ops() {
    while (!bytes_.empty() && ops.size() < kMaxOps) read_op();
    if (ops.empty()) read_op();
  }

  // Uses up what nothing reads, as far as ops can.
  void finish() {
    for (size_t i = 0; i < values_.size() && ops.size() < 2 * kMaxOps; ++i)
      if (!values_[i].used && values_[i].levels > 0) append(kind_of("qconv2d"), {i}, values_.back().channels);
    for (size_t i = 0; i + 1 < values_.size() && ops.size() < 2 * kMaxOps; ++i) {
      const size_t last = values_.size() - 1;
      if (values_[i].used || values_[i].levels > 0 || values_[i].scale != values_[last].scale) continue;
      if (values_[i].multiple != values_[last].multiple) continue;
      append(kind_of("conv2d"), {i}, values_[last].channels);
      append(kind_of("residual"), {last, last + 1}, 0);
    }
    if (values_.back().multiple != 1) append(kind_of("crop"), {values_.size() - 1, 0}, 0);
  }

  std::vector<Op> ops;
  const std::string& output() const { return values_.back().name; }

  // Multiply-adds for each pixel of the image, about.
  int64_t work() const { return work_; }

 private:
  static const Kind& kind_of(const std::string& name) {
    for (const Kind& kind : kKinds)
      if (name == kind.name) return kind;
    std::abort();
  }

  void read_op() {
    const size_t number = bytes_.next() % kKindBytes;
    const bool known = number < kKinds.size();
    const Kind& kind = known ? kKinds[number] : kKinds[6];
    const uint8_t damage = bytes_.next();
    std::vector<size_t> inputs;
    for (int i = 0; i < kind.inputs; ++i) inputs.push_back(values_.size() - 1 - bytes_.next() % values_.size());
    const uint8_t outputs = bytes_.next();
    side_ = 1 + 2 * (bytes_.next() % 3);
    add(kind, inputs, outputs < 250 ? 1 + outputs % 80 : 100 * (outputs - 248), true);
    if (!known) ops.back().kind = "?";
    if (damage >= kOdd) spoil(ops.back(), damage);
  }

  void append(const Kind& kind, const std::vector<size_t>& inputs, int outputs) {
    side_ = 1;
    add(kind, inputs, outputs, false);
  }

  // free: attributes and tensors come from the input, else they are the first choice.
  void add(const Kind& kind, const std::vector<size_t>& inputs, int outputs, bool free) {
    Value& in = values_[inputs[0]];
    for (size_t i : inputs) values_[i].used = true;
    outputs_ = outputs;
    weight_bits_ = 4;
    upscale_ = levels_ = 0;
    heads_ = window_ = multiple_ = softmax_levels_ = 1;
    Op op{kind.name, {}, "v" + std::to_string(ops.size()), {}, {}};
    for (size_t i : inputs) op.inputs.push_back(values_[i].name);
    for (const Attr& attr : kind.attrs) op.attrs[attr.name] = number(attr.meaning, in, free ? bytes_.next() : 0);
    for (const Role& role : kind.tensors) op.tensors[role.name] = tensor(role, in, free ? bytes_.next() : 0);
    Value out{op.output, in.channels, in.scale};
    out.multiple = kind.output == 'M' ? multiple_ : kind.output == '1' ? 1 : in.multiple;
    if (kind.output == 'A') out.channels = std::max(1, in.channels / 3);
    if (kind.output == 'O') out.channels = outputs;
    if (kind.output == 'L') out.levels = levels_;
    if (kind.output == 'U' && upscale_ > 0) {
      out.channels = std::max(1, in.channels / (upscale_ * upscale_));
      out.scale *= upscale_;
    }
    const int64_t taps = kind.output == 'O'   ? int64_t{side_} * side_ * in.channels
                         : kind.output == 'A' ? 3 * int64_t{window_} * window_
                                              : 1;
    work_ += taps * out.channels * out.scale * out.scale;
    values_.push_back(out);
    ops.push_back(std::move(op));
  }

  double number(char meaning, Value& in, uint8_t byte) {
    if (byte >= kOdd) return pick(kOddNumbers, byte);
    switch (meaning) {
      case 'C': return in.channels;
      case 'O': return outputs_;
      case 'K': return side_;
      case 'W': return weight_bits_ = pick(kBits, byte);
      case 'A': return bits_of(in.levels);
      case 'Z':
        if (in.zero < 0) in.zero = byte % (in.levels + 1);
        return in.zero;
      case 'L': return levels_ = pick(kLevels, byte);
      case 'U': return upscale_ = 2 + byte % 3;
      case 'M': return multiple_ = pick(kWindows, byte);
      case 'S': return in.scale;
      case 'E': return pick(kEpsilons, byte);
      case 'H': return heads_ = in.channels % (3 * (1 + byte % 8)) == 0 ? 1 + byte % 8 : 1;
      case 'P': return window_ = in.multiple % pick(kWindows, byte) == 0 ? pick(kWindows, byte) : in.multiple;
      case 'T': return byte % window_;
      case 'Y': return byte % (in.levels + 1);
      case 'J': return softmax_levels_ = pick(kSoftmaxLevels, byte);
      case 'X': return byte % (softmax_levels_ + 1);
      default: return tame_ ? pick(kFloats, byte) : byte < 128 ? pick(kFloats, byte) : pick(kWildFloats, byte);
    }
  }

  static int bits_of(int levels) {
    int bits = 0;
    while (levels >> bits) ++bits;
    return std::max(bits, 2);
  }

  Tensor tensor(const Role& role, const Value& in, uint8_t byte) {
    Tensor made{role.dtype, {}, nullptr};
    for (const char* letter = role.shape; *letter; ++letter) made.shape.push_back(length(*letter, in));
    if (byte >= kOdd) spoil(made, byte);
    int64_t size = 1;
    for (int64_t side : made.shape)
      if (side < 0 || side > kMaxElements || (size *= side) > kMaxElements) return made;
    made.data = made.dtype == f32 ? floats(size, byte) : codes(size, byte);
    if (byte == kOdd + 20) made.data = nullptr;
    return made;
  }

  int64_t length(char letter, const Value& in) const {
    switch (letter) {
      case 'C': return in.channels;
      case 'O': return outputs_;
      case 'K': return side_;
      case 'E': return 9;
      case 'H': return heads_;
      case 'R': return int64_t{2 * window_ - 1} * (2 * window_ - 1);
      default: std::abort();
    }
  }

  static void spoil(Tensor& tensor, uint8_t byte) {
    const int64_t odd = pick(kOddSides, byte);
    switch ((byte - kOdd) / 8) {
      case 0: tensor.shape[0] = odd; break;
      case 1: tensor.shape.back() = odd; break;
      case 2: tensor.dtype = tensor.dtype == f32 ? i8 : f32; break;
      default: odd % 2 ? tensor.shape.pop_back() : tensor.shape.push_back(odd);
    }
  }

  // A generator of our own, so that an input means the same everywhere.
  uint32_t random() { return state_ = state_ * 1664525u + 1013904223u; }

  const void* floats(int64_t size, uint8_t byte) {
    // Of malloc'ed size, so that the sanitizer sees each read past the end.
    floats_.push_back(std::make_unique<float[]>(size_t(size)));
    float* data = floats_.back().get();
    state_ = byte;
    for (int64_t i = 0; i < size; ++i) {
      const float tame = (float(random() >> 8) / (1 << 23) - 1) / 4;
      data[i] = byte % 8 == 7 ? 0 : byte % 8 == 6 ? 1 : tame;
      if (!tame_ && byte >= 128) data[i] = float(pick(kWildFloats, uint8_t(random() >> 24)));
    }
    if (!tame_ && size > 0 && byte % 32 == 31) data[size - 1] = byte % 64 == 31 ? NAN : INFINITY;
    return data;
  }

  const void* codes(int64_t size, uint8_t byte) {
    codes_.push_back(std::make_unique<int8_t[]>(size_t(size)));
    int8_t* data = codes_.back().get();
    const int half = 1 << (weight_bits_ - 1);
    state_ = byte;
    for (int64_t i = 0; i < size; ++i)
      data[i] = int8_t(byte % 8 == 7 ? -half : byte % 8 == 6 ? half - 1 : int(random() >> 24) % (2 * half) - half);
    if (size > 0 && byte % 32 == 31) data[size - 1] = int8_t(half);
    return data;
  }

  static void spoil(Op& op, uint8_t byte) {
    switch (byte % 12) {
      case 0: op.output = "image"; break;
      case 1: op.output = "v0"; break;
      case 2: op.inputs[0] = op.output; break;
      case 3: op.inputs[0] = "v99"; break;
      case 4: op.inputs.push_back("image"); break;
      case 5: op.inputs.clear(); break;
      case 6: op.attrs["extra"] = 1; break;
      case 7: op.tensors["extra"] = {f32, {}, nullptr}; break;
      case 8: op.attrs.clear(); break;
      case 9: op.tensors.clear(); break;
      case 10: op.kind = kKinds[byte % kKinds.size()].name; break;
      default: op.output = "";
    }
  }

  Bytes& bytes_;
  bool tame_;
  std::vector<Value> values_;
  std::vector<std::unique_ptr<float[]>> floats_;
  std::vector<std::unique_ptr<int8_t[]>> codes_;
  int outputs_ = 0, side_ = 1, weight_bits_ = 4, levels_ = 0, upscale_ = 0;
  int heads_ = 1, window_ = 1, multiple_ = 1, softmax_levels_ = 1;
  int64_t work_ = 0;
  uint32_t state_ = 0;
};

struct Size {
  int64_t height, width;
};

std::vector<float> run(quantsr::Engine& engine, Size size) {
  const size_t pixels = size_t(size.height) * size_t(size.width), up = size_t(engine.upscale());
  const size_t channels = size_t(engine.image_channels());
  // Arrays of exactly the size, as above.
  const auto image = std::make_unique<float[]>(pixels * channels);
  for (size_t i = 0; i < pixels * channels; ++i) image[i] = float(i * 37 % 256) / 255;
  const size_t count = pixels * up * up * size_t(engine.output_channels());
  const auto out = std::make_unique<float[]>(count);
  engine.run(image.get(), size.height, size.width, out.get());
  return {out.get(), out.get() + count};
}

// Asks for the memory of sizes that nobody has; the sums must not overflow.
void ask_for_huge_sizes(const quantsr::Engine& engine) {
  for (const Size size : {Size{1 << 24, 1 << 24}, Size{INT64_MAX, 1}, Size{INT64_MAX / 4, INT64_MAX / 4}}) try {
      if (engine.workspace_bytes(size.height, size.width) < 0) std::abort();
    } catch (const std::invalid_argument&) {
    }
}

bool same(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

void run_everything(Bytes bytes) {
  const std::vector<std::string> isas = quantsr::available_isas();
  const uint8_t isa_byte = bytes.next(), kernel_byte = bytes.next(), thread_byte = bytes.next();
  const uint8_t height_byte = bytes.next(), width_byte = bytes.next(), image_byte = bytes.next();
  const uint8_t flags = bytes.next();
  const bool tame = flags % 4 != 3, finished = flags / 4 % 4 != 3;
  const std::string isa = isa_byte == 255 ? "?" : isas[isa_byte % isas.size()];
  std::string kernel = "?";
  if (isa_byte != 255 && kernel_byte != 255) {
    const std::vector<std::string> names = quantsr::qconv_kernel_names(isa);
    kernel = kernel_byte % (names.size() + 1) == 0 ? "" : names[kernel_byte % (names.size() + 1) - 1];
  }
  const int threads = thread_byte == 255 ? 0 : thread_byte == 254 ? 1025 : thread_byte % 8 == 7 ? 3 : 1;
  const int channels = image_byte == 255 ? 0 : image_byte == 254 ? 65537 : 1 + (image_byte + 2) % 80;
  const Size size{height_byte < 250 ? 1 + height_byte % 24 : 40 + height_byte % 64,
                  width_byte < 250 ? 1 + width_byte % 24 : 40 + width_byte % 64 * 8};
  Program program(bytes, channels, tame);
  program.read_ops();
  if (finished) program.finish();
  quantsr::Engine engine(program.ops, program.output(), channels, threads, isa, kernel);
  ask_for_huge_sizes(engine);
  if (engine.describe().empty()) std::abort();
  if (program.work() > kMaxWork / (size.height * size.width)) return;
  const std::vector<float> first = run(engine, size);
  run(engine, {size.height / 2 + 1, size.width / 2 + 1});
  if (!tame) return;
  if (!same(first, run(engine, size))) {
    std::fprintf(stderr, "%s %s: a second run gives other bytes\n", isa.c_str(), kernel.c_str());
    std::abort();
  }
  quantsr::Engine reference(program.ops, program.output(), channels, 1, "ref", "");
  if (!same(first, run(reference, size))) {
    std::fprintf(stderr, "%s %s differs from ref\n", isa.c_str(), kernel.c_str());
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    run_everything(Bytes(data, size));
  } catch (const std::invalid_argument&) {  // refused; all else is a finding
  }
  return 0;
}
