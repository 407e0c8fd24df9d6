// Which steps of a plan run together, part by part of the image, because a part fits into a core's cache while a whole
// value does not.
#pragma once

#include <vector>

#include "graph.h"
#include "plan.h"
#include "slots.h"

namespace quantsr {

// The runs of a plan's steps, in order; each step is in one.
std::vector<Run> find_runs(const Graph& graph, const std::vector<Step>& steps, const std::vector<StepValues>& values);

// Of each value: whether it lives and dies within one run of kind `windows`, tile by tile.
std::vector<bool> tile_values(const Graph& graph, const std::vector<Run>& runs, const std::vector<StepValues>& values);

}  // namespace quantsr
