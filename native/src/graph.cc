#include "graph.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>

#include "error.h"

namespace quantsr {
namespace {

// Far above any network, low enough that no product of two of them overflows.
constexpr int kMaxOps = 100000;
constexpr int kMaxChannels = 65536;
constexpr int kMaxFactor = 64;
constexpr int kMaxWindow = 32;
// Of attention on codes, whose kernels count on them (qattention_vector.h).
constexpr int kMaxCodeWindow = 16, kMaxCodeDepth = 256, kMaxAttentionCode = 15;

struct Rule {
  const char* kind;
  OpKind id;
  size_t inputs;
  std::vector<std::string> attrs;
  std::vector<std::string> tensors;
};

const std::vector<Rule>& rules() {
  static const std::vector<Rule> table = {
      {"affine", OpKind::affine, 1, {}, {"scale", "offset"}},
      {"conv2d", OpKind::conv2d, 1, {}, {"weight", "bias"}},
      {"edge_conv2d", OpKind::edge_conv2d, 1, {}, {"weight", "bias"}},
      {"quantize", OpKind::quantize, 1, {"inv", "levels"}, {"offset"}},
      {"qconv2d",
       OpKind::qconv2d,
       1,
       {"in_channels", "out_channels", "kernel", "weight_bits", "act_bits", "zero"},
       {"weight", "mul", "bias"}},
      {"edge_qconv2d",
       OpKind::edge_qconv2d,
       1,
       {"in_channels", "out_channels", "kernel", "weight_bits", "act_bits", "zero"},
       {"weight", "mul", "bias"}},
      {"relu", OpKind::relu, 1, {}, {}},
      {"residual", OpKind::residual, 2, {"gain"}, {}},
      {"pixel_shuffle", OpKind::pixel_shuffle, 1, {"upscale"}, {}},
      {"pad", OpKind::pad, 1, {"multiple"}, {}},
      {"crop", OpKind::crop, 2, {"factor"}, {}},
      {"layer_norm", OpKind::layer_norm, 1, {"epsilon"}, {"scale", "offset"}},
      {"gelu", OpKind::gelu, 1, {}, {}},
      {"window_attention", OpKind::window_attention, 1, {"heads", "window", "shift", "scale"}, {"position_bias"}},
      {"qwindow_attention",
       OpKind::qwindow_attention,
       1,
       {"heads", "window", "shift", "query_zero", "key_zero", "value_zero", "score_mul", "softmax_inv",
        "softmax_levels", "softmax_zero", "mix_mul"},
       {"position_bias", "softmax_offset"}},
  };
  return table;
}

std::string shape_text(const std::vector<int64_t>& shape) {
  std::ostringstream text;
  text << '(';
  for (size_t i = 0; i < shape.size(); ++i) text << (i ? ", " : "") << shape[i];
  text << ')';
  return text.str();
}

// The checks of one op; `where` opens every message.
class OpCheck {
 public:
  OpCheck(const Op& op, std::string where) : op_(op), where_(std::move(where)) {}

  template <class Map>
  void same_keys(const char* what, const Map& got, const std::vector<std::string>& wanted) const {
    for (const auto& name : wanted)
      if (!got.count(name)) fail(where_, std::string(what) + " '" + name + "'", "none");
    for (const auto& entry : got)
      if (std::find(wanted.begin(), wanted.end(), entry.first) == wanted.end())
        fail(where_, std::string("no other ") + what, "'" + entry.first + "'");
  }

  int integer(const char* name, int low, int high) const {
    const double value = op_.attrs.at(name);
    if (!(value >= low && value <= high) || value != std::floor(value))
      fail(where_ + " " + name, "an integer in " + std::to_string(low) + ".." + std::to_string(high), value);
    return static_cast<int>(value);
  }

  void float32(const char* name) const {
    const double value = op_.attrs.at(name);
    if (!std::isfinite(value) || std::fabs(value) > std::numeric_limits<float>::max() ||
        static_cast<double>(static_cast<float>(value)) != value)
      fail(where_ + " " + name, "a finite number that float32 holds exactly", value);
  }

  void shape(const char* role, DType dtype, const std::vector<int64_t>& wanted) const {
    const Tensor& tensor = op_.tensors.at(role);
    if (tensor.dtype != dtype) fail(where_ + " " + role, dtype == DType::f32 ? "float32" : "int8", "another dtype");
    if (tensor.shape != wanted) fail(where_ + " " + role, "shape " + shape_text(wanted), shape_text(tensor.shape));
    if (tensor.data == nullptr) fail(where_ + " " + role, "data", "none");
  }

