#include "slots.h"

#include <algorithm>

namespace quantsr {
namespace {

bool same_kind(const Slot& a, const Slot& b) {
  return a.is_codes == b.is_codes && a.channels == b.channels && a.factor == b.factor && a.multiple == b.multiple &&
         a.tile == b.tile && a.zero == b.zero && a.levels == b.levels;
}

class SlotAssigner {
 public:
  SlotAssigner(const Graph& graph, const std::vector<StepValues>& values, const std::vector<bool>& tile, Plan& plan)
      : graph_(graph),
        values_(values),
        tile_(tile),
        plan_(plan),
        slot_(graph.values.size(), -1),
        last_(graph.values.size(), -1) {}

  void run() {
    for (size_t t = 0; t < values_.size(); ++t)
      for (const int v : {values_[t].in, values_[t].skip})
        if (v >= 0) last_[v] = static_cast<int>(t);
    plan_.image_slot = slot_[0] = new_slot(kind_of(0));
    for (size_t t = 0; t < values_.size(); ++t) assign(static_cast<int>(t));
    plan_.output_slot = slot_[graph_.output];
    widen_borders();
  }

 private:
  Slot kind_of(int value) const {
    const Value& v = graph_.values[value];
    // Code buffers serve 3x3 and 1x1 kernels alike.
    const bool border = v.is_codes && !tile_[value];
    return {v.is_codes,
            v.channels,
            v.factor,
            v.multiple,
            tile_[value],
            std::max(v.zero, 0),  // of codes that only attention reads none is known, or needed
            v.is_codes ? v.levels : 0,
            border ? 1 : 0,
            v.is_codes};
  }

  int new_slot(const Slot& slot) {
    plan_.slots.push_back(slot);
    return static_cast<int>(plan_.slots.size()) - 1;
  }

  void assign(int t) {
    const StepValues& use = values_[t];
    Step& step = plan_.steps[t];
    if (use.in >= 0) step.in = slot_[use.in];
    if (use.skip >= 0) step.skip = slot_[use.skip];
    if (use.out >= 0) step.out = slot_[use.out] = place(t, use.out);
    if (use.codes >= 0) step.codes = slot_[use.codes] = place(t, use.codes);
    for (const int v : {use.in, use.skip})
      if (v >= 0 && last_[v] == t && slot_[v] != step.out && !is_free(slot_[v])) free_.push_back(slot_[v]);
  }

  bool is_free(int slot) const { return std::find(free_.begin(), free_.end(), slot) != free_.end(); }

  int place(int t, int value) {
    const Slot kind = kind_of(value);
    if (value == graph_.output) return new_slot(kind);
    const int reused = in_place(t, kind);
    if (reused >= 0) return reused;
    for (size_t i = 0; i < free_.size(); ++i)
      if (same_kind(plan_.slots[free_[i]], kind)) {
        const int slot = free_[i];
        free_.erase(free_.begin() + static_cast<std::ptrdiff_t>(i));
        return slot;
      }
    return new_slot(kind);
  }

  // The slot of an input that ends here and is read only at the pixel being written; -1: none.
  int in_place(int t, const Slot& kind) const {
    const StepValues& use = values_[t];
    const OpKind step = plan_.steps[t].kind;
    const bool pixelwise =
        step == OpKind::affine || step == OpKind::relu || step == OpKind::residual || step == OpKind::gelu;
    const bool gathers = step == OpKind::conv2d || step == OpKind::qconv2d;
    if (fits(t, use.skip, kind) && !(gathers && slot_[use.skip] == slot_[use.in])) return slot_[use.skip];
    if (pixelwise && fits(t, use.in, kind)) return slot_[use.in];
    return -1;
  }

  bool fits(int t, int value, const Slot& kind) const {
    return value >= 0 && last_[value] == t && same_kind(plan_.slots[slot_[value]], kind);
  }

  void widen_borders() {
    for (const Step& step : plan_.steps)
      if (step.kind == OpKind::edge_qconv2d) {
        Slot& slot = plan_.slots[step.in];
        slot.pad = std::max(slot.pad, step.shape.kernel / 2);
      } else if (step.kind == OpKind::conv2d || step.kind == OpKind::edge_conv2d) {
        Slot& slot = plan_.slots[step.in];
        slot.pad = std::max(slot.pad, step.shape.kernel / 2);
        slot.whole_runs = true;
        slot.rows_below |= step.kind == OpKind::edge_conv2d;
      }
  }

  const Graph& graph_;
  const std::vector<StepValues>& values_;
  const std::vector<bool>& tile_;
  Plan& plan_;
  std::vector<int> slot_, last_, free_;
};

}  // namespace

void assign_slots(const Graph& graph, const std::vector<StepValues>& values, const std::vector<bool>& tile,
                  Plan& plan) {
  SlotAssigner(graph, values, tile, plan).run();
}

}  // namespace quantsr
