// Fusion. A convolution takes along the ops behind it, in the order of its epilogue: relu, residual, quantize. Each is
// taken only if nothing else reads the value between; a value that the quantizer and others read is stored as well.
// What transformers add takes along a quantize; a pixel_shuffle takes along an affine, then a crop.
#include "plan.h"

#include <algorithm>
#include <utility>

#include "edge_lines.h"
#include "error.h"
#include "float_mode.h"
#include "kernels/attention_scratch.h"
#include "kernels/pack.h"
#include "runs.h"
#include "slots.h"

namespace quantsr {
namespace {

class Fuser {
 public:
  Fuser(const Graph& graph, Isa isa, const std::string& preferred_kernel)
      : graph_(graph),
        isa_(isa),
        preferred_kernel_(preferred_kernel),
        done_(graph.nodes.size()),
        ready_(graph.values.size()) {
    ready_[0] = true;
  }

  void run(std::vector<Step>& steps, std::vector<StepValues>& values) {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (done_[i]) continue;
      step_ = Step{};
      uses_ = StepValues{};
      start(static_cast<int>(i));
      if (uses_.out >= 0) ready_[uses_.out] = true;
      if (uses_.codes >= 0) ready_[uses_.codes] = true;
      steps.push_back(std::move(step_));
      values.push_back(uses_);
    }
  }

 private:
  void start(int i) {
    const Node& node = graph_.nodes[i];
    done_[i] = true;
    step_.kind = node.kind;
    step_.text = node.op->kind;
    uses_.in = node.inputs[0];
    uses_.out = node.output;
    const int channels = graph_.values[node.inputs[0]].channels;
    switch (node.kind) {
      case OpKind::affine:
        step_.mul = padded(node.floats("scale"), channels);
        step_.bias = padded(node.floats("offset"), channels);
        break;
      case OpKind::conv2d: start_conv2d(node, channels); break;
      case OpKind::edge_conv2d: start_edge_conv2d(node, channels); break;
      case OpKind::qconv2d: start_qconv2d(node); break;
      case OpKind::edge_qconv2d: start_edge_qconv2d(node); break;
      case OpKind::quantize:
        uses_.out = -1;
        take_quantize(node);
        break;
      case OpKind::residual:
        step_.gain = static_cast<float>(node.attr("gain"));
        uses_.skip = node.inputs[0];
        uses_.in = node.inputs[1];
        break;
      case OpKind::pixel_shuffle:
        step_.upscale = static_cast<int>(node.attr("upscale"));
        take_affine();
        take_crop();
        break;
      case OpKind::layer_norm:
        step_.epsilon = static_cast<float>(node.attr("epsilon"));
        step_.mul = padded(node.floats("scale"), channels);
        step_.bias = padded(node.floats("offset"), channels);
        start_transformer();
        break;
      case OpKind::gelu: start_transformer(); break;
      case OpKind::window_attention: start_attention(node, channels); break;
      case OpKind::qwindow_attention: start_qattention(node, channels); break;
      case OpKind::relu:
      case OpKind::pad:
      case OpKind::crop: break;
    }
  }

  void start_transformer() {
    step_.kernel = transformer_kernels(isa_).name;
    take_quantizers();
  }

  void start_attention(const Node& node, int channels) {
    start_windows(node, "scale");
    step_.scratch_bytes = attention_layout(step_.window * step_.window, channels / 3).bytes;
    start_transformer();
  }

  void start_qattention(const Node& node, int channels) {
    const auto zero = [&](const char* name) { return static_cast<uint32_t>(node.attr(name)); };
    const auto number = [&](const char* name) { return static_cast<float>(node.attr(name)); };
    start_windows(node, "score_mul");
    step_.softmax_offset = padded(node.floats("softmax_offset"), step_.heads);
    QAttentionJob& job = step_.qattention;
    job.heads = step_.heads;
    job.depth = channels / 3 / step_.heads;
    job.query_zero = zero("query_zero");
    job.key_zero = zero("key_zero");
    job.value_zero = zero("value_zero");
    job.scale = step_.logit_scale;
    job.inv = number("softmax_inv");
    job.levels = number("softmax_levels");
    job.softmax_zero = zero("softmax_zero");
    job.offset = step_.softmax_offset.data();
    job.mul = number("mix_mul");
    step_.scratch_bytes = qattention_layout(step_.window * step_.window, job.heads, job.depth).bytes;
    start_transformer();
  }