  void floats(const char* role, const std::vector<int64_t>& wanted) const {
    shape(role, DType::f32, wanted);
    const auto* data = static_cast<const float*>(op_.tensors.at(role).data);
    for (int64_t i = 0, n = count(wanted); i < n; ++i)
      if (!std::isfinite(data[i])) fail(where_ + " " + role, "finite numbers", data[i]);
  }

  // Fast kernels divide by a power of two, which must be exact.
  void no_tiny_floats(const char* role) const {
    const Tensor& tensor = op_.tensors.at(role);
    const auto* data = static_cast<const float*>(tensor.data);
    for (int64_t i = 0, n = count(tensor.shape); i < n; ++i)
      if (data[i] != 0 && std::fabs(data[i]) < 0x1p-100f)
        fail(where_ + " " + role, "0, or at least 2^-100 in size", data[i]);
  }

  void codes(const char* role, const std::vector<int64_t>& wanted, int low, int high) const {
    shape(role, DType::i8, wanted);
    const auto* data = static_cast<const int8_t*>(op_.tensors.at(role).data);
    for (int64_t i = 0, n = count(wanted); i < n; ++i)
      if (data[i] < low || data[i] > high)
        fail(where_ + " " + role, "codes in " + std::to_string(low) + ".." + std::to_string(high), int{data[i]});
  }

  const std::string& where() const { return where_; }

 private:
  // Channels are bounded, so five factors stay below 2^63.
  static int64_t count(const std::vector<int64_t>& shape) {
    int64_t n = 1;
    for (int64_t side : shape) n *= side;
    return n;
  }

