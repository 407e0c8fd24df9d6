// Gives every value of a plan a buffer. Values that are not needed at the same time share one.
#pragma once

#include <vector>

#include "graph.h"
#include "plan.h"

namespace quantsr {

// The values that a step reads (in, skip) and writes (out, codes); -1: none.
struct StepValues {
  int in = -1, skip = -1, out = -1, codes = -1;
};

// tile: of each value, whether it lives within a tile.
void assign_slots(const Graph& graph, const std::vector<StepValues>& values, const std::vector<bool>& tile, Plan& plan);

}  // namespace quantsr