  // scale: the name of the attribute.
  void start_windows(const Node& node, const char* scale) {
    step_.heads = static_cast<int>(node.attr("heads"));
    step_.window = static_cast<int>(node.attr("window"));
    step_.shift = static_cast<int>(node.attr("shift"));
    step_.logit_scale = static_cast<float>(node.attr(scale)) * kLog2E;
    step_.position_bias = PositionBias(step_.window, step_.shift, step_.heads, node.floats("position_bias"));
    const std::string side = std::to_string(step_.window);
    step_.text += " " + side + "x" + side + (step_.shift > 0 ? " shifted" : "");
  }

  void start_conv2d(const Node& node, int channels) {
    const auto& sides = node.op->tensors.at("weight").shape;
    step_.shape = {channels, static_cast<int>(sides[0]), static_cast<int>(sides[1])};
    step_.conv2d_kernel = &choose_conv2d(isa_, step_.shape);
    step_.kernel = step_.conv2d_kernel->name;
    step_.packed = step_.conv2d_kernel->prepare(step_.shape, node.floats("weight"), node.floats("bias"));
    describe_shape();
    take_followers();
  }

  void start_edge_conv2d(const Node& node, int channels) {
    const auto& sides = node.op->tensors.at("weight").shape;
    step_.shape = {channels, static_cast<int>(sides[1]), static_cast<int>(sides[2])};
    const EdgeWeights weights{step_.shape, node.floats("weight"), node.floats("bias")};
    step_.conv2d_kernel = &choose_conv2d(isa_, step_.shape);
    step_.kernel = step_.conv2d_kernel->name;
    step_.packed = step_.conv2d_kernel->prepare(step_.shape, weights.weight_of(kMiddle), weights.bias_of(kMiddle));
    step_.edges = prepare_edges(isa_, weights);
    describe_shape();
  }

  void start_qconv2d(const Node& node) {
    prepare_codes(node, {node.codes("weight"), node.floats("mul"), node.floats("bias")});
    take_followers();
  }

  void start_edge_qconv2d(const Node& node) {
    const EdgeCodes all{qconv_shape(node), node.codes("weight"), node.floats("mul"), node.floats("bias")};
    prepare_codes(node, all.of(kMiddle));
    step_.qedges = prepare_edges(isa_, all, preferred_kernel_);
  }

  static ConvShape qconv_shape(const Node& node) {
    const auto attr = [&](const char* name) { return static_cast<int>(node.attr(name)); };
    return {attr("in_channels"), attr("out_channels"), attr("kernel"),
            attr("weight_bits"), attr("act_bits"),     attr("zero")};
  }

  void prepare_codes(const Node& node, const QWeights& weights) {
    step_.shape = qconv_shape(node);
    PreparedQConv made = prepare_qconv(isa_, step_.shape, weights.codes, preferred_kernel_);
    step_.qconv_kernel = made.kernel;
    step_.kernel = made.kernel->name;
    step_.packed = std::move(made.packed);
    step_.mul = padded(weights.mul, step_.shape.out_channels);
    step_.bias = padded(weights.bias, step_.shape.out_channels);
    describe_shape();
    step_.text += " W" + std::to_string(step_.shape.weight_bits) + "A" + std::to_string(step_.shape.act_bits);
  }

  void describe_shape() {
    const ConvShape& s = step_.shape;
    const std::string k = std::to_string(s.kernel);
    step_.text += " " + k + "x" + k + " " + std::to_string(s.in_channels) + "->" + std::to_string(s.out_channels);
  }

  // The only op that reads `value`, or -1.
  int only_user(int value, OpKind kind) const {
    const std::vector<int>& users = graph_.values[value].users;
    return users.size() == 1 && graph_.nodes[users[0]].kind == kind ? users[0] : -1;
  }

  void take(int i) {
    done_[i] = true;
    step_.text += " + " + graph_.nodes[i].op->kind;
    uses_.out = graph_.nodes[i].output;
  }

