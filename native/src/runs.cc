#include "runs.h"

#include <algorithm>
#include <cstdint>

namespace quantsr {
namespace {

// A tile is one row of windows, so many pixels or a little less.
constexpr int kTilePixels = 256;
constexpr int kPlainSide = 8;  // of tiles without windows

class RunFinder {
 public:
  RunFinder(const Graph& graph, const std::vector<Step>& steps, const std::vector<StepValues>& values)
      : graph_(graph), steps_(steps), values_(values), made_(graph.values.size(), -1), read_(graph.values.size(), -1) {
    for (int t = 0; t < count(); ++t) {
      for (const int v : {values[t].out, values[t].codes})
        if (v >= 0) made_[v] = t;
      for (const int v : {values[t].in, values[t].skip})
        if (v >= 0) read_[v] = t;
    }
  }

  std::vector<Run> find() const {
    std::vector<Run> runs;
    for (int t = 0; t < count(); t = runs.back().end) {
      runs.push_back(windows(t));
      if (runs.back().end == t) runs.back() = layers(t);
      if (runs.back().end == t) runs.back() = {t, t + 1, RunKind::single};
    }
    return runs;
  }

 private:
  int count() const { return static_cast<int>(steps_.size()); }
  const Value& input(int t) const { return graph_.values[values_[t].in]; }

  bool same_size(int s, int t) const {
    return input(s).factor == input(t).factor && input(s).multiple == input(t).multiple;
  }

  Run layers(int first) const {
    int end = first;
    while (end < count() && steps_[end].kind == OpKind::qconv2d && same_size(first, end)) ++end;
    return {first, end, RunKind::layers};
  }

  // Whether step t needs no pixels beyond a tile that begins with step `first`. Convolutions read a little behind the
  // pixels of a row, so their input must be the tile's own.
  bool is_local(int first, int t) const {
    if (!same_size(first, t)) return false;
    switch (steps_[t].kind) {
      case OpKind::affine:
      case OpKind::quantize:
      case OpKind::relu:
      case OpKind::residual:
      case OpKind::layer_norm:
      case OpKind::gelu:
      case OpKind::window_attention:
      case OpKind::qwindow_attention: return true;
      case OpKind::conv2d:
      case OpKind::qconv2d: {
        const int in = values_[t].in;
        return steps_[t].shape.kernel == 1 && made_[in] >= first && read_[in] == t;
      }
      default: return false;
    }
  }

  bool other_windows(const Step& a, const Step& b) const { return a.window != b.window || a.shift != b.shift; }

  // Steps from `first` on that work within windows of one grid; none if nothing of a transformer is among them.
  Run windows(int first) const {
    int end = first, attention = -1;
    bool worth_it = false;
    for (; end < count() && is_local(first, end); ++end) {
      const OpKind kind = steps_[end].kind;
      worth_it |= is_attention(kind) || kind == OpKind::layer_norm || kind == OpKind::gelu;
      if (!is_attention(kind)) continue;
      if (attention >= 0 && other_windows(steps_[attention], steps_[end])) {
        end = cut(attention, end);
        break;
      }
      attention = end;
    }
    if (!worth_it) return {first, first, RunKind::windows};
    Run run{first, end, RunKind::windows};
    if (attention >= 0) {
      run.window = steps_[attention].window;
      run.shift = steps_[attention].shift;
    } else {
      run.window = kPlainSide;
    }
    run.tile_width = std::max(kTilePixels / (run.window * run.window), 1) * run.window;
    return run;
  }

  // The step after `from`, up to `to`, in front of which the least has to be kept for later.
  int cut(int from, int to) const {
    int best = to;
    int64_t least = INT64_MAX;
    for (int t = from + 1; t <= to; ++t) {
      int64_t bytes = 0;
      for (size_t v = 0; v < graph_.values.size(); ++v)
        if (made_[v] < t && read_[v] >= t)
          bytes += graph_.values[v].channels * (graph_.values[v].is_codes ? 1 : int64_t{sizeof(float)});
      if (bytes < least) least = bytes, best = t;
    }
    return best;
  }

  const Graph& graph_;
  const std::vector<Step>& steps_;
  const std::vector<StepValues>& values_;
  std::vector<int> made_, read_;  // of each value: the step that makes it, the last one that reads it
};

}  // namespace

std::vector<Run> find_runs(const Graph& graph, const std::vector<Step>& steps, const std::vector<StepValues>& values) {
  return RunFinder(graph, steps, values).find();
}

std::vector<bool> tile_values(const Graph& graph, const std::vector<Run>& runs, const std::vector<StepValues>& values) {
  std::vector<int> made(graph.values.size(), -1);  // the run
  std::vector<bool> inside(graph.values.size(), false);
  for (int r = 0; r < static_cast<int>(runs.size()); ++r)
    for (int t = runs[r].begin; t < runs[r].end; ++t) {
      for (const int v : {values[t].in, values[t].skip})
        if (v >= 0 && made[v] != r) inside[v] = false;
      for (const int v : {values[t].out, values[t].codes})
        if (v >= 0) made[v] = r, inside[v] = runs[r].kind == RunKind::windows && v != graph.output;
    }
  return inside;
}

}  // namespace quantsr