  const Op& op_;
  std::string where_;
};

void want_floats(const OpCheck& op, const Value& x) {
  if (x.is_codes) fail(op.where(), "float32 input", "codes '" + x.name + "'");
}

// A float32 value of the size of x.
Value made_of(const Value& x, int channels) { return {"", false, channels, x.factor, x.multiple}; }

Value check_affine(const OpCheck& op, const Value& x) {
  want_floats(op, x);
  op.floats("scale", {x.channels});
  op.floats("offset", {x.channels});
  return made_of(x, x.channels);
}

// The shape of a tensor that has one of `sides` for each class of pixels. classes: how many there are, in front of the
// other axes; none where all pixels are alike.
std::vector<int64_t> each(const std::vector<int64_t>& classes, std::vector<int64_t> sides) {
  sides.insert(sides.begin(), classes.begin(), classes.end());
  return sides;
}

Value check_conv2d(const OpCheck& op, const Op& spec, const Value& x, const std::vector<int64_t>& classes) {
  want_floats(op, x);
  const std::vector<int64_t>& shape = spec.tensors.at("weight").shape;
  const size_t o = classes.size();
  if (shape.size() != o + 4) fail(op.where() + " weight axes", o + 4, shape.size());
  const int64_t out = shape[o], kernel = shape[o + 1];
  if (out < 1 || out > kMaxChannels) fail(op.where() + " output channels", up_to(kMaxChannels), out);
  if (kernel != 1 && kernel != 3 && kernel != 5) fail(op.where() + " weight", "kernel 1, 3 or 5", kernel);
  op.floats("weight", each(classes, {out, kernel, kernel, x.channels}));
  op.floats("bias", each(classes, {out}));
  return made_of(x, static_cast<int>(out));
}

Value check_quantize(const OpCheck& op, const Op& spec, const Value& x) {
  want_floats(op, x);
  op.float32("inv");
  if (spec.attrs.at("inv") == 0) fail(op.where() + " inv", "a number other than 0", 0);
  const int levels = op.integer("levels", 2, 255);
  op.floats("offset", {x.channels});
  return {"", true, x.channels, x.factor, x.multiple, levels};
}

int check_bits(const OpCheck& op, const char* name) {
  const int bits = op.integer(name, 2, 8);
  if (bits > 4 && bits < 8) fail(op.where() + " " + name, "2, 3, 4 or 8", bits);
  return bits;
}

// Layers run tile by tile, each a pixel behind the one before (schedule.cc), so only edge_qconv2d may see further.
Value check_qconv2d(const OpCheck& op, Value& x, int max_kernel, const std::vector<int64_t>& classes) {
  if (!x.is_codes) fail(op.where(), "codes as input", "float32 '" + x.name + "'");
  const int in = op.integer("in_channels", 1, kMaxChannels), out = op.integer("out_channels", 1, kMaxChannels);
  const int kernel = op.integer("kernel", 1, max_kernel);
  const int weight_bits = check_bits(op, "weight_bits"), act_bits = check_bits(op, "act_bits");
  const int zero = op.integer("zero", 0, 255), half = 1 << (weight_bits - 1), levels = (1 << act_bits) - 1;
  if (kernel % 2 == 0) fail(op.where() + " kernel", "an odd number", kernel);
  if (in != x.channels) fail(op.where() + " in_channels", x.channels, in);
  if (x.levels > levels || x.levels <= levels / 2)
    fail(op.where() + " act_bits", "the width of codes up to " + std::to_string(x.levels), act_bits);
  if (zero > x.levels) fail(op.where() + " zero", "a code up to " + std::to_string(x.levels), zero);
  // The border of the codes holds this byte, so all readers must agree on it.
  if (x.zero >= 0 && x.zero != zero) fail(op.where() + " zero", x.zero, zero);
  const int64_t worst = int64_t{kernel} * kernel * in * levels * half;
  if (worst > std::numeric_limits<int32_t>::max()) fail(op.where(), "accumulators that fit 32 bits", worst);
  op.codes("weight", each(classes, {out, kernel, kernel, in}), -half, half - 1);
  op.floats("mul", each(classes, {out}));
  op.no_tiny_floats("mul");
  op.floats("bias", each(classes, {out}));
  x.zero = zero;
  return made_of(x, out);
}

Value check_residual(const OpCheck& op, const Value& skip, const Value& branch) {
  want_floats(op, skip);
  want_floats(op, branch);
  op.float32("gain");
  if (skip.channels != branch.channels) fail(op.where() + " channels", skip.channels, branch.channels);
  if (skip.factor != branch.factor) fail(op.where() + " size", skip.factor, branch.factor);
  if (skip.multiple != branch.multiple) fail(op.where() + " padding", skip.multiple, branch.multiple);
  return made_of(skip, skip.channels);
}

Value check_pixel_shuffle(const OpCheck& op, const Value& x) {
  want_floats(op, x);
  const int upscale = op.integer("upscale", 2, 4);
  if (x.channels % (upscale * upscale) != 0)
    fail(op.where(), "channels divisible by " + std::to_string(upscale * upscale), x.channels);
  if (x.factor * upscale > kMaxFactor) fail(op.where() + " total upscale", up_to(kMaxFactor), x.factor * upscale);
  return {"", false, x.channels / (upscale * upscale), x.factor * upscale, x.multiple};
}

Value check_pad(const OpCheck& op, const Value& x) {
  want_floats(op, x);
  const int multiple = op.integer("multiple", 2, kMaxWindow);
  if (x.factor != 1 || x.multiple != 1) fail(op.where(), "a value of the image's size", "'" + x.name + "'");
  return {"", false, x.channels, 1, multiple};
}

Value check_crop(const OpCheck& op, const Value& x, const Value& like) {
  want_floats(op, x);
  const int factor = op.integer("factor", 1, kMaxFactor);
  if (like.factor != 1 || like.multiple != 1) fail(op.where(), "a value of the image's size", "'" + like.name + "'");
  if (factor != x.factor) fail(op.where() + " factor", x.factor, factor);
  return {"", false, x.channels, x.factor, 1};
}

Value check_layer_norm(const OpCheck& op, const Op& spec, const Value& x) {
  want_floats(op, x);
  op.float32("epsilon");
  if (spec.attrs.at("epsilon") <= 0) fail(op.where() + " epsilon", "a number above 0", spec.attrs.at("epsilon"));
  op.floats("scale", {x.channels});
  op.floats("offset", {x.channels});
  return made_of(x, x.channels);
}

Value check_windows(const OpCheck& op, const Value& x, int max_window) {
  const int heads = op.integer("heads", 1, kMaxChannels), window = op.integer("window", 1, max_window);
  op.integer("shift", 0, window - 1);
  if (x.channels % (3 * heads) != 0) fail(op.where(), "channels divisible by " + std::to_string(3 * heads), x.channels);
  if (x.factor != 1 || x.multiple % window != 0)
    fail(op.where(), "a value padded to multiples of " + std::to_string(window), x.multiple);
  op.floats("position_bias", {int64_t{2 * window - 1} * (2 * window - 1), heads});
  return made_of(x, x.channels / 3);
}

Value check_window_attention(const OpCheck& op, const Value& x) {
  want_floats(op, x);
  op.float32("scale");
  return check_windows(op, x, kMaxWindow);
}

Value check_qwindow_attention(const OpCheck& op, const Op& spec, const Value& x) {
  if (!x.is_codes) fail(op.where(), "codes as input", "float32 '" + x.name + "'");
  if (x.levels > kMaxAttentionCode)
    fail(op.where(), "codes up to " + std::to_string(kMaxAttentionCode), "codes up to " + std::to_string(x.levels));
  for (const char* name : {"query_zero", "key_zero", "value_zero"}) op.integer(name, 0, x.levels);
  op.integer("softmax_zero", 0, op.integer("softmax_levels", 2, kMaxAttentionCode));
  for (const char* name : {"score_mul", "softmax_inv", "mix_mul"}) op.float32(name);
  if (spec.attrs.at("softmax_inv") == 0) fail(op.where() + " softmax_inv", "a number other than 0", 0);
  const Value out = check_windows(op, x, kMaxCodeWindow);
  const int heads = static_cast<int>(spec.attrs.at("heads"));
  if (out.channels / heads > kMaxCodeDepth)
    fail(op.where(), "at most " + std::to_string(kMaxCodeDepth) + " channels of a head", out.channels / heads);
  op.floats("softmax_offset", {heads});
  return out;
}

Value output_of(OpKind kind, const OpCheck& op, const Op& spec, const std::vector<Value*>& in) {
  switch (kind) {
    case OpKind::affine: return check_affine(op, *in[0]);
    case OpKind::conv2d: return check_conv2d(op, spec, *in[0], {});
    case OpKind::edge_conv2d: return check_conv2d(op, spec, *in[0], {kEdgeClasses});
    case OpKind::quantize: return check_quantize(op, spec, *in[0]);
    case OpKind::qconv2d: return check_qconv2d(op, *in[0], 3, {});
    case OpKind::edge_qconv2d: return check_qconv2d(op, *in[0], 5, {kEdgeClasses});
    case OpKind::relu:
    case OpKind::gelu: want_floats(op, *in[0]); return made_of(*in[0], in[0]->channels);
    case OpKind::residual: return check_residual(op, *in[0], *in[1]);
    case OpKind::pixel_shuffle: return check_pixel_shuffle(op, *in[0]);
    case OpKind::pad: return check_pad(op, *in[0]);
    case OpKind::crop: return check_crop(op, *in[0], *in[1]);
    case OpKind::layer_norm: return check_layer_norm(op, spec, *in[0]);
    case OpKind::window_attention: return check_window_attention(op, *in[0]);
    case OpKind::qwindow_attention: return check_qwindow_attention(op, spec, *in[0]);
  }
  std::abort();
}

const Rule& rule_of(const Op& op, const std::string& where) {
  for (const Rule& rule : rules())
    if (op.kind == rule.kind) return rule;
  fail(where, "a known op kind", "'" + op.kind + "'");
}

void check_output(const Graph& graph, const std::string& output) {
  const Value& last = graph.values.back();
  if (last.name != output) fail("program output", "the last op's output '" + last.name + "'", "'" + output + "'");
  if (last.is_codes) fail("program output", "float32", "codes");
  if (last.multiple != 1) fail("program output", "no padding", "multiples of " + std::to_string(last.multiple));
  for (const Value& value : graph.values)
    if (value.users.empty() && value.name != output) fail("program", "every value used", "unused '" + value.name + "'");
}

}  // namespace

Graph check(const std::vector<Op>& ops, const std::string& output, int image_channels) {
  if (ops.empty() || ops.size() > kMaxOps) fail("program's ops", up_to(kMaxOps), ops.size());
  if (image_channels < 1 || image_channels > kMaxChannels) fail("image channels", up_to(kMaxChannels), image_channels);
  Graph graph{{{"image", false, image_channels, 1}}, {}, 0};
  graph.values.reserve(ops.size() + 1);  // pointers into it are held below
  std::map<std::string, int> index{{"image", 0}};
  for (size_t i = 0; i < ops.size(); ++i) {
    const Op& op = ops[i];
    const OpCheck checks(op, "op " + std::to_string(i) + " (" + op.kind + ")");
    const Rule& rule = rule_of(op, checks.where());
    if (op.inputs.size() != rule.inputs) fail(checks.where() + " inputs", rule.inputs, op.inputs.size());
    checks.same_keys("attribute", op.attrs, rule.attrs);
    checks.same_keys("tensor", op.tensors, rule.tensors);
    Node node{rule.id, &op, {}, static_cast<int>(i) + 1};
    std::vector<Value*> inputs;
    for (const std::string& name : op.inputs) {
      const auto found = index.find(name);
      if (found == index.end()) fail(checks.where() + " input", "a value of an earlier op", "'" + name + "'");
      node.inputs.push_back(found->second);
      inputs.push_back(&graph.values[found->second]);
      inputs.back()->users.push_back(static_cast<int>(i));
    }
    Value value = output_of(rule.id, checks, op, inputs);
    value.name = op.output;
    if (!index.emplace(op.output, node.output).second) fail(checks.where() + " output", "a new name", op.output);
    graph.values.push_back(std::move(value));
    graph.nodes.push_back(std::move(node));
  }
  graph.output = graph.nodes.back().output;
  check_output(graph, output);
  return graph;
}

}  // namespace quantsr