  void take_affine() {
    const int i = only_user(uses_.out, OpKind::affine);
    if (i < 0) return;
    const Node& node = graph_.nodes[i];
    take(i);
    step_.mul = padded(node.floats("scale"), graph_.values[node.output].channels);
    step_.bias = padded(node.floats("offset"), graph_.values[node.output].channels);
  }

  void take_crop() {
    const int i = only_user(uses_.out, OpKind::crop);
    if (i >= 0 && graph_.nodes[i].inputs[0] == uses_.out) take(i);
  }

  void take_followers() {
    if (const int i = only_user(uses_.out, OpKind::relu); i >= 0) {
      take(i);
      step_.relu = true;
    }
    // The kernel computes skip * gain + its own sum, so only the branch may be the convolution.
    if (const int i = only_user(uses_.out, OpKind::residual); i >= 0) {
      const Node& node = graph_.nodes[i];
      if (node.inputs[1] == uses_.out && ready_[node.inputs[0]]) {
        take(i);
        step_.gain = static_cast<float>(node.attr("gain"));
        uses_.skip = node.inputs[0];
      }
    }
    take_quantizers();
  }

  void take_quantizers() {
    const int out = uses_.out;
    for (const int i : graph_.values[out].users)
      if (take_quantizer(i)) {
        uses_.out = graph_.values[out].users.size() > 1 ? out : -1;
        return;
      }
  }

  // Takes a quantize, or an affine and the quantize of steps of 1 that alone reads it: a quantizer with a step and an
  // offset per channel. (x * scale + offset) * 1 + 0 rounds as often as x * inv + offset.
  bool take_quantizer(int i) {
    const Node& node = graph_.nodes[i];
    if (node.kind == OpKind::quantize) {
      take(i);
      take_quantize(node);
      return true;
    }
    if (node.kind != OpKind::affine) return false;
    const int next = only_user(node.output, OpKind::quantize);
    if (next < 0 || !is_plain_quantize(graph_.nodes[next])) return false;
    take(i);
    take(next);
    take_quantize(graph_.nodes[next]);
    const int channels = graph_.values[node.output].channels;
    step_.inv = padded(node.floats("scale"), channels);
    step_.offset = padded(node.floats("offset"), channels);
    return true;
  }

  bool is_plain_quantize(const Node& node) const {
    const float* offset = node.floats("offset");
    return node.attr("inv") == 1 &&
           std::all_of(offset, offset + graph_.values[node.output].channels, [](float v) { return v == 0; });
  }

  void take_quantize(const Node& node) {
    const int channels = graph_.values[node.output].channels;
    const std::vector<float> inv(channels, static_cast<float>(node.attr("inv")));
    step_.inv = padded(inv.data(), channels);
    step_.levels = static_cast<float>(node.attr("levels"));
    step_.offset = padded(node.floats("offset"), channels);
    uses_.codes = node.output;
  }

  const Graph& graph_;
  Isa isa_;
  const std::string& preferred_kernel_;
  std::vector<bool> done_, ready_;  // ready: computed by an earlier step
  Step step_;
  StepValues uses_;
};

void check_kernel_name(Isa isa, const std::string& name) {
  std::string known;
  for (const QConvKernel* kernel : qconv_kernels(isa)) {
    if (name == kernel->name) return;
    known += (known.empty() ? "" : ", ") + std::string(kernel->name);
  }
  if (!name.empty()) fail("kernel", "one of " + known, "'" + name + "'");
}

}  // namespace

Plan make_plan(const std::vector<Op>& ops, const std::string& output, int image_channels, Isa isa,
               const std::string& preferred_kernel) {
  const DefaultFloatMode mode;
  check_kernel_name(isa, preferred_kernel);
  const Graph graph = check(ops, output, image_channels);
  Plan plan;
  plan.isa = isa;
  std::vector<StepValues> values;
  Fuser(graph, isa, preferred_kernel).run(plan.steps, values);
  plan.runs = find_runs(graph, plan.steps, values);
  assign_slots(graph, values, tile_values(graph, plan.runs, values), plan);
  return plan;
}

}  // namespace quantsr
